package acceptance

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// relayPage has the recipes; every block of configuration is run as it stands there, but
// for paths and ports.
const relayPage = "docs/relay.md"

// yard is an installation with two devices, the stolen and the good one, and the folder
// /etc/hallmark of a relying party's host.
type yard struct {
	*stage
	port         int
	stolen, good tls.Certificate
	site         *x509.CertPool // the relying party's own certificate
	etc          string
	words        *strings.Replacer
}

// newYard serves an installation. Its model names devices by a template, so that MODEL:SERIAL
// is not the name that relying parties know.
func newYard(t *testing.T) *yard {
	t.Helper()
	s := newStage(t)
	port, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	s.bash(t, fmt.Sprintf(`hallmarkd init --dir acme --name "Acme Devices" --root-out roots --listen 127.0.0.1:%[1]d --public-url https://localhost:%[1]d &&
		sed -i 's/accept_simulated_tpms: false/accept_simulated_tpms: true/' acme/hallmark.yaml`, port))
	start(t, s, "hallmarkd", "serve", "--config", "acme/hallmark.yaml")
	await(t, fmt.Sprintf("127.0.0.1:%d", port))
	await(t, fmt.Sprintf("127.0.0.1:%d", port+1))
	s.env = append(s.env, "HALLMARK_CONFIG="+s.dir+"/acme/operator")
	s.bash(t, "hallmark model create sensor --assurance first-use --subject 'acme-{serial}' && hallmark lot create w1 --model sensor --quota 10")
	y := &yard{stage: s, port: port, site: relyingPartyCertificate(t, s.dir), etc: filepath.Join(s.dir, "etc")}
	y.stolen, y.good = y.enrol(t, "SN-1"), y.enrol(t, "SN-2")
	if err := os.Mkdir(y.etc, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, y.etc, "site.pem", string(read(t, s.dir, "site.pem"))+string(read(t, s.dir, "site.key")))
	write(t, y.etc, "site.key", string(read(t, s.dir, "site.key")))
	write(t, y.etc, "nothing.acl", "")
	y.words = strings.NewReplacer("/etc/hallmark", y.etc, "/run/", s.dir+"/")
	return y
}

func (y *yard) enrol(t *testing.T, serial string) tls.Certificate {
	t.Helper()
	d, _ := enrolDevice(t, y.stage, fmt.Sprintf("127.0.0.1:%d", y.port), y.bash(t, "hallmark ticket create --lot w1 2>/dev/null"), serial)
	return d.LDevID
}

// recipe is a block of the page for this yard.
func (y *yard) recipe(t *testing.T, language string) string {
	t.Helper()
	return y.words.Replace(block(t, relayPage, language, 1))
}

// unit stands for systemd, which does not run everywhere: `systemctl try-reload-or-restart`
// runs what the unit of Debian's package has for ExecReload, if the program runs.
func (y *yard) unit(t *testing.T, running, reload string) {
	t.Helper()
	bin := filepath.Join(y.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh -e\ntest \"$1\" = try-reload-or-restart\ntest -e %s || exit 0\n%s\n", running, reload)
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// relay invites a relying party and runs its relay by a recipe, until the files are there.
func (y *yard) relay(t *testing.T, name, recipe string) *os.Process {
	t.Helper()
	y.env = append(y.env, "PATH="+y.dir+"/bin:"+value(y.env, "PATH"))
	y.bash(t, fmt.Sprintf("hallmark relying-party invite %[1]s 2>/dev/null | hallmark relay join - --dir relay", name))
	write(t, filepath.Join(y.dir, "relay"), "relay.yaml", recipe)
	process := start(t, y.stage, "hallmark", "relay", "run", "--dir", "relay")
	y.enforced(t)
	return process
}

// value is a variable's last one.
func value(env []string, name string) (found string) {
	for _, v := range env {
		if n, text, _ := strings.Cut(v, "="); n == name {
			found = text
		}
	}
	return found
}

// party is the one relying party as `hallmark relying-party list` has it.
func (y *yard) party(t *testing.T) wire.RelyingParty {
	t.Helper()
	var all []wire.RelyingParty
	text := y.bash(t, "hallmark relying-party list --json 2>/dev/null")
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all) != 1 {
		t.Fatalf("relying parties: %v: %s", err, text)
	}
	return all[0]
}

// enforced waits until the operators see that all is enforced.
func (y *yard) enforced(t *testing.T) {
	t.Helper()
	y.until(t, "all is enforced", func() error {
		if p := y.party(t); p.Reported.IsZero() || p.Behind > 0 || p.Number < 0 || p.Problem != "" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

// until polls for a condition, which says what is missing.
func (y *yard) until(t *testing.T, what string, missing func() error) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := missing()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			out, _ := y.try("cat relay/status.json")
			t.Fatalf("%s: not after three minutes: %v\n%s", what, err, out)
		}
	}
}

// door is a relying party's: try connects once more; open opens a connection that stands, and says
// how to use it.
type door struct {
	try  func(tls.Certificate) error
	open func(tls.Certificate) (use func() error, err error)
	// others says that connections of good devices are left alone.
	others bool
}

// walk is what every recipe must do: refuse the device that was suspended, everywhere,
// take it back, and refuse it for good.
func (y *yard) walk(t *testing.T, d door) {
	t.Helper()
	for _, c := range []tls.Certificate{y.stolen, y.good} {
		y.until(t, "let in", func() error { return d.try(c) })
	}
	stands, err := d.open(y.stolen)
	if err != nil {
		t.Fatal(err)
	}
	other, err := d.open(y.good)
	if err != nil {
		t.Fatal(err)
	}
	refused := func() error {
		if err := d.try(y.stolen); err != nil {
			return nil
		}
		return errors.New("it is let in")
	}
	y.bash(t, "hallmark device suspend SN-1")
	y.until(t, "refused", refused)
	y.until(t, "the connection that stands is of no use", func() error {
		if err := stands(); err != nil {
			return nil
		}
		return errors.New("it is of use")
	})
	y.enforced(t)
	if err := other(); d.others && err != nil {
		t.Errorf("the good device's connection: %v", err)
	}
	if err := d.try(y.good); err != nil {
		t.Errorf("the good device is refused as well: %v", err)
	}
	y.bash(t, "hallmark device restore SN-1")
	y.until(t, "let in again", func() error { return d.try(y.stolen) })
	y.bash(t, "hallmark device revoke SN-1 --reason key-compromise")
	y.until(t, "refused for good", refused)
	y.enforced(t)
	y.succeed(t, d)
	y.enforced(t)
	if stands() == nil { // no list names it any more
		t.Error("the revoked device's connection is of use again since its root was retired")
	}
}

// succeed has the next CA issue and the root of the first one retired, while the program runs. Who
// is revoked is refused all the while.
func (y *yard) succeed(t *testing.T, d door) {
	t.Helper()
	publish := func(change string) {
		y.bash(t, "hallmarkd trust "+change+` --config acme/hallmark.yaml &&
			hallmarkd trust sign --key roots/infrastructure-root.key acme/trust/proposal.json && hallmarkd trust publish --config acme/hallmark.yaml`)
	}
	refused := func(c tls.Certificate) func() error {
		return func() error {
			if d.try(y.stolen) == nil {
				t.Fatal("a revoked device is let in")
			}
			if d.try(c) == nil {
				return errors.New("it is let in")
			}
			return nil
		}
	}
	publish("add-root operational --root-out roots")
	y.bash(t, `hallmarkd trust activate operational-2 --config acme/hallmark.yaml &&
		for i in $(seq 1200); do hallmark issuer list | grep -q 'operational-2 *issues' && break; sleep 0.05; done`)
	next := y.enrol(t, "SN-3")
	y.until(t, "the next CA's is let in", func() error { return d.try(next) })
	y.bash(t, "hallmark device suspend SN-3")
	y.until(t, "the next CA's is refused", refused(next))
	if err := d.try(y.good); err != nil {
		t.Errorf("the first CA's is refused beside the next: %v", err)
	}
	y.bash(t, "hallmark device restore SN-3")
	publish("retire-root operational --strand")
	y.until(t, "the first CA's is refused", refused(y.good))
	y.until(t, "the next CA's is let in alone", func() error { return d.try(next) })
}

func TestRelayBesideMosquitto(t *testing.T) {
	y := newYard(t)
	// Debian's unit makes the folder.
	if err := os.Mkdir(filepath.Join(y.dir, "mosquitto"), 0o755); err != nil {
		t.Fatal(err)
	}
	y.unit(t, "broker.pid", "kill -HUP $(cat broker.pid)")
	y.relay(t, "broker-1", y.recipe(t, "yaml mosquitto"))
	address := freeAddress(t)
	config := strings.Replace(y.recipe(t, "mosquitto"), "listener 8883\n", "listener "+portOf(address)+" 127.0.0.1\n", 1)
	write(t, y.dir, "mosquitto.conf", "user root\n"+config+"\n")
	broker := start(t, y.stage, "mosquitto", "-c", "mosquitto.conf")
	write(t, y.dir, "broker.pid", fmt.Sprint(broker.Pid))
	await(t, address)
	y.walk(t, door{
		try: func(c tls.Certificate) error { return connectMQTT(address, y.site, c) },
		open: func(c tls.Certificate) (func() error, error) {
			conn, err := openMQTT(address, y.site, c)
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { conn.Close() })
			return func() error { return ping(conn) }, nil
		},
		others: true,
	})
}

// ping sends PINGREQ and wants PINGRESP (MQTT 3.1.1 §3.12).
func ping(c net.Conn) error {
	if _, err := c.Write([]byte{0xc0, 0}); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	if answer != [2]byte{0xd0, 0} {
		return fmt.Errorf("PINGRESP %x", answer)
	}
	return nil
}

// webDoor asks for a page; open keeps the connection.
func webDoor(t *testing.T, y *yard, address string, others bool) door {
	ask := func(client *http.Client) error {
		r, err := client.Get("https://" + address)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		io.Copy(io.Discard, r.Body)
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	}
	client := func(c tls.Certificate) *http.Client {
		return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: resuming(y.site, c)}}
	}
	return door{
		try: func(c tls.Certificate) error {
			once := client(c)
			defer once.CloseIdleConnections()
			return ask(once)
		},
		open: func(c tls.Certificate) (func() error, error) {
			conn, err := tls.Dial("tcp", address, resuming(y.site, c))
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(2 * time.Minute))
			r := bufio.NewReader(conn)
			use := func() error { return askOver(conn, r) }
			return use, use()
		},
		others: others,
	}
}

// askOver asks over one connection, whatever becomes of it.
func askOver(conn net.Conn, r *bufio.Reader) error {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// nginx, by CRL and by the map.
func TestRelayBesideNginx(t *testing.T) {
	for _, c := range []struct{ name, yaml, server, http string }{
		{"crl", "yaml nginx", "nginx", ""},
		{"map", "yaml nginx-map", "nginx map server", "nginx map http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := newYard(t)
			y.unit(t, "nginx/pid", "nginx -c "+y.dir+"/nginx.conf -p "+y.dir+"/nginx -s reload 2>&1")
			y.relay(t, "web-1", y.recipe(t, c.yaml))
			if err := os.Mkdir(filepath.Join(y.dir, "nginx"), 0o755); err != nil {
				t.Fatal(err)
			}
			main, inHTTP := y.recipe(t, "nginx main"), ""
			if c.http != "" {
				inHTTP = y.recipe(t, c.http)
			}
			address := freeAddress(t)
			write(t, y.dir, "nginx.conf", fmt.Sprintf(`
daemon off; user root; pid %[1]s/nginx/pid; error_log stderr error; %[3]s
events {}
http {
  access_log off; ssl_protocols TLSv1.3; ssl_session_cache shared:site:1m; ssl_session_timeout 1d; ssl_session_tickets off; # as Certbot writes it
  client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  %[5]s
  server {
    listen %[2]s ssl;
    ssl_certificate %[1]s/etc/site.pem; ssl_certificate_key %[1]s/etc/site.key;
    %[4]s
    location / { return 200 "$ssl_client_s_dn"; }
  }
}`, y.dir, address, main, y.recipe(t, c.server), inHTTP))
			start(t, y.stage, "nginx", "-c", y.dir+"/nginx.conf", "-p", y.dir+"/nginx")
			await(t, address)
			y.walk(t, webDoor(t, y, address, false))
		})
	}
}

func TestRelayBesideHaproxy(t *testing.T) {
	y := newYard(t)
	if err := os.Mkdir(filepath.Join(y.dir, "haproxy"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(y.etc, "take-up"), []byte(y.recipe(t, "sh take-up")+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	y.relay(t, "proxy-1", y.recipe(t, "yaml haproxy"))
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(behind.Close)
	address := freeAddress(t)
	config := strings.Replace(y.recipe(t, "haproxy"), "bind :8443 ", "bind "+address+" ", 1)
	write(t, y.dir, "haproxy.cfg", config+"\n\nbackend devices\n    mode http\n    timeout connect 5s\n    timeout server 60s\n    server one "+behind.Listener.Addr().String()+"\n")
	start(t, y.stage, "haproxy", "-db", "-f", "haproxy.cfg")
	await(t, address)
	y.walk(t, webDoor(t, y, address, true))
}

// A Go server as the page writes it.
func TestRelayBesideGo(t *testing.T) {
	y := newYard(t)
	y.relay(t, "go-1", y.recipe(t, "yaml go"))
	program := `package main

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"os"
	"time"

	"github.com/hallmark-pki/hallmark/relay/guard"
)

func main() {
	ctx := context.Background()
	pair, err := tls.LoadX509KeyPair("etc/site.pem", "etc/site.key")
	if err != nil {
		log.Fatal(err)
	}
	site := []tls.Certificate{pair}
	tcp, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	` + y.recipe(t, "go") + `
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() { io.Copy(c, c); c.Close() }()
	}
}
`
	write(t, y.dir, "server.go", program)
	build := exec.Command("go", "build", "-o", filepath.Join(y.dir, "server"), filepath.Join(y.dir, "server.go"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	address := freeAddress(t)
	start(t, y.stage, "./server", address)
	await(t, address)
	dial := func(c tls.Certificate) (net.Conn, error) {
		conn, err := tls.Dial("tcp", address, resuming(y.site, c))
		if err != nil {
			return nil, err
		}
		conn.SetDeadline(time.Now().Add(2 * time.Minute))
		return conn, echo(conn)
	}
	y.walk(t, door{
		try: func(c tls.Certificate) error {
			conn, err := dial(c)
			if conn != nil {
				conn.Close()
			}
			return err
		},
		open: func(c tls.Certificate) (func() error, error) {
			conn, err := dial(c)
			return func() error { return echo(conn) }, err
		},
		others: true,
	})
}

func echo(c net.Conn) error {
	b := []byte("x")
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// openssl s_server with the relay's file.
func TestRelayBesideOpenSSL(t *testing.T) {
	y := newYard(t)
	y.relay(t, "openssl-1", y.recipe(t, "yaml openssl"))
	try := func(c tls.Certificate) error {
		address := freeAddress(t)
		command := strings.Replace(y.recipe(t, "sh s_server"), "-accept 8443", "-accept "+address, 1)
		server := start(t, y.stage, "sh", "-c", "exec "+command+" -www")
		defer server.Kill()
		await(t, address)
		return webDoor(t, y, address, false).try(c)
	}
	for _, step := range []struct {
		verb   string
		accept bool
	}{{"show", true}, {"suspend", false}, {"restore", true}, {"revoke --reason key-compromise", false}} {
		y.bash(t, "hallmark device "+step.verb+" SN-1")
		y.enforced(t)
		if err := try(y.stolen); (err == nil) != step.accept {
			t.Errorf("after %s: %v", step.verb, err)
		}
		if err := try(y.good); err != nil {
			t.Errorf("the good device after %s: %v", step.verb, err)
		}
	}
}

// With its disk full the relay says so, to its host and to operators, and the program keeps the
// last good file; with room again all is well.
func TestRelayWithItsDiskFull(t *testing.T) {
	y := newYard(t)
	process := y.relay(t, "full-1", "write: {serials: "+y.etc+"/denied}\nfail: open\n")
	before := string(read(t, y.etc, "denied"))
	fill, free, words := fullDisk(t, y, process)
	fill()
	y.bash(t, "hallmark device suspend SN-1")
	y.until(t, "the operators see why not", func() error {
		if p := y.party(t); p.Behind == 0 || !strings.Contains(p.Problem, words) || !strings.Contains(p.Problem, "the last good files stay") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	if string(read(t, y.etc, "denied")) != before {
		t.Error("the last good file is gone")
	}
	free()
	y.enforced(t)
	if text := string(read(t, y.etc, "denied")); text == before {
		t.Error("with room again the file is the old one")
	}
	y.bash(t, "hallmark relay status --dir relay")
}

// systemd takes the unit, and finds little in it to be had by an attacker.
func TestRelayUnit(t *testing.T) {
	s := newStage(t)
	program := s.bash(t, "command -v hallmark")
	unit := strings.Replace(block(t, relayPage, "ini", 1), "/usr/bin/hallmark", program, 1)
	if !strings.Contains(unit, program) {
		t.Fatal("the unit runs something else")
	}
	write(t, s.dir, "hallmark-relay.service", unit+"\n")
	if out, err := s.try("systemd-analyze verify ./hallmark-relay.service 2>&1 | grep hallmark-relay.service"); err == nil {
		t.Error(out)
	}
	s.bash(t, "systemd-analyze security --no-pager --offline=true --threshold=40 ./hallmark-relay.service")
}

// fullDisk gives the files' folder a small disk of its own; who may not mount one gets a limit
// on what the relay may write.
func fullDisk(t *testing.T, y *yard, relay *os.Process) (fill, free func(), words string) {
	t.Helper()
	kept := read(t, y.etc, "denied")
	if err := syscall.Mount("none", y.etc, "tmpfs", 0, "size=64k"); err != nil {
		limit := func(n string) func() {
			return func() { y.bash(t, fmt.Sprintf("prlimit --pid %d --fsize=%s:", relay.Pid, n)) }
		}
		return limit("0"), limit("unlimited"), "file too large"
	}
	t.Cleanup(func() { syscall.Unmount(y.etc, 0) })
	write(t, y.etc, "denied", string(kept))
	fill = func() {
		f, err := os.Create(filepath.Join(y.etc, "filler"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 512))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	free = func() { os.Remove(filepath.Join(y.etc, "filler")) }
	return fill, free, "no space left on device"
}
