package acceptance

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nginx and mosquitto, configured by the very lines of docs/administrator.md and kept
// fresh by its script, and nginx that asks OCSP, refuse a device on hold and take it back afterwards.
func TestRelyingPartiesFollowTheCRLs(t *testing.T) {
	s := newStage(t)
	device := everyCertificate(t, s)[0].cert
	site := relyingPartyCertificate(t, s.dir)
	etc := filepath.Join(s.dir, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, etc, "relying-parties.pem", string(read(t, s.dir, "acme/trust/relying-parties.pem")))
	page := string(read(t, "../..", "docs/administrator.md"))
	recipe := func(language string) string {
		_, block, found := strings.Cut(page, "\n```"+language+"\n")
		block, _, ended := strings.Cut(block, "\n```\n")
		if !found || !ended {
			t.Fatalf("docs/administrator.md has no block in %s", language)
		}
		return strings.NewReplacer("/etc/hallmark", etc, "http://pki.acme.example", "http://"+s.at(2)).Replace(block)
	}
	refresh := func(reload string) {
		t.Helper()
		script := strings.Replace(recipe("sh"), "systemctl reload nginx mosquitto", reload, 1)
		if !strings.Contains(script, reload) {
			t.Fatal("the script reloads nothing")
		}
		write(t, s.dir, "refresh", script)
		s.bash(t, "sh -e refresh")
	}
	refresh("true") // before the first start: neither starts without the file
	web, nginx := startNginx(t, s.dir, recipe("nginx"))
	elsewhere := t.TempDir()
	other := relyingPartyCertificate(t, elsewhere)
	before, after, found := strings.Cut(recipe("nginx"), "ssl_crl                "+etc+"/crls.pem;\n")
	if !found {
		t.Fatal("the lines for nginx name no list")
	}
	asking, asker := startNginx(t, elsewhere, before+recipe("nginx ocsp")+after)
	broker, mosquitto := startMosquitto(t, s.dir, recipe("mosquitto"))
	// settle waits until all are of one mind about a device.
	settle := func(when string, device tls.Certificate, accept bool) {
		t.Helper()
		refresh(fmt.Sprintf("kill -HUP %d %d %d", nginx.Pid, asker.Pid, mosquitto.Pid))
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			status, _ := get(t, web, site, device)
			asked, _ := get(t, asking, other, device)
			refused := connectMQTT(broker, site, device)
			if accept && status == http.StatusOK && asked == http.StatusOK && refused == nil ||
				!accept && status == http.StatusBadRequest && asked == http.StatusBadRequest && refused != nil && strings.Contains(refused.Error(), "revoked certificate") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: nginx %d, by OCSP %d, mosquitto %v; want accepted: %v", when, status, asked, refused, accept)
			}
		}
	}
	for _, step := range []struct {
		verb   string
		accept bool
	}{{"show", true}, {"suspend", false}, {"restore", true}, {"revoke --reason key-compromise", false}} {
		s.bash(t, "hallmark --config acme/operator device "+step.verb+" SN-1")
		settle("after "+step.verb, device, step.accept)
	}

	// The next CA issues, and all that they were given is its root.
	s.bash(t, `hallmarkd trust add-root operational --config acme --root-out roots &&
		hallmarkd trust sign --key roots/infrastructure-root.key acme/trust/proposal.json && hallmarkd trust publish --config acme`)
	write(t, etc, "relying-parties.pem", string(read(t, s.dir, "acme/trust/relying-parties.pem")))
	s.bash(t, `hallmarkd trust activate operational-2 --config acme &&
		for i in $(seq 1200); do hallmark --config acme/operator issuer list | grep -q 'operational-2 *issues' && break; sleep 0.05; done`)
	next, _ := enrolDevice(t, s, s.at(0), s.bash(t, "hallmark --config acme/operator ticket create 2>/dev/null"), "SN-2")
	settle("with the next CA", next.LDevID, true)
	settle("with the next CA, the revoked one", device, false)
	s.bash(t, "hallmark --config acme/operator device suspend SN-2")
	settle("with the next CA, after suspend", next.LDevID, false)
}
