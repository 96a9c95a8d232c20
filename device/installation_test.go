package device_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
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

// installation is a real server but for its process: CA, record, pipeline and native
// protocol behind a TLS listener whose certificate devices judge.
type installation struct {
	store       record.Store
	permissions *factory.Permissions
	root        *x509.Certificate
	operational *x509.Certificate
	maker       *swtpm.Maker
	url         string
	// bundle is a trust bundle of this installation with a number.
	bundle func(number int64) wire.SignedBundle
	// later is by how much the server's clock is ahead, in nanoseconds.
	later *atomic.Int64
	*interference
}

// interference stands between the device and the server.
type interference struct {
	mu sync.Mutex
	// lose makes the server's next answers on a path get lost, after the work was done.
	lose map[string]int
	// refuse answers requests in the server's place if it returns true.
	refuse func(w http.ResponseWriter, r *http.Request) bool
	seen   []string
	next   http.Handler
}

func (i *interference) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.seen = append(i.seen, r.URL.Path)
	refuse, lost := i.refuse, i.lose[r.URL.Path] > 0
	if lost {
		i.lose[r.URL.Path]--
	}
	i.mu.Unlock()
	if refuse != nil && refuse(w, r) {
		return
	}
	if lost {
		i.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	i.next.ServeHTTP(w, r)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func install(t testing.TB, nonceMode bool) *installation {
	t.Helper()
	later := new(atomic.Int64)
	now := func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	founded := must[[]ca.Founded](t)(premises.Found("http://localhost:8445", time.Now().Add(-time.Hour)))
	by := map[string]ca.Founded{}
	for _, f := range founded {
		by[f.Name] = f
	}
	store := must[*sqlite.Store](t)(sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{}))
	t.Cleanup(func() { store.Close() })
	maker := must[*swtpm.Maker](t)(swtpm.NewMaker(swtpm.P256, time.Now()))
	secret := make([]byte, 32)
	rand.Read(secret)
	service := must[*provisioner.Service](t)(premises.Pipeline(provisioner.Config{
		Authority: must[*ca.Authority](t)(ca.New(ca.Config{Store: store, BaseURL: "http://localhost:8445", Organisation: "Acme", Now: now,
			Issuers: must[[]ca.Issuer](t)(premises.Issuers(t.Context(), founded...))})),
		Issuers: profile.Pins{profile.Manufacturing: by[profile.Manufacturing].Certificate, profile.Operational: by[profile.Operational].Certificate}, Now: now,
	}, store, secret, maker.Root.Raw, maker.Intermediate.Raw))
	i := &installation{store: store, permissions: service.Permissions, root: by[profile.Infrastructure].Root, operational: by[profile.Operational].Root,
		maker: maker, later: later, interference: &interference{lose: map[string]int{}}}
	server := premises.Listen(i.interference, func() (ca.Founded, time.Time) { return by[profile.Infrastructure], now() })
	t.Cleanup(server.Close)
	i.url = server.URL
	timeKey := newKey(t)
	i.bundle = func(number int64) wire.SignedBundle {
		return must[wire.SignedBundle](t)(trust.Sign(wire.Bundle{Number: number, Name: "Acme", Created: time.Now().Add(-time.Hour),
			Infrastructure: [][]byte{i.root.Raw}, Operational: [][]byte{i.operational.Raw}, Manufacturing: [][]byte{by[profile.Manufacturing].Root.Raw},
			TimeKeys: [][]byte{must[[]byte](t)(x509.MarshalPKIXPublicKey(timeKey.Public()))}, Servers: []string{i.url}, NonceMode: nonceMode,
		}, trust.Root{Certificate: i.root, Signer: by[profile.Infrastructure].RootSigner}))
	}
	bundle := must[*trust.Service](t)(trust.New(must[[]byte](t)(json.Marshal(i.bundle(1))), i.root, timeKey))
	i.mu.Lock()
	defer i.mu.Unlock()
	i.next = native.Handler(service, native.Config{Bundle: bundle.Newest, Since: bundle.Since, SignTime: bundle.SignTime, Now: now, NonceMode: nonceMode, Log: slog.New(slog.DiscardHandler)})
	return i
}

func (i *installation) ticket(t testing.TB) *wire.Permission { return i.ticketIn(t, record.DefaultLot) }

func (i *installation) ticketIn(t testing.TB, lot string) *wire.Permission {
	t.Helper()
	return must[*wire.Permission](t)(premises.Ticket(t.Context(), i.store, i.permissions, i.url, i.root, time.Now(), func(row *record.Ticket) { row.Lot = lot }))
}

// used is how many devices the default lot counts.
func (i *installation) used(t testing.TB) int64 {
	t.Helper()
	return must[record.Lot](t)(i.store.Lot(t.Context(), record.DefaultLot)).Used
}

func (i *installation) paths() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	seen := i.seen
	i.seen = nil
	return seen
}

func (i *installation) chip(t testing.TB) *swtpm.TPM {
	t.Helper()
	chip := swtpm.Start(t)
	if err := i.maker.Manufacture(chip, swtpm.Options{}); err != nil {
		t.Fatal(err)
	}
	return chip
}
