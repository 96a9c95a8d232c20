package acceptance

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newPage is a device's own web page on loopback: it says who asks, and on /slow says so
// in two halves, the second when it is told to go on.
func newPage(t *testing.T) (address string, goOn chan bool) {
	t.Helper()
	goOn = make(chan bool)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "the page of", r.Host)
		if r.URL.Path == "/slow" {
			w.(http.Flusher).Flush()
			<-goOn
			fmt.Fprintln(w, "the second half")
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String(), goOn
}

// The recipes of the page about a device's own web page, with real curl: with and without
// a client certificate, with another CA's, over a renewal.
func TestPageBehindProxy(t *testing.T) {
	f := newField(t)
	page, goOn := newPage(t)
	f.env = append(f.env, "HALLMARK_CONFIG="+f.dir+"/acme/operator/hallmark.yaml")
	serve := func(n int) string {
		address := freeAddress(t)
		f.background(t, strings.NewReplacer(":443", address, "127.0.0.1:80", page).Replace(f.recipe(t, "sh", n)))
		await(t, address)
		return address
	}
	// Without a name there is no page.
	if out, err := f.try(f.recipe(t, "sh", 4)); err == nil || !strings.Contains(out, "hint: an administrator names it") {
		t.Errorf("a page without a certificate: %s", out)
	}
	f.bash(t, f.recipe(t, "sh", 3)+" && hallmark-device renew && hallmark-device status | grep -q 'web page.*sn-1.local'")
	f.bash(t, `set -e
for ca in etc/owner-ca other-ca; do
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out $ca.pem -days 2 -subj /CN=$(basename $ca)
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout person.key -subj /CN=technician -out person.csr
	openssl x509 -req -in person.csr -CA $ca.pem -CAkey ca.key -days 1 -out person.pem
	cat person.pem person.key > $(basename $ca)-person.pem
done
hallmark relying-party invite broker-1 > invitation
hallmark relay join - --dir broker-1 < invitation
test -s broker-1/identity.pem`)
	operators, owners := serve(4), serve(6)
	curl := func(address, certificate, more string) string {
		command := "curl --silent --show-error --connect-to sn-1.local:443:" + address + " " + more + " " + strings.TrimPrefix(f.recipe(t, "sh", 5), "curl ")
		with := ""
		if certificate != "" {
			with = "--cert " + certificate
		}
		return strings.Replace(command, "--cert acme/operator/identity.pem", with, 1)
	}
	const operator, owner, other, relay = "acme/operator/identity.pem", "owner-ca-person.pem", "other-ca-person.pem", "broker-1/identity.pem"
	for _, c := range []struct {
		address, certificate, more string
		in                         bool
	}{
		{operators, operator, "", true}, {operators, operator, "--tls-max 1.2", true}, {operators, "", "", false}, {operators, owner, "", false}, {operators, other, "", false}, {operators, relay, "", false},
		{owners, owner, "", true}, {owners, owner, "--tls-max 1.2", true}, {owners, "", "", false}, {owners, "", "--tls-max 1.2", false}, {owners, operator, "", false}, {owners, other, "", false},
	} {
		out, err := f.try(curl(c.address, c.certificate, c.more))
		if in := err == nil && strings.Contains(out, "the page of sn-1.local"); in != c.in {
			t.Errorf("with %q %s: %v, %s", c.certificate, c.more, err, out)
		}
	}
	// The agent serves the sections of its settings.
	agent := freeAddress(t)
	write(t, f.dir, "agent.conf", strings.NewReplacer("= :443", "= "+agent, "127.0.0.1:80", page).Replace(f.recipe(t, "text", 2))+"\n")
	f.background(t, "hallmark-device run --config agent.conf")
	await(t, agent)
	if out, err := f.try(curl(agent, owner, "")); err != nil || !strings.Contains(out, "the page of sn-1.local") {
		t.Errorf("served by the agent: %v, %s", err, out)
	}
	if out, err := f.try(curl(agent, operator, "")); err == nil {
		t.Errorf("served by the agent to another: %s", out)
	}
	// Another name is not this device's.
	if out, err := f.try(strings.ReplaceAll(curl(operators, operator, ""), "sn-1.local", "sn-2.local")); err == nil {
		t.Errorf("the page of another device: %s", out)
	}
	// A connection stands over a renewal, and the next shows the new certificate.
	slow := exec.Command("bash", "-c", strings.Replace(curl(owners, owner, "--no-buffer"), "https://sn-1.local/", "https://sn-1.local/slow", 1))
	slow.Dir, slow.Env = f.dir, f.env
	out, err := slow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "the page of") {
		t.Fatalf("%q, %v", line, err)
	}
	shown := func() string {
		return f.bash(t, "openssl s_client -connect "+owners+" -servername sn-1.local </dev/null 2>/dev/null | openssl x509 -noout -serial")
	}
	before := shown()
	f.bash(t, "hallmark-device renew")
	if after := shown(); after == before {
		t.Errorf("the renewed certificate is not shown: %s", after)
	}
	f.bash(t, curl(owners, owner, ""))
	goOn <- true
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "the second half\n" {
		t.Errorf("%q, %v", rest, err)
	}
	if err := slow.Wait(); err != nil {
		t.Error(err)
	}
}

// The container's side of its recipe: another user, in a root of its own that holds the
// socket and neither TPM nor state folder, has the device's identity.
func TestIdentityInAContainer(t *testing.T) {
	f := newField(t)
	root := filepath.Join(f.dir, "container")
	f.bash(t, "mkdir -p "+root+"/run/hallmark")
	proxy, _, _ := strings.Cut(block(t, programsPage, "text", 1), "\n")
	user := os.Geteuid()
	if user == 0 {
		user = 10001
	}
	f.background(t, strings.NewReplacer("/run/hallmark/sensor", root+"/run/hallmark", "broker.example.com:8883", localhost(f.web), "10001", fmt.Sprint(user)).Replace(proxy)+" --roots etc/broker-ca.pem")
	socket := root + "/run/hallmark/mqtt"
	f.bash(t, "for i in $(seq 1200); do [ ! -S "+socket+" ] || break; sleep 0.05; done")
	const curl = "/usr/bin/curl --silent --show-error http://localhost/ --unix-socket "
	if os.Geteuid() != 0 {
		t.Log("only root makes containers: the container is tested by CI, which is root")
		if out := f.bash(t, curl+socket); !strings.Contains(out, "CN=default:SN-1") {
			t.Error(out)
		}
		return
	}
	f.bash(t, "cd "+root+" && cp --parents $(ldd /usr/bin/curl | grep -o '/[^ ]*') /usr/bin/curl .")
	inside := func(user string) (string, error) {
		return f.try("chroot --userspec=" + user + ":" + user + " " + root + " " + curl + "/run/hallmark/mqtt")
	}
	if out, err := inside("10001"); err != nil || !strings.Contains(out, "CN=default:SN-1") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := inside("10002"); err == nil {
		t.Errorf("another container's user: %s", out)
	}
}
