package status

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	zcrypto "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"
	_ "github.com/zmap/zlint/v3/lints/community" // register their rules
	_ "github.com/zmap/zlint/v3/lints/rfc"

	"github.com/hallmark-pki/hallmark/ca/status/ocsp"
	"github.com/hallmark-pki/hallmark/record"
)

// These tests ask OpenSSL, GnuTLS and zlint what they make of us.

type files struct {
	*pki
	dir string
}

func (f files) pem(name, kind string, ders ...[]byte) string {
	f.Helper()
	path := filepath.Join(f.dir, name)
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	f.must(os.WriteFile(path, out, 0o600))
	return path
}

func (f files) run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// want runs a tool and expects its success and every text in its output.
func (f files) want(texts []string, name string, args ...string) string {
	f.Helper()
	out, err := f.run(name, args...)
	if err != nil {
		f.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			f.Errorf("%s %s: no %q in\n%s", name, strings.Join(args, " "), text, out)
		}
	}
	return out
}

func TestOpenSSLChecksTheRightShard(t *testing.T) {
	p := newPKI(t)
	f := files{p, t.TempDir()}
	good, bad, other := p.leaf("good", 0), p.leaf("bad", 0), p.leaf("other", 1)
	p.must(p.service.Publish(background, p.shard(0), p.shard(1)))
	if _, err := p.service.Revoke(background, "bad", record.ReasonKeyCompromise, "", record.Event{}); err != nil {
		t.Fatal(err)
	}
	root := f.pem("root.pem", "CERTIFICATE", p.root.Raw)
	issuer := f.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw)
	rootCRL := p.get("/crl/operational-root/0.crl", 200)
	shard0 := f.pem("0.pem", "X509 CRL", rootCRL, p.get("/crl/operational/0.crl", 200))
	shard1 := f.pem("1.pem", "X509 CRL", rootCRL, p.get("/crl/operational/1.crl", 200))

	verify := func(c *x509.Certificate, crls string) (string, error) {
		return f.run("openssl", "verify", "-x509_strict", "-crl_check_all", "-extended_crl",
			"-CAfile", root, "-untrusted", issuer, "-CRLfile", crls, f.pem("leaf.pem", "CERTIFICATE", c.Raw))
	}
	for _, c := range []struct {
		name string
		cert *x509.Certificate
		crls string
		want string
	}{
		{"good", good, shard0, "OK"},
		{"good in the other shard", other, shard1, "OK"},
		{"revoked", bad, shard0, "error 23"},       // X509_V_ERR_CERT_REVOKED
		{"wrong shard", other, shard0, "error 44"}, // X509_V_ERR_DIFFERENT_CRL_SCOPE
		{"revoked, wrong shard", bad, shard1, "error 44"},
	} {
		out, err := verify(c.cert, c.crls)
		if (err == nil) != (c.want == "OK") || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v\n%s", c.name, err, out)
		}
	}
}

// A relying party whose clock is some minutes slow takes the newest list.
func TestSlowClocksTakeTheList(t *testing.T) {
	p := newPKI(t)
	f := files{p, t.TempDir()}
	good := f.pem("good.pem", "CERTIFICATE", p.leaf("good", 1).Raw)
	list := f.pem("list.pem", "X509 CRL", p.get("/crl/operational/1.crl", 200))
	f.want([]string{"OK"}, "openssl", "verify", "-attime", fmt.Sprint(p.clock.Now().Add(-4*time.Minute).Unix()), "-crl_check", "-CRLfile", list,
		"-CAfile", f.pem("root.pem", "CERTIFICATE", p.root.Raw), "-untrusted", f.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw), good)
}

func TestOpenSSLAndGnuTLSReadTheList(t *testing.T) {
	p := newPKI(t)
	f := files{p, t.TempDir()}
	for device, reason := range map[string]int{"a": record.ReasonUnspecified, "b": record.ReasonKeyCompromise, "c": record.ReasonPrivilege} {
		p.leaf(device, 7)
		if _, err := p.service.Revoke(background, device, reason, "", record.Event{}); err != nil {
			t.Fatal(err)
		}
	}
	p.leaf("d", 7)
	if _, err := p.service.Suspend(background, "d", record.Event{}); err != nil {
		t.Fatal(err)
	}
	list := f.pem("crl.pem", "X509 CRL", p.get("/crl/operational/7.crl", 200))
	out := f.want([]string{
		"Version 2", "X509v3 Issuing Distribution Point: critical", "Full Name:", "URI:" + p.url + "/crl/operational/7.crl",
		"Only User Certificates", "X509v3 Authority Key Identifier", "X509v3 CRL Number",
		"Key Compromise", "Privilege Withdrawn", "Certificate Hold",
	}, "openssl", "crl", "-in", list, "-noout", "-text")
	if n := strings.Count(out, "X509v3 CRL Reason Code"); n != 3 {
		t.Errorf("%d reason codes, want 3: unspecified is left out (RFC 5280 §5.3.1)", n)
	}
	issuer := f.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw)
	f.want([]string{"verify OK"}, "openssl", "crl", "-in", list, "-noout", "-CAfile", issuer, "-verify")
	f.want([]string{"Verified"}, "certtool", "--verify-crl", "--load-ca-certificate", issuer, "--infile", list)
	f.want([]string{"Revoked certificates (4)", "Issuer: CN=Issuer"}, "certtool", "--crl-info", "--infile", list)
}

// TestZlintReadsTheLists: the rules are those for certificates (package ca).
func TestZlintReadsTheLists(t *testing.T) {
	p := newPKI(t)
	p.leaf("a", 7)
	p.leaf("b", 7)
	p.complete()
	if _, err := p.service.Suspend(background, "a", record.Event{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.service.Revoke(background, "b", record.ReasonKeyCompromise, "", record.Event{}); err != nil {
		t.Fatal(err)
	}
	rules, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.Community}})
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"shard": p.crl(7).Raw, "complete": p.complete().Raw, "delta": p.delta().Raw} {
		list, err := zcrypto.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		applied := 0
		for _, rule := range rules.RevocationListLints().Lints() {
			found := rule.Execute(list, rules.GetConfiguration())
			if found.Status > lint.Pass {
				t.Errorf("%s: zlint %s: %s %s", name, found.Status, rule.Name, found.Details)
			}
			if found.Status == lint.Pass {
				applied++
			}
		}
		if applied < 5 {
			t.Errorf("%s: %d rules applied", name, applied)
		}
	}
}

func TestStrangersAskOCSP(t *testing.T) {
	p := newPKI(t)
	f := files{p, t.TempDir()}
	good, bad, held := p.leaf("good", 0), p.leaf("bad", 0), p.leaf("held", 0)
	never := p.sign(&x509.Certificate{SerialNumber: newSerial(), NotBefore: p.clock.Now(), NotAfter: p.clock.Now().AddDate(0, 1, 0)}, p.issuer, newKey(p), p.key)
	for _, err := range []error{
		err2(p.service.Revoke(background, "bad", record.ReasonSuperseded, "", record.Event{})),
		err2(p.service.Suspend(background, "held", record.Event{})),
	} {
		p.must(err)
	}
	issuer := f.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw)
	root := f.pem("root.pem", "CERTIFICATE", p.root.Raw)
	chain := f.pem("chain.pem", "CERTIFICATE", p.issuer.Raw, p.root.Raw)
	for _, c := range []struct {
		name    string
		cert    *x509.Certificate
		openssl []string
		gnutls  string
	}{
		{"good", good, []string{": good"}, "Certificate Status: good"},
		{"revoked", bad, []string{": revoked", "Reason: superseded", "Revocation Time:"}, "Certificate Status: revoked"},
		{"held", held, []string{": revoked", "Reason: certificateHold"}, "Certificate Status: revoked"},
		{"never issued", never, []string{": unknown"}, "Certificate Status: unknown"},
	} {
		leaf := f.pem("leaf.pem", "CERTIFICATE", c.cert.Raw)
		for _, extra := range [][]string{{"-nonce"}, {"-no_nonce"}, {"-sha256", "-nonce"}, {"-sha256", "-no_nonce"}} {
			// The hash option must come before the certificate that it is for.
			args := append([]string{"ocsp"}, extra...)
			args = append(args, "-issuer", issuer, "-cert", leaf, "-url", p.url+"/ocsp", "-CAfile", root, "-verify_other", issuer)
			out := f.want(append(c.openssl, "Response verify OK"), "openssl", args...)
			if strings.Contains(out, "WARNING") {
				t.Errorf("%s %v: %s", c.name, extra, out)
			}
		}
		out, err := f.run("ocsptool", "--ask="+p.url+"/ocsp", "--nonce", "--load-cert", leaf, "--load-issuer", issuer, "--load-trust", chain)
		if !strings.Contains(out, c.gnutls) || !strings.Contains(out, "Verifying OCSP Response: Success") {
			t.Errorf("ocsptool, %s: %v\n%s", c.name, err, out)
		}
	}
	// Several at once (RFC 6960 §4.1.1): one signed answer about each, up to a bound.
	several := func(n int, extra ...string) string {
		args := append([]string{"ocsp"}, extra...)
		args = append(args, "-issuer", issuer, "-url", p.url+"/ocsp", "-CAfile", root, "-verify_other", issuer)
		for i := range n {
			args = append(args, "-serial", "0x"+[]*x509.Certificate{good, bad, held, never}[i%4].SerialNumber.Text(16))
		}
		out, _ := f.run("openssl", args...)
		return out
	}
	for _, extra := range [][]string{{"-nonce"}, {"-no_nonce"}, {"-sha256", "-nonce"}, {"-sha256", "-no_nonce"}} {
		out := several(ocsp.MaxCertificates, extra...)
		for status, want := range map[string]int{": good": 4, ": revoked": 8, "Reason: superseded": 4, "Reason: certificateHold": 4, ": unknown": 4, "Response verify OK": 1, "WARNING": 0} {
			if strings.Count(out, status) != want {
				t.Errorf("%v: %q stands there %d times, not %d:\n%s", extra, status, strings.Count(out, status), want, out)
			}
		}
	}
	for _, n := range []int{ocsp.MaxCertificates + 1, 100} {
		if out := several(n); !strings.Contains(out, "malformedrequest (1)") {
			t.Errorf("%d at once: %s", n, out)
		}
	}
	// A certificate of a CA that is not ours: unauthorized.
	stranger := newPKI(t)
	theirs := f.pem("theirs.pem", "CERTIFICATE", stranger.issuer.Raw)
	leaf := f.pem("leaf.pem", "CERTIFICATE", stranger.leaf("x", 0).Raw)
	if out, _ := f.run("openssl", "ocsp", "-issuer", theirs, "-cert", leaf, "-url", p.url+"/ocsp", "-CAfile", root); !strings.Contains(out, "unauthorized (6)") {
		t.Errorf("another issuer's certificate: %s", out)
	}
	// Nor is it answered beside one of ours: one signature speaks for one issuer.
	ours := "0x" + good.SerialNumber.Text(16)
	if out, _ := f.run("openssl", "ocsp", "-issuer", issuer, "-serial", ours, "-issuer", theirs, "-cert", leaf, "-url", p.url+"/ocsp", "-CAfile", root); !strings.Contains(out, "unauthorized (6)") {
		t.Errorf("ours and another issuer's certificate: %s", out)
	}
}
