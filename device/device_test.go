package device_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// unit is a device: a chip, a state folder and a clock.
type unit struct {
	*installation
	chip *swtpm.TPM
	dir  string
	now  func() time.Time
	said []string
	// key says where the keys are, if not in the chip; lot is where it enrols.
	key, lot string
}

func (i *installation) unit(t testing.TB) *unit {
	return &unit{installation: i, chip: i.chip(t), dir: filepath.Join(t.TempDir(), "state")}
}

func (u *unit) ticket(t testing.TB) *wire.Permission {
	return u.ticketIn(t, cmp.Or(u.lot, record.DefaultLot))
}

func (u *unit) options() device.Options {
	o := device.Options{State: u.dir, Key: u.key, Now: u.now, Report: func(line string) { u.said = append(u.said, line) }}
	if u.chip != nil {
		o.TPM = u.chip.Spec()
	}
	return o
}

func (u *unit) enrol(t testing.TB, ticket *wire.Permission, serial string) (device.Result, error) {
	e := device.Enrolment{Options: u.options(), Ticket: ticket, Serial: serial}
	if ticket == nil {
		e.Servers, e.Roots = []string{u.url}, [][]byte{u.root.Raw}
	}
	return device.Enrol(t.Context(), e)
}

func (u *unit) enrolled(t testing.TB, serial string) *unit {
	t.Helper()
	must[device.Result](t)(u.enrol(t, u.ticket(t), serial))
	return u
}

func (u *unit) renew(t testing.TB, shown string) device.Result {
	t.Helper()
	r := must[device.Result](t)(device.Renew(t.Context(), u.options()))
	if r.Shown != shown || r.NotAfter.Before(time.Now().Add(29*24*time.Hour)) || r.RenewAfter.Before(time.Now().Add(19*24*time.Hour)) {
		t.Fatalf("%+v, want %s shown; said %q", r, shown, u.said)
	}
	return r
}

func (u *unit) load(t testing.TB) state.Set {
	t.Helper()
	s, damaged, err := state.At(u.dir).Load()
	if err != nil || damaged != nil {
		t.Fatal(err, damaged)
	}
	return s
}

func problem(err error) string {
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return p.Code
	}
	return ""
}

func TestLifeOfADevice(t *testing.T) {
	t.Parallel()
	for _, nonceMode := range []bool{false, true} {
		u := install(t, nonceMode).unit(t)
		if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now())); s.Condition != device.NotEnrolled {
			t.Fatalf("%+v", s)
		}
		r := must[device.Result](t)(u.enrol(t, u.ticket(t), "SN-1"))
		if r.Device != "default:SN-1" || r.Already || len(u.said) != 0 {
			t.Fatalf("%+v, said %q", r, u.said)
		}
		t.Logf("enrolment: %d TPM commands, %d bytes sent, %d received; requests %v", r.TPMCommands, r.Sent, r.Received, u.paths())
		born := u.load(t)
		if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now())); s.Condition != device.NoLDevID || s.Trust != 1 || s.IDevID == nil {
			t.Fatalf("%+v", s)
		}
		if _, err := device.OpenCredential(u.dir, ""); !errors.Is(err, device.ErrNoLDevID) {
			t.Fatalf("a credential before the first renewal: %v", err)
		}
		// Again, with the ticket and without: nothing happens.
		for _, ticket := range []*wire.Permission{u.ticket(t), nil} {
			if r := must[device.Result](t)(u.enrol(t, ticket, "SN-1")); !r.Already || len(u.paths()) != 0 {
				t.Fatalf("%+v", r)
			}
		}
		// A line that takes this board for another one hears of it.
		if _, err := u.enrol(t, u.ticket(t), "SN-2"); !errors.As(err, new(*device.ConflictError)) {
			t.Fatalf("enrolled under another serial number: %v", err)
		}
		if r := must[device.Result](t)(u.enrol(t, nil, "sn-1")); !r.Already {
			t.Fatalf("%+v", r)
		}
		first := u.renew(t, "idevid")
		t.Logf("renewal: %d TPM commands, %d bytes sent, %d received; requests %v", first.TPMCommands, first.Sent, first.Received, u.paths())
		one := u.load(t)
		u.renew(t, "ldevid")
		if paths := u.paths(); slices.Contains(paths, wire.PathActivate) {
			t.Fatalf("a renewal took a second message: %v", paths)
		}
		two := u.load(t)
		if bytes.Equal(one.LDevID[0], two.LDevID[0]) || bytes.Equal(one.LDevIDKey, two.LDevIDKey) {
			t.Fatal("the renewal changed nothing")
		}
		if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now())); s.Condition != device.OK {
			t.Fatalf("%+v", s)
		}
		if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now().AddDate(0, 0, 25))); s.Condition != device.RenewalDue {
			t.Fatalf("%+v", s)
		}
		if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now().AddDate(0, 0, 35))); s.Condition != device.Expired {
			t.Fatalf("%+v", s)
		}
		// The folder is lost; the TPM alone gives the same identity back, uncounted.
		if err := os.RemoveAll(u.dir); err != nil {
			t.Fatal(err)
		}
		must[device.Result](t)(u.enrol(t, nil, ""))
		if back := u.load(t); !bytes.Equal(back.IDevID[0], born.IDevID[0]) || !bytes.Equal(back.AK[0], born.AK[0]) || back.Serial != "SN-1" {
			t.Fatal("another identity came back")
		}
		if n := u.used(t); n != 1 {
			t.Fatalf("the lot counts %d devices", n)
		}
		u.renew(t, "idevid")
	}
}

// Whichever answer is lost, the work is done once and the device has its certificates.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	for n, path := range []string{wire.PathTrust, wire.PathEnrol, wire.PathActivate} {
		u := i.unit(t)
		i.lose[path] = 1
		r := must[device.Result](t)(u.enrol(t, u.ticket(t), "SN-"+string(rune('A'+n))))
		if len(u.said) != 1 || i.used(t) != int64(n+1) {
			t.Fatalf("%s: %+v, said %q, %d devices", path, r, u.said, i.used(t))
		}
		for m, path := range []string{wire.PathRenew, wire.PathActivate, wire.PathPoll} {
			i.lose[path] = 1
			if path == wire.PathActivate { // make it take the second message
				s := u.load(t)
				s.Next = nil
				if err := state.At(u.dir).Save(s); err != nil {
					t.Fatal(err)
				}
			}
			u.renew(t, []string{"idevid", "ldevid"}[min(m, 1)])
			if i.lose[path] != 0 {
				t.Fatalf("no answer to %s was lost", path)
			}
		}
	}
	if err := i.store.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A rolled-back copy of the state is refused as such; the device helps itself.
func TestRolledBackState(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	old := u.load(t)
	u.renew(t, "ldevid")
	u.renew(t, "ldevid")
	if err := state.At(u.dir).Save(old); err != nil {
		t.Fatal(err)
	}
	u.said = nil
	u.renew(t, "idevid")
	if !slices.ContainsFunc(u.said, func(s string) bool { return strings.Contains(s, "showing the IDevID") }) {
		t.Fatalf("said %q", u.said)
	}
	u.renew(t, "ldevid")
}

// A working certificate that the server turns away is no reason to stay away: docs/errors.md
// promises that the client shows its IDevID by itself.
func TestRefusedLDevID(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	for _, code := range []string{wire.CodeSuperseded, wire.CodeCertificateExpired, wire.CodeCertificateUnknown, wire.CodeCertificateRevoked} {
		u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if kind, _ := profile.Of(r.TLS.PeerCertificates[0]); kind != profile.LDevID || r.URL.Path != wire.PathRenew {
				return false
			}
			w.Header().Set("Content-Type", wire.ProblemType)
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(wire.Problem{Code: code, Detail: "not this one"})
			return true
		}
		u.renew(t, "idevid")
	}
}

// A new certificate that does not work is not taken.
func TestNewCertificateIsTriedFirst(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	before := u.load(t)
	u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != wire.PathPoll {
			return false
		}
		w.Header().Set("Content-Type", wire.ProblemType)
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(wire.Problem{Code: wire.CodeUnauthorised, Detail: "not accepted"})
		return true
	}
	if _, err := device.Renew(t.Context(), u.options()); problem(err) != wire.CodeUnauthorised {
		t.Fatalf("got %v", err)
	}
	if after := u.load(t); !bytes.Equal(after.LDevID[0], before.LDevID[0]) || !bytes.Equal(after.LDevIDKey, before.LDevIDKey) {
		t.Fatal("a certificate that the server refuses was taken")
	}
	u.refuse = nil
	u.renew(t, "ldevid")
}

// Certificates that are not this device's, or of another root, are not kept.
func TestWrongCertificates(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	other := i.unit(t).enrolled(t, "SN-0")
	other.renew(t, "idevid")
	foreign := other.load(t)
	u := i.unit(t)
	ticket := i.ticket(t)
	// The same chip at another installation: the right keys, the wrong roots.
	elsewhere := &unit{installation: install(t, false), chip: u.chip, dir: filepath.Join(t.TempDir(), "elsewhere")}
	stranger := elsewhere.enrolled(t, "SN-1").load(t)
	altered := func(path string, alter func(*wire.Identity)) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != path {
				return false
			}
			recorder := httptest.NewRecorder()
			i.next.ServeHTTP(recorder, r)
			var a wire.Answer
			if err := json.Unmarshal(recorder.Body.Bytes(), &a); err != nil || a.Identity == nil {
				t.Errorf("%s: %v", recorder.Body, err)
				return false
			}
			alter(a.Identity)
			json.NewEncoder(w).Encode(a)
			return true
		}
	}
	for name, alter := range map[string]func(*wire.Identity){
		"no IDevID":              func(id *wire.Identity) { id.IDevID = nil },
		"no AK":                  func(id *wire.Identity) { id.AK = nil },
		"another's IDevID":       func(id *wire.Identity) { id.IDevID = foreign.IDevID },
		"another's AK":           func(id *wire.Identity) { id.AK = foreign.AK },
		"another root's IDevID":  func(id *wire.Identity) { id.IDevID = stranger.IDevID },
		"another root's AK":      func(id *wire.Identity) { id.AK = stranger.AK },
		"AK for IDevID":          func(id *wire.Identity) { id.IDevID = id.AK },
		"no issuer in the chain": func(id *wire.Identity) { id.IDevID = id.IDevID[:1] },
		"not a certificate":      func(id *wire.Identity) { id.AK = [][]byte{{1}} },
		"no name":                func(id *wire.Identity) { id.Device, id.Model, id.Serial = "", "", "" },
		"another's name":         func(id *wire.Identity) { id.Device, id.Serial = "default:SN-0", "SN-0" },
		"two names":              func(id *wire.Identity) { id.Serial = "SN-0" },
	} {
		u.refuse = altered(wire.PathActivate, alter)
		if r, err := u.enrol(t, ticket, "SN-1"); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
		if _, _, err := state.At(u.dir).Load(); !errors.Is(err, state.ErrEmpty) {
			t.Errorf("%s: something was kept: %v", name, err)
		}
	}
	u.refuse = nil
	must[device.Result](t)(u.enrol(t, ticket, "SN-1"))
	mine := u.load(t)
	for name, alter := range map[string]func(*wire.Identity){
		"no LDevID":            func(id *wire.Identity) { id.LDevID = nil },
		"another's LDevID":     func(id *wire.Identity) { id.LDevID = foreign.LDevID },
		"IDevID for LDevID":    func(id *wire.Identity) { id.LDevID = mine.IDevID },
		"issuer of other root": func(id *wire.Identity) { id.LDevID = [][]byte{id.LDevID[0], mine.IDevID[1]} },
	} {
		u.refuse = altered(wire.PathRenew, alter)
		if r, err := device.Renew(t.Context(), u.options()); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
		if s := u.load(t); s.LDevID != nil {
			t.Errorf("%s: it was kept", name)
		}
	}
	u.refuse = nil
	u.renew(t, "idevid")
}

// TPM2_Clear ends the LDevID, not the identity.
func TestClearedTPM(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	u.clearChip(t)
	if _, err := device.OpenCredential(u.dir, ""); !errors.Is(err, collect.ErrOtherTPM) {
		t.Fatalf("the key of a cleared TPM: %v", err)
	}
	u.renew(t, "idevid")
	u.renew(t, "ldevid")
}

// An agent at rest learns from who uses the key that the TPM was cleared.
func TestClearedUnderTheAgent(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	defer identity.Close()
	use := func() error {
		c, err := identity.Credential()
		if err == nil {
			_, err = c.Signer().Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		}
		return err
	}
	ctx, end := context.WithTimeout(t.Context(), time.Minute)
	defer end()
	a := u.agent()
	a.Beside = func(ctx context.Context) {
		defer end()
		for err := use(); err != nil && ctx.Err() == nil; err = use() {
			a.Failed(err)
			time.Sleep(time.Second)
		}
	}
	must[time.Duration](t)(a.Turn(ctx)) // it has seen its key
	u.clearChip(t)
	if err := use(); !errors.Is(err, collect.ErrOtherTPM) {
		t.Fatalf("the key of a cleared TPM: %v", err)
	}
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := use(); err != nil {
		t.Fatalf("the agent rests: %v; said %q", err, u.said)
	}
}

func (u *unit) clearChip(t *testing.T) {
	t.Helper()
	tpm := u.raw(t)
	defer tpm.Close()
	must[*gotpm.ClearResponse](t)(gotpm.Clear{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHLockout, Auth: gotpm.PasswordAuth(nil)}}.Execute(tpm))
}

func TestFoldersAndTicketsOfOthers(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	a, b := i.unit(t), i.unit(t)
	ticket := i.ticket(t)
	must[device.Result](t)(a.enrol(t, ticket, "SN-A"))
	b.dir = a.dir
	if _, err := device.Renew(t.Context(), b.options()); !errors.Is(err, collect.ErrOtherTPM) {
		t.Fatalf("renewing with another's folder: %v", err)
	}
	// The image's state is given up for an identity of the board's own, and for nothing less.
	if _, err := b.enrol(t, ticket, "SN-B"); problem(err) != wire.CodeTicketUsed || b.load(t).Serial != "SN-A" {
		t.Fatalf("enrolling a copy with a used ticket: %v", err)
	}
	copied := filepath.Join(t.TempDir(), "copied")
	if err := os.CopyFS(copied, os.DirFS(a.dir)); err != nil {
		t.Fatal(err)
	}
	c := &unit{installation: i, chip: b.chip, dir: copied}
	must[device.Result](t)(c.enrol(t, i.ticket(t), "SN-C"))
	if s := c.load(t); s.Serial != "SN-C" || s.LDevID != nil || !strings.Contains(strings.Join(c.said, "\n"), "as itself") {
		t.Fatalf("%+v, said %q", s, c.said)
	}
	// The server knows the board now: another copy comes back by itself, asking whom the image asked.
	c.dir = a.dir
	if r, err := device.Enrol(t.Context(), device.Enrolment{Options: c.options()}); err != nil || r.Serial != "SN-C" {
		t.Fatalf("%+v, %v", r, err)
	}
	a.dir, b = filepath.Join(t.TempDir(), "back"), i.unit(t)
	must[device.Result](t)(a.enrol(t, nil, ""))
	b.dir = filepath.Join(t.TempDir(), "own")
	if _, err := b.enrol(t, ticket, "SN-B"); problem(err) != wire.CodeTicketUsed {
		t.Fatalf("a used ticket: %v", err)
	}
	if _, err := b.enrol(t, nil, "SN-B"); problem(err) != wire.CodeTicketNeeded {
		t.Fatalf("an unknown device without ticket: %v", err)
	}
	if _, err := device.Renew(t.Context(), b.options()); !errors.Is(err, state.ErrEmpty) {
		t.Fatalf("renewing before enrolling: %v", err)
	}
	foreign := install(t, false).ticket(t)
	if _, err := a.enrol(t, foreign, ""); err == nil || !errors.As(err, new(*device.ConflictError)) {
		t.Fatalf("a ticket of another installation on an enrolled device: %v", err)
	}
	crossed := *foreign
	crossed.Server = i.url
	if _, err := b.enrol(t, &crossed, "SN-B"); !errors.As(err, new(*client.TrustError)) {
		t.Fatalf("a ticket whose server is another: %v", err)
	}
	release, err := state.At(a.dir).Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := device.Renew(t.Context(), a.options()); !errors.As(err, new(*state.HeldError)) {
		t.Fatalf("two agents: %v", err)
	}
}

// Enrolment, renewal and the question when to renew work whatever the clock says.
func TestClocks(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	for n, wrong := range []time.Duration{-time.Since(time.Unix(0, 0)), 10 * 365 * 24 * time.Hour, -30 * time.Minute} {
		u := i.unit(t)
		u.now = func() time.Time { return time.Now().Add(wrong) }
		u.enrolled(t, "SN-"+string(rune('A'+n)))
		u.renew(t, "idevid")
		// To ask is to show the certificate, whatever its end is by this clock: it is kept.
		before := u.load(t)
		must[device.Result](t)(device.Poll(t.Context(), u.options()))
		if after := u.load(t); !bytes.Equal(after.LDevID[0], before.LDevID[0]) || !bytes.Equal(after.LDevIDKey, before.LDevIDKey) {
			t.Fatalf("a clock that is %v ahead cost the working certificate", wrong)
		}
		// And so it is if the server is away.
		u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "away", http.StatusBadRequest)
			return true
		}
		if _, err := device.Poll(t.Context(), u.options()); err == nil {
			t.Fatal("asked a server that is away")
		}
		if _, err := device.Renew(t.Context(), u.options()); err == nil {
			t.Fatal("renewed by a server that is away")
		}
		u.refuse = nil
		if after := u.load(t); !bytes.Equal(after.LDevID[0], before.LDevID[0]) || !bytes.Equal(after.LDevIDKey, before.LDevIDKey) {
			t.Fatalf("a clock that is %v ahead and a server that is away cost the working certificate", wrong)
		}
		// A clock far ahead makes the working certificate look ended: then the IDevID serves.
		u.renew(t, map[bool]string{true: "idevid", false: "ldevid"}[wrong > 0])
	}
}

// A relying party that knows the operational root alone answers with the name and the
// number of the certificate it was shown and with what it read.
func (i *installation) relyingParty(t testing.TB) (address, rootsFile string) {
	t.Helper()
	clients := x509.NewCertPool()
	clients.AddCert(i.operational)
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: i.root.SerialNumber, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	own := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	listener := must[net.Listener](t)(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		Certificates: []tls.Certificate{{Certificate: [][]byte{own}, PrivateKey: key}}}))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				lines := bufio.NewReader(conn)
				for {
					line, err := lines.ReadString('\n')
					if s := conn.(*tls.Conn).ConnectionState(); line != "" {
						leaf := s.PeerCertificates[0]
						fmt.Fprintf(conn, "%s %x said %s", leaf.Subject.CommonName, leaf.SerialNumber, line)
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	rootsFile = filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(rootsFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own}), 0o600); err != nil {
		t.Fatal(err)
	}
	return listener.Addr().String(), rootsFile
}

// The working certificate in the TPM against a server that pins the operational root.
func TestConnect(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	address, roots := u.relyingParty(t)
	var out bytes.Buffer
	c := device.Connection{To: address, Roots: roots}
	if err := device.Connect(t.Context(), u.options(), c, strings.NewReader("hello"), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "SN-1") || !strings.HasSuffix(out.String(), " said hello") {
		t.Fatalf("%q", &out)
	}
	for _, roots := range []string{"", device.SystemRoots, device.InfrastructureRoots} {
		c.Roots = roots
		if err := device.Connect(t.Context(), u.options(), c, strings.NewReader("hello"), io.Discard); !strings.Contains(fmt.Sprint(err), "["+client.CodeUnknownCA+"]") || !errors.As(err, new(*client.NetworkError)) {
			t.Fatalf("a server of unknown roots: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := device.Connect(ctx, u.options(), c, strings.NewReader(""), io.Discard); err == nil {
		t.Fatal("connected although cancelled")
	}
}
