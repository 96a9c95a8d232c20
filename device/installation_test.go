package device_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/softkey"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/cas"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/provisioner/session"
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
	founded := must[[]ca.Founded](t)(ca.Found(ca.Founding{Organisation: "Acme", BaseURL: "http://localhost:8445", Now: time.Now().Add(-time.Hour),
		Key: func(string) (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }}))
	by := map[string]ca.Founded{}
	store := must[*sqlite.Store](t)(sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{}))
	t.Cleanup(func() { store.Close() })
	config := ca.Config{Store: store, BaseURL: "http://localhost:8445", Organisation: "Acme", Now: now}
	for _, f := range founded {
		by[f.Name] = f
		signer := must[ca.CAS](t)(cas.New(t.Context(), cas.Options{Type: cas.SoftCAS, Chain: []*x509.Certificate{f.Certificate, f.Root}, Signer: f.Signer}))
		config.Issuers = append(config.Issuers, ca.Issuer{Name: f.Name, Certificate: f.Certificate, Root: f.Root, CAS: signer})
	}
	maker := must[*swtpm.Maker](t)(swtpm.NewMaker(swtpm.P256, time.Now()))
	makers := must[*vendorca.Set](t)(vendorca.New([][]byte{maker.Root.Raw, maker.Intermediate.Raw}))
	secret := make([]byte, 32)
	rand.Read(secret)
	permissions := must[*factory.Permissions](t)(factory.NewPermissions(secret))
	service := must[*provisioner.Service](t)(provisioner.New(provisioner.Config{
		Store: store, Authority: must[*ca.Authority](t)(ca.New(config)), Suspender: suspender{store, now}, Verifier: attest.Verifiers{
			attest.KindTPM2: tpm2.New(func() *vendorca.Set { return makers }, true), attest.KindSoftKey: softkey.Verifier{}},
		Sessions: must[*session.Keeper](t)(session.New(secret)), Permissions: permissions,
		Issuers:     profile.Pins{profile.Manufacturing: by[profile.Manufacturing].Certificate, profile.Operational: by[profile.Operational].Certificate},
		SessionLife: 5 * time.Minute, LDevIDLife: 30 * 24 * time.Hour, Now: now, Log: slog.New(slog.DiscardHandler),
	}))
	i := &installation{store: store, permissions: permissions, root: by[profile.Infrastructure].Root, operational: by[profile.Operational].Root,
		maker: maker, later: later, interference: &interference{lose: map[string]int{}}}
	server := httptest.NewUnstartedServer(i.interference)
	i.url = "https://" + server.Listener.Addr().String()
	timeKey := newKey(t)
	signed := must[wire.SignedBundle](t)(trust.Sign(wire.Bundle{Number: 1, Name: "Acme", Created: time.Now().Add(-time.Hour),
		Infrastructure: [][]byte{i.root.Raw}, Operational: [][]byte{i.operational.Raw}, Manufacturing: [][]byte{by[profile.Manufacturing].Root.Raw},
		TimeKeys: [][]byte{must[[]byte](t)(x509.MarshalPKIXPublicKey(timeKey.Public()))}, Servers: []string{i.url}, NonceMode: nonceMode,
	}, trust.Root{Certificate: i.root, Signer: by[profile.Infrastructure].RootSigner}))
	bundle := must[*trust.Service](t)(trust.New(must[[]byte](t)(json.Marshal(signed)), i.root, timeKey))
	i.next = native.Handler(service, native.Config{Bundle: bundle.Newest, Since: bundle.Since, SignTime: bundle.SignTime, Now: now, NonceMode: nonceMode, Log: slog.New(slog.DiscardHandler)})
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		own, err := serverCertificate(by[profile.Infrastructure], now())
		return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true, Certificates: []tls.Certificate{own}}, err
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return i
}

// serverCertificate is one that holds for a day around now.
func serverCertificate(issuer ca.Founded, now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, issuer.Certificate, key.Public(), issuer.Signer)
	return tls.Certificate{Certificate: [][]byte{der, issuer.Certificate.Raw}, PrivateKey: key}, err
}

func (i *installation) ticket(t testing.TB) *wire.Permission { return i.ticketIn(t, record.DefaultLot) }

func (i *installation) ticketIn(t testing.TB, lot string) *wire.Permission {
	t.Helper()
	p := &wire.Permission{Kind: wire.KindTicket, ID: i.permissions.NewID(), Server: i.url, Root: sha256.Sum256(i.root.Raw)}
	p.Secret = i.permissions.Secret(p.Kind, p.ID)
	err := i.store.CreateTickets(t.Context(), []record.Ticket{{ID: p.ID, Lot: lot, Created: time.Now(), Expires: time.Now().Add(time.Hour)}},
		record.Event{Time: time.Now(), Actor: "test", Verb: "ticket.created"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// suspender suspends; what relying parties are told is ca/status's matter.
type suspender struct {
	record.Revocations
	now func() time.Time
}

func (s suspender) Suspend(ctx context.Context, device string, e record.Event) ([]record.Shard, error) {
	return s.Revocations.Suspend(ctx, device, s.now(), e)
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
