package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/wire"
)

const day = 24 * time.Hour

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// house is a server in a time of its own, with everything that an administrator can do to
// its CAs.
type house struct {
	t       testing.TB
	store   *sqlite.Store
	secret  []byte
	maker   *swtpm.Maker
	timeKey *ecdsa.PrivateKey
	url     string
	// first is the infrastructure root that images and tickets of the first day name.
	first *x509.Certificate

	mu    sync.Mutex
	clock time.Time
	// lines are the CAs of each line, oldest first; used is the one that issues.
	lines map[string][]ca.Founded
	used  map[string]ca.Founded
	// bundles are the trust bundles, the newest last; signers sign the next, or the
	// infrastructure root if there are none.
	bundles []wire.SignedBundle
	signers []*ecdsa.PrivateKey
	next    http.Handler
	// between stands between devices and server; it calls serve to let a request through.
	between func(w http.ResponseWriter, r *http.Request, serve http.Handler)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// open opens a house today: the TPM maker's certificates begin by the real clock.
func open(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, clock: time.Now().UTC().Truncate(time.Second), secret: make([]byte, 32), timeKey: newKey(t),
		lines: map[string][]ca.Founded{}, used: map[string]ca.Founded{}}
	rand.Read(h.secret)
	h.store = must[*sqlite.Store](t)(sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{}))
	t.Cleanup(func() { h.store.Close() })
	h.maker = must[*swtpm.Maker](t)(swtpm.NewMaker(swtpm.P256, time.Now()))
	for _, line := range profile.Issuers() {
		h.found(line, line)
		h.activate(line)
	}
	h.first = h.used[profile.Infrastructure].Root
	server := premises.Listen(h, func() (ca.Founded, time.Time) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.used[profile.Infrastructure], h.clock
	})
	t.Cleanup(server.Close)
	h.url = server.URL
	signed := must[wire.SignedBundle](t)(trust.Sign(wire.Bundle{Number: 1, Name: "Acme", Created: h.now(), Servers: []string{h.url},
		Infrastructure: h.roots(profile.Infrastructure), Operational: h.roots(profile.Operational), Manufacturing: h.roots(profile.Manufacturing),
		TimeKeys: [][]byte{must[[]byte](t)(x509.MarshalPKIXPublicKey(h.timeKey.Public()))},
	}, trust.Root{Certificate: h.first, Signer: h.used[profile.Infrastructure].RootSigner}))
	h.bundles = []wire.SignedBundle{signed}
	h.restart()
	return h
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	next, between := h.next, h.between
	h.mu.Unlock()
	if between != nil {
		between(w, r, next)
		return
	}
	next.ServeHTTP(w, r)
}

// stand puts somebody between devices and server; nil for nobody.
func (h *house) stand(between func(w http.ResponseWriter, r *http.Request, serve http.Handler)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.between = between
}

func (h *house) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clock
}

// sleep lets time pass.
func (h *house) sleep(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock = h.clock.Add(d)
}

// found makes a CA of a line.
func (h *house) found(line, name string) ca.Founded {
	h.t.Helper()
	f := must[[]ca.Founded](h.t)(premises.Found("http://localhost:8445", h.now(), name))[0]
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines[line] = append(h.lines[line], f)
	return f
}

// activate puts the newest CA of a line to use.
func (h *house) activate(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used[line] = h.lines[line][len(h.lines[line])-1]
}

// roots are those of a line's CAs.
func (h *house) roots(line string) (all [][]byte) {
	for _, f := range h.lines[line] {
		all = append(all, f.Root.Raw)
	}
	return all
}

func (h *house) bundle() wire.Bundle {
	return must[wire.Bundle](h.t)(wire.ReadBundle(h.bundles[len(h.bundles)-1]))
}

func list(b *wire.Bundle, line string) *[][]byte {
	return map[string]*[][]byte{profile.Infrastructure: &b.Infrastructure, profile.Operational: &b.Operational, profile.Manufacturing: &b.Manufacturing}[line]
}

// publish makes a bundle out of the newest, has it signed by every key that may, and
// starts the server with it.
func (h *house) publish(change func(*wire.Bundle), further ...crypto.Signer) {
	h.t.Helper()
	next := h.bundle()
	next.Created = h.now()
	change(&next)
	p := must[*trust.Proposal](h.t)(trust.Propose(h.bundles[len(h.bundles)-1], next))
	signers := further
	for _, key := range h.signers {
		signers = append(signers, key)
	}
	for _, f := range h.lines[profile.Infrastructure] {
		signers = append(signers, f.RootSigner)
	}
	for _, signer := range signers {
		p.Sign(signer, h.now()) // a root that was retired has no say, and says so
	}
	h.bundles = append(h.bundles, must[wire.SignedBundle](h.t)(p.Signed()))
	h.restart()
}

// handOver lets two of three new keys sign from now on.
func (h *house) handOver() {
	h.t.Helper()
	var keys []*ecdsa.PrivateKey
	var further []crypto.Signer
	var listed [][]byte
	for range 3 {
		key := newKey(h.t)
		keys, further = append(keys, key), append(further, key)
		listed = append(listed, must[[]byte](h.t)(x509.MarshalPKIXPublicKey(key.Public())))
	}
	h.publish(func(b *wire.Bundle) { b.Signers, b.Threshold = listed, 2 }, further...)
	h.signers = keys
}

// newTimeKey lets another key sign the time, after both were listed together.
func (h *house) newTimeKey() {
	h.t.Helper()
	h.timeKey = newKey(h.t)
	spki := must[[]byte](h.t)(x509.MarshalPKIXPublicKey(h.timeKey.Public()))
	h.publish(func(b *wire.Bundle) { b.TimeKeys = append(slices.Clone(b.TimeKeys), spki) })
	h.publish(func(b *wire.Bundle) { b.TimeKeys = [][]byte{spki} })
}

// The three acts of a roll-over: a root beside the old one, issuing under it, and the old
// root gone.
func (h *house) addRoot(line string) {
	h.t.Helper()
	name := line
	for range h.lines[line] {
		name = profile.Successor(name)
	}
	f := h.found(line, name)
	h.publish(func(b *wire.Bundle) { *list(b, line) = append(slices.Clone(*list(b, line)), f.Root.Raw) })
}

func (h *house) switchOver(line string) {
	h.activate(line)
	h.restart()
}

func (h *house) retire(line string) {
	h.t.Helper()
	h.publish(func(b *wire.Bundle) { *list(b, line) = [][]byte{h.used[line].Root.Raw} })
}

func (h *house) rollOver(line string) {
	h.t.Helper()
	h.addRoot(line)
	h.switchOver(line)
	h.retire(line)
}

// restart wires the server anew: with every CA, and with those recognised whose root the
// bundle lists.
func (h *house) restart() {
	h.t.Helper()
	config := ca.Config{Store: h.store, BaseURL: "http://localhost:8445", Organisation: "Acme", Now: h.now}
	pins, b := profile.Pins{}, h.bundle()
	for _, line := range profile.Issuers() {
		used := h.used[line]
		for _, f := range append([]ca.Founded{used}, h.lines[line]...) {
			if f.Name == used.Name && len(config.Issuers) > 0 && slices.ContainsFunc(config.Issuers, func(i ca.Issuer) bool { return i.Name == f.Name }) {
				continue
			}
			config.Issuers = append(config.Issuers, must[[]ca.Issuer](h.t)(premises.Issuers(h.t.Context(), f))...)
			if slices.ContainsFunc(*list(&b, line), func(der []byte) bool { return string(der) == string(f.Root.Raw) }) {
				pins[f.Name] = f.Certificate
			}
		}
	}
	service := must[*provisioner.Service](h.t)(premises.Pipeline(provisioner.Config{Authority: must[*ca.Authority](h.t)(ca.New(config)), Issuers: pins, Now: h.now},
		h.store, h.secret, h.maker.Root.Raw, h.maker.Intermediate.Raw))
	var files [][]byte
	for _, signed := range h.bundles {
		files = append(files, must[[]byte](h.t)(json.Marshal(signed)))
	}
	last := len(files) - 1
	served := must[*trust.Service](h.t)(trust.New(files[last], h.used[profile.Infrastructure].Root, h.timeKey, files[:last]...))
	handler := native.Handler(service, native.Config{Bundle: served.Newest, Since: served.Since, SignTime: served.SignTime, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = handler
}

func (h *house) ticket() *wire.Permission {
	h.t.Helper()
	permissions := must[*factory.Permissions](h.t)(factory.NewPermissions(h.secret))
	return must[*wire.Permission](h.t)(premises.Ticket(h.t.Context(), h.store, permissions, h.url, h.used[profile.Infrastructure].Root, h.now(), nil))
}

// counted is how many devices the default lot counts.
func (h *house) counted() (int64, error) {
	lot, err := h.store.Lot(h.t.Context(), record.DefaultLot)
	return lot.Used, err
}
