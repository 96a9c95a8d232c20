package jobs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire/jobs"
)

var made = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// signer is a root that is an OCSP responder as well.
func signer(t testing.TB, usage x509.ExtKeyUsage) ([]*x509.Certificate, *ecdsa.PrivateKey, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: made.Add(-time.Hour), NotAfter: made.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c)
	return []*x509.Certificate{c}, key, roots
}

func sign(t testing.TB, r jobs.Report, usage x509.ExtKeyUsage) (text []byte, roots *x509.CertPool) {
	t.Helper()
	chain, key, roots := signer(t, usage)
	signed, err := jobs.SignReport(r, chain, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err = json.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	return text, roots
}

func TestReportRefused(t *testing.T) {
	r := jobs.Report{Installation: "Acme", Made: made, Job: jobs.Job{ID: "j1"}}
	good, roots := sign(t, r, x509.ExtKeyUsageOCSPSigning)
	if got, err := jobs.VerifyReport(good, roots); err != nil || got.Job.ID != "j1" {
		t.Fatalf("a good report: %+v, %v", got, err)
	}
	late := r
	late.Made = made.Add(2 * time.Hour)
	for what, c := range map[string]struct {
		report jobs.Report
		usage  x509.ExtKeyUsage
	}{"a client's certificate": {r, x509.ExtKeyUsageClientAuth}, "a server's": {r, x509.ExtKeyUsageServerAuth}, "one that has ended": {late, x509.ExtKeyUsageOCSPSigning}} {
		text, roots := sign(t, c.report, c.usage)
		if _, err := jobs.VerifyReport(text, roots); err == nil {
			t.Errorf("%s has signed, and it verifies", what)
		}
	}
	var in jobs.SignedReport
	if err := json.Unmarshal(good, &in); err != nil {
		t.Fatal(err)
	}
	header, _ := base64.RawURLEncoding.DecodeString(in.Protected)
	for _, change := range [][2]string{{"ES256", "none"}, {"ES256", "HS256"}, {"hallmark-job-report+json", "JWT"}, {`"x5c":["`, `"x5c":["AAAA","`}} {
		bad := in
		bad.Protected = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(header), change[0], change[1], 1)))
		text, _ := json.Marshal(bad)
		if _, err := jobs.VerifyReport(text, roots); err == nil {
			t.Errorf("%s for %s, and it verifies", change[1], change[0])
		}
	}
}

// A file that nobody signed costs no more than itself.
func TestUnsignedReportIsNotDecoded(t *testing.T) {
	good, roots := sign(t, jobs.Report{Installation: "Acme", Made: made}, x509.ExtKeyUsageOCSPSigning)
	var in jobs.SignedReport
	if err := json.Unmarshal(good, &in); err != nil {
		t.Fatal(err)
	}
	swell := func(head, item, tail string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(head + item + strings.Repeat(","+item, 1<<20) + tail))
	}
	payload, header := in, in
	payload.Payload = swell(`{"made":"2026-11-28T12:00:00Z","devices":[`, `{}`, `]}`)
	header.Protected = swell(`{"x5c":[`, `""`, `]}`)
	for _, in := range []jobs.SignedReport{payload, header} {
		text, _ := json.Marshal(in)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := jobs.VerifyReport(text, roots)
		runtime.ReadMemStats(&after)
		if spent := after.TotalAlloc - before.TotalAlloc; err == nil || spent > 10*uint64(len(text)) {
			t.Errorf("%v; %d MiB for %d", err, spent>>20, len(text)>>20)
		}
	}
}

// FuzzVerifyReport: whatever a file says, only what the installation signed verifies.
func FuzzVerifyReport(f *testing.F) {
	r := jobs.Report{Installation: "Acme", Made: made, Job: jobs.Job{ID: "j1", Outcomes: map[string]int64{"done": 1}}, DevicesSHA256: "00"}
	good, roots := sign(f, r, x509.ExtKeyUsageOCSPSigning)
	want, _ := json.Marshal(r)
	f.Add(good)
	f.Add([]byte(`{"payload":"e30","protected":"e30","signature":""}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := jobs.VerifyReport(data, roots)
		if err != nil {
			return
		}
		if text, _ := json.Marshal(got); string(text) != string(want) {
			t.Errorf("verified: %s", text)
		}
	})
}
