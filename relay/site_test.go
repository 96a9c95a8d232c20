package relay

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/ca/status/feed"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/wire"
)

// site is a record with the services that publish its lists and its feed, served over
// TLS as hallmarkd does, and a place in between where an attacker may stand.
type site struct {
	testing.TB
	store   *sqlite.Store
	status  *status.Service
	server  *httptest.Server
	roots   *x509.CertPool // operational
	pinned  [32]byte
	devices int
	expires time.Duration // of certificates to come

	mu      sync.Mutex
	between func(http.ResponseWriter, *http.Request, http.Handler) // nil: nobody
	reports []wire.RelayReport
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{TB: t, expires: 30 * 24 * time.Hour}
	var err error
	s.store, err = sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{})
	s.must(err)
	t.Cleanup(func() { s.store.Close() })
	rootKey, key, ocspKey := s.key(), s.key(), s.key()
	root := s.certify("Root", true, nil, rootKey, rootKey)
	issuer := s.certify("Issuer", true, root, key, rootKey)
	s.roots = x509.NewCertPool()
	s.roots.AddCert(root)
	responder := s.certify("OCSP", false, issuer, ocspKey, key)
	sign := func(context.Context, string) (*x509.Certificate, crypto.Signer, error) {
		return responder, ocspKey, nil
	}
	rootList, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().AddDate(1, 0, 0)}, root, rootKey)
	s.must(err)
	s.status, err = status.New(status.Config{Store: s.store, BaseURL: "http://pki.example", Now: time.Now, Responder: sign,
		Issuers: []status.Issuer{{Name: "operational", Certificate: issuer, Signer: key}}, Roots: []status.Root{{Name: "operational-root", Certificate: root, CRL: rootList}}})
	s.must(err)
	changes, err := feed.New(t.Context(), feed.Config{Store: s.store, Lists: s.status, Responder: sign, Now: time.Now,
		Issuers: map[string]*x509.Certificate{"operational": issuer}})
	s.must(err)
	infrastructureKey := s.key()
	infrastructure := s.certify("Infrastructure", true, nil, infrastructureKey, infrastructureKey)
	s.pinned = sha256.Sum256(infrastructure.Raw)
	timeKey, err := x509.MarshalPKIXPublicKey(s.key().Public())
	s.must(err)
	bundle, err := trust.Sign(wire.Bundle{Number: 1, Name: "Acme", Created: time.Now(), Servers: []string{"https://hallmark.example"}, TimeKeys: [][]byte{timeKey},
		Infrastructure: [][]byte{infrastructure.Raw}, Operational: [][]byte{root.Raw}, Manufacturing: [][]byte{root.Raw}}, trust.Root{Certificate: infrastructure, Signer: infrastructureKey})
	s.must(err)

	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { changes.Run(ctx) })
	running.Go(func() { s.status.Run(ctx) })
	mux := http.NewServeMux()
	mux.Handle(wire.PathFeed+"/", changes.Handler(func(context.Context) bool { return true }))
	mux.Handle("/", s.status.Handler())
	mux.HandleFunc("GET "+wire.PathRelayTrust, func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(wire.RelayTrust{Bundle: bundle, Issuers: []string{"operational"}})
	})
	mux.HandleFunc("POST "+wire.PathRelayReport, s.report)
	s.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		between := s.between
		s.mu.Unlock()
		if between == nil {
			mux.ServeHTTP(w, r)
		} else {
			between(w, r, mux)
		}
	}))
	t.Cleanup(func() { stop(); running.Wait(); s.server.CloseClientConnections(); s.server.Close() })
	return s
}

func (s *site) report(w http.ResponseWriter, r *http.Request) {
	var in wire.RelayReport
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.reports = append(s.reports, in)
	s.mu.Unlock()
	json.NewEncoder(w).Encode(wire.RelayAnswer{Time: time.Now()})
}

// standBetween lets an attacker answer requests; nil sends him away.
func (s *site) standBetween(do func(http.ResponseWriter, *http.Request, http.Handler)) {
	s.mu.Lock()
	s.between = do
	s.mu.Unlock()
	s.server.CloseClientConnections()
}

func (s *site) last() (r wire.RelayReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.reports); n > 0 {
		return s.reports[n-1]
	}
	return wire.RelayReport{Number: -1}
}

// get is what the server answers.
func (s *site) get(path string) string {
	s.Helper()
	answer, err := s.server.Client().Get(s.server.URL + path)
	s.must(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	s.must(err)
	return string(text)
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *site) key() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	return key
}

func (s *site) certify(name string, ca bool, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	x := &x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(mathrand.Int64()), IsCA: ca, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0), SubjectKeyId: []byte(name)}
	if ca {
		x.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	} else {
		x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	}
	if parent == nil {
		parent = x
	}
	der, err := x509.CreateCertificate(rand.Reader, x, parent, key.Public(), by)
	s.must(err)
	c, err := x509.ParseCertificate(der)
	s.must(err)
	return c
}

func note(verb string) record.Event {
	return record.Event{Time: time.Now(), Actor: "host", Verb: verb}
}

// device records a device with one certificate, and gives its ID and the serial number
// as lists have it.
func (s *site) device() (id, serial string) {
	s.Helper()
	s.devices++
	id = fmt.Sprint("device-", s.devices)
	now := time.Now()
	_, err := s.store.Admit(s.Context(), record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: record.Device{ID: id, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: id, State: record.StateActive,
			EKs:    []record.EK{{Fingerprint: [32]byte{byte(s.devices)}, Name: []byte(id), Public: []byte(id)}},
			AKName: []byte(id), AKPublic: []byte(id), Key: sha256.Sum256([]byte(id)), Enrolled: now, Seen: now}, Event: note("device.enrolled")}, nil
	})
	s.must(err)
	shard, _, err := s.store.ReserveShard(s.Context(), "operational", 1, 16)
	s.must(err)
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x3f | 0x40
	c := record.Certificate{Issuer: "operational", Serial: fmt.Sprintf("%x", b), Profile: record.ProfileLDevID, Device: id, Subject: "CN=acme-" + id + ",O=Acme",
		Shard: shard, NotBefore: now, NotAfter: now.Add(s.expires), TBS: []byte{0x30, 0}, Intended: now}
	s.must(s.store.Intend(s.Context(), []record.Certificate{c}, nil))
	c.DER, c.Issued = []byte{0x30, 0}, now
	s.must(s.store.Complete(s.Context(), []record.Certificate{c}, note("certificate.issued")))
	return id, strings.ToUpper(c.Serial)
}

func (s *site) suspend(id string) {
	s.Helper()
	_, err := s.status.Suspend(s.Context(), id, note("device.suspended"))
	s.must(err)
}

func (s *site) restore(id string) {
	s.Helper()
	_, err := s.status.Restore(s.Context(), id, note("device.restored"))
	s.must(err)
}

func (s *site) newest() int64 {
	s.Helper()
	n, err := s.store.LastChange(s.Context())
	s.must(err)
	return n
}

// post is a relay's folder and the folder of the files that it writes, beside a site.
type post struct {
	*site
	dir, etc string
	Config
	log *journal
}

func (s *site) post() *post {
	p := &post{site: s, dir: s.TempDir(), etc: s.TempDir(), log: &journal{}}
	p.Config = Config{Dir: p.dir, Send: p.send, Pinned: [][32]byte{s.pinned}, Fail: wire.FailClosed, Program: "test", Version: "1",
		Log: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	return p
}

// send is what admin/client does for a relay, but for the certificate.
func (p *post) send(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, p.server.URL+path, body)
	if err != nil {
		return nil, err
	}
	request.Header = header
	return p.server.Client().Do(request)
}

// file names one to keep fresh.
func (p *post) file(format string) string {
	path := filepath.Join(p.etc, format)
	p.Files = append(p.Files, File{format, path})
	return path
}

// run works until the test ends or stop is called.
func (p *post) run() (stop func()) {
	p.Helper()
	r, unlock, err := New(p.Config)
	p.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended; unlock() })
	p.Cleanup(func() {
		stop()
		if p.Failed() {
			p.TB.Log(p.log.String())
		}
	})
	return stop
}

// await polls until a condition holds.
func (p *post) await(what string, holds func() bool) {
	p.Helper()
	for deadline := time.Now().Add(60 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatalf("%s: not after a minute; reported: %+v", what, p.last())
		}
	}
}

// enforced waits until all that happened is reported as enforced.
func (p *post) enforced() {
	p.Helper()
	newest := p.newest()
	p.await(fmt.Sprint("change ", newest, " enforced"), func() bool { r := p.last(); return r.Number >= newest && r.Problem == "" })
}

// troubled waits until a problem with these words is known to the server.
func (p *post) troubled(words string) {
	p.Helper()
	p.await("a problem with "+words, func() bool { return strings.Contains(p.last().Problem, words) })
}

func (p *post) read(path string) string {
	p.Helper()
	text, err := os.ReadFile(path)
	p.must(err)
	return string(text)
}

// journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}
func (j *journal) String() string { j.mu.Lock(); defer j.mu.Unlock(); return j.text.String() }
