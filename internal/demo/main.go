// Demo does Hallmark's main job once, on a software TPM, with the very programs that
// a user has, and says in a line per step what happened and how long it took.
//
//	go run ./internal/demo -bin DIR -dir DIR [-keep]
//
// Everything it makes is under -dir; without -keep it leaves no process behind.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

func main() {
	bin := flag.String("bin", "build", "folder with hallmarkd, hallmark and hallmark-device")
	dir := flag.String("dir", "build/demo", "folder to work in; it is emptied first")
	keep := flag.Bool("keep", false, "leave the server and the TPM running")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *dir, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, dir string, keep bool) error {
	d, err := newDemo(ctx, bin, dir)
	if err != nil {
		return err
	}
	defer d.close()
	fmt.Print("Hallmark: the main job on a software TPM\n\n")
	begin := time.Now()
	for _, s := range d.steps() {
		started := time.Now()
		said, err := s.do()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("  %-38s %7.0f ms   %s\n", s.name, float64(time.Since(started).Microseconds())/1000, said)
	}
	fmt.Printf("\n%s\nDone in %.1f s. Everything is in %s.\n", summary, time.Since(begin).Seconds(), dir)
	if keep {
		return d.wait()
	}
	fmt.Println("Nothing is left running; `make demo KEEP=1` leaves the server up.")
	return nil
}

const summary = `What you saw:
  A factory made a CA and a ticket. A device proved with its TPM that its keys live in
  that very chip, and got an identity of its own: no password, nothing shared. It fetched
  a working certificate and renewed it, proving the chip again each time. It used that
  certificate in a TLS 1.3 connection that the TPM signed, and lent it to programs that
  speak plain MQTT.
  Then an administrator suspended the device. Within two seconds a relay beside the broker
  had ended its session, and kept it out until the suspension was lifted. At last the device
  was revoked: it can neither renew nor come back, and CRL and OCSP tell everybody else.`

// demo is the stage: where things are and what runs.
type demo struct {
	ctx     context.Context
	bin     string
	dir     string
	port    int
	config  string
	ticket  string
	tpm     tpm
	party   party
	closers []func()
}

// command is one of Hallmark's programs, as the first operator runs it.
func (d *demo) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.ctx, filepath.Join(d.bin, name), args...)
	cmd.Env = append(os.Environ(), "HALLMARK_CONFIG="+d.path("ca", "operator", "hallmark.yaml"))
	return cmd
}

// program runs one of Hallmark's programs and gives what it printed, errors included.
func (d *demo) program(name string, args ...string) (string, error) {
	return printed(d.command(name, args...))
}

// tool runs a program of somebody else's.
func (d *demo) tool(name string, args ...string) (string, error) {
	return printed(exec.CommandContext(d.ctx, name, args...))
}

func printed(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text)
	}
	return text, err
}

func (d *demo) path(elements ...string) string {
	return filepath.Join(append([]string{d.dir}, elements...)...)
}

func (d *demo) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
}

// wait is for -keep: the server runs until the user ends it.
func (d *demo) wait() error {
	second, err := swtpm.Run(d.path("tpm-2"))
	if err != nil {
		return err
	}
	defer second.Kill()
	fmt.Printf(`
The server is up until you press Ctrl-C. In another terminal:

  export HALLMARK_CONFIG=%s
  %s device list
  %s audit list
  %s ticket create            # then enrol another device with it, on a second TPM:
  %s enrol TICKET --serial SN-0002 --tpm %s --state %s
`, d.path("ca", "operator", "hallmark.yaml"), filepath.Join(d.bin, "hallmark"), filepath.Join(d.bin, "hallmark"), filepath.Join(d.bin, "hallmark"), filepath.Join(d.bin, "hallmark-device"), second.Spec(), d.path("device-3"))
	<-d.ctx.Done()
	fmt.Println("\nstopping")
	return nil
}

// selfSigned is a certificate of a server on this machine, which name.pem then holds. It
// is its own root.
func (d *demo) selfSigned(name string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, writePEM(d.path(name+".pem"), der)
}

func writePEM(path string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
