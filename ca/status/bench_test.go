package status

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// perCall is the least time of a few rounds of n calls: the machine is shared.
func perCall(n int, f func()) time.Duration {
	best := time.Duration(1<<63 - 1)
	for range 5 {
		start := time.Now()
		for range n {
			f()
		}
		best = min(best, time.Since(start)/time.Duration(n))
	}
	return best
}

// BenchmarkOCSPKept compares a kept answer by GET with a handler that has nothing to
// do but write the same bytes, both over a real connection.
func BenchmarkOCSPKept(b *testing.B) {
	p := newPKI(b)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	path := "/ocsp/" + url.PathEscape(base64.StdEncoding.EncodeToString(p.request(serial, crypto.SHA256)))
	body := p.get(path, http.StatusOK)
	fetch := func(handler http.Handler) func() {
		server := httptest.NewServer(handler)
		b.Cleanup(server.Close)
		buffer := make([]byte, 4096)
		return func() {
			r, err := http.Get(server.URL + path)
			if err != nil {
				b.Fatal(err)
			}
			for err == nil {
				_, err = r.Body.Read(buffer)
			}
			r.Body.Close()
		}
	}
	ours := fetch(p.service.Handler())
	plain := fetch(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/ocsp-response")
		w.Write(body)
	}))
	for b.Loop() {
		ours()
	}
	b.ReportMetric(float64(perCall(1000, ours))/float64(perCall(1000, plain)), "x-plain")
}

// BenchmarkOCSPSigned is an answer that is signed live, without HTTP.
func BenchmarkOCSPSigned(b *testing.B) {
	p := newPKI(b)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	request := withNonce(b, p.request(serial, crypto.SHA256), make([]byte, 32))
	digest := make([]byte, 32)
	for b.Loop() {
		p.service.answerOCSP(background, request)
	}
	ours := perCall(200, func() { p.service.answerOCSP(background, request) })
	bare := perCall(200, func() { p.ocspKey.Sign(rand.Reader, digest, crypto.SHA256) })
	b.ReportMetric(float64(ours)/float64(bare), "x-signature")
}

// BenchmarkFullShard compares the list of a full shard, every certificate revoked, with
// one call of crypto/x509.
func BenchmarkFullShard(b *testing.B) {
	p := newPKI(b)
	const n = 16_384
	revoked := make([]record.Revoked, n)
	entries := make([]x509.RevocationListEntry, n)
	for i := range n {
		serial := newSerial()
		revoked[i] = record.Revoked{Serial: fmt.Sprintf("%032x", serial), Since: p.clock.Now(), Reason: 1}
		entries[i] = x509.RevocationListEntry{SerialNumber: serial, RevocationTime: p.clock.Now(), ReasonCode: 1}
	}
	crl := record.CRL{Shard: p.shard(0), Sequence: 1, ThisUpdate: p.clock.Now(), NextUpdate: p.clock.Now().Add(crlLife)}
	issuer := p.service.issuers["operational"]
	ours := func() {
		if _, err := issuer.signCRL(crl, revoked, profile.CRLURL(p.url, crl.Issuer, crl.Number)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		ours()
	}
	bare := func() {
		_, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: crl.ThisUpdate,
			NextUpdate: crl.NextUpdate, RevokedCertificateEntries: entries}, p.issuer, p.key)
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(perCall(2, ours))/float64(perCall(2, bare)), "x-createrevocationlist")
}
