package acceptance

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// programs' page; every block with commands or configuration is run as it stands there.
const programsPage = "docs/device-programs.md"

// block is the nth block in a language of a page.
func block(t *testing.T, page, language string, n int) string {
	t.Helper()
	rest := string(read(t, "../..", page))
	for range n {
		var found bool
		if _, rest, found = strings.Cut(rest, "\n```"+language+"\n"); !found {
			t.Fatalf("%s has fewer than %d blocks in %s", page, n, language)
		}
	}
	text, _, _ := strings.Cut(rest, "\n```\n")
	return text
}

// field is a device with a working certificate, a broker and a web server that accept
// nothing else, and the page's recipes with the addresses of this test in them.
type field struct {
	*stage
	broker, web string
	words       *strings.Replacer
}

func newField(t *testing.T) *field {
	t.Helper()
	s := newStage(t)
	port, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	s.bash(t, fmt.Sprintf(`hallmarkd init --dir acme --name "Acme Devices" --root-out roots --listen 127.0.0.1:%[1]d --public-url https://localhost:%[1]d`, port))
	start(t, s, "hallmarkd", "serve", "--config", "acme/hallmark.yaml")
	await(t, fmt.Sprintf("127.0.0.1:%d", port))
	await(t, fmt.Sprintf("127.0.0.1:%d", port+1))
	s.bash(t, "hallmark --config acme/operator ticket create 2>/dev/null > ticket && hallmark-device enrol - --serial SN-1 --state device < ticket && hallmark-device renew --state device")
	s.env = append(s.env, "HALLMARK_STATE="+filepath.Join(s.dir, "device"))
	relyingPartyCertificate(t, s.dir)
	trusted := s.dir + "/acme/trust/relying-parties.pem"
	f := &field{stage: s}
	f.broker, _ = startMosquitto(t, s.dir, "cafile "+trusted+"\nrequire_certificate true\nuse_identity_as_username true")
	f.web, _ = startNginx(t, s.dir, "ssl_client_certificate "+trusted+"; ssl_verify_client on; ssl_verify_depth 2;")
	etc := filepath.Join(s.dir, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, etc, "broker-ca.pem", string(read(t, s.dir, "site.pem")))
	// Both listen on 127.0.0.1 as localhost, on ports of their own.
	f.words = strings.NewReplacer("/etc/hallmark", etc, "/var/lib/hallmark-device", s.dir+"/device",
		"broker.example.com:8883", localhost(f.broker), "-h broker.example.com -p 8883", "-h localhost -p "+portOf(f.broker),
		"https://api.example.com", "https://"+localhost(f.web), "api.example.com:443", localhost(f.web),
		"device:/dev/tpmrm0", "tabrmd:bus_type=session")
	return f
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func localhost(address string) string { return "localhost:" + portOf(address) }

// recipe is a block of the page for this field.
func (f *field) recipe(t *testing.T, language string, n int) string {
	t.Helper()
	return f.words.Replace(block(t, programsPage, language, n))
}

// background runs a shell command, which must be one program, until the test ends.
func (f *field) background(t *testing.T, command string) {
	t.Helper()
	start(t, f.stage, "bash", "-c", "exec "+command)
}

// MQTT through the proxy to a real broker: a subscription stands over a renewal, and what
// comes after it is published with the new certificate.
func TestProxyCarriesMQTT(t *testing.T) {
	f := newField(t)
	local := freeAddress(t)
	there := strings.NewReplacer("127.0.0.1:1883", local, "-p 1883", "-p "+portOf(local))
	f.background(t, there.Replace(f.recipe(t, "sh", 1))+" --verbose")
	await(t, local)
	subscriber := exec.Command("stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", portOf(local), "-t", "sensors/#", "-v", "-C", "2", "-W", "300", "-d")
	out, err := subscriber.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := subscriber.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	wait := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("the subscriber ended without %q", text)
	}
	wait("Subscribed")
	publish := there.Replace(f.recipe(t, "sh", 2))
	f.bash(t, publish)
	wait("sensors/1 21.5")
	f.bash(t, "hallmark-device renew")
	f.bash(t, strings.Replace(publish, "21.5", "22", 1))
	wait("sensors/1 22")
	if err := subscriber.Wait(); err != nil {
		t.Fatal(err)
	}
	// Two programs that renew, and connect, without a resource manager.
	f.bash(t, fmt.Sprintf(`for i in 1 2 3; do hallmark-device renew & for j in 1 2 3 4; do %s || exit 1; done; wait $! || exit 1; done`, publish))
}

// nginx on the device takes the proxy for its upstream.
func TestNginxBehindProxy(t *testing.T) {
	f := newField(t)
	run := filepath.Join(f.dir, "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	f.background(t, "hallmark-device proxy --roots etc/broker-ca.pem --listen unix:"+run+"/api --to "+localhost(f.web))
	address := freeAddress(t)
	prefix := filepath.Join(f.dir, "front")
	if err := os.Mkdir(prefix, 0o755); err != nil {
		t.Fatal(err)
	}
	location := strings.NewReplacer("/run/hallmark", run, "api.example.com", "localhost").Replace(block(t, programsPage, "nginx", 1))
	write(t, prefix, "nginx.conf", fmt.Sprintf(`daemon off; pid %[1]s/pid; user root; error_log stderr error; events {}
http { access_log off; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
server { listen %[2]s; %[3]s } }`, prefix, address, location))
	start(t, f.stage, "nginx", "-c", filepath.Join(prefix, "nginx.conf"), "-p", prefix)
	await(t, address)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r, err := http.Get("http://" + address + "/cloud/x")
		if err != nil {
			t.Fatal(err)
		}
		body := bufio.NewScanner(r.Body)
		body.Scan()
		r.Body.Close()
		if strings.Contains(body.Text(), "CN=default:SN-1") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %q", r.Status, body.Text())
		}
	}
}

// managed runs a script beside a resource manager, which the TSS needs.
func (f *field) managed(t *testing.T, script string) (string, error) {
	t.Helper()
	return f.beside(t, f.tpm, script)
}

// beside runs a script with a TPM's resource manager on the session's bus.
func (s *stage) beside(t *testing.T, chip *swtpm.TPM, script string) (string, error) {
	t.Helper()
	write(t, s.dir, "script", script)
	return s.try(`dbus-run-session -- bash -c '
tpm2-abrmd --session --allow-root --tcti ` + chip.TCTI() + ` >abrmd.log 2>&1 &
manager=$!
for i in $(seq 600); do
	dbus-send --session --print-reply --dest=com.intel.tss2.Tabrmd /com/intel/tss2/Tabrmd/Tcti org.freedesktop.DBus.Peer.Ping >/dev/null 2>&1 && break
	sleep 0.1
done
bash script; code=$?
kill $manager
exit $code'`)
}

func (f *field) manage(t *testing.T, script string) string {
	t.Helper()
	out, err := f.managed(t, script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// curl, mosquitto_pub and openssl s_client as Debian ships them, with the key file.
func TestOpenSSLPrograms(t *testing.T) {
	f := newField(t)
	write(t, filepath.Join(f.dir, "etc"), "openssl.cnf", f.recipe(t, "ini", 1)+"\n")
	lines := strings.Split(f.recipe(t, "sh", 7), "\n")
	if len(lines) != 5 {
		t.Fatalf("the page's block has %d lines", len(lines))
	}
	environment, curl, mosquitto, client := strings.Join(lines[:2], "\n")+"\n", lines[2], lines[3], lines[4]
	request := `(printf 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'; sleep 2) | `
	out := f.manage(t, environment+"set -e -o pipefail\n"+curl+"\n"+mosquitto+" -d\n"+request+client+" 2>&1\n")
	for what, want := range map[string]int{"CN=default:SN-1,O=Acme Devices": 2, "received CONNACK (0)": 1} {
		if n := strings.Count(out, what); n != want {
			t.Errorf("%d times %q, want %d:\n%s", n, what, want, out)
		}
	}
	// TLS 1.2 as well: the broker takes it.
	out = f.manage(t, environment+"set -e\n"+strings.Replace(mosquitto, "-p ", "--tls-version tlsv1.2 -d -p ", 1)+"\n")
	if !strings.Contains(out, "received CONNACK (0)") {
		t.Errorf("TLS 1.2: %s", out)
	}
	// Without the configuration the key is not found: the test above tests something.
	if out, err := f.managed(t, strings.Replace(environment, "OPENSSL_CONF", "NO_CONF", 1)+curl); err == nil {
		t.Errorf("curl needs no provider: %s", out)
	}
}

// The PKCS#11 token: pkcs11-tool signs and curl connects; s_client and mosquitto_pub do
// not get that far with Debian 12's versions, as the page says.
func TestPKCS11(t *testing.T) {
	f := newField(t)
	token, environment, curl := f.recipe(t, "sh", 8), "", ""
	write(t, f.dir, "token", token+"\n")
	for line := range strings.Lines(f.recipe(t, "sh", 9)) {
		if strings.HasPrefix(line, "export ") {
			environment += line
		} else {
			curl += line
		}
	}
	for range 2 { // a renewal makes a new key, and the script a new token
		f.bash(t, "hallmark-device renew")
		out := f.manage(t, "set -e\nsh -eu token\n"+environment+`
echo message > message
pkcs11-tool --module $PKCS11_MODULE_PATH --login --pin hallmark --sign --mechanism ECDSA-SHA256 --label ldevid -i message -o signature --signature-format openssl
openssl x509 -in device/ldevid.pem -pubkey -noout > public.pem
openssl dgst -sha256 -verify public.pem -signature signature message
`+curl)
		if !strings.Contains(out, "Verified OK") || !strings.Contains(out, "CN=default:SN-1") {
			t.Fatal(out)
		}
	}
	uri := "'pkcs11:token=hallmark;object=ldevid;type=private;pin-value=hallmark'"
	for _, c := range []struct{ command, says string }{
		{"openssl s_client -engine pkcs11 -keyform engine -key " + uri + " -cert device/ldevid.pem -connect " + localhost(f.web) + " </dev/null 2>&1", "Could not read client certificate private key"},
		{"mosquitto_pub -h localhost -p " + portOf(f.broker) + " --cafile site.pem --cert device/ldevid.pem --tls-engine pkcs11 --keyform engine --key " + uri + " -t a -m b 2>&1", "File not found"},
	} {
		if out, err := f.managed(t, environment+c.command); err == nil || !strings.Contains(out, c.says) {
			t.Errorf("%s works, or fails otherwise: tell docs/device-programs.md: %v\n%s", c.command, err, out)
		}
	}
}
