package acceptance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/internal/simdevice"
	"github.com/hallmark-pki/hallmark/wire"
)

// shown is a certificate with its key, and whether relying parties shall accept it.
type shown struct {
	name   string
	cert   tls.Certificate
	accept bool
	alert  string // of a refusal by TLS
}

// Relying parties get the operational root and nothing else. Real ones must accept
// working certificates and refuse every other certificate of the installation.
func TestRelyingPartiesAcceptLDevIDsAlone(t *testing.T) {
	s := newStage(t)
	all := everyCertificate(t, s)
	site := relyingPartyCertificate(t, s.dir)
	t.Run("nginx", func(t *testing.T) {
		address, _ := startNginx(t, s.dir, "ssl_client_certificate "+s.dir+"/acme/trust/relying-parties.pem; ssl_verify_client on; ssl_verify_depth 2;")
		for _, c := range all {
			status, body := get(t, address, site, c.cert)
			if c.accept && (status != http.StatusOK || !strings.Contains(body, "CN=default:SN-1")) {
				t.Errorf("%s: %d %s", c.name, status, body)
			}
			if !c.accept && status != http.StatusBadRequest {
				t.Errorf("%s: %d %s", c.name, status, body)
			}
		}
	})
	t.Run("mosquitto", func(t *testing.T) {
		address, _ := startMosquitto(t, s.dir, "cafile "+s.dir+"/acme/trust/relying-parties.pem\nrequire_certificate true\nuse_identity_as_username true")
		for _, c := range all {
			err := connectMQTT(address, site, c.cert)
			if c.accept && err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if !c.accept && (err == nil || !strings.Contains(err.Error(), c.alert)) {
				t.Errorf("%s: %v, want %q", c.name, err, c.alert)
			}
		}
	})
}

// everyCertificate serves an installation, enrols a device and collects one certificate
// of every kind that a client could show.
func everyCertificate(t *testing.T, s *stage) []shown {
	t.Helper()
	s.found(t)
	start(t, s, "hallmarkd", "serve", "--config", "acme/hallmark.yaml")
	await(t, s.at(0))
	await(t, s.at(1))
	ticket := s.bash(t, "hallmark --config acme/operator model set default --serve-names '{serial}.local' >/dev/null 2>&1 && hallmark --config acme/operator ticket create 2>/dev/null")
	d, id := enrolDevice(t, s, s.at(0), ticket, "SN-1")
	const stranger = "unknown certificate authority"
	return []shown{
		{"LDevID", d.LDevID, true, ""},
		{"IDevID", d.IDevID, false, stranger},
		{"AK", tls.Certificate{Certificate: id.AK, PrivateKey: d.TPM.AK}, false, stranger},
		// Of the same root as LDevIDs, and for servers alone.
		{"device server", d.Page, false, "unsupported certificate"},
		{"operator", operatorCertificate(t, s.dir), false, stranger},
		{"server", serverCertificate(t, s), false, stranger},
	}
}

// enrolDevice makes a device with a simulated chip, which has all of its certificates.
func enrolDevice(t *testing.T, s *stage, address, ticket, serial string) (*simdevice.Device, *wire.Identity) {
	t.Helper()
	permission, err := wire.ParsePermission(wire.KindTicket, ticket)
	if err != nil {
		t.Fatal(err)
	}
	maker, err := simtpm.NewMaker(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	chip, err := simtpm.NewDevice(maker, simtpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(t, s.dir, "acme/trust/infrastructure.pem"))
	d := &simdevice.Device{Server: simdevice.Server{Address: address, Name: "localhost", Roots: roots}, TPM: chip}
	id, err := d.Enrol(permission, serial)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Renew(d.IDevID); err != nil {
		t.Fatal(err)
	}
	return d, id
}

// operatorCertificate is what the hallmark command shows.
func operatorCertificate(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	identity := filepath.Join(dir, "acme", "operator", "identity.pem")
	pair, err := tls.LoadX509KeyPair(identity, identity)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// serverCertificate is the server's own chain with a key that is not its: a relying
// party must refuse the chain before it comes to look at the key.
func serverCertificate(t *testing.T, s *stage) tls.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", s.at(0), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pair := tls.Certificate{PrivateKey: newKey(t)}
	for _, p := range c.ConnectionState().PeerCertificates {
		pair.Certificate = append(pair.Certificate, p.Raw)
	}
	return pair
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// relyingPartyCertificate makes the relying party's own certificate, with which
// Hallmark has nothing to do, as site.pem and site.key.
func relyingPartyCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	own, pool, err := premises.SelfSigned("localhost")
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "site.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})))
	write(t, dir, "site.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return pool
}

// startNginx runs nginx with these lines about its clients.
func startNginx(t *testing.T, dir, clients string) (address string, process *os.Process) {
	t.Helper()
	address = freeAddress(t)
	write(t, dir, "nginx.conf", fmt.Sprintf(`
daemon off; pid %[1]s/nginx.pid; error_log stderr error;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  server {
    listen %[2]s ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate %[1]s/site.pem; ssl_certificate_key %[1]s/site.key;
    %[3]s
    location / { return 200 "$ssl_client_s_dn"; }
  }
}`, dir, address, clients))
	process = start(t, &stage{dir: dir, env: append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin")}, "nginx", "-c", filepath.Join(dir, "nginx.conf"), "-p", dir)
	await(t, address)
	return address, process
}

func startMosquitto(t *testing.T, dir, clients string) (address string, process *os.Process) {
	t.Helper()
	address = freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	write(t, dir, "mosquitto.conf", fmt.Sprintf(`
listener %[2]s 127.0.0.1
user root
certfile %[1]s/site.pem
keyfile %[1]s/site.key
%[3]s
`, dir, port, clients))
	process = start(t, &stage{dir: dir, env: append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin")}, "mosquitto", "-c", filepath.Join(dir, "mosquitto.conf"))
	await(t, address)
	return address, process
}

// get asks nginx who we are.
func get(t *testing.T, address string, roots *x509.CertPool, cert tls.Certificate) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{cert}}}}
	defer client.CloseIdleConnections()
	r, err := client.Get("https://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// connectMQTT connects and gives the reason of a refusal. A server that hangs up while
// we still write takes its own alert back (RFC 9293 §3.10.7.4): then it is asked again.
func connectMQTT(address string, roots *x509.CertPool, cert tls.Certificate) (err error) {
	for range 50 {
		var c net.Conn
		if c, err = openMQTT(address, roots, cert); err == nil {
			return c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			break
		}
	}
	return err
}

// resuming is the configuration of a client that resumes its sessions, for which the server need not
// see its certificate again (RFC 8446 §2.2).
func resuming(roots *x509.CertPool, cert tls.Certificate) *tls.Config {
	cache, _ := sessions.LoadOrStore(string(cert.Certificate[0]), tls.NewLRUClientSessionCache(8))
	return &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{cert}, ClientSessionCache: cache.(tls.ClientSessionCache)}
}

// sessions are what clients may resume, by certificate.
var sessions sync.Map

func openMQTT(address string, roots *x509.CertPool, cert tls.Certificate) (net.Conn, error) {
	c, err := tls.Dial("tcp", address, resuming(roots, cert))
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	if err := greet(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet sends CONNECT and wants CONNACK with return code 0 (MQTT 3.1.1 §3.2). The broker takes the
// client's id from the certificate.
func greet(c net.Conn) error {
	if _, err := c.Write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")); err != nil {
		return err
	}
	var ack [4]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil {
		return err
	}
	if ack != [4]byte{0x20, 2, 0, 0} {
		return fmt.Errorf("CONNACK %x", ack)
	}
	return nil
}

// start runs a program for the rest of the test.
func start(t *testing.T, s *stage, name string, args ...string) *os.Process {
	t.Helper()
	var log strings.Builder
	cmd := exec.Command("/usr/bin/env", append([]string{name}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, log.String())
		}
	})
	return cmd.Process
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
