package status

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	second "golang.org/x/crypto/ocsp"

	"github.com/hallmark-pki/hallmark/ca/status/ocsp"
	"github.com/hallmark-pki/hallmark/ca/status/reply"
	"github.com/hallmark-pki/hallmark/record"
)

// request is an OCSP request as golang.org/x/crypto/ocsp writes it.
func (p *pki) request(serial *big.Int, hash crypto.Hash) []byte {
	p.Helper()
	der, err := second.CreateRequest(&x509.Certificate{SerialNumber: serial}, p.issuer, &second.RequestOptions{Hash: hash})
	p.must(err)
	return der
}

// severally is a request for several certificates.
func (p *pki) severally(serials ...*big.Int) []byte {
	p.Helper()
	var list []byte
	for _, serial := range serials {
		in := cryptobyte.String(p.request(serial, crypto.SHA256))
		var request, tbs, singles cryptobyte.String
		if !in.ReadASN1(&request, cbasn1.SEQUENCE) || !request.ReadASN1(&tbs, cbasn1.SEQUENCE) || !tbs.ReadASN1(&singles, cbasn1.SEQUENCE) {
			p.Fatal("request")
		}
		list = append(list, singles...)
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(list) })
		})
	})
	return b.BytesOrPanic()
}

// An answer about several says of each what the record says, at once: none of them is kept,
// and no cache may keep them.
func TestOCSPForSeveral(t *testing.T) {
	p := newPKI(t)
	one, other := newSerial(), newSerial()
	p.record("d", 0, one, func(*record.Certificate) {})
	p.record("e", 0, other, func(*record.Certificate) {})
	ask := func(want ...int) {
		t.Helper()
		der := p.severally(one, other)
		w := httptest.NewRecorder()
		p.service.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/ocsp/"+url.PathEscape(base64.StdEncoding.EncodeToString(der)), nil))
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Error(w.Header())
		}
		for n, serial := range []*big.Int{one, other} {
			for _, answer := range [][]byte{w.Body.Bytes(), p.post(der)} {
				r, err := second.ParseResponseForCert(answer, &x509.Certificate{SerialNumber: serial}, p.issuer)
				if err != nil || r.Status != want[n] || r.NextUpdate.Sub(r.ThisUpdate) != ocspLife {
					t.Errorf("certificate %d: %+v, %v", n+1, r, err)
				}
			}
		}
	}
	ask(second.Good, second.Good)
	p.must(err2(p.service.Suspend(background, "e", record.Event{})))
	ask(second.Good, second.Revoked)
	p.must(err2(p.service.Restore(background, "e", record.Event{})))
	p.must(err2(p.service.Suspend(background, "d", record.Event{})))
	ask(second.Revoked, second.Good)
}

func (p *pki) post(der []byte) []byte {
	p.Helper()
	w := httptest.NewRecorder()
	p.service.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/ocsp", bytes.NewReader(der)))
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/ocsp-response" || w.Header().Get("Cache-Control") != "no-store" {
		p.Fatal(w.Code, w.Header())
	}
	return w.Body.Bytes()
}

// ask checks an answer with golang.org/x/crypto/ocsp, signature and all.
func (p *pki) ask(serial *big.Int) *second.Response {
	p.Helper()
	r, err := second.ParseResponseForCert(p.post(p.request(serial, crypto.SHA256)), &x509.Certificate{SerialNumber: serial}, p.issuer)
	p.must(err)
	return r
}

// A kept answer does not keep the request: most of it may be a signature that nobody reads,
// and a stranger chooses how much.
func TestKeptAnswersDoNotKeepRequests(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	request := p.request(serial, crypto.SHA256)
	p.service.answerOCSP(background, request)
	clear(request)
	for id, a := range p.service.answers.young {
		if string(a.request.CertID) != id || a.request.NameHash != nil || a.request.KeyHash != nil {
			t.Error("the answer holds on to the bytes that the request came in")
		}
		return
	}
	t.Error("no answer was kept")
}

func TestOCSPFollowsTheRecordAtOnce(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	first := p.ask(serial)
	if first.Status != second.Good || !bytes.Equal(first.Certificate.Raw, p.responder.Raw) || first.ResponderKeyHash == nil {
		t.Fatalf("%+v", first)
	}
	if life := first.NextUpdate.Sub(first.ThisUpdate); life != ocspLife || !first.ProducedAt.Equal(first.ThisUpdate) {
		t.Errorf("life %v, produced at %v, this update %v", life, first.ProducedAt, first.ThisUpdate)
	}
	if again := p.ask(serial); !bytes.Equal(again.Raw, first.Raw) {
		t.Error("the same answer was signed twice")
	}
	p.must(err2(p.service.Suspend(background, "d", record.Event{})))
	if r := p.ask(serial); r.Status != second.Revoked || r.RevocationReason != record.ReasonHold || r.RevokedAt.Unix() != p.clock.Now().Unix() {
		t.Errorf("suspended: %d, reason %d", r.Status, r.RevocationReason)
	}
	p.must(err2(p.service.Restore(background, "d", record.Event{})))
	if r := p.ask(serial); r.Status != second.Good {
		t.Errorf("restored: %d", r.Status)
	}
	// The record changes behind our back, as on another replica.
	p.must(err2(p.store.Revoke(background, "d", p.clock.Now(), 0, "", record.Event{})))
	if r := p.ask(serial); r.Status != second.Revoked || r.RevocationReason != 0 {
		t.Errorf("revoked elsewhere: %d", r.Status)
	}
}

func TestKeptAnswersAge(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	first := p.ask(serial)
	for _, c := range []struct {
		step time.Duration
		same bool
	}{{resignAfter - time.Second, true}, {time.Second, false}, {-time.Hour, false}} {
		p.clock.Add(c.step)
		if r := p.ask(serial); r.ThisUpdate.Equal(first.ThisUpdate) != c.same {
			t.Errorf("after %v: kept %v, want %v", c.step, !c.same, c.same)
		} else {
			first = r
		}
	}
	p.clock.Add(p.responder.NotAfter.Add(-time.Minute).Sub(p.clock.Now()))
	if r := p.ask(serial); !r.NextUpdate.Equal(p.responder.NotAfter) {
		t.Errorf("next update %v is after the responder's end %v", r.NextUpdate, p.responder.NotAfter)
	}
}

// Who asks again and again never waits for a signature; for who does not, none is made.
func TestAnswersAreSignedAhead(t *testing.T) {
	p := newPKI(t)
	often, once := newSerial(), newSerial()
	for _, serial := range []*big.Int{often, once} {
		p.record("d", 0, serial, func(*record.Certificate) {})
		p.ask(serial)
	}
	p.ask(often)
	p.clock.Add(resignAfter - ahead + time.Second)
	p.must(p.service.signAhead(background))
	ready := p.clock.Now()
	p.clock.Add(ahead)
	if r := p.ask(often); !r.ThisUpdate.Equal(ready) {
		t.Errorf("of %v, and should be of %v", r.ThisUpdate, ready)
	}
	if r := p.ask(once); !r.ThisUpdate.Equal(p.clock.Now()) {
		t.Errorf("of %v: signed ahead for nobody", r.ThisUpdate)
	}
	p.clock.Add(resignAfter - ahead)
	p.must(err2(p.store.Revoke(background, "d", p.clock.Now(), 0, "", record.Event{})))
	p.must(p.service.signAhead(background))
	if r := p.ask(often); r.Status != second.Revoked {
		t.Error("status", r.Status)
	}
}

func TestOCSPUnknown(t *testing.T) {
	p := newPKI(t)
	intent, long := newSerial(), new(big.Int).Lsh(big.NewInt(1), 150)
	p.record("d", 0, intent, func(c *record.Certificate) { c.Issued, c.DER = time.Time{}, nil })
	for name, serial := range map[string]*big.Int{"never issued": newSerial(), "open intent": intent, "longer than ours": long, "zero": big.NewInt(0)} {
		if r := p.ask(serial); r.Status != second.Unknown || r.NextUpdate.Sub(r.ThisUpdate) != cacheFor {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if len(p.service.answers.young) != 0 {
		t.Error("answers about nothing are kept")
	}
	// A voided intent is revoked: it may have been signed.
	p.must(err2(p.store.Revoke(background, "d", p.clock.Now(), 0, "", record.Event{})))
	if r := p.ask(intent); r.Status != second.Revoked {
		t.Errorf("voided intent: %d", r.Status)
	}
}

func TestOCSPErrors(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	good := p.request(serial, crypto.SHA1)
	want := func(name string, request, answer []byte) {
		t.Helper()
		if got := p.post(request); !bytes.Equal(got, answer) {
			t.Errorf("%s: %x, want %x", name, got, answer)
		}
	}
	several := p.severally(serial, newSerial())
	want("empty", nil, ocsp.Malformed)
	want("garbage", []byte("garbage"), ocsp.Malformed)
	want("another CA", newPKI(t).request(serial, crypto.SHA1), ocsp.Unauthorized)
	want("a hash that is not ours", p.request(serial, crypto.SHA384), ocsp.Unauthorized)
	p.store.set(func(m *memory) { m.fail = record.ErrUnavailable })
	want("the record is away", good, ocsp.TryLater)
	want("the record is away, and several are asked for", several, ocsp.TryLater)
	p.store.set(func(m *memory) { m.fail = nil })

	right := p.service.responder
	for name, c := range map[string]struct {
		cert *x509.Certificate
		key  crypto.Signer
	}{
		"another key":        {p.responder, newKey(p)},
		"not for OCSP":       {p.leaf("x", 0), nil},
		"by another issuer":  {newPKI(t).responder, nil},
		"a P-384 key":        {p.responder, nil},
		"the issuer's own":   {p.issuer, p.key},
		"expired since long": {expired(p), p.ocspKey},
	} {
		p.service.responder = func(context.Context, string) (*x509.Certificate, crypto.Signer, error) {
			if c.key == nil {
				return c.cert, newKey(p), nil
			}
			return c.cert, c.key, nil
		}
		want(name, good, ocsp.InternalError)
	}
	p.service.responder = func(context.Context, string) (*x509.Certificate, crypto.Signer, error) {
		return nil, nil, context.DeadlineExceeded
	}
	want("no responder", good, ocsp.InternalError)
	want("no responder for several", several, ocsp.InternalError)
	p.service.responder = right
	if r := p.ask(serial); r.Status != second.Good {
		t.Error("not good again:", r.Status)
	}
}

func expired(p *pki) *x509.Certificate {
	return p.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "OCSP"}, SerialNumber: newSerial(),
		NotBefore: p.clock.Now().Add(-2 * time.Hour), NotAfter: p.clock.Now().Add(-time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}}, p.issuer, p.ocspKey, p.key)
}

// withNonce rebuilds a request with requestExtensions.
func withNonce(t testing.TB, der, nonce []byte) []byte {
	var request, tbs cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&request, cbasn1.SEQUENCE) || !request.ReadASN1(&tbs, cbasn1.SEQUENCE) {
		t.Fatal("request")
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(tbs)
			b.AddASN1(cbasn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier([]int{1, 3, 6, 1, 5, 5, 7, 48, 1, 2})
						b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(nonce) })
					})
				})
			})
		})
	})
	return b.BytesOrPanic()
}

func TestNonceIsLiveAndNotCached(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	plain := p.request(serial, crypto.SHA256)
	kept := p.post(plain)
	one := p.post(withNonce(t, plain, []byte("nonce-nonce-nonce-1")))
	two := p.post(withNonce(t, plain, []byte("nonce-nonce-nonce-2")))
	if !bytes.Contains(one, []byte("nonce-nonce-nonce-1")) || !bytes.Contains(two, []byte("nonce-nonce-nonce-2")) {
		t.Error("the nonce is not in the answer")
	}
	if !bytes.Equal(p.post(plain), kept) {
		t.Error("an answer with a nonce was kept for somebody else")
	}
	w := httptest.NewRecorder()
	path := "/ocsp/" + url.PathEscape(base64.StdEncoding.EncodeToString(withNonce(t, plain, []byte("0123456789abcdef"))))
	p.service.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Error("a GET with a nonce may be cached:", w.Header())
	}
}

func TestOCSPByGet(t *testing.T) {
	p := newPKI(t)
	server := httptest.NewServer(p.service.Handler()) // a real server: its own path handling counts
	defer server.Close()
	serial, text := newSerial(), ""
	for !strings.Contains(text, "//") || !strings.Contains(text, "+") || !strings.HasSuffix(text, "=") {
		serial = new(big.Int).Rsh(newSerial(), 8) // 15 octets make a length that is padded
		text = base64.StdEncoding.EncodeToString(p.request(serial, crypto.SHA256))
	}
	p.record("d", 0, serial, func(*record.Certificate) {})
	want := p.post(p.request(serial, crypto.SHA256))
	for name, path := range map[string]string{
		"as it is":         text,
		"escaped":          url.PathEscape(text),
		"all escaped":      strings.NewReplacer("/", "%2F", "+", "%2B", "=", "%3D").Replace(text),
		"lower case":       strings.NewReplacer("/", "%2f", "+", "%2b", "=", "%3d").Replace(text),
		"unpadded":         strings.TrimRight(text, "="),
		"a slash too many": "/" + text,
		"escaped twice":    url.PathEscape(strings.NewReplacer("/", "%2F", "+", "%2B", "=", "%3D").Replace(text)),
		"for URLs":         strings.NewReplacer("/", "_", "+", "-").Replace(text),
		"for URLs, bare":   strings.TrimRight(strings.NewReplacer("/", "_", "+", "-").Replace(text), "="),
		"in lines":         url.PathEscape(text[:64]) + "%0A" + url.PathEscape(text[64:]) + "%0D%0A",
		"plus as space":    strings.ReplaceAll(url.PathEscape(text), "+", "%20"),
	} {
		r, err := http.Get(server.URL + "/ocsp/" + path)
		p.must(err)
		got := new(bytes.Buffer)
		got.ReadFrom(r.Body)
		r.Body.Close()
		if r.StatusCode != http.StatusOK || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d %x", name, r.StatusCode, got)
		}
		if r.Header.Get("Cache-Control") != "public, no-transform, must-revalidate, max-age=60" || r.Header.Get("ETag") == "" ||
			r.Header.Get("Last-Modified") != p.clock.Now().UTC().Truncate(time.Second).Format(http.TimeFormat) || r.Header.Get("Expires") != "" {
			t.Errorf("%s: headers %v", name, r.Header)
		}
	}
	// HEAD says what GET would.
	r, err := http.Head(server.URL + "/ocsp/" + url.PathEscape(text))
	p.must(err)
	r.Body.Close()
	if r.StatusCode != http.StatusOK || r.ContentLength != int64(len(want)) || r.Header.Get("ETag") != reply.Tag(want) {
		t.Errorf("HEAD: %s, %v", r.Status, r.Header)
	}
	// The same by tag costs no bytes.
	again := httptest.NewRequest("GET", "/ocsp/"+url.PathEscape(text), nil)
	again.Header.Set("If-None-Match", reply.Tag(want))
	w := httptest.NewRecorder()
	p.service.Handler().ServeHTTP(w, again)
	if w.Code != http.StatusNotModified {
		t.Error("conditional:", w.Code)
	}
}

func TestHTTPBounds(t *testing.T) {
	p := newPKI(t)
	p.store.open(0)
	p.crl(0)
	server := httptest.NewServer(p.service.Handler())
	defer server.Close()
	for _, c := range []struct {
		method, path string
		body         int
		code         int
	}{
		{"GET", "/ocsp/" + strings.Repeat("M", 64<<10), 0, http.StatusRequestURITooLong},
		{"POST", "/ocsp", ocsp.MaxRequest + 1, http.StatusRequestEntityTooLarge},
		{"POST", "/ocsp", ocsp.MaxRequest, http.StatusOK},
		{"POST", "/ocsp/", 1, http.StatusOK},
		{"GET", "/ocsp", 0, http.StatusOK},
		{"GET", "/ocsp/%%", 0, http.StatusBadRequest},
		{"PUT", "/ocsp", 0, http.StatusMethodNotAllowed},
		{"POST", "/crl/operational/0.crl", 0, http.StatusMethodNotAllowed},
		{"DELETE", "/", 0, http.StatusMethodNotAllowed},
		{"GET", "/", 0, http.StatusNotFound},
		{"GET", "/ocspx", 0, http.StatusNotFound},
		{"GET", "/ca/nobody.crt", 0, http.StatusNotFound},
		{"GET", "/ca/", 0, http.StatusNotFound},
		{"GET", "/crl/operational/0.crl", 0, http.StatusOK},
		{"HEAD", "/crl/operational/0.crl", 0, http.StatusOK},
		{"HEAD", "/healthz", 0, http.StatusOK},
	} {
		u := server.URL + c.path
		request, err := http.NewRequest(c.method, server.URL, bytes.NewReader(make([]byte, c.body)))
		p.must(err)
		request.URL.Opaque = strings.TrimPrefix(u, "http:")
		r, err := http.DefaultTransport.RoundTrip(request)
		p.must(err)
		r.Body.Close()
		if r.StatusCode != c.code {
			t.Errorf("%s %.40s (%d bytes): %d, want %d", c.method, c.path, c.body, r.StatusCode, c.code)
		}
	}
}

func TestCertificatesAndHealth(t *testing.T) {
	p := newPKI(t)
	for name, c := range map[string]*x509.Certificate{"operational": p.issuer, "operational-root": p.root} {
		if !bytes.Equal(p.get("/ca/"+name+".crt", 200), c.Raw) {
			t.Error("another certificate:", name)
		}
	}
	if !bytes.Equal(p.get("/crl/operational-root/0.crl", 200), p.rootCRL) {
		t.Error("another root CRL")
	}
	p.get("/healthz", http.StatusOK)
	p.store.open(0)
	p.crl(0)
	p.clock.Add(LateAfter)
	p.get("/healthz", http.StatusOK)
	p.clock.Add(time.Second)
	p.get("/healthz", http.StatusServiceUnavailable)
	p.must(p.service.Publish(background, p.shard(0)))
	p.get("/healthz", http.StatusOK)
}

func TestKeptAnswersAreBounded(t *testing.T) {
	var k answers
	id := func(i int) string { return big.NewInt(int64(i)).String() }
	for i := range 3 * answersKept {
		k.put(id(i), answer{})
		if _, ok := k.get(id(0)); !ok {
			t.Fatal("what is asked for all the time was dropped at", i)
		}
	}
	if len(k.young)+len(k.old) > 2*answersKept {
		t.Error(len(k.young), len(k.old))
	}
	if _, ok := k.get(id(1)); ok {
		t.Error("what nobody asked for is still there")
	}
}

func TestNewRefuses(t *testing.T) {
	p := newPKI(t)
	other := newPKI(t)
	for name, change := range map[string]func(*Config){
		"https":                  func(c *Config) { c.BaseURL = "https://a" },
		"no host":                func(c *Config) { c.BaseURL = "http:///x" },
		"a query":                func(c *Config) { c.BaseURL = "http://a?b" },
		"no store":               func(c *Config) { c.Store = nil },
		"no clock":               func(c *Config) { c.Now = nil },
		"no issuer":              func(c *Config) { c.Issuers = nil },
		"no responder":           func(c *Config) { c.Responder = nil },
		"another key":            func(c *Config) { c.Issuers[0].Signer = other.key },
		"no key":                 func(c *Config) { c.Issuers[0].Signer = nil },
		"no cRLSign":             func(c *Config) { c.Issuers[0].Certificate, c.Issuers[0].Signer = p.responder, p.ocspKey },
		"no certificate":         func(c *Config) { c.Issuers[0].Certificate = nil },
		"a name with a slash":    func(c *Config) { c.Issuers[0].Name = "a/b" },
		"no name":                func(c *Config) { c.Issuers[0].Name = "" },
		"a name twice":           func(c *Config) { c.Roots[0].Name = "operational" },
		"another root's list":    func(c *Config) { c.Roots[0].CRL = other.rootCRL },
		"no list":                func(c *Config) { c.Roots[0].CRL = nil },
		"a list of the issuer's": func(c *Config) { c.Roots[0].Certificate = p.issuer },
	} {
		c := p.config()
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzOCSP throws paths and bodies at the handler: whatever comes, the answer is an
// OCSP response or an HTTP error, and a "good" only for the one good certificate.
func FuzzOCSP(f *testing.F) {
	p := newPKI(f)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	f.Add("/ocsp/"+base64.StdEncoding.EncodeToString(p.request(serial, crypto.SHA1)), []byte(nil))
	f.Add("/ocsp", p.request(serial, crypto.SHA256))
	f.Add("/ocsp", withNonce(f, p.request(serial, crypto.SHA256), []byte("1234567890123456")))
	f.Add("/crl/operational/0.crl", []byte(nil))
	handler := p.service.Handler()
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		method := "GET"
		if len(body) > 0 {
			method = "POST"
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(method, "/ocsp", bytes.NewReader(body))
		r.URL.Path = path
		handler.ServeHTTP(w, r)
		if w.Header().Get("Content-Type") != "application/ocsp-response" || w.Code != http.StatusOK || w.Body.Len() == 5 {
			return
		}
		answer, err := second.ParseResponse(w.Body.Bytes(), p.issuer)
		if err != nil {
			t.Fatalf("not a response: %v\n%x", err, w.Body)
		}
		if answer.Status == second.Good && answer.SerialNumber.Cmp(serial) != 0 {
			t.Fatalf("good: %v", answer.SerialNumber)
		}
	})
}

// An issuer that was lost keeps nobody waiting, and is named.
func TestIssuerThatIsNotHere(t *testing.T) {
	p := newPKI(t)
	lost := []record.Shard{{Issuer: "operational-2", Number: 1}, p.shard(0), {Issuer: "operational-2", Number: 2}, {Issuer: "manufacturing-2", Number: 1}}
	p.must(p.service.Publish(background, lost...))
	if sh, err := p.service.shard(p.shard(0)); err != nil || sh.newest.Load() == nil {
		t.Error("the list of the issuer that is here was not published")
	}
	got := p.service.Unsigned(lost)
	if len(got) != 2 || !strings.Contains(got["operational-2"], "not told") || !strings.Contains(got["manufacturing-2"], "nobody but this server") {
		t.Errorf("named: %q", got)
	}
	if got := p.service.Unsigned(lost[1:2]); got != nil {
		t.Errorf("an issuer that is here: %q", got)
	}
}
