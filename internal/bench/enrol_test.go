package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/internal/simdevice"
)

const (
	parallel = 32
	devices  = 2000
	rounds   = 8 // in which a figure and what it is a ratio to are measured in turns: the machine may be busy
)

func milliseconds(d time.Duration, n int) float64 {
	return float64(d.Nanoseconds()) / float64(n) / 1e6
}

// BenchmarkEnrolment: server CPU for one attested enrolment, 32 at a time, against the
// cryptography that no server could do without.
func BenchmarkEnrolment(b *testing.B) {
	for range b.N {
		s := start(b, devices, 0)
		fleet := s.fleet(b, devices)
		cryptography := unavoidable(b, s.maker)
		profile := s.profile(b)
		var used, floor, wall time.Duration
		for part := range slices.Chunk(fleet, devices/rounds) {
			begun := time.Now()
			used += s.cpu(b, func() { s.enrol(b, part) })
			wall += time.Since(begun)
			floor += self(func() {
				for range part {
					cryptography()
				}
			})
		}
		profile()
		b.ReportMetric(milliseconds(used, devices), "server-ms/enrolment")
		b.ReportMetric(milliseconds(floor, devices), "crypto-ms/enrolment")
		b.ReportMetric(float64(used)/float64(floor), "x-crypto")
		b.ReportMetric(devices/wall.Seconds(), "enrolments/s-with-load-on-the-same-cores")
		b.ReportMetric(0, "ns/op")
	}
}

func (s *server) fleet(b *testing.B, n int) []*simdevice.Device {
	b.Helper()
	fleet := make([]*simdevice.Device, n)
	for i := range fleet {
		chip, err := simtpm.NewDevice(s.maker, simtpm.Options{})
		if err != nil {
			b.Fatal(err)
		}
		fleet[i] = &simdevice.Device{Server: s.Server, TPM: chip}
	}
	return fleet
}

// cpu is how much processor time the server takes while f runs.
func (s *server) cpu(b *testing.B, f func()) time.Duration {
	b.Helper()
	before := cpu(b, s.cmd.Process.Pid)
	f()
	return cpu(b, s.cmd.Process.Pid) - before
}

// enrol enrols devices, 32 at a time, each worker on one connection.
func (s *server) enrol(b *testing.B, fleet []*simdevice.Device) {
	b.Helper()
	connections := make(chan *simdevice.Conn, parallel)
	for range parallel {
		c, err := s.Dial(nil)
		must(b, err)
		defer c.Close()
		connections <- c
	}
	each(b, fleet, func(d *simdevice.Device) error {
		c := <-connections
		defer func() { connections <- c }()
		n := s.enrolled.Add(1) - 1
		_, err := d.EnrolOver(c, s.tickets[n], fmt.Sprintf("SN-%06d", n))
		return err
	})
}

// each does f for every device, 32 at a time.
func each(b *testing.B, fleet []*simdevice.Device, f func(*simdevice.Device) error) {
	b.Helper()
	var next atomic.Int64
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(fleet) {
					return
				}
				if err := f(fleet[n]); err != nil {
					b.Errorf("device %d: %v", n, err)
					return
				}
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// unavoidable does one enrolment's cryptography alone: the EK
// certificate's signature (its issuer's is verified once for all chips), the certify
// signature, two credentials (an ephemeral key and a shared secret each: the challenge
// and the one for the next renewal), and for each of two certificates the issuer's signature
// and its verification.
func unavoidable(b *testing.B, maker *simtpm.Maker) func() {
	b.Helper()
	d, err := simtpm.NewDevice(maker, simtpm.Options{})
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(d.Certificates[0])
	if err != nil {
		b.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("statement"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	ek, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		must(b, maker.Intermediate.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature))
		for range 3 { // the certify statement and the two finished certificates
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				b.Fatal("the signature does not verify")
			}
		}
		for range 2 {
			ephemeral, err := ecdh.P256().GenerateKey(rand.Reader)
			must(b, err)
			_, err = ephemeral.ECDH(ek.PublicKey())
			must(b, err)
		}
		for range 2 {
			_, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
			must(b, err)
		}
	}
}

func must(b *testing.B, err error) {
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRenewal: server CPU for one renewal on a new connection, attested again,
// against a bare Go TLS 1.3 handshake with client certificates of the same kind.
func BenchmarkRenewal(b *testing.B) {
	for range b.N {
		s := start(b, devices, 0)
		fleet := s.fleet(b, devices)
		s.enrol(b, fleet)
		bare := startBare(b)
		profile := s.profile(b)
		var used, floor time.Duration
		for part := range slices.Chunk(fleet, devices/rounds) {
			used += s.cpu(b, func() {
				each(b, part, func(d *simdevice.Device) error {
					_, err := d.Renew(d.IDevID)
					return err
				})
			})
			floor += bare.cpu(b, func() { each(b, part, bare.shake) })
		}
		profile()
		b.ReportMetric(milliseconds(used, devices), "server-ms/renewal")
		b.ReportMetric(milliseconds(floor, devices), "bare-tls-ms")
		b.ReportMetric(float64(used)/float64(floor), "x-bare-tls")
		b.ReportMetric(0, "ns/op")
	}
}

// startBare starts a TLS server in a process of its own that does nothing but shake hands.
func startBare(b *testing.B) *server {
	b.Helper()
	s := &server{cmd: exec.Command(os.Args[0], "-test.run=^$")}
	s.cmd.Env = append(os.Environ(), bareEnv+"=1")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	must(b, err)
	must(b, s.cmd.Start())
	b.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	})
	if _, err := fmt.Fscanln(out, &s.Address); err != nil {
		b.Fatal(err)
	}
	return s
}

// shake shakes hands once, with the device's IDevID.
func (s *server) shake(d *simdevice.Device) error {
	c, err := tls.Dial("tcp", s.Address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.CurveP256}, Certificates: []tls.Certificate{d.IDevID}})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadAll(c) // the server has the client's certificate only now
	return err
}

const bareEnv = "HALLMARK_BENCH_BARE_TLS"

func TestMain(m *testing.M) {
	if os.Getenv(bareEnv) != "" {
		if err := bareServer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	debug.SetGCPercent(400) // the load shares its cores with the server
	os.Exit(m.Run())
}

// bareServer verifies the client's signature, and its certificate's as any server
// that pins an issuer would; nothing else.
func bareServer() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := selfSigned(key)
	if err != nil {
		return err
	}
	issuer, err := x509.ParseCertificate(cert)
	if err != nil {
		return err
	}
	chain := [][]byte{cert, cert}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}},
		VerifyConnection: func(s tls.ConnectionState) error {
			// The cost of checking the issuer's signature; that it is another's is no matter.
			c := s.PeerCertificates[0]
			ecdsa.VerifyASN1(issuer.PublicKey.(*ecdsa.PublicKey), digestOf(c.RawTBSCertificate), c.Signature)
			return nil
		}})
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := c.(*tls.Conn).HandshakeContext(ctx); err == nil {
				io.WriteString(c, "\n")
			}
		}()
	}
}

func digestOf(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}
