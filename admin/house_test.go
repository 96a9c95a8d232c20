package admin_test

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
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin"
	"github.com/hallmark-pki/hallmark/admin/bulk"
	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/admin/consent"
	"github.com/hallmark-pki/hallmark/admin/issuing"
	"github.com/hallmark-pki/hallmark/admin/job"
	"github.com/hallmark-pki/hallmark/admin/renewal"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/wire"
)

const statusURL = "http://status.test"

// house is a whole installation but for the devices' side: a record, a CA, status and
// the operators' listener, all real.
type house struct {
	t           *testing.T
	store       *sqlite.Store
	authority   *ca.Authority
	permissions *factory.Permissions
	founded     map[string]ca.Founded
	successors  []ca.Founded // of theirs, that issue
	server      *httptest.Server
	offset      atomic.Int64 // of the house's clock, in nanoseconds
	changed     atomic.Int64 // calls of Config.Changed
	replanned   atomic.Int64 // calls of renewal.Service.Changed
	surveyed    func()       // called after the survey for a renewal plan; may be nil
	written     func()       // called while a job is written down; may be nil
	lose        atomic.Bool  // the next answer to an acceptance gets lost
	life        time.Duration
	jobs        *job.Runner
	signing     sync.RWMutex // held, no list is signed
	// anna is the first operator.
	anna *client.Client
}

func (h *house) now() time.Time { return time.Now().Add(time.Duration(h.offset.Load())) }

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, founded: map[string]ca.Founded{}, life: 24 * time.Hour}
	ctx := t.Context()
	var err error
	h.store, err = sqlite.Create(ctx, filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{Now: h.now})
	check(t, err)
	t.Cleanup(func() { h.store.Close() })
	h.found(ctx)
	h.permissions, err = factory.NewPermissions(make([]byte, 32))
	check(t, err)
	h.serve(ctx)
	check(t, h.store.RecoverOperator(ctx, "anna", h.now(), record.Event{Time: h.now(), Actor: "host", Verb: "operator.recovered", Object: "anna"}))
	h.anna = h.operator("anna")
	return h
}

func (h *house) found(ctx context.Context) {
	founded, err := premises.Found(statusURL, h.now().Add(-30*24*time.Hour))
	check(h.t, err)
	for _, f := range founded {
		h.founded[f.Name] = f
	}
	issuers, err := premises.Issuers(ctx, founded...)
	check(h.t, err)
	h.authority, err = ca.New(ca.Config{Store: h.store, BaseURL: statusURL, Organisation: "Acme", Now: h.now, Issuers: issuers})
	check(h.t, err)
}

func (h *house) serve(ctx context.Context) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(h.t, err)
	url := "https://" + listener.Addr().String()
	infrastructure := h.founded[profile.Infrastructure]
	plans := &renewal.Service{Store: meanwhile{h.store, h}, DefaultPoll: 6 * time.Hour, Changed: func() { h.replanned.Add(1) }}
	watch, statusOf := consent.New(h.store), h.status()
	h.jobs = job.New(h.store, statusOf.Publish, h.now, slog.New(slog.NewTextHandler(h.t.Output(), nil)))
	many, err := bulk.New(bulk.Config{Store: meanwhile{h.store, h}, Watch: watch, Unsigned: statusOf.Unsigned, Wake: h.jobs.Wake, Name: "Acme", Seal: h.seal})
	check(h.t, err)
	authorities := issuing.Service{Store: h.store, Authorities: h, Plans: plans, Wake: h.jobs.Wake}
	service, err := admin.New(admin.Config{
		Name: "Acme", Version: "test", Store: h.store, Status: statusOf, Issuer: h, Permissions: h.permissions, Watch: watch,
		Issuers: profile.Pins{profile.Infrastructure: infrastructure.Certificate}, Root: sha256.Sum256(infrastructure.Root.Raw),
		DeviceServer: "https://devices.test:8443", OperatorServer: url, Bundle: h.bundle,
		CheckSerial: identity.CheckSerial, ReadAuthorities: vendorca.ReadCertificates,
		Changed: func() { h.changed.Add(1) }, Further: slices.Concat(plans.Routes(), many.Routes(), authorities.Routes()), Now: h.now, Log: slog.New(slog.NewTextHandler(h.t.Output(), nil)),
	})
	check(h.t, err)
	key, chain := h.issue(ca.Request{Profile: profile.Server, Content: profile.Content{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: 24 * time.Hour}})
	handler := service.Handler()
	h.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wire.PathAccept && h.lose.CompareAndSwap(true, false) {
			handler.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(w, r)
	}))
	h.server.Listener.Close()
	h.server.Listener = listener
	h.server.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)
	h.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, ClientAuth: tls.RequestClientCert,
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
	h.server.StartTLS()
	h.t.Cleanup(h.server.Close)
}

// meanwhile lets something happen between a survey and what is made of it, and before a job
// is made to its end.
type meanwhile struct {
	*sqlite.Store
	h *house
}

func (m meanwhile) Survey(ctx context.Context, of record.Selection, at time.Time) (record.Survey, error) {
	v, err := m.Store.Survey(ctx, of, at)
	if m.h.surveyed != nil {
		m.h.surveyed()
	}
	return v, err
}

func (m meanwhile) CreateJob(ctx context.Context, of record.Selection, at time.Time, judge record.JobJudge) (record.Job, error) {
	j, err := m.Store.CreateJob(ctx, of, at, judge)
	if m.h.written != nil {
		m.h.written()
	}
	return j, err
}

// slow signs lists once nobody holds the lock.
type slow struct {
	crypto.Signer
	held *sync.RWMutex
}

func (s slow) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.held.RLock()
	defer s.held.RUnlock()
	return s.Signer.Sign(random, digest, opts)
}

func (h *house) status() *status.Service {
	c := status.Config{Store: h.store, BaseURL: statusURL, Now: h.now,
		Responder: func(context.Context, string) (*x509.Certificate, crypto.Signer, error) {
			return nil, nil, errors.New("nobody asks OCSP here")
		}}
	for name, f := range h.founded {
		c.Issuers = append(c.Issuers, status.Issuer{Name: name, Certificate: f.Certificate, Signer: slow{f.Signer, &h.signing}})
	}
	s, err := status.New(c)
	check(h.t, err)
	return s
}

// seal is what hallmarkd's responder is.
func (h *house) seal(context.Context) ([]*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(h.t, err)
	issued, err := h.authority.Issue(h.t.Context(), record.Event{Time: h.now(), Actor: "server", Verb: "certificate.issued"},
		ca.Request{Profile: profile.OCSP, Issuer: profile.Infrastructure, Content: profile.Content{Key: key.Public(), Lifetime: 24 * time.Hour}})
	if err != nil {
		return nil, nil, err
	}
	return []*x509.Certificate{issued[0].Certificate, h.founded[profile.Infrastructure].Certificate}, key, nil
}

func (h *house) bundle() wire.SignedBundle {
	b := wire.Bundle{Number: 1, Name: "Acme", Created: h.now(), Servers: []string{"https://devices.test:8443"}}
	b.Infrastructure = [][]byte{h.founded[profile.Infrastructure].Root.Raw}
	b.Operational = [][]byte{h.founded[profile.Operational].Root.Raw}
	b.Manufacturing = [][]byte{h.founded[profile.Manufacturing].Root.Raw}
	key, err := x509.MarshalPKIXPublicKey(h.founded[profile.Infrastructure].Signer.Public())
	check(h.t, err)
	b.TimeKeys = [][]byte{key}
	root := h.founded[profile.Infrastructure]
	signed, err := trust.Sign(b, trust.Root{Certificate: root.Root, Signer: root.RootSigner})
	check(h.t, err)
	return signed
}

// IssueOperator is what hallmarkd's adapter does.
func (h *house) IssueOperator(ctx context.Context, operator string, key crypto.PublicKey, e record.Event) ([][]byte, error) {
	issued, err := h.authority.Issue(ctx, e, ca.Request{Profile: profile.Operator, Content: profile.Content{Key: key, Principal: operator, Lifetime: h.life}})
	if err != nil {
		return nil, err
	}
	return issued[0].Chain, nil
}

// Issuing and Prove are what hallmarkd's adapter does.
func (h *house) Issuing() (all []issuing.Issuer) {
	add := func(f ca.Founded) {
		all = append(all, issuing.Issuer{Name: f.Name, Certificate: f.Certificate, Root: f.Root})
	}
	for _, f := range h.successors {
		add(f)
	}
	for _, f := range h.founded {
		add(f)
	}
	return all
}

func (h *house) Prove(ctx context.Context, issuer, code string, e record.Event) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(h.t, err)
	issued, err := h.authority.Issue(ctx, e, ca.Request{Profile: profile.Proof, Issuer: issuer, Content: profile.Content{Key: key.Public(), Code: code, Lifetime: 24 * time.Hour}})
	if err != nil {
		return nil, err
	}
	return issued[0].Certificate, nil
}

// issue makes a key and has it certified.
func (h *house) issue(r ca.Request) (*ecdsa.PrivateKey, [][]byte) {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(h.t, err)
	r.Content.Key = key.Public()
	issued, err := h.authority.Issue(h.t.Context(), record.Event{Time: h.now(), Actor: "server", Verb: "certificate.issued"}, r)
	check(h.t, err)
	return key, issued[0].Chain
}

// operator makes the folder of an operator who is in the record, and a client of it.
func (h *house) operator(name string) *client.Client {
	h.t.Helper()
	key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: name, Lifetime: h.life}})
	return h.load(h.write(key, chain))
}

func (h *house) write(key *ecdsa.PrivateKey, chain [][]byte) string {
	h.t.Helper()
	settings, err := client.Write(h.t.TempDir(), h.server.URL, wire.Bundle{Infrastructure: [][]byte{h.founded[profile.Infrastructure].Root.Raw}}, key, chain)
	check(h.t, err)
	return settings
}

func (h *house) load(settings string) *client.Client {
	h.t.Helper()
	c, err := client.Load(settings, func(warning string) { h.t.Log("warning:", warning) })
	check(h.t, err)
	return c
}

// device enrols a device in the record, with the certificates of a whole enrolment.
func (h *house) device(model, lot, serial string) record.Device {
	h.t.Helper()
	ek := sha256.Sum256([]byte(model + serial))
	d := record.Device{ID: h.permissions.NewDeviceID(), Model: model, Lot: lot, Serial: serial, State: record.StateActive,
		Assurance: record.Assurance{Hardware: true}, EKs: []record.EK{{Fingerprint: ek, Name: append([]byte{0, 11}, ek[:]...), Public: []byte{1}}},
		AKName: append([]byte{0, 11, 1}, ek[1:]...), AKPublic: []byte{2}, Key: ek, TPMMaker: "STM", TPMFirmware: "1.2.3.4", Enrolled: h.now(), Seen: h.now()}
	d, err := h.store.Admit(h.t.Context(), record.Query{Serial: serial, EK: ek}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: d, Event: record.Event{Time: h.now(), Actor: "test", Verb: "device.enrolled", Object: d.Name()}}, nil
	})
	check(h.t, err)
	content := profile.Content{Model: model, Serial: serial}
	h.issue(ca.Request{Profile: profile.IDevID, Device: d.ID, Content: content})
	content.Lifetime = 24 * time.Hour
	h.issue(ca.Request{Profile: profile.LDevID, Device: d.ID, Content: content})
	return d
}

// events lists the verbs of the audit, newest first, of one actor.
func (h *house) events(actor string) (verbs []string) {
	h.t.Helper()
	all, err := h.store.LastEvents(h.t.Context(), 1000)
	check(h.t, err)
	for _, e := range all {
		if e.Actor == actor {
			verbs = append(verbs, e.Verb)
		}
	}
	return verbs
}

// ask sends a request as it stands, with a client certificate or none.
func (h *house) ask(method, path, body string, with *tls.Certificate) (int, wire.Problem) {
	h.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(h.founded[profile.Infrastructure].Root)
	config := &tls.Config{RootCAs: pool}
	if with != nil {
		config.Certificates = []tls.Certificate{*with}
	}
	c := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.server.URL+path, strings.NewReader(body))
	check(h.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	check(h.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(h.t, err)
	var p wire.Problem
	if resp.StatusCode >= 300 {
		if resp.Header.Get("Content-Type") != wire.ProblemType {
			h.t.Errorf("%s %s: media type %q", method, path, resp.Header.Get("Content-Type"))
		}
		check(h.t, json.Unmarshal(text, &p))
	}
	return resp.StatusCode, p
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantProblem fails unless err is the server's problem with this code.
func wantProblem(t *testing.T, err error, code string) *wire.Problem {
	t.Helper()
	var p *wire.Problem
	if !errors.As(err, &p) || p.Code != code {
		t.Fatalf("got %v, want the problem %q", err, code)
	}
	return p
}

func tlsPair(key *ecdsa.PrivateKey, chain [][]byte) *tls.Certificate {
	return &tls.Certificate{Certificate: chain, PrivateKey: key}
}

// keyRequest is a KeyRequest signed for a connection that does not exist.
func keyRequest(t *testing.T, key *ecdsa.PrivateKey, public []byte, invitation string) string {
	t.Helper()
	var err error
	if public == nil {
		public, err = x509.MarshalPKIXPublicKey(key.Public())
		check(t, err)
	}
	message, err := json.Marshal(wire.NewKey{Invitation: invitation, Key: public})
	check(t, err)
	sum := wire.Binding{Label: wire.LabelOperator, Exporter: make([]byte, wire.ExporterLength), Message: message}.Sum()
	request := wire.KeyRequest{Message: message, MAC: sum[:]}
	if key != nil {
		request.Signature, err = ecdsa.SignASN1(rand.Reader, key, sum[:])
		check(t, err)
	}
	body, err := json.Marshal(request)
	check(t, err)
	return string(body)
}

func tlsConfig(roots *x509.CertPool, pair *tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{*pair}}
}
