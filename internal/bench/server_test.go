// Package bench measures what Hallmark promises about speed and size, against real
// processes: figures are ratios to what could not be saved, measured in the same run.
// `make bench` prints them; docs/benchmarks.md explains them.
package bench

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/internal/build"
	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/internal/simdevice"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/wire"
)

// server is a hallmarkd in a process of its own.
type server struct {
	dir         string
	cmd         *exec.Cmd
	maker       *simtpm.Maker
	permissions *factory.Permissions
	tickets     []wire.Permission
	enrolled    atomic.Int64 // tickets used
	simdevice.Server
}

// programs builds the three programs once, as a release is built.
func programs(b *testing.B) string {
	b.Helper()
	dir := filepath.Join(os.TempDir(), "hallmark-bench-programs")
	must(b, build.Programs(dir+"/", []string{"CGO_ENABLED=0"}, []string{"-trimpath", "-ldflags", "-s -w"}, "./cmd/..."))
	return dir
}

// start founds an installation, puts tickets and a TPM maker into its record, and
// serves it. Devices are told to use the port public, or the server's own if it is 0.
// Fill puts into the record's file what else is needed.
func start(b *testing.B, tickets, public int, fill ...func(file string)) *server {
	b.Helper()
	bin := programs(b)
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{dir: filepath.Join(dir, "ca")}
	port, err := ports.Free(17000, 4)
	if err != nil {
		b.Fatal(err)
	}
	if public == 0 {
		public = port
	}
	s.Address, s.Name = fmt.Sprintf("127.0.0.1:%d", port), "localhost"
	run(b, filepath.Join(bin, "hallmarkd"), "init", "--dir", s.dir, "--name", "Acme Devices", "--listen", s.Address,
		"--public-url", fmt.Sprintf("https://localhost:%d", public), "--public-url", fmt.Sprintf("http://localhost:%d", port+2))
	s.configure(b)
	s.stock(b, tickets)
	for _, write := range fill {
		write(filepath.Join(s.dir, "hallmark.db"))
	}
	s.cmd = exec.Command(filepath.Join(bin, "hallmarkd"), "serve", "--config", filepath.Join(s.dir, "hallmark.yaml"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", s.Address); err == nil {
			c.Close()
			return s
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			b.Fatalf("the server does not listen: %s", text)
		}
	}
}

func (s *server) configure(b *testing.B) {
	b.Helper()
	path := filepath.Join(s.dir, "hallmark.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	changed := strings.Replace(string(text), "accept_simulated_tpms: false", "accept_simulated_tpms: true", 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		b.Fatal(err)
	}
	roots, err := os.ReadFile(filepath.Join(s.dir, "trust", "infrastructure.pem"))
	if err != nil {
		b.Fatal(err)
	}
	s.Roots = x509.NewCertPool()
	s.Roots.AppendCertsFromPEM(roots)
	s.Known = new(atomic.Pointer[x509.Certificate])
}

// stock writes to the record what an operator would through the API.
func (s *server) stock(b *testing.B, tickets int) {
	b.Helper()
	ctx := context.Background()
	secret, err := os.ReadFile(filepath.Join(s.dir, "keys", "server.secret"))
	if err != nil {
		b.Fatal(err)
	}
	if s.permissions, err = factory.NewPermissions(secret); err != nil {
		b.Fatal(err)
	}
	if s.maker, err = simtpm.NewMaker(time.Now()); err != nil {
		b.Fatal(err)
	}
	store, err := sqlite.Open(ctx, filepath.Join(s.dir, "hallmark.db"), sqlite.Options{Journal: filepath.Join(s.dir, "journal")})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	now := time.Now()
	e := record.Event{Time: now, Actor: "bench", Verb: "stocked"}
	sum := sha256.Sum256(s.maker.Root.Raw)
	if _, err := store.AddAuthorities(ctx, []record.Authority{{Fingerprint: hex.EncodeToString(sum[:]), DER: s.maker.Root.Raw, Added: now}}, e); err != nil {
		b.Fatal(err)
	}
	var rows []record.Ticket
	for range tickets {
		p := wire.Permission{Kind: wire.KindTicket, ID: s.permissions.NewID(), Server: "https://" + s.Name}
		p.Secret = s.permissions.Secret(p.Kind, p.ID)
		s.tickets = append(s.tickets, p)
		rows = append(rows, record.Ticket{ID: p.ID, Lot: record.DefaultLot, Created: now, Expires: now.Add(time.Hour)})
	}
	if err := store.CreateTickets(ctx, rows, e); err != nil {
		b.Fatal(err)
	}
}

// text is a ticket as a line, for the real client, with the server at a port of this
// machine.
func (s *server) text(b *testing.B, p wire.Permission, port int) string {
	b.Helper()
	roots, err := os.ReadFile(filepath.Join(s.dir, "trust", "infrastructure.pem"))
	must(b, err)
	block, _ := pem.Decode(roots)
	p.Root, p.Server = sha256.Sum256(block.Bytes), fmt.Sprintf("https://localhost:%d", port)
	return p.String()
}

// cpu is how much processor time a process has used, from /proc (man 5 proc: utime and
// stime, in ticks of 10 ms).
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// self is how much processor time f takes, all threads of this process together.
func self(f func()) time.Duration {
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	f()
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := func(r syscall.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
	return time.Duration(used(after) - used(before))
}

func run(b *testing.B, name string, args ...string) string {
	b.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		b.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// profile, if HALLMARK_BENCH_PROFILE names a file, takes a CPU profile of the server
// from its metrics listener until the returned function is called, ten seconds at most.
func (s *server) profile(b *testing.B) (wait func()) {
	b.Helper()
	file := os.Getenv("HALLMARK_BENCH_PROFILE")
	if file == "" {
		return func() {}
	}
	_, text, _ := net.SplitHostPort(s.Address)
	port, _ := strconv.Atoi(text)
	done := make(chan error, 1)
	go func() {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=10", port+3))
		if err != nil {
			done <- err
			return
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil {
			err = os.WriteFile(file, body, 0o644)
		}
		done <- err
	}()
	return func() { must(b, <-done) }
}
