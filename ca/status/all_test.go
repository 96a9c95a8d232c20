package status

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// A relying party on OpenSSL has one file: OpenSSL must find in it what it needs of every
// shard, also of one that was opened later, without being told of issuingDistributionPoint.
func TestOneFileForOpenSSL(t *testing.T) {
	p := newPKI(t)
	f := files{p, t.TempDir()}
	good, bad := p.leaf("good", 1), p.leaf("bad", 12)
	if _, err := p.service.Revoke(background, "bad", record.ReasonKeyCompromise, "", record.Event{}); err != nil {
		t.Fatal(err)
	}
	all := p.get("/crl/operational.pem", http.StatusOK)
	other := p.leaf("other", 13)
	var issuers []string
	for block, rest := pem.Decode(all); block != nil; block, rest = pem.Decode(rest) {
		l, err := x509.ParseRevocationList(block.Bytes)
		p.must(err)
		issuers = append(issuers, l.Issuer.CommonName)
	}
	if got := strings.Join(issuers, " "); got != "Root Issuer" {
		t.Error("the lists are of", got)
	}
	crls := filepath.Join(f.dir, "crls.pem")
	p.must(os.WriteFile(crls, all, 0o600))
	root, issuer := f.pem("root.pem", "CERTIFICATE", p.root.Raw), f.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw)
	for _, c := range []struct {
		cert *x509.Certificate
		want string
	}{{good, "OK"}, {other, "OK"}, {bad, "error 23"}} {
		out, err := f.run("openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", root, "-untrusted", issuer,
			"-CRLfile", crls, f.pem("leaf.pem", "CERTIFICATE", c.cert.Raw))
		if (err == nil) != (c.want == "OK") || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%s", c.cert.Subject, err, out)
		}
	}
	if together := p.get("/crl/relying-parties.pem", http.StatusOK); !bytes.Equal(together, all) {
		t.Error("with one issuer, the lists of all are others than its own")
	}
	for _, path := range []string{"operational-root.pem", "other.pem", ".pem", "operational/1.pem"} {
		p.get("/crl/"+path, http.StatusNotFound)
	}
}

func TestOneFileIsFetchedAgainOnlyIfItChanged(t *testing.T) {
	p := newPKI(t)
	p.leaf("a", 1)
	ask := func(tag string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/crl/operational.pem", nil)
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		p.service.Handler().ServeHTTP(w, r)
		return w
	}
	tag := ask("").Header().Get("ETag")
	if w := ask(tag); tag == "" || w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Error("unchanged:", w.Code, w.Body)
	}
	if _, err := p.service.Revoke(background, "a", record.ReasonKeyCompromise, "", record.Event{}); err != nil {
		t.Fatal(err)
	}
	if w := ask(tag); w.Code != http.StatusOK || w.Header().Get("ETag") == tag {
		t.Error("changed:", w.Code)
	}
}

// While two CAs' certificates are accepted, whoever has one file needs the lists of both, and
// none of an issuer that relying parties have nothing to do with.
func TestOneFileForAllThatIsAccepted(t *testing.T) {
	p := newPKI(t)
	successor := func(name string) Issuer {
		key := newKey(p)
		return Issuer{Name: name, Signer: key, Certificate: p.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: newSerial(),
			NotBefore: p.clock.Now().Add(-time.Hour), NotAfter: p.clock.Now().AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, p.root, key, p.rootKey)}
	}
	config := p.config()
	config.Issuers = append(config.Issuers, successor("operational-2"), successor("manufacturing"))
	var err error
	p.service, err = New(config)
	p.must(err)
	ask := func(header, value string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/crl/relying-parties.pem", nil)
		r.Header.Set(header, value)
		w := httptest.NewRecorder()
		p.service.Handler().ServeHTTP(w, r)
		return w
	}
	first := ask("", "")
	both := append(p.get("/crl/operational.pem", http.StatusOK), p.get("/crl/operational-2.pem", http.StatusOK)...)
	if !bytes.Equal(first.Body.Bytes(), both) {
		t.Errorf("%d bytes; the files of the two have %d", first.Body.Len(), len(both))
	}
	tag := first.Header().Get("ETag")
	if again := ask("If-None-Match", tag); again.Code != http.StatusNotModified || first.Header().Get("Last-Modified") != "" {
		t.Errorf("again: %d, %v", again.Code, first.Header())
	}
	p.leaf("bad", 1)
	if _, err := p.service.Revoke(background, "bad", record.ReasonKeyCompromise, "", record.Event{}); err != nil {
		t.Fatal(err)
	}
	p.clock.Add(time.Second)
	if changed := ask("If-None-Match", tag); changed.Code != http.StatusOK || bytes.Equal(changed.Body.Bytes(), both) {
		t.Error("after a revocation:", changed.Code)
	}
}
