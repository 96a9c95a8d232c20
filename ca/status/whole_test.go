package status

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/status/crl"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// complete and its delta, parsed.
func (p *pki) complete() *x509.RevocationList { p.Helper(); return p.over("/crl/operational.crl") }
func (p *pki) delta() *x509.RevocationList    { p.Helper(); return p.over("/crl/operational/delta.crl") }

func (p *pki) over(path string) *x509.RevocationList {
	p.Helper()
	l, err := x509.ParseRevocationList(p.get(path, http.StatusOK))
	p.must(err)
	p.must(l.CheckSignatureFrom(p.issuer))
	return l
}

// base is the number in deltaCRLIndicator.
func (p *pki) base(delta *x509.RevocationList) *big.Int {
	p.Helper()
	for _, e := range delta.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 27}) && e.Critical {
			n := new(big.Int)
			if _, err := asn1.Unmarshal(e.Value, &n); err != nil {
				p.Fatal(err)
			}
			return n
		}
	}
	p.Fatal("no critical deltaCRLIndicator")
	return nil
}

// OpenSSL, holding a complete list of some time ago and today's delta, is of the opinion
// of who holds today's complete list; and of its old opinion without the delta.
func TestOpenSSLUsesDeltas(t *testing.T) {
	p := newPKI(t)
	f := files{p, t.TempDir()}
	held, restored, turned, later := p.leaf("held", 1), p.leaf("restored", 1), p.leaf("turned", 2), p.leaf("later", 3)
	for _, device := range []string{"restored", "turned"} {
		p.must(err2(p.service.Suspend(background, device, record.Event{})))
	}
	since := p.clock.Now()
	old := p.complete()
	f.want([]string{"Verified"}, "certtool", "--verify-crl", "--load-ca-certificate", f.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw), "--infile", f.pem("old.pem", "X509 CRL", old.Raw))
	p.clock.Add(26 * time.Hour)
	p.must(err2(p.service.Suspend(background, "held", record.Event{})))
	p.must(err2(p.service.Restore(background, "restored", record.Event{})))
	p.must(err2(p.service.Revoke(background, "turned", record.ReasonKeyCompromise, "", record.Event{})))
	p.complete() // another base, a day later
	p.clock.Add(26 * time.Hour)
	p.must(err2(p.service.Revoke(background, "later", record.ReasonKeyCompromise, "", record.Event{})))
	delta, fresh := p.delta(), p.complete()

	if p.base(delta).Cmp(old.Number) != 0 {
		t.Errorf("the delta is to %v, and the list of two days ago is %v", p.base(delta), old.Number)
	}
	if reason, ok := lists(delta, restored.SerialNumber); !ok || reason != crl.ReasonRemoved {
		t.Error("a lifted hold:", reason, ok)
	}
	for _, e := range delta.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(turned.SerialNumber) == 0 && (!e.RevocationTime.Equal(since.UTC()) || e.ReasonCode != record.ReasonKeyCompromise) {
			t.Errorf("a hold that became a revocation: since %v, reason %d", e.RevocationTime, e.ReasonCode)
		}
	}
	if _, ok := lists(fresh, restored.SerialNumber); ok || len(fresh.RevokedCertificateEntries) != 3 {
		t.Error("the complete list:", fresh.RevokedCertificateEntries)
	}
	root, issuer := f.pem("root.pem", "CERTIFICATE", p.root.Raw), f.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw)
	both := f.pem("both.pem", "X509 CRL", old.Raw, delta.Raw)
	newest := f.pem("newest.pem", "X509 CRL", fresh.Raw)
	at := fmt.Sprint(p.clock.Now().Unix())
	for _, c := range []struct {
		name    string
		cert    *x509.Certificate
		with    []string
		revoked bool
	}{
		{"held, old list", held, []string{"-CRLfile", both}, false},
		{"held", held, []string{"-CRLfile", both, "-use_deltas"}, true},
		{"held", held, []string{"-CRLfile", newest}, true},
		{"restored, old list", restored, []string{"-CRLfile", both}, true},
		{"restored", restored, []string{"-CRLfile", both, "-use_deltas"}, false},
		{"restored", restored, []string{"-CRLfile", newest}, false},
		{"turned", turned, []string{"-CRLfile", both, "-use_deltas"}, true},
		{"later", later, []string{"-CRLfile", both, "-use_deltas"}, true},
	} {
		args := append([]string{"verify", "-attime", at, "-x509_strict", "-crl_check", "-extended_crl", "-CAfile", root, "-untrusted", issuer}, c.with...)
		out, err := f.run("openssl", append(args, f.pem("leaf.pem", "CERTIFICATE", c.cert.Raw))...)
		if (err != nil) != c.revoked || c.revoked != strings.Contains(out, "error 23") {
			t.Errorf("%s, %v: %v\n%s", c.name, c.with, err, out)
		}
	}
	f.want([]string{"X509v3 Delta CRL Indicator: critical", "Remove From CRL", "X509v3 CRL Number"}, "openssl", "crl", "-in", f.pem("delta.pem", "X509 CRL", delta.Raw), "-noout", "-text")
	f.want([]string{"X509v3 Freshest CRL:", "URI:" + p.url + "/crl/operational/delta.crl"}, "openssl", "crl", "-in", newest, "-noout", "-text")
}

// Whoever holds a complete list that has not ended can use the delta, whatever day it is of.
func TestDeltasReachBackAsFarAsListsLive(t *testing.T) {
	p := newPKI(t)
	p.leaf("d", 1)
	var fetched []*x509.RevocationList
	for range 20 {
		fetched = append(fetched, p.complete())
		p.clock.Add(13 * time.Hour)
		p.must(err2(p.service.Suspend(background, "d", record.Event{})))
		p.must(err2(p.service.Restore(background, "d", record.Event{})))
		delta := p.delta()
		usable := 0
		for _, l := range fetched {
			if p.clock.Now().After(l.NextUpdate) {
				continue
			}
			if p.base(delta).Cmp(l.Number) > 0 || delta.Number.Cmp(l.Number) <= 0 {
				t.Fatalf("delta %v to %v, and list %v of %v has not ended at %v", delta.Number, p.base(delta), l.Number, l.ThisUpdate, p.clock.Now())
			}
			usable++
		}
		if len(fetched) > 15 && usable == len(fetched) {
			t.Fatal("no list has ended")
		}
	}
	if n := len(p.service.issuers["operational"].whole.bases); n > 9 {
		t.Errorf("%d bases are kept", n)
	}
}

// A replica that nobody has asked for weeks goes on from where the others are: what its own
// deltas went back to has ended, and so has what it would go back to next.
func TestAReplicaThatSleptSignsTheWhole(t *testing.T) {
	p := newPKI(t)
	p.leaf("d", 1)
	slept := p.service
	var all []*x509.RevocationList
	day := func() {
		all = append(all, p.complete())
		p.clock.Add(25 * time.Hour)
	}
	day()
	day()
	p.service = p.newService()
	for range 25 {
		day()
	}
	p.service = slept
	last := all[len(all)-1].Number
	if l := p.complete(); l.Number.Cmp(last) <= 0 || p.clock.Now().After(l.NextUpdate) {
		t.Errorf("it serves list %v, which ends at %v, after %v", l.Number, l.NextUpdate, last)
	}
	base := p.base(p.delta())
	for _, l := range all {
		if p.clock.Now().Before(l.NextUpdate) && base.Cmp(l.Number) > 0 {
			t.Errorf("its delta is to %v, and list %v has not ended", base, l.Number)
		}
	}
}

func TestTooMuchForADelta(t *testing.T) {
	p := newPKI(t)
	p.leaf("d", 1)
	old := p.complete()
	for range maxDelta {
		p.record("many", 1, newSerial(), func(*record.Certificate) {})
	}
	p.must(err2(p.service.Revoke(background, "many", record.ReasonKeyCompromise, "", record.Event{})))
	p.clock.Add(time.Minute)
	delta := p.delta()
	if p.base(delta).Cmp(old.Number) <= 0 || len(delta.RevokedCertificateEntries) != 0 {
		t.Errorf("the delta is to %v and has %d entries", p.base(delta), len(delta.RevokedCertificateEntries))
	}
	if full := p.complete(); full.Number.Cmp(p.base(delta)) != 0 || len(full.RevokedCertificateEntries) != maxDelta {
		t.Errorf("complete list %v with %d entries", full.Number, len(full.RevokedCertificateEntries))
	}
}

// Both kinds share a sequence, which outlives a restart and a clock that goes back, and so
// does what deltas go back to.
func TestNumbersOfTheWhole(t *testing.T) {
	p := newPKI(t)
	store, err := sqlite.Create(background, filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{})
	p.must(err)
	defer store.Close()
	start := func() {
		config := p.config()
		config.Store = store
		p.service, err = New(config)
		p.must(err)
	}
	start()
	issued(p, store, "SN-1")
	first := p.complete()
	last := first.Number
	note := record.Event{Time: p.clock.Now(), Actor: "host", Verb: "x"}
	for _, step := range []func(){func() {}, func() { p.clock.Add(-48 * time.Hour) }, start, func() { p.clock.Add(96 * time.Hour) }, start} {
		step()
		p.must(err2(p.service.Suspend(background, "SN-1", note)))
		p.must(err2(p.service.Restore(background, "SN-1", note)))
		for _, get := range []func() *x509.RevocationList{p.delta, p.complete} {
			if n := get().Number; n.Cmp(last) <= 0 {
				t.Fatalf("number %v after %v", n, last)
			} else {
				last = n
			}
		}
		if b := p.base(p.delta()); b.Cmp(first.Number) != 0 {
			t.Errorf("the delta is to %v, not %v", b, first.Number)
		}
	}
}

// Nobody is served what was true before they asked, and a thousand who ask at once share
// a signing.
func TestTheWholeFollowsAtOnce(t *testing.T) {
	p := newPKI(t)
	c := p.leaf("d", 1)
	p.complete()
	for n := range 5 {
		p.must(err2(p.service.Suspend(background, "d", record.Event{})))
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				path := []string{"/crl/operational.crl", "/crl/operational.pem", "/crl/operational/delta.crl"}[i%3]
				w := httptest.NewRecorder()
				if p.service.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil)); w.Code != http.StatusOK {
					t.Error(w.Code, w.Body)
				}
			})
		}
		all.Wait()
		for _, l := range []*x509.RevocationList{p.complete(), p.delta()} {
			if _, ok := lists(l, c.SerialNumber); !ok {
				t.Error("not listed")
			}
		}
		p.must(err2(p.service.Restore(background, "d", record.Event{})))
		if _, ok := lists(p.complete(), c.SerialNumber); ok {
			t.Error("still listed")
		}
		// of each round the shard's twice, the complete one twice and a delta; and at first one and a base
		if stored := p.store.stored; stored != 2+5*(n+1) {
			t.Errorf("round %d: %d lists stored", n, stored)
		}
	}
	before := p.complete()
	p.clock.Add(resignAfter)
	if now := p.complete(); now.Number.Cmp(before.Number) <= 0 {
		t.Error("not signed anew after an hour")
	}
}

func TestTheRecordIsAwayFromTheWhole(t *testing.T) {
	p := newPKI(t)
	p.leaf("d", 1)
	p.store.set(func(m *memory) { m.fail = record.ErrUnavailable })
	for _, path := range []string{"/crl/operational.crl", "/crl/operational.pem", "/crl/operational/delta.crl"} {
		if body := p.get(path, http.StatusServiceUnavailable); bytes.Contains(body, []byte("BEGIN")) {
			t.Errorf("%s", body)
		}
	}
	p.store.set(func(m *memory) { m.fail = nil })
	list, delta := p.complete(), p.delta()
	p.must(err2(p.service.Suspend(background, "d", record.Event{})))
	for _, fail := range []func(*memory){func(m *memory) { m.fail = record.ErrUnavailable }, func(m *memory) { m.fail, m.failCRL = nil, record.ErrUnavailable }} {
		p.store.set(fail)
		if p.complete().Number.Cmp(list.Number) != 0 || p.delta().Number.Cmp(delta.Number) != 0 {
			t.Error("not the last good list")
		}
	}
	for _, path := range []string{"other.crl", "operational-root.crl", "other/delta.crl", "delta.crl", "operational/delta.crl/", "operational/-1.crl"} {
		p.get("/crl/"+path, http.StatusNotFound)
	}
}

// The shard that will be opened next has a list already; one that has ended has none any more.
func TestShardsComeAndGo(t *testing.T) {
	p := newPKI(t)
	p.store.open(1)
	if l := p.crl(2); len(l.RevokedCertificateEntries) != 0 {
		t.Error("entries on a list of no certificate")
	}
	p.get("/crl/operational/3.crl", http.StatusNotFound)
	p.must(p.service.refresh(background, p.clock.Now().Add(-resignAfter)))
	p.store.open(2)
	p.crl(1)
	p.store.set(func(m *memory) { m.shards = m.shards[1:] }) // its certificates have ended
	p.clock.Add(2 * LateAfter)
	p.must(p.service.refresh(background, p.clock.Now().Add(-resignAfter)))
	p.get("/crl/operational/1.crl", http.StatusNotFound)
	p.get("/healthz", http.StatusOK)
	p.crl(3)
}

func TestListsAreCompressedForThoseWhoTakeIt(t *testing.T) {
	p := newPKI(t)
	for range 300 {
		p.record("d", 1, newSerial(), func(*record.Certificate) {})
	}
	p.store.open(2)
	p.complete()
	p.must(err2(p.service.Revoke(background, "d", record.ReasonKeyCompromise, "", record.Event{})))
	ask := func(path, accept, tag string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept-Encoding", accept)
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		p.service.Handler().ServeHTTP(w, r)
		return w
	}
	for _, path := range []string{"/crl/operational/1.crl", "/crl/operational.crl", "/crl/operational/delta.crl", "/crl/operational.pem"} {
		plain := ask(path, "", "")
		for accept, packed := range map[string]bool{"gzip": true, "br, GZIP;q=0.5": true, "deflate,gzip ; q=1": true, "gzip;q=0": false, "gzip;q=0.000": false, "gzip;Q=0": false, "gzip\t; q=0": false, "gzip;level=9": false, "identity": false, "gzipped": false} {
			w := ask(path, accept, "")
			body := w.Body.Bytes()
			if got := w.Header().Get("Content-Encoding") == "gzip"; got != packed || w.Header().Get("Vary") != "Accept-Encoding" || w.Header().Get("Content-Length") != fmt.Sprint(len(body)) {
				t.Errorf("%s, %q: %v", path, accept, w.Header())
			}
			if packed {
				if len(body) > plain.Body.Len()/2 {
					t.Errorf("%s: %d of %d bytes", path, len(body), plain.Body.Len())
				}
				r, err := gzip.NewReader(bytes.NewReader(body))
				p.must(err)
				body, err = io.ReadAll(r)
				p.must(err)
			}
			if !bytes.Equal(body, plain.Body.Bytes()) {
				t.Errorf("%s, %q: other bytes", path, accept)
			}
			if same := w.Header().Get("ETag") == plain.Header().Get("ETag"); same == packed {
				t.Errorf("%s, %q: tag %s", path, accept, w.Header().Get("ETag"))
			}
			if again := ask(path, accept, w.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
				t.Errorf("%s, %q, the same tag: %d", path, accept, again.Code)
			}
		}
	}
	if w := ask("/crl/operational/2.crl", "gzip", ""); w.Header().Get("Content-Encoding") != "" {
		t.Error("an empty list was made longer by compressing it")
	}
}
