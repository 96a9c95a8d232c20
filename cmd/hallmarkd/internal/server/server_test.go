package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// found makes an installation on free ports.
func found(t *testing.T) *installation.Installation {
	t.Helper()
	port, err := ports.Free(26000+os.Getpid()%5*1000, 4)
	if err != nil {
		t.Fatal(err)
	}
	made, err := installation.Founding{
		Dir: filepath.Join(t.TempDir(), "ca"), Name: "Acme", Listen: fmt.Sprintf("127.0.0.1:%d", port),
		Public: []string{fmt.Sprintf("https://localhost:%d", port), fmt.Sprintf("https://127.0.0.1:%d", port)},
	}.Found(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in, err := installation.Load(made.Config)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// Garbage may gather while the heap is small; where a flood of connections makes it large, a
// server does not take several times as much.
func TestCollectsInTime(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	collectSeldom()
	goal := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.NextGC) - len(ballast)
	}
	small := goal()
	if small < 64<<20 {
		t.Errorf("the next collection is at %d MiB", small>>20)
	}
	flood := make([]byte, 200<<20)
	if large := goal(); large-small > 2*len(flood)+16<<20 {
		t.Errorf("%d MiB more in use let %d MiB more be taken", len(flood)>>20, (large-small)>>20)
	}
	runtime.KeepAlive(flood)
}

// start runs an installation until the test ends, and wants it to end well.
func start(t *testing.T, in *installation.Installation) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	doors := new(Doors)
	go func() { ended <- doors.Run(ctx, in, "test") }()
	t.Cleanup(func() {
		stop()
		defer doors.Close()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the server does not end")
		}
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if answer, err := http.Get("http://" + in.Config.Listen.Status + "/healthz"); err == nil {
			answer.Body.Close()
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("the server ended: %v", err)
		default:
		}
	}
	t.Fatal("the server is not ready")
}

// sessions counts the TLS sessions that a server offers to resume.
type sessions struct{ offered int }

func (s *sessions) Get(string) (*tls.ClientSessionState, bool)  { return nil, false }
func (s *sessions) Put(_ string, state *tls.ClientSessionState) { s.offered++ }

func caller(in *installation.Installation, change func(*tls.Config)) *http.Client {
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(in.Issuer(profile.Infrastructure).Root)
	if change != nil {
		change(c)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}, Timeout: time.Minute}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	answer, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestListeners(t *testing.T) {
	in := found(t)
	start(t, in)
	devices, operators := in.Config.Public.Devices[0], in.Config.Public.Operators

	offered := &sessions{}
	code, body := get(t, caller(in, func(c *tls.Config) { c.ClientSessionCache = offered }), devices+wire.PathTrust)
	var signed wire.SignedBundle
	if err := json.Unmarshal([]byte(body), &signed); err != nil || code != http.StatusOK {
		t.Fatalf("trust: %d %s", code, body)
	}
	root := sha256.Sum256(in.Issuer(profile.Infrastructure).Root.Raw)
	if b, err := wire.OpenBundle(signed, func(sum [32]byte) bool { return sum == root }); err != nil || b.Number != 1 {
		t.Errorf("bundle: %+v, %v", b, err)
	}
	if offered.offered != 0 {
		t.Error("the server offers to resume TLS sessions")
	}
	if _, err := caller(in, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }).Get(devices + wire.PathTrust); err == nil {
		t.Error("TLS 1.2 is accepted")
	}
	if _, err := caller(in, func(c *tls.Config) { c.ServerName = "elsewhere.example" }).Get(devices + wire.PathTrust); err == nil {
		t.Error("the certificate is for every name")
	}
	if code, _ := get(t, caller(in, nil), in.Config.Public.Devices[1]+wire.PathTrust); code != http.StatusOK {
		t.Errorf("by address: %d", code)
	}

	if code, body := get(t, caller(in, nil), operators+wire.PathWhoami); code != http.StatusUnauthorized {
		t.Errorf("a stranger on the operators' listener: %d %s", code, body)
	}
	identity := filepath.Join(in.Config.Dir, installation.OperatorDir, "identity.pem")
	pair, err := tls.LoadX509KeyPair(identity, identity)
	if err != nil {
		t.Fatal(err)
	}
	asOperator := func(c *tls.Config) { c.Certificates = []tls.Certificate{pair} }
	if code, body := get(t, caller(in, asOperator), operators+wire.PathWhoami); code != http.StatusOK || !strings.Contains(body, `"operator":"admin"`) {
		t.Errorf("the first operator: %d %s", code, body)
	}
	if code, _ := get(t, caller(in, asOperator), devices+wire.PathTrust); code == http.StatusOK {
		t.Error("an operator's certificate passes for a device's")
	}

	plain := &http.Client{Timeout: time.Minute}
	if code, _ := get(t, plain, in.Config.Public.Status+"/ca/operational.crt"); code != http.StatusOK {
		t.Errorf("CA certificate: %d", code)
	}
	for _, path := range []string{"/metrics", wire.PathTrust, wire.PathWhoami} {
		if code, _ := get(t, plain, in.Config.Public.Status+path); code != http.StatusNotFound {
			t.Errorf("%s on the status listener: %d", path, code)
		}
	}
	_, body = get(t, plain, "http://"+in.Config.Listen.Metrics+"/metrics")
	for _, line := range []string{`hallmark_requests_total{code="200",listener="operators"} 1`, `hallmark_refusals_total{code="unauthorised"} 1`,
		`hallmark_certificates_total{profile="server"} 1`, `hallmark_certificates_void_total 0`} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("the metrics do not say %s", line)
		}
	}
	if code, body := get(t, plain, "http://"+in.Config.Listen.Metrics+"/healthz"); code != http.StatusOK || body != "{\"status\":\"ok\"}\n" {
		t.Errorf("health: %d %s", code, body)
	}
}

// TestUnwell: a server whose record is gone says so to whoever may replace it.
func TestUnwell(t *testing.T) {
	in := found(t)
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, err := assemble(t.Context(), in, store, "test", slog.New(slog.DiscardHandler))
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.handlers.metrics.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the record cannot be read") {
		t.Errorf("health: %d %s", w.Code, w.Body)
	}
}

// TestRecordIsFull: nobody can enrol, renew or be revoked while the record can only be read; the
// server says so until it can write again.
func TestRecordIsFull(t *testing.T) {
	in := found(t)
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	h, err := assemble(t.Context(), in, store, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	healthy := func(when string, want int, says string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.handlers.metrics.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		if w.Code != want || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: %d %s", when, w.Code, w.Body)
		}
	}
	healthy("before", http.StatusOK, "ok")
	away := in.Config.Journal + ".away" // the disk of the journal, which is written before the record
	if err := os.Rename(in.Config.Journal, away); err != nil {
		t.Fatal(err)
	}
	event := record.Event{Time: time.Now(), Actor: "test", Verb: "test"}
	if err := store.Note(t.Context(), event); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("without a journal: %v", err)
	}
	healthy("full", http.StatusServiceUnavailable, "the record cannot be written")
	if _, err := store.Models(t.Context()); err != nil {
		t.Error(err)
	}
	healthy("still full", http.StatusServiceUnavailable, "the record cannot be written")
	if err := os.Rename(away, in.Config.Journal); err != nil {
		t.Fatal(err)
	}
	healthy("room again", http.StatusOK, "ok")
}

func TestSecondServerIsRefused(t *testing.T) {
	in := found(t)
	start(t, in)
	if err := new(Doors).Run(t.Context(), in, "test"); err == nil || !strings.Contains(err.Error(), "another hallmarkd") {
		t.Errorf("a second server on the installation: %v", err)
	}
	other := found(t)
	other.Config.Listen = in.Config.Listen
	if err := new(Doors).Run(t.Context(), other, "test"); err == nil || !strings.Contains(err.Error(), "listener for devices") {
		t.Errorf("a second server on the ports: %v", err)
	}
}

// TestIntentLeftByACrash: what may have been signed is revoked, and the CRL says so
// before the first request is answered.
func TestIntentLeftByACrash(t *testing.T) {
	in := found(t)
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const serial = "0123456789abcdef0123456789abcdef"
	shard, _, err := store.ReserveShard(t.Context(), profile.Infrastructure, 1, 16)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Intend(t.Context(), []record.Certificate{{Issuer: profile.Infrastructure, Serial: serial, Profile: string(profile.Server), Subject: "x",
		Shard: shard, TBS: []byte{1}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), Intended: time.Now()}}, nil); err != nil {
		t.Fatal(err)
	}
	store.Close()
	start(t, in)
	_, der := get(t, http.DefaultClient, fmt.Sprintf("%s/crl/%s/%d.crl", in.Config.Public.Status, profile.Infrastructure, shard))
	list, err := x509.ParseRevocationList([]byte(der))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.RevokedCertificateEntries {
		if fmt.Sprintf("%032x", e.SerialNumber) == serial {
			return
		}
	}
	t.Error("the CRL does not name what may have been signed")
}

// An issuer that is gone signs no list, for which neither a start waits nor a job.
func TestIssuerThatIsGone(t *testing.T) {
	in := found(t)
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	event := func(verb string) record.Event {
		return record.Event{Time: time.Now(), Actor: "host", Verb: verb}
	}
	device := record.Device{ID: "id", Model: record.DefaultModel, Lot: record.DefaultLot, Serial: "SN-1", State: record.StateActive, Enrolled: time.Now(), Seen: time.Now()}
	if _, err := store.Admit(t.Context(), record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: device, Event: event("device.enrolled")}, nil
	}); err != nil {
		t.Fatal(err)
	}
	shard, _, err := store.ReserveShard(t.Context(), "operational-2", 1, 16)
	if err != nil {
		t.Fatal(err)
	}
	left := record.Certificate{Issuer: "operational-2", Serial: "0123456789abcdef0123456789abcdef", Profile: string(profile.LDevID), Device: device.ID, Subject: "x",
		Shard: shard, TBS: []byte{1}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), Intended: time.Now()}
	if err := store.Intend(t.Context(), []record.Certificate{left}, nil); err != nil {
		t.Fatal(err)
	}
	j, err := store.CreateJob(t.Context(), record.Selection{Devices: []string{device.ID}}, time.Now(), func(record.JobView) (record.JobPlan, error) {
		return record.JobPlan{Job: record.Job{Kind: record.JobRevoke, Operator: "admin", State: record.JobRunning, Created: time.Now()}, Event: event("job.created")}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	start(t, in)
	for deadline := time.Now().Add(30 * time.Second); j.State != record.JobDone; time.Sleep(10 * time.Millisecond) {
		if j, err = store.Job(t.Context(), j.ID); err != nil || time.Now().After(deadline) {
			t.Fatalf("the job is %s, %v", j.State, err)
		}
	}
}

// disabling disables an operator before, or while, a certificate is signed.
type disabling struct {
	record.Store
	name           string
	before, during bool
}

func (d disabling) disable(now bool) error {
	if !now {
		return nil
	}
	return d.DisableOperator(context.Background(), d.name, time.Now(), record.Event{Time: time.Now(), Actor: "operator:admin", Verb: "operator.disabled"})
}

func (d disabling) Intend(ctx context.Context, intents []record.Certificate, stands func([]*record.Certificate) []bool) error {
	return errors.Join(d.disable(d.before), d.Store.Intend(ctx, intents, stands))
}

func (d disabling) Complete(ctx context.Context, signed []record.Certificate, e record.Event) error {
	return errors.Join(d.disable(d.during), d.Store.Complete(ctx, signed, e))
}

// Whoever is disabled while a certificate is signed reads that, not that the CA is away.
func TestDisabledWhileRenewing(t *testing.T) {
	in := found(t)
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, meanwhile := range map[string]disabling{"anna": {before: true}, "bert": {during: true}} {
		meanwhile.Store, meanwhile.name = store, name
		if err := store.RecoverOperator(t.Context(), name, time.Now(), record.Event{Time: time.Now(), Actor: "host", Verb: "operator.recovered"}); err != nil {
			t.Fatal(err)
		}
		authority, err := in.Authority(t.Context(), meanwhile)
		if err != nil {
			t.Fatal(err)
		}
		_, err = installation.OwnIssuer{Authority: authority}.IssueOperator(t.Context(), name, key.Public(),
			record.Event{Time: time.Now(), Actor: "operator:" + name, By: name, Verb: "certificate.issued"})
		if p := gate.Problem(err); err == nil || p.Status != http.StatusUnauthorized || !strings.Contains(p.Detail, "disabled") {
			t.Errorf("%s: %v: %+v", name, err, p)
		}
	}
}

func TestOwnCertificateRenewsItself(t *testing.T) {
	in := found(t)
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	authority, err := in.Authority(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	o := &own{request: serverRequest(in), authority: authority, log: slog.New(slog.DiscardHandler)}
	now := time.Now()
	at := func(days int) *tls.Certificate {
		t.Helper()
		c, err := o.get(t.Context(), now.Add(time.Duration(days)*24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := at(0)
	if at(19) != first {
		t.Error("renewed before two thirds of its life")
	}
	second := at(21)
	if second == first || second.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 {
		t.Error("not renewed after two thirds of its life")
	}
	if names := second.Leaf.DNSNames; len(names) != 1 || names[0] != "localhost" || len(second.Leaf.IPAddresses) != 1 {
		t.Errorf("it is for %v, %v", names, second.Leaf.IPAddresses)
	}
	if at(-1) == second { // the clock was ahead, and is set
		t.Error("a certificate is served that has not begun")
	}
	second = at(21)
	store.Close() // nothing can be issued any more
	if at(25) != second {
		t.Error("a failed renewal takes the old certificate away")
	}
	if _, err := o.get(t.Context(), now.Add(31*24*time.Hour)); err == nil {
		t.Error("an expired certificate is served")
	}
}

// slow is a CA that takes its time.
type slow struct {
	authority    *ca.Authority
	asked, allow chan struct{}
}

func (s slow) Issue(ctx context.Context, e record.Event, reqs ...ca.Request) ([]ca.Issued, error) {
	s.asked <- struct{}{}
	<-s.allow
	return s.authority.Issue(ctx, e, reqs...)
}

func TestNobodyWaitsForARenewal(t *testing.T) {
	in := found(t)
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	authority, err := in.Authority(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	s := slow{authority, make(chan struct{}, 9), make(chan struct{}, 1)}
	o := &own{request: serverRequest(in), authority: s, log: slog.New(slog.DiscardHandler)}
	now := time.Now()
	s.allow <- struct{}{}
	first, err := o.get(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	<-s.asked
	now = now.Add(21 * 24 * time.Hour)
	renewed := make(chan *tls.Certificate)
	go func() {
		c, _ := o.get(context.Background(), now)
		renewed <- c
	}()
	<-s.asked
	others := make(chan *tls.Certificate, 1)
	go func() {
		c, _ := o.get(context.Background(), now)
		others <- c
	}()
	select {
	case c := <-others:
		if c != first {
			t.Error("not the certificate that is still good")
		}
	case <-time.After(time.Minute):
		t.Error("a handshake waits for the renewal")
	}
	s.allow <- struct{}{}
	second := <-renewed
	// The CA's clock has not moved, so the new one begins today.
	if again, err := o.get(t.Context(), time.Now()); err != nil || second == nil || second == first || again != second {
		t.Errorf("after the renewal: %v", err)
	}
	if len(s.asked) != 0 {
		t.Error("renewed more than once")
	}
}

// away is a CA whose key is away: what it begins is voided, and published as such.
type away struct{ asked int }

func (a *away) Issue(context.Context, record.Event, ...ca.Request) ([]ca.Issued, error) {
	a.asked++
	return nil, &ca.VoidedError{Err: errors.New("the HSM is away")}
}

// Whoever asks for a status has the CA asked for its responder's certificate, if there is
// none: not as often as strangers like.
func TestCAThatIsAwayIsNotAskedAtOnce(t *testing.T) {
	a := &away{}
	o := &own{request: ca.Request{Profile: profile.OCSP}, authority: a, log: slog.New(slog.DiscardHandler)}
	now := time.Now()
	for _, c := range []struct {
		after time.Duration
		asked int
	}{{0, 1}, {time.Second, 1}, {retryOwn, 2}, {retryOwn + time.Second, 2}, {-time.Hour, 3}} { // at last the clock is set
		if _, err := o.get(t.Context(), now.Add(c.after)); err == nil || a.asked != c.asked {
			t.Errorf("after %v: asked %d times, %v", c.after, a.asked, err)
		}
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	for name, value := range map[string]any{"ours": "oops", "abort": http.ErrAbortHandler} {
		s := httptest.NewServer(guard(listener{name: "devices", maxBody: 10, handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(value) })}, slog.New(slog.DiscardHandler)))
		answer, err := http.Get(s.URL)
		if name == "abort" {
			if err == nil {
				t.Error("an aborted answer arrived")
			}
		} else if err != nil || answer.StatusCode != http.StatusInternalServerError || answer.Header.Get("Content-Type") != wire.ProblemType {
			t.Errorf("%v, %v", answer, err)
		} else if body, _ := io.ReadAll(answer.Body); strings.Contains(string(body), "oops") {
			t.Errorf("the answer tells what happened inside: %s", body)
		}
		s.Close()
	}
}

func TestBodyIsBounded(t *testing.T) {
	var err error
	s := httptest.NewServer(guard(listener{maxBody: 10, handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err = io.ReadAll(r.Body)
	})}, slog.New(slog.DiscardHandler)))
	defer s.Close()
	if _, e := http.Post(s.URL, "text/plain", strings.NewReader("0123456789")); e != nil || err != nil {
		t.Errorf("ten bytes: %v, %v", e, err)
	}
	if _, e := http.Post(s.URL, "text/plain", strings.NewReader("0123456789a")); e != nil || err == nil {
		t.Errorf("eleven bytes: %v, %v", e, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimit(inner, 2)
	l.perHost = 3
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	<-accepted
	select {
	case <-accepted:
		t.Fatal("a third connection beside two")
	case <-time.After(100 * time.Millisecond):
	}
	first.Close()
	first.Close() // frees one place, not two
	third := <-accepted
	select {
	case <-accepted:
		t.Fatal("closing twice freed two places")
	case <-time.After(50 * time.Millisecond):
	}
	third.Close()
}

// Who knocks while a server is replaced by the next waits, and is answered.
func TestReplacingTheServer(t *testing.T) {
	in := found(t)
	var doors Doors
	defer doors.Close()
	healthy := func() error {
		answer, err := http.Get("http://" + in.Config.Listen.Status + "/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err
	}
	serve := func() (end func()) {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- doors.Run(ctx, in, "test") }()
		return func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	end := serve()
	for deadline := time.Now().Add(time.Minute); healthy() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server is not ready")
		}
	}
	end()
	if _, err := lock(filepath.Join(in.Config.Dir, lockFile)); err == nil {
		t.Error("whoever has something to tell finds no server meanwhile")
	}
	answered := make(chan error, 1)
	go func() { answered <- healthy() }()
	defer serve()()
	if err := <-answered; err != nil {
		t.Error("turned away:", err)
	}
}

// Whoever asks for the server just when it starts is not taken for another.
func TestAskedForWhileItStarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), lockFile)
	synctest.Test(t, func(t *testing.T) {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(200*time.Millisecond, func() { f.Close() })
		unlock, err := lock(path)
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	})
}

// A relying party that is disabled hears no more at once: not first with the next heartbeat.
func TestStreamsEndWithTheirRelyingParty(t *testing.T) {
	in := found(t)
	start(t, in)
	dir := filepath.Dir(in.Config.File)
	operator, err := client.Load(filepath.Join(dir, installation.OperatorDir), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string]*http.Response{}
	for _, name := range []string{"broker-1", "broker-2"} {
		invited, err := operator.InviteRelyingParty(t.Context(), wire.NewRelyingParty{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := client.AcceptRelay(t.Context(), invited.Invitation, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		relay, err := client.LoadRelay(filepath.Join(dir, name), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		if streams[name], err = relay.Send(t.Context(), http.MethodGet, wire.PathChanges+"?after=0", http.Header{}, nil); err != nil {
			t.Fatal(err)
		}
		defer streams[name].Body.Close()
		if streams[name].StatusCode != http.StatusOK {
			t.Fatal(streams[name].Status)
		}
	}
	if _, err := operator.DisableRelyingParty(t.Context(), "broker-1"); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(streams["broker-1"].Body); err != nil || strings.Contains(string(text), "\n:") {
		t.Errorf("it hears, up to a heartbeat or further: %q, %v", text, err)
	}
	// The other is told that something happened which was none of its business.
	for lines := bufio.NewScanner(streams["broker-2"].Body); ; {
		if !lines.Scan() {
			t.Fatalf("another relying party's stream ends: %v", lines.Err())
		}
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok && id != "0" {
			break
		}
	}
}
