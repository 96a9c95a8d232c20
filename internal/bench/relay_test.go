package bench

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/internal/simdevice"
)

const (
	suspensions = 100
	// farAway is the round-trip time added between relays and Hallmark.
	farAway = 200 * time.Millisecond
)

// BenchmarkEnforcement: from `hallmark device suspend` being typed to the device's being
// refused by mosquitto, nginx and haproxy, each with its relay beside it, 200 ms of
// round-trip time away from Hallmark; and until its MQTT session that stood has ended.
func BenchmarkEnforcement(b *testing.B) {
	for range b.N {
		public, err := ports.Free(17000, 1)
		must(b, err)
		s := start(b, 1, public)
		delay(b, fmt.Sprintf("127.0.0.1:%d", public), s.Address, farAway/2)
		f := newField(b, s)
		took := map[string][]time.Duration{}
		for range suspensions {
			for name, d := range f.round(b) {
				took[name] = append(took[name], d)
			}
		}
		for name, all := range took {
			slices.Sort(all)
			b.ReportMetric(all[len(all)/2].Seconds(), name+"-p50-s")
			b.ReportMetric(all[(len(all)*99+99)/100-1].Seconds(), name+"-p99-s")
		}
		b.ReportMetric(0, "ns/op")
	}
}

// delay forwards a port; every byte arrives late in both directions, however much is
// under way.
func delay(b *testing.B, from, to string, late time.Duration) {
	b.Helper()
	l, err := net.Listen("tcp", from)
	must(b, err)
	b.Cleanup(func() { l.Close() })
	type piece struct {
		due  time.Time
		data []byte
	}
	carry := func(in, out net.Conn) {
		pieces := make(chan piece, 1024)
		go func() {
			defer close(pieces)
			for {
				data := make([]byte, 32<<10)
				n, err := in.Read(data)
				if n > 0 {
					pieces <- piece{time.Now().Add(late), data[:n]}
				}
				if err != nil {
					return
				}
			}
		}()
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := out.Write(p.data); err != nil {
				break
			}
		}
		in.Close()
		out.Close()
		for range pieces {
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				time.Sleep(2 * late) // SYN and its answer
				up, err := net.Dial("tcp", to)
				if err != nil {
					c.Close()
					return
				}
				go carry(c, up)
				carry(up, c)
			}()
		}
	}()
}

// field is three relying parties with their relays, and a device.
type field struct {
	*server
	bin, etc string
	cert     tls.Certificate
	site     *x509.CertPool
	doors    map[string]func() error // one attempt each
	broker   string
}

func newField(b *testing.B, s *server) *field {
	b.Helper()
	f := &field{server: s, bin: programs(b), etc: filepath.Join(filepath.Dir(s.dir), "etc"), doors: map[string]func() error{}}
	must(b, os.Mkdir(f.etc, 0o755))
	chip, err := simtpm.NewDevice(s.maker, simtpm.Options{})
	must(b, err)
	d := &simdevice.Device{Server: s.Server, TPM: chip}
	_, err = d.Enrol(s.tickets[0], "SN-1")
	must(b, err)
	_, err = d.Renew(d.IDevID)
	must(b, err)
	f.cert = d.LDevID
	f.certify(b)
	f.mosquitto(b)
	f.nginx(b)
	f.haproxy(b)
	return f
}

// certify makes the relying parties' own certificate.
func (f *field) certify(b *testing.B) {
	b.Helper()
	own, pool, err := premises.SelfSigned("localhost")
	must(b, err)
	f.site = pool
	private, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	must(b, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for _, name := range []string{"mosquitto", "nginx", "haproxy"} {
		must(b, os.Mkdir(filepath.Join(f.etc, name), 0o755))
		f.write(b, name+"/site.pem", string(certificate)+string(secret))
		f.write(b, name+"/site.key", string(secret))
	}
}

func (f *field) write(b *testing.B, name, text string) {
	b.Helper()
	must(b, os.WriteFile(filepath.Join(f.etc, name), []byte(text), 0o700))
}

// recipe is a block of docs/relay.md for a program, which has a folder of its own here: on
// one host they would share one relay.
func (f *field) recipe(b *testing.B, name, language string) string {
	b.Helper()
	page, err := os.ReadFile("../../docs/relay.md")
	must(b, err)
	_, rest, found := strings.Cut(string(page), "\n```"+language+"\n")
	text, _, ended := strings.Cut(rest, "\n```\n")
	if !found || !ended {
		b.Fatalf("docs/relay.md has no block %q", language)
	}
	own := filepath.Join(f.etc, name)
	return strings.NewReplacer("/etc/hallmark", own, "/run/mosquitto", own, "/run/haproxy", own).Replace(text) + "\n"
}

func (f *field) operator(b *testing.B, args ...string) string {
	b.Helper()
	out, err := exec.Command(filepath.Join(f.bin, "hallmark"), append([]string{"--config", filepath.Join(f.dir, "operator")}, args...)...).Output()
	if err != nil {
		b.Fatalf("hallmark %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}

// relay runs one by a recipe and returns when it enforces. What stands for systemctl in
// it is a script, which knows the program only once it runs.
func (f *field) relay(b *testing.B, name, recipe string) {
	b.Helper()
	dir := filepath.Join(f.etc, "relay-"+name)
	invitation := f.operator(b, "relying-party", "invite", name)
	run(b, filepath.Join(f.bin, "hallmark"), "relay", "join", invitation, "--dir", dir)
	f.write(b, "reload-"+name, "#!/bin/sh\ntrue\n")
	recipe = strings.Replace(recipe, "systemctl try-reload-or-restart "+name, filepath.Join(f.etc, "reload-"+name), 1)
	must(b, os.WriteFile(filepath.Join(dir, "relay.yaml"), []byte(recipe), 0o600))
	f.start(b, "relay-"+name, filepath.Join(f.bin, "hallmark"), "relay", "run", "--dir", dir)
	for deadline := time.Now().Add(30 * time.Second); exec.Command(filepath.Join(f.bin, "hallmark"), "relay", "status", "--dir", dir).Run() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("the relay of %s does not work", name)
		}
	}
}

// start runs a program until the benchmark ends, with a log of its own.
func (f *field) start(b *testing.B, log, name string, args ...string) *exec.Cmd {
	b.Helper()
	file, err := os.Create(filepath.Join(f.etc, log+".log"))
	must(b, err)
	defer file.Close()
	cmd := exec.Command("/usr/bin/env", append([]string{name}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin")
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(b, cmd.Start())
	b.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	return cmd
}

func (f *field) await(b *testing.B, address string) {
	b.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("nothing listens on %s", address)
		}
	}
}

func (f *field) mosquitto(b *testing.B) {
	b.Helper()
	f.relay(b, "mosquitto", f.recipe(b, "mosquitto", "yaml mosquitto"))
	port, err := ports.Free(17000, 1)
	must(b, err)
	f.broker = fmt.Sprintf("127.0.0.1:%d", port)
	f.write(b, "mosquitto/nothing.acl", "")
	f.write(b, "mosquitto.conf", "user root\n"+strings.Replace(f.recipe(b, "mosquitto", "mosquitto"), "listener 8883\n", fmt.Sprintf("listener %d 127.0.0.1\n", port), 1))
	cmd := f.start(b, "mosquitto", "mosquitto", "-c", filepath.Join(f.etc, "mosquitto.conf"))
	f.await(b, f.broker)
	f.write(b, "reload-mosquitto", fmt.Sprintf("#!/bin/sh\nkill -HUP %d\n", cmd.Process.Pid))
	f.doors["mosquitto"] = func() error {
		c, err := f.openMQTT()
		if err == nil {
			c.Close()
		}
		return err
	}
}

func (f *field) dial(address string) (*tls.Conn, error) {
	c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: f.site, ServerName: "localhost", Certificates: []tls.Certificate{f.cert}})
	if err == nil {
		c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	return c, err
}

// openMQTT sends CONNECT and wants CONNACK with return code 0 (MQTT 3.1.1 §3.2).
func (f *field) openMQTT() (net.Conn, error) {
	c, err := f.dial(f.broker)
	if err != nil {
		return nil, err
	}
	var ack [4]byte
	if _, err = c.Write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")); err == nil {
		_, err = io.ReadFull(c, ack[:])
	}
	if err == nil && ack != [4]byte{0x20, 2, 0, 0} {
		err = fmt.Errorf("CONNACK %x", ack)
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

func (f *field) nginx(b *testing.B) {
	b.Helper()
	f.relay(b, "nginx", f.recipe(b, "nginx", "yaml nginx"))
	port, err := ports.Free(17000, 1)
	must(b, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	f.write(b, "nginx.conf", fmt.Sprintf(`daemon off; user root; pid %[1]s/nginx.pid; error_log stderr error; %[3]s
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  server { listen %[2]s ssl; ssl_certificate %[1]s/nginx/site.pem; ssl_certificate_key %[1]s/nginx/site.key; %[4]s
    location / { return 200 "$ssl_client_s_dn"; } }
}`, f.etc, address, f.recipe(b, "nginx", "nginx main"), f.recipe(b, "nginx", "nginx")))
	f.start(b, "nginx", "nginx", "-c", filepath.Join(f.etc, "nginx.conf"), "-p", f.etc)
	f.await(b, address)
	f.write(b, "reload-nginx", fmt.Sprintf("#!/bin/sh\nPATH=$PATH:/usr/sbin exec nginx -c %[1]s/nginx.conf -p %[1]s -s reload\n", f.etc))
	f.doors["nginx"] = func() error { return f.ask(address) }
}

func (f *field) haproxy(b *testing.B) {
	b.Helper()
	f.write(b, "haproxy/take-up", f.recipe(b, "haproxy", "sh take-up"))
	f.relay(b, "haproxy", f.recipe(b, "haproxy", "yaml haproxy"))
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	b.Cleanup(behind.Close)
	port, err := ports.Free(17000, 1)
	must(b, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	f.write(b, "haproxy.cfg", strings.Replace(f.recipe(b, "haproxy", "haproxy"), "bind :8443 ", "bind "+address+" ", 1)+
		"\nbackend devices\n    mode http\n    timeout connect 5s\n    timeout server 60s\n    server one "+behind.Listener.Addr().String()+"\n")
	f.start(b, "haproxy", "haproxy", "-db", "-f", filepath.Join(f.etc, "haproxy.cfg"))
	f.await(b, address)
	f.doors["haproxy"] = func() error { return f.ask(address) }
}

// ask makes one request over a new connection.
func (f *field) ask(address string) error {
	c, err := f.dial(address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return refusal(answer.Status)
	}
	return nil
}

// refusal is an answer; a connection that ends in the middle of a reload is none.
type refusal string

func (r refusal) Error() string { return string(r) }

// round suspends the device and gives how long each relying party let it in from then on,
// and how long its session stood; then it restores it and waits until all let it in.
func (f *field) round(b *testing.B) map[string]time.Duration {
	b.Helper()
	f.until(b, func(err error) bool { return err == nil }, time.Now())
	session, err := f.openMQTT()
	must(b, err)
	defer session.Close()
	began := time.Now()
	type end struct{ session, mosquitto time.Duration }
	ended := make(chan end, 1)
	go func() {
		defer close(ended)
		if _, err := session.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		e := end{session: time.Since(began)}
		// Not before: another connection of the device would have ended this one.
		if f.doors["mosquitto"]() != nil {
			e.mosquitto = time.Since(began)
			ended <- e
		}
	}()
	f.operator(b, "device", "suspend", "SN-1")
	took := f.until(b, func(err error) bool { return errors.As(err, new(refusal)) }, began, "nginx", "haproxy")
	e, ok := <-ended
	if !ok {
		b.Fatal("the session stands, or mosquitto lets the device in after it has ended")
	}
	took["session"], took["mosquitto"] = e.session, e.mosquitto
	f.operator(b, "device", "restore", "SN-1")
	return took
}

// steady is how many times running a door must behave as it should: workers of before a
// reload answer beside those of after it for a moment.
const steady = 20

// until tries doors, all of them if none is named, until each behaves as it should, and gives
// how long that took.
func (f *field) until(b *testing.B, done func(error) bool, began time.Time, names ...string) map[string]time.Duration {
	b.Helper()
	type result struct {
		name string
		took time.Duration
		last error
	}
	results := make(chan result)
	if len(names) == 0 {
		for name := range f.doors {
			names = append(names, name)
		}
	}
	for _, name := range names {
		try := f.doors[name]
		go func() {
			var err error
			var took time.Duration
			run := 0
			for deadline := began.Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				tried := time.Since(began)
				if err = try(); !done(err) {
					run = 0
					continue
				}
				if run++; run == 1 {
					took = tried
				}
				if run == steady {
					results <- result{name, took, err}
					return
				}
			}
			results <- result{name, 0, err}
		}()
	}
	all := map[string]time.Duration{}
	for range names {
		r := <-results
		if all[r.name] = r.took; r.took == 0 {
			relay, _ := os.ReadFile(filepath.Join(f.etc, "relay-"+r.name+".log"))
			program, _ := os.ReadFile(filepath.Join(f.etc, r.name+".log"))
			b.Fatalf("%s: not after half a minute: %v\n%s\n%s", r.name, r.last, relay, program[max(0, len(program)-2000):])
		}
	}
	return all
}
