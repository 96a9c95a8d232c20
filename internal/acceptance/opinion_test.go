package acceptance

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/internal/simdevice"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// world is an installation served by the real program, its devices, and those who want to
// know which of them hold.
type world struct {
	*testing.T
	*stage
	dir      string // of the installation
	server   *exec.Cmd
	log      bytes.Buffer
	operator *client.Client
	party    *client.Client // a relying party's relay
	roots    *x509.CertPool // infrastructure
	trusted  *x509.CertPool // relying-parties.pem
	issuers  map[string]*x509.Certificate
	maker    *simtpm.Maker
	fleet    []*member
	backup   string
	made     int

	known  map[string]bool // serials that the follower of the feed refuses
	number int64           // up to where it was told
	held   map[string]*x509.RevocationList
	judged struct{ filters, deltas, refused, renewed, back int }
}

// member is a device with all certificates that it ever had, and what should be known of it.
type member struct {
	*simdevice.Device
	serial, state string
	certificates  []*x509.Certificate
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, stage: newStage(t), dir: "acme", known: map[string]bool{}, held: map[string]*x509.RevocationList{}, issuers: map[string]*x509.Certificate{}}
	w.found(w.T)
	w.start()
	w.Cleanup(w.kill)
	w.operator = want(client.Load(filepath.Join(w.stage.dir, "acme/operator"), func(string) {}))(t)
	w.roots, w.trusted = x509.NewCertPool(), x509.NewCertPool()
	w.roots.AppendCertsFromPEM(read(t, w.stage.dir, "acme/trust/infrastructure.pem"))
	w.trusted.AppendCertsFromPEM(read(t, w.stage.dir, "acme/trust/relying-parties.pem"))
	invitation := want(w.operator.InviteRelyingParty(t.Context(), wire.NewRelyingParty{Name: "broker"}))(t)
	if _, _, err := client.AcceptRelay(t.Context(), invitation.Invitation, filepath.Join(w.stage.dir, "broker")); err != nil {
		t.Fatal(err)
	}
	w.party = want(client.LoadRelay(filepath.Join(w.stage.dir, "broker"), func(string) {}))(t)
	for _, name := range []string{"operational", "manufacturing"} {
		w.issuers[name] = want(x509.ParseCertificate(w.get("/ca/" + name + ".crt")))(t)
	}
	w.maker = want(simtpm.NewMaker(time.Now()))(t)
	return w
}

func want[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) start() {
	w.Helper()
	w.server = exec.Command("/usr/bin/env", "hallmarkd", "serve", "--config", w.dir+"/hallmark.yaml")
	w.server.Dir, w.server.Env, w.server.Stderr = w.stage.dir, w.env, &w.log
	w.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := big.NewInt(time.Now().UnixMilli())
	if err := w.server.Start(); err != nil {
		w.Fatal(err)
	}
	await(w.T, w.at(2))
	await(w.T, w.at(1))
	w.republished(begun)
}

// republished waits until every shard was signed since the server began: so it makes good what
// it had recorded, and not published, when the power failed.
func (w *world) republished(begun *big.Int) {
	w.Helper()
	old := func(l *x509.RevocationList) bool { return l.Number.Cmp(begun) < 0 } // crlNumber is the time in milliseconds
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		behind := false
		for name := range w.issuers {
			behind = behind || slices.ContainsFunc(w.shards(name), old)
		}
		if !behind {
			return
		}
		if time.Now().After(deadline) {
			w.Fatal("some shards were not signed anew")
		}
	}
}

// kill takes the power away.
func (w *world) kill() {
	w.server.Process.Kill()
	w.server.Wait()
	if w.Failed() {
		w.Logf("%s", w.log.Bytes())
	}
	w.log.Reset()
}

func (w *world) get(path string) []byte {
	w.Helper()
	status, body := w.ask(path)
	if status != http.StatusOK {
		w.Fatalf("%s: %d %s", path, status, body)
	}
	return body
}

func (w *world) ask(path string) (int, []byte) {
	w.Helper()
	r := want(http.Get("http://" + w.at(2) + path))(w)
	defer r.Body.Close()
	return r.StatusCode, want(io.ReadAll(r.Body))(w)
}

// fed is an answer of the feed to the relying party.
func (w *world) fed(path string) []byte {
	w.Helper()
	r := want(w.party.Send(w.Context(), http.MethodGet, wire.PathFeed+path, http.Header{}, nil))(w)
	defer r.Body.Close()
	body := want(io.ReadAll(r.Body))(w)
	if r.StatusCode != http.StatusOK {
		w.Fatalf("%s: %s %s", path, r.Status, body)
	}
	return body
}

func (w *world) enrol() {
	w.Helper()
	text := want(w.operator.CreateTickets(w.Context(), wire.NewTickets{Count: 1, TTL: 3600}))(w)
	ticket := want(wire.ParsePermission(wire.KindTicket, text.Tickets[0]))(w)
	m := &member{serial: fmt.Sprint("SN-", len(w.fleet)+1), state: "active", Device: &simdevice.Device{
		Server: simdevice.Server{Address: w.at(0), Name: "localhost", Roots: w.roots}, TPM: want(simtpm.NewDevice(w.maker, simtpm.Options{}))(w)}}
	id := want(m.Enrol(ticket, m.serial))(w)
	m.keep(w, id.IDevID, id.AK)
	m.keep(w, want(m.Renew(m.IDevID))(w).LDevID)
	w.fleet = append(w.fleet, m)
}

func (m *member) keep(w *world, chains ...[][]byte) {
	w.Helper()
	for _, chain := range chains {
		c := want(x509.ParseCertificate(chain[0]))(w)
		if !slices.ContainsFunc(m.certificates, c.Equal) {
			m.certificates = append(m.certificates, c)
		}
	}
}

// act changes a device's status through the API; it returns what came of it.
func (w *world) act(m *member, verb string) error {
	var err error
	switch verb {
	case "suspend":
		_, err = w.operator.Suspend(w.Context(), m.serial, wire.StatusRequest{})
	case "restore":
		_, err = w.operator.Restore(w.Context(), m.serial, wire.StatusRequest{})
	case "revoke":
		_, err = w.operator.Revoke(w.Context(), m.serial, wire.StatusRequest{Reason: "key-compromise"})
	}
	return err
}

var becomes = map[string]string{"suspend": "suspended", "restore": "active", "revoke": "revoked"}

// during lets the power fail while an operator changes a status: whatever the record says
// afterwards, it is the old state or the new one.
func (w *world) during(m *member, verb string, after time.Duration) {
	w.Helper()
	done := make(chan error, 1)
	go func() { done <- w.act(m, verb) }()
	time.Sleep(after)
	w.kill()
	err := <-done
	w.start()
	state := want(w.operator.Device(w.Context(), m.serial))(w).State
	if err == nil && m.state != "revoked" && state != becomes[verb] || state != m.state && state != becomes[verb] {
		w.Fatalf("%s was %s; %s answered %v; now it is %s", m.serial, m.state, verb, err, state)
	}
	m.state = state
}

func (w *world) backUp() {
	w.Helper()
	w.made++
	w.backup = fmt.Sprintf("backup-%d.tar", w.made)
	w.bash(w.T, "hallmarkd backup --config "+w.dir+"/hallmark.yaml --to "+w.backup)
}

// restore makes the installation anew of its last backup and the journal. CRLs are not in
// the journal, so deltas begin anew.
func (w *world) restore(random *rand.Rand) {
	w.Helper()
	w.kill()
	old := w.dir
	w.dir = fmt.Sprintf("restored-%d", w.made)
	w.made++
	w.bash(w.T, fmt.Sprintf("hallmarkd restore --from %s --dir %s --journal %s/journal && rm -r %s/hallmark.db*", w.backup, w.dir, old, old))
	w.start()
	w.backUp()
	clear(w.held)
	w.hold(random)
}

// Random revocations, suspensions, renewals, returns, power cuts and restores: CRL,
// complete CRL, delta, OCSP, feed, deny-list, filter, renewal and re-enrolment are always
// of one opinion.
func TestOneOpinion(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	for range 10 {
		w.enrol()
	}
	w.backUp()
	w.hold(random)
	for step := range 60 {
		m := w.fleet[random.IntN(len(w.fleet))]
		switch n := random.IntN(20); {
		case step == 20 || n == 16:
			w.during(m, []string{"suspend", "restore", "revoke"}[random.IntN(3)], time.Duration(random.IntN(12))*time.Millisecond)
		case step == 40 || n == 18:
			w.restore(random)
		case n < 9:
			verb := []string{"suspend", "suspend", "restore", "restore", "revoke"}[random.IntN(5)]
			err := w.act(m, verb)
			if refused := m.state == "revoked" && verb != "revoke"; refused != (err != nil) {
				t.Fatalf("step %d: %s %s, which is %s: %v", step, verb, m.serial, m.state, err)
			} else if !refused {
				m.state = becomes[verb]
			}
		case n < 13:
			w.renew(m)
		case n < 15:
			w.comeBack(m)
		case n == 15:
			w.enrol()
		case n == 17:
			w.backUp()
		default:
			w.hold(random)
		}
		if step%5 == 4 {
			w.compare(random)
		}
	}
	w.kill()
	w.start() // the filter is made at most once a minute, and at the start
	for _, m := range w.fleet {
		w.renew(m)
		w.comeBack(m)
	}
	w.compare(random)
	t.Logf("%+v", w.judged)
	if w.judged.filters == 0 || w.judged.deltas == 0 || w.judged.refused == 0 || w.judged.renewed == 0 || w.judged.back == 0 {
		t.Error("something was never asked")
	}
}

// hold lets somebody keep today's complete lists, to go on with deltas.
func (w *world) hold(random *rand.Rand) {
	for name := range w.issuers {
		if w.held[name] == nil || random.IntN(2) == 0 {
			w.held[name] = w.list("/crl/"+name+".crl", name)
		}
	}
}

func code(err error) string {
	if p := (*wire.Problem)(nil); errors.As(err, &p) {
		return p.Code
	}
	return fmt.Sprint(err)
}

// renew is the server's opinion on renewal.
func (w *world) renew(m *member) {
	w.Helper()
	with := m.LDevID
	if len(m.certificates)%2 == 0 {
		with = m.IDevID
	}
	id, err := m.Renew(with)
	w.expect(m, "renewal", err, map[string][]string{"suspended": {wire.CodeSuspended}, "revoked": {wire.CodeRevoked}})
	if err == nil {
		m.keep(w, id.LDevID)
		w.judged.renewed++
	}
}

// comeBack is its opinion on a device that lost everything.
func (w *world) comeBack(m *member) {
	w.Helper()
	id, err := m.Enrol(wire.Permission{}, m.serial)
	w.expect(m, "return", err, map[string][]string{"suspended": {wire.CodeSuspended}, "revoked": {wire.CodeBarred, wire.CodeRevoked}})
	if err == nil {
		m.keep(w, id.IDevID, id.AK)
		w.judged.back++
	}
}

func (w *world) expect(m *member, what string, err error, refusals map[string][]string) {
	w.Helper()
	switch got := code(err); {
	case err != nil && got == wire.CodeTooOften: // no opinion
	case m.state == "active" && err != nil, m.state != "active" && !slices.Contains(refusals[m.state], got):
		w.Errorf("the %s of %s, which is %s, was answered with %s", what, m.serial, m.state, got)
	case err != nil:
		w.judged.refused++
	}
}

func (w *world) list(path, issuer string) *x509.RevocationList {
	w.Helper()
	l := want(x509.ParseRevocationList(w.get(path)))(w)
	if err := l.CheckSignatureFrom(w.issuers[issuer]); err != nil {
		w.Fatalf("%s: %v", path, err)
	}
	return l
}

func serials(l *x509.RevocationList) map[string]bool {
	all := map[string]bool{}
	for _, e := range l.RevokedCertificateEntries {
		all[hexSerial(e.SerialNumber)] = true
	}
	return all
}

func hexSerial(n *big.Int) string { return fmt.Sprintf("%032x", n) }

// compare holds all opinions against each other.
func (w *world) compare(random *rand.Rand) {
	w.Helper()
	lists := map[string]map[string]bool{}
	for name := range w.issuers {
		lists[name] = serials(w.list("/crl/"+name+".crl", name))
		union := map[string]bool{}
		for _, l := range w.shards(name) {
			maps.Copy(union, serials(l))
		}
		same(w, name+": the shards and the complete list", union, lists[name])
		same(w, name+": an older list with its delta and the complete list", w.withDelta(name), lists[name])
	}
	for _, m := range w.fleet {
		if state := want(w.operator.Device(w.Context(), m.serial))(w).State; state != m.state {
			w.Errorf("%s is %s, and should be %s", m.serial, state, m.state)
		}
		for _, c := range m.certificates {
			issuer := "operational"
			if c.CheckSignatureFrom(w.issuers[issuer]) != nil {
				issuer = "manufacturing"
			}
			denied := m.state != "active"
			if got := lists[issuer][hexSerial(c.SerialNumber)]; got != denied {
				w.Errorf("%s is %s, and on the lists of %s: %v", m.serial, m.state, issuer, got)
			}
			if random.IntN(3) == 0 {
				w.ocsp(m, c, w.issuers[issuer])
			}
		}
	}
	w.feed(lists["operational"])
	if w.Failed() {
		w.FailNow()
	}
}

func same(w *world, what string, a, b map[string]bool) {
	w.Helper()
	if !maps.Equal(a, b) {
		w.Errorf("%s differ:\n%v\n%v", what, slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)))
	}
}

// shards are the lists of all shards.
func (w *world) shards(issuer string) (lists []*x509.RevocationList) {
	w.Helper()
	for n := 1; ; n++ {
		status, der := w.ask(fmt.Sprintf("/crl/%s/%d.crl", issuer, n))
		if status == http.StatusNotFound && n > 1 {
			return lists
		}
		lists = append(lists, want(x509.ParseRevocationList(der))(w))
	}
}

// withDelta is what somebody knows who holds an older complete list and fetches the delta.
func (w *world) withDelta(issuer string) map[string]bool {
	w.Helper()
	held, delta := w.held[issuer], w.list("/crl/"+issuer+"/delta.crl", issuer)
	base := new(big.Int)
	for _, e := range delta.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 27}) {
			want(asn1.Unmarshal(e.Value, &base))(w)
		}
	}
	if base.Cmp(held.Number) > 0 || delta.Number.Cmp(held.Number) <= 0 {
		w.Fatalf("%s: delta %v to %v is none for list %v", issuer, delta.Number, base, held.Number)
	}
	all := serials(held)
	for _, e := range delta.RevokedCertificateEntries {
		if all[hexSerial(e.SerialNumber)] = true; e.ReasonCode == 8 {
			delete(all, hexSerial(e.SerialNumber))
		}
	}
	w.judged.deltas += len(delta.RevokedCertificateEntries)
	return all
}

func (w *world) ocsp(m *member, c, issuer *x509.Certificate) {
	w.Helper()
	request := want(ocsp.CreateRequest(c, issuer, &ocsp.RequestOptions{Hash: crypto.SHA256}))(w)
	r := want(http.Post("http://"+w.at(2)+"/ocsp", "application/ocsp-request", bytes.NewReader(request)))(w)
	defer r.Body.Close()
	answer := want(ocsp.ParseResponseForCert(want(io.ReadAll(r.Body))(w), c, issuer))(w)
	status, reason := map[string]int{"active": ocsp.Good, "suspended": ocsp.Revoked, "revoked": ocsp.Revoked}[m.state], 0
	if m.state == "suspended" {
		reason = ocsp.CertificateHold
	} else if m.state == "revoked" {
		reason = ocsp.KeyCompromise
	}
	if answer.Status != status || answer.RevocationReason != reason {
		w.Errorf("%s is %s, and OCSP says %d, reason %d", m.serial, m.state, answer.Status, answer.RevocationReason)
	}
}

// feed waits until the follower has been told everything, and compares it, the deny-list
// and the filter with the lists.
func (w *world) feed(lists map[string]bool) {
	w.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		w.follow()
		list := want(denylist.OpenList(w.fed("/operational"), w.trusted, time.Now()))(w)
		denied := map[string]bool{}
		for d := range list.All() {
			denied[d.Serial.String()] = true
		}
		if maps.Equal(w.known, lists) && maps.Equal(denied, lists) && w.number == list.Number {
			w.filter(list.Number)
			return
		}
		if time.Now().After(deadline) {
			same(w, "the follower of the feed and the CRLs", w.known, lists)
			same(w, "the deny-list and the CRLs", denied, lists)
			w.Fatalf("the follower is at %d, the deny-list at %d", w.number, list.Number)
		}
	}
}

// follow takes up the stream where it was left, until it is told that it has caught up.
func (w *world) follow() {
	w.Helper()
	r := want(w.party.Send(w.Context(), http.MethodGet, fmt.Sprintf("%s?after=%d", wire.PathChanges, w.number), http.Header{}, nil))(w)
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		w.Fatalf("follow after %d: %s", w.number, r.Status)
	}
	event := ""
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case field == "event":
			event = value
		case field == "data" && event == wire.EventCurrent:
			w.number = want(wire.DecodePosition([]byte(value)))(w).Number
			return
		case field == "data" && event == wire.EventChange:
			c := want(wire.DecodeChange([]byte(value)))(w)
			if c.Issuer != "operational" {
				continue
			}
			if w.known[c.Serial] = true; !c.Denied() {
				delete(w.known, c.Serial)
			}
		}
	}
	w.Fatal("the stream ended")
}

// filter is asked if it is of now: it is made at most once a minute.
func (w *world) filter(number int64) {
	w.Helper()
	f := want(denylist.OpenFilter(w.fed("/operational/filter"), w.trusted, time.Now()))(w)
	if f.Number != number {
		return
	}
	for _, m := range w.fleet {
		for _, c := range m.certificates {
			// A certificate begins five minutes before its issue; the filter knows those that
			// were on record when it was made.
			serial, ok := denylist.SerialOf(c)
			if !ok || c.CheckSignatureFrom(w.issuers["operational"]) != nil || c.NotBefore.Add(5*time.Minute).After(f.Time.Add(-time.Second)) {
				continue
			}
			if got := f.Lookup(serial, f.Until); (got == denylist.Denied) != (m.state != "active") {
				w.Errorf("%s is %s, and the filter says %v", m.serial, m.state, got)
			}
			w.judged.filters++
		}
	}
}
