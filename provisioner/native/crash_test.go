package native_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// crashAt, in a child process, is the step at which it kills itself; 0 is never.
const crashAt, crashDir = "HALLMARK_TEST_CRASH_AT", "HALLMARK_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		at, _ := strconv.Atoi(os.Getenv(crashAt))
		if err := serveUntilCrash(dir, int64(at)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A server killed with SIGKILL at any step of issuance has lost nothing: the record
// holds every certificate that may exist, and the device's retry succeeds, uncounted.
func TestKilledAtEveryStep(t *testing.T) {
	f, err := found()
	if err != nil {
		t.Fatal(err)
	}
	for _, renewing := range []bool{false, true} {
		for at := 1; ; at++ {
			if !crashOnce(t, f, renewing, at) {
				if at < 8 {
					t.Errorf("renewing %v: only %d steps", renewing, at-1)
				}
				break
			}
		}
	}
}

// crashOnce kills a server at one step of an enrolment or a renewal and reports
// whether it came to that step.
func crashOnce(t *testing.T, f *foundation, renewing bool, at int) (crashed bool) {
	t.Helper()
	dir := t.TempDir()
	store, err := sqlite.Create(t.Context(), filepath.Join(dir, "hallmark.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	i := open(t, store, settings{})
	u := i.unit(t, simtpm.Options{})
	ticket := i.ticket(t, nil)
	if renewing {
		if _, err := u.Enrol(ticket, "SN-1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.save(dir); err != nil {
		t.Fatal(err)
	}
	exchange := func() error {
		if !renewing {
			_, err := u.Enrol(ticket, "SN-1")
			return err
		}
		_, err := u.Renew(u.IDevID)
		return err
	}
	child := startChild(t, dir, at)
	u.Address = child.address
	failure := exchange()
	crashed = child.stop()
	if !crashed && failure != nil {
		t.Fatalf("renewing %v, step %d: refused without a crash: %v", renewing, at, failure)
	}
	again := startChild(t, dir, 0)
	u.Address = again.address
	if err := exchange(); err != nil {
		t.Errorf("renewing %v, killed at step %d: the retry fails: %v", renewing, at, err)
	}
	again.stop()
	checkRecord(t, dir, fmt.Sprintf("renewing %v, killed at step %d", renewing, at))
	return crashed
}

// checkRecord holds what was signed against what is recorded.
func checkRecord(t *testing.T, dir, when string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "hallmark.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Verify(t.Context()); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	lot, err := store.Lot(t.Context(), record.DefaultLot)
	if err != nil || lot.Used != 1 {
		t.Errorf("%s: the lot counts %d devices, %v", when, lot.Used, err)
	}
	signed, err := os.ReadFile(filepath.Join(dir, "signed"))
	if err != nil {
		t.Fatal(err)
	}
	for serial := range strings.Lines(string(signed)) {
		serial = strings.TrimSpace(serial)
		found, err := store.CertificatesNumbered(t.Context(), serial)
		if err != nil || len(found) != 1 {
			t.Errorf("%s: certificate %s was signed and is not on record: %v", when, serial, err)
			continue
		}
		if found[0].DER == nil && found[0].Revoked.IsZero() {
			t.Errorf("%s: certificate %s may exist, is not on record and not revoked", when, serial)
		}
	}
	if open, err := store.OpenIntents(t.Context()); err != nil || len(open) != 0 {
		t.Errorf("%s: %d intents are open, %v", when, len(open), err)
	}
}

type child struct {
	cmd     *exec.Cmd
	address string
}

func startChild(t *testing.T, dir string, at int) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashAt+"="+strconv.Itoa(at))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server does not start: %v", err)
	}
	return &child{cmd, strings.TrimSpace(address)}
}

// stop ends a child and reports whether it had killed itself.
func (c *child) stop() (crashed bool) {
	c.cmd.Process.Signal(syscall.SIGTERM) // fails if it is dead already
	c.cmd.Wait()
	status := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status.Signal() == syscall.SIGKILL
}

// serveUntilCrash is the child: the whole server, counting its steps.
func serveUntilCrash(dir string, at int64) error {
	f, err := loadFoundation(dir)
	if err != nil {
		return err
	}
	ctx := context.Background()
	store, err := sqlite.Open(ctx, filepath.Join(dir, "hallmark.db"), sqlite.Options{})
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "signed"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	steps := &steps{at: at, signed: log}
	handler, _, err := f.assemble(ctx, store, settings{
		wrap:    func(s record.Store) record.Store { return &stepping{s, steps} },
		wrapCAS: func(c ca.CAS) ca.CAS { return &steppingCAS{c, steps} },
	})
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{f.server}})
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, handler)
}

// steps kills the process at one of the moments between two things that last.
type steps struct {
	n, at  int64
	signed *os.File
}

func (s *steps) step() {
	if atomic.AddInt64(&s.n, 1) == s.at {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

type stepping struct {
	record.Store
	steps *steps
}

func (s *stepping) Admit(ctx context.Context, q record.Query, j record.Judge) (record.Device, error) {
	s.steps.step()
	d, err := s.Store.Admit(ctx, q, j)
	s.steps.step()
	return d, err
}

func (s *stepping) ReserveShard(ctx context.Context, issuer string, want, capacity int64) (int64, int64, error) {
	shard, given, err := s.Store.ReserveShard(ctx, issuer, want, capacity)
	s.steps.step()
	return shard, given, err
}

func (s *stepping) Intend(ctx context.Context, intents []record.Certificate, stands func([]*record.Certificate) []bool) error {
	s.steps.step()
	err := s.Store.Intend(ctx, intents, stands)
	s.steps.step()
	return err
}

func (s *stepping) Complete(ctx context.Context, signed []record.Certificate, e record.Event) error {
	s.steps.step()
	err := s.Store.Complete(ctx, signed, e)
	s.steps.step()
	return err
}

// steppingCAS notes every signature in a file of its own, durably, as an auditor beside
// the CA would.
type steppingCAS struct {
	ca.CAS
	steps *steps
}

func (c *steppingCAS) Sign(prepared *x509.Certificate) ([]byte, error) {
	signed, err := c.CAS.Sign(prepared)
	if err == nil {
		fmt.Fprintln(c.steps.signed, profile.SerialText(prepared.SerialNumber))
		err = c.steps.signed.Sync()
	}
	c.steps.step()
	return signed, err
}

// savedFoundation is a foundation in a file, so that a child is the same CA.
type savedFoundation struct {
	Names, Keys, Certificates, Roots []string
	ServerKey, ServerCertificate     string
	Maker, Secret                    string
}

func (f *foundation) save(dir string) error {
	h := hex.EncodeToString
	s := savedFoundation{Maker: h(f.maker.Root.Raw), Secret: h(f.secret), ServerCertificate: h(f.server.Certificate[0])}
	for _, i := range f.founded {
		key, err := x509.MarshalPKCS8PrivateKey(i.Signer)
		if err != nil {
			return err
		}
		s.Names, s.Keys = append(s.Names, i.Name), append(s.Keys, h(key))
		s.Certificates, s.Roots = append(s.Certificates, h(i.Certificate.Raw)), append(s.Roots, h(i.Root.Raw))
	}
	key, err := x509.MarshalPKCS8PrivateKey(f.server.PrivateKey)
	if err != nil {
		return err
	}
	s.ServerKey = h(key)
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "foundation.json"), text, 0o600)
}

func loadFoundation(dir string) (*foundation, error) {
	text, err := os.ReadFile(filepath.Join(dir, "foundation.json"))
	if err != nil {
		return nil, err
	}
	var s savedFoundation
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	var failed error
	bytesOf := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			failed = err
		}
		return b
	}
	certificate := func(text string) *x509.Certificate {
		c, err := x509.ParseCertificate(bytesOf(text))
		if err != nil {
			failed = err
		}
		return c
	}
	key := func(text string) crypto.Signer {
		k, err := x509.ParsePKCS8PrivateKey(bytesOf(text))
		if err != nil {
			failed = err
			return nil
		}
		return k.(crypto.Signer)
	}
	f := &foundation{secret: bytesOf(s.Secret), maker: &simtpm.Maker{Root: certificate(s.Maker)},
		server: tls.Certificate{Certificate: [][]byte{bytesOf(s.ServerCertificate)}, PrivateKey: key(s.ServerKey)}}
	for n, name := range s.Names {
		f.founded = append(f.founded, ca.Founded{Name: name, Root: certificate(s.Roots[n]), Certificate: certificate(s.Certificates[n]), Signer: key(s.Keys[n])})
	}
	return f, failed
}
