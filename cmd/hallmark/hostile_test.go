package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"
)

// inOtherHands is the server of the operator's settings, and answers everything with answer.
func inOtherHands(t *testing.T, answer string) {
	t.Helper()
	serving(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
}

// serving is the server of the operator's settings.
func serving(t *testing.T, answer http.HandlerFunc) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "anna"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(answer)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	path, err := client.Write(filepath.Join(t.TempDir(), "operator"), s.URL, wire.Bundle{Infrastructure: [][]byte{der}}, key, [][]byte{der})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(terminal.ConfigVariable, path)
}

// Whatever a server calls things, no command lets it steer the terminal.
func TestServerSteersNoTerminal(t *testing.T) {
	const evil = "x\x1b[2J\x1b]52;c;eA==\a\u009b1m\u202e\x7f\r"
	thing := map[string]any{"total": 1, "sequence": 1, "time": "9999-12-31T23:59:59Z", "expires": "0001-02-01T00:00:00Z", "due": "9999-12-31T23:59:59Z", "created": "0001-02-01T00:00:00Z",
		"approval": evil, "changed": true, "labels": map[string]string{evil: evil}, "detail": map[string]string{evil: evil}, "tickets": []string{evil}, "formats": []string{evil}, "unsigned": map[string]string{evil: evil}}
	for _, key := range strings.Fields(`id name model lot serial state assurance device issuer profile subject status reason why operator actor verb object kind value maker type
		version certificate fingerprint invitation ticket where requester approver problem program fail pem purpose successor job key_algorithm added_by predecessor key outcome added break_glass`) {
		thing[key] = evil
	}
	whole := map[string]any{"items": []any{thing}}
	for key, value := range thing {
		whole[key] = value
	}
	answer, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	inOtherHands(t, string(answer))
	answered := 0
	for _, line := range strings.Split(`whoami
model list|model show x|lot list|lot show x|lot close x|ticket create|vendorca list|tpm list|tpm allow x y RSA-2048
device list|device list --json|device show x|device suspend x --why y|device restore x --why y|device retire x --why y|device lift x --why y|device grant x --why y
device revoke x --reason key-compromise --why y|device suspend --where lot=x --why y --detach
cert list|cert show x|operator list|operator invite x|operator disable x|relying-party list|relying-party invite x|relying-party disable x
audit list|audit list --json|audit review|alert list|job list|job show x|job pause x|job report x|approve x|setting list|setting set x y --why z
renew list|renew show x|renew plan --within 1h|issuer list|issuer show x`, "\n") {
		for command := range strings.SplitSeq(line, "|") {
			out, _, err := run1(t, strings.Fields(command)...)
			shown := strings.ReplaceAll(out, "\n", "")
			if err == nil && strings.Contains(shown, "x") {
				answered++
			}
			if strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s: %q", command, out)
			}
		}
	}
	if answered < 25 {
		t.Errorf("only %d commands printed what the server said", answered)
	}
}

// A server that makes fewer tickets than it was asked for is not asked for the rest for ever.
func TestNoTickets(t *testing.T) {
	inOtherHands(t, `{"tickets":[]}`)
	if out, _, err := run1(t, "ticket", "create", "--count", "2"); err == nil || !strings.Contains(fmt.Sprint(err), "0 tickets in place of 2") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Whoever watches a job when the server goes away is told that the job does not.
func TestServerGoesWhileAJobIsWatched(t *testing.T) {
	serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, `{"id":"j7","kind":"suspend","state":"running","total":9}`)
	})
	_, _, err := run1(t, "device", "suspend", "--where", "lot=x", "--why", "y")
	if code, hint := terminal.Diagnose(err); code != terminal.ExitNetwork || !strings.Contains(hint, "hallmark job show j7 --wait") {
		t.Errorf("exit %d, hint %q: %v", code, hint, err)
	}
}
