package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status/feed"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/wire"
)

// site has its lists and a feed served over TLS as hallmarkd does, and a place in between
// where an attacker may stand.
type site struct {
	testing.TB
	*premises.Site
	server *httptest.Server
	roots  *x509.CertPool // operational
	pinned [32]byte

	mu      sync.Mutex
	between func(http.ResponseWriter, *http.Request, http.Handler) // nil: nobody
	reports []wire.RelayReport
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{TB: t, Site: premises.OpenSite(t), roots: x509.NewCertPool()}
	s.roots.AddCert(s.Issuer.Root)
	changes, err := feed.New(t.Context(), feed.Config{Store: s.Store, Lists: s.Status, Responder: s.Responder, Now: time.Now,
		Issuers: map[string]*x509.Certificate{s.Issuer.Name: s.Issuer.Certificate}})
	s.must(err)
	founded, err := premises.Found("http://pki.example", time.Now().Add(-time.Hour), profile.Infrastructure)
	s.must(err)
	infrastructure := founded[0]
	s.pinned = sha256.Sum256(infrastructure.Root.Raw)
	timeKey, err := x509.MarshalPKIXPublicKey(infrastructure.Signer.Public())
	s.must(err)
	bundle, err := trust.Sign(wire.Bundle{Number: 1, Name: "Acme", Created: time.Now(), Servers: []string{"https://hallmark.example"}, TimeKeys: [][]byte{timeKey},
		Infrastructure: [][]byte{infrastructure.Root.Raw}, Operational: [][]byte{s.Issuer.Root.Raw}, Manufacturing: [][]byte{s.Issuer.Root.Raw}}, trust.Root{Certificate: infrastructure.Root, Signer: infrastructure.RootSigner})
	s.must(err)

	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { changes.Run(ctx) })
	running.Go(func() { s.Status.Run(ctx) })
	mux := http.NewServeMux()
	mux.Handle(wire.PathFeed+"/", changes.Handler(func(context.Context) bool { return true }))
	mux.Handle("/", s.Status.Handler())
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

// device records a device with one certificate, and gives its ID and the serial number
// as lists have it.
func (s *site) device() (id, serial string) {
	s.Helper()
	id, serials := s.Device(1, 30*24*time.Hour)
	return id, strings.ToUpper(serials[0])
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

// await polls until a condition holds, for longer than a relay pauses after failures.
func (p *post) await(what string, holds func() bool) {
	p.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatalf("%s: not after three minutes; reported: %+v", what, p.last())
		}
	}
}

// enforced waits until all that happened is reported as enforced.
func (p *post) enforced() {
	p.Helper()
	newest := p.Newest()
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
