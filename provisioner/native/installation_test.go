package native_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/internal/simdevice"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/wire"
)

// foundation is what is made once: CAs, a TPM maker, the server's secret. Every
// installation of a test run shares it, since founding takes longer than a test.
type foundation struct {
	founded []ca.Founded
	maker   *simtpm.Maker
	secret  []byte
	server  tls.Certificate
	pool    *x509.CertPool
}

var found = sync.OnceValues(func() (*foundation, error) {
	f := &foundation{secret: make([]byte, 32)}
	rand.Read(f.secret)
	var err error
	if f.founded, err = premises.Found("http://localhost:8445", time.Now().Add(-time.Hour)); err != nil {
		return nil, err
	}
	if f.maker, err = simtpm.NewMaker(time.Now()); err != nil {
		return nil, err
	}
	// What devices check of it is device/client's matter.
	f.server, f.pool, err = premises.SelfSigned("localhost")
	return f, err
})

// installation is a whole server but for its process: real record, CA and verifier
// behind a real TLS listener.
type installation struct {
	*foundation
	store       record.Store
	permissions *factory.Permissions
	server      simdevice.Server
}

// settings are what a test may want otherwise.
type settings struct {
	nonceMode bool
	// wrap puts something between the pipeline and the record.
	wrap func(record.Store) record.Store
	// wrapCAS puts something between the CA and its signers.
	wrapCAS func(ca.CAS) ca.CAS
	now     func() time.Time
	pace    int
	makers  func() string
	// impatient: the time to read a request is over when it is looked at.
	impatient bool
	// secret is another server secret than the others'.
	secret []byte
}

// install makes a fresh installation in a folder of the test's.
func install(t testing.TB, o settings) *installation {
	t.Helper()
	store, err := sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return open(t, store, o)
}

// open puts a server on a store.
func open(t testing.TB, store record.Store, o settings) *installation {
	t.Helper()
	f, err := found()
	if err != nil {
		t.Fatal(err)
	}
	handler, permissions, err := f.assemble(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.impatient {
			http.NewResponseController(w).SetReadDeadline(time.Now())
		}
		handler.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true, Certificates: []tls.Certificate{f.server}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return &installation{foundation: f, store: store, permissions: permissions, server: simdevice.Server{Address: server.Listener.Addr().String(), Name: "localhost", Roots: f.pool}}
}

func (f *foundation) assemble(ctx context.Context, store record.Store, o settings) (http.Handler, *factory.Permissions, error) {
	now, used, secret := time.Now, store, f.secret
	if o.secret != nil {
		secret = o.secret
	}
	if o.now != nil {
		now = o.now
	}
	if o.wrap != nil {
		used = o.wrap(store)
	}
	issuers, err := premises.Issuers(ctx, f.founded...)
	if err != nil {
		return nil, nil, err
	}
	pins := profile.Pins{}
	for i := range issuers {
		pins[issuers[i].Name] = issuers[i].Certificate
		if o.wrapCAS != nil {
			issuers[i].CAS = o.wrapCAS(issuers[i].CAS)
		}
	}
	authority, err := ca.New(ca.Config{Store: used, BaseURL: "http://localhost:8445", Organisation: "Acme", Now: now, Issuers: issuers})
	if err != nil {
		return nil, nil, err
	}
	if _, err := authority.Recover(ctx); err != nil {
		return nil, nil, err
	}
	service, err := premises.Pipeline(provisioner.Config{Authority: authority, Issuers: pins, Pace: o.pace, Makers: o.makers, Now: now}, used, secret, f.maker.Root.Raw)
	if err != nil {
		return nil, nil, err
	}
	return native.Handler(service, native.Config{
		Bundle:   func() (wire.SignedBundle, int64) { return wire.SignedBundle{}, 1 },
		Since:    func(int64) wire.TrustSteps { return wire.TrustSteps{Newest: 1} },
		SignTime: func([]byte, time.Time) (wire.TimeAnswer, error) { return wire.TimeAnswer{}, nil },
		Now:      now, NonceMode: o.nonceMode, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}), service.Permissions, nil
}

// ticket makes a ticket in a lot.
func (i *installation) ticket(t testing.TB, change func(*record.Ticket)) wire.Permission {
	t.Helper()
	p, err := premises.Ticket(t.Context(), i.store, i.permissions, "https://"+i.server.Address, i.founded[0].Root, time.Now(), change)
	if err != nil {
		t.Fatal(err)
	}
	return *p
}

// allow lets the simulated make of chip enrol with another endorsement key.
func (i *installation) allow(t testing.TB, name string) {
	t.Helper()
	chip := record.EKType{Maker: vendorca.MakerTest, Model: "simtpm", Type: name, Since: time.Now(), AllowedBy: "anna"}
	if err := i.store.AllowEKType(t.Context(), chip, record.Event{Time: time.Now(), Actor: "test", Verb: "tpm.allowed"}); err != nil {
		t.Fatal(err)
	}
}

// unit is a simulated device as it stands on a line.
type unit struct{ *simdevice.Device }

func (i *installation) unit(t testing.TB, o simtpm.Options) *unit {
	t.Helper()
	chip, err := simtpm.NewDevice(i.maker, o)
	if err != nil {
		t.Fatal(err)
	}
	return i.holding(chip)
}

// enrolled is a unit that has come in, as SN-1.
func (i *installation) enrolled(t testing.TB) *unit {
	t.Helper()
	u := i.unit(t, simtpm.Options{})
	if _, err := u.Enrol(i.ticket(t, nil), "SN-1"); err != nil {
		t.Fatal(err)
	}
	return u
}

func (i *installation) holding(chip *simtpm.Device) *unit {
	return &unit{&simdevice.Device{Server: i.server, TPM: chip}}
}

// over runs one exchange on a connection of its own.
func (u *unit) over(exchange func(*simdevice.Conn) (*wire.Answer, error)) (*wire.Answer, error) {
	c, err := u.Dial(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return exchange(c)
}

func (u *unit) begin(ticket wire.Permission, serial string) (*wire.Answer, error) {
	return u.over(func(c *simdevice.Conn) (*wire.Answer, error) { return u.Begin(c, ticket, serial) })
}

func (u *unit) answer(ch *wire.Challenge) (*wire.Answer, error) {
	return u.over(func(c *simdevice.Conn) (*wire.Answer, error) { return u.Answer(c, ch) })
}

func (u *unit) activate(m wire.Activate) (*wire.Answer, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return u.raw(wire.PathActivate, body)
}

func (u *unit) raw(path string, body []byte) (*wire.Answer, error) {
	return u.over(func(c *simdevice.Conn) (*wire.Answer, error) { return c.Post(path, body) })
}

// probe shows a certificate as a device does before it swaps to it.
func (u *unit) probe(cert tls.Certificate) error {
	c, err := u.Dial(&cert)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Do(http.MethodGet, wire.PathTrust, nil)
	return err
}

// code is the problem code of an error, "" if there is none.
func code(err error) string {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
