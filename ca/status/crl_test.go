package status

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

func TestRevocationIsVisibleBeforeItReturns(t *testing.T) {
	p := newPKI(t)
	const devices = 60
	var serials [devices]*big.Int
	for i := range serials {
		serials[i] = newSerial()
		p.record(fmt.Sprint("d", i), int64(i%3), serials[i], func(*record.Certificate) {})
	}
	var all sync.WaitGroup
	for i, serial := range serials {
		all.Go(func() {
			shards, err := p.service.Revoke(background, fmt.Sprint("d", i), record.ReasonKeyCompromise, "", record.Event{})
			if err != nil || len(shards) != 1 {
				t.Error(shards, err)
			}
			if reason, ok := lists(p.crl(int64(i%3)), serial); !ok || reason != record.ReasonKeyCompromise {
				t.Errorf("device %d: not on its list after Revoke returned", i)
			}
			if l := p.crl(int64((i + 1) % 3)); len(l.RevokedCertificateEntries) > 0 {
				if _, ok := lists(l, serial); ok {
					t.Errorf("device %d is on another shard's list", i)
				}
			}
		})
	}
	all.Wait()
	if shards, err := p.service.Revoke(background, "d0", 0, "", record.Event{}); len(shards) != 1 || err != nil {
		t.Error("a second revocation publishes:", shards, err)
	}
}

// atTheDoor counts who waits for a signing that is under way: a lock does not tell.
func atTheDoor() (waiting int) {
	stacks := make([]byte, 16<<20)
	for one := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(one, "[sync.Mutex.Lock") && strings.Contains(one, ".publish(") {
			waiting++
		}
	}
	return waiting
}

func TestManyChangesAreFewSignings(t *testing.T) {
	p := newPKI(t)
	p.store.open(0)
	p.must(p.service.Publish(background, p.shard(0)))
	sh, err := p.service.shard(p.shard(0))
	p.must(err)
	before := p.store.stored
	sh.mu.Lock() // a signing is under way
	const callers = 500
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if err := p.service.Publish(background, p.shard(0), p.shard(0)); err != nil {
				t.Error(err)
			}
		})
	}
	for deadline := time.Now().Add(time.Minute); atTheDoor() < callers; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d callers are at the door", atTheDoor())
		}
	}
	sh.mu.Unlock()
	all.Wait()
	if n := p.store.stored - before; n != 1 {
		t.Errorf("%d signings for %d changes at once", n, callers)
	}
}

func TestHoldAndRestore(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("d", 0, serial, func(*record.Certificate) {})
	if shards, err := p.service.Suspend(background, "d", record.Event{}); len(shards) != 1 || err != nil {
		t.Fatal(shards, err)
	}
	if reason, ok := lists(p.crl(0), serial); !ok || reason != record.ReasonHold {
		t.Fatal("not on hold:", reason, ok)
	}
	if shards, err := p.service.Restore(background, "d", record.Event{}); len(shards) != 1 || err != nil {
		t.Fatal(shards, err)
	}
	// removeFromCRL belongs to delta CRLs; in a full one the entry is gone (RFC 5280 §5.3.1).
	if _, ok := lists(p.crl(0), serial); ok {
		t.Error("still listed after Restore")
	}
}

func TestRevokePrincipal(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("", 0, serial, func(c *record.Certificate) { c.Principal = "anna" })
	if shards, err := p.service.RevokePrincipal(background, "anna", 0, record.Event{}); len(shards) != 1 || err != nil {
		t.Fatal(shards, err)
	}
	if _, ok := lists(p.crl(0), serial); !ok {
		t.Error("not listed")
	}
}

// TestEntriesAreNotYoungerThanTheirList: thisUpdate says what a list knows of (RFC 5280 §5.1.2.4),
// and some programs overlook an entry whose time has not come by their clock.
func TestEntriesAreNotYoungerThanTheirList(t *testing.T) {
	p := newPKI(t)
	p.record("d", 0, newSerial(), func(*record.Certificate) {})
	p.record("e", 0, newSerial(), func(c *record.Certificate) { c.Revoked = p.clock.Now().Add(-time.Hour) })
	p.complete()
	if _, err := p.service.Suspend(background, "d", record.Event{}); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*x509.RevocationList{"shard": p.crl(0), "complete": p.complete(), "delta": p.delta()} {
		for _, e := range l.RevokedCertificateEntries {
			if e.RevocationTime.After(l.ThisUpdate) {
				t.Errorf("%s: of %s, with an entry of %s", name, l.ThisUpdate, e.RevocationTime)
			}
			if age := l.ThisUpdate.Sub(e.RevocationTime); age != 0 && age.Round(time.Minute) != time.Hour-backdate {
				t.Errorf("%s: an entry of an hour ago is of %s before the list", name, age)
			}
		}
	}
}

func TestTenThousandEntries(t *testing.T) {
	p := newPKI(t)
	const n = 10_000
	for i := range n {
		p.record("d", 0, newSerial(), func(c *record.Certificate) {
			c.Revoked, c.Reason = p.clock.Now(), i%2
		})
	}
	p.must(p.service.Publish(background, p.shard(0)))
	list := p.crl(0)
	if len(list.RevokedCertificateEntries) != n {
		t.Fatalf("%d entries, want %d", len(list.RevokedCertificateEntries), n)
	}
	if size := len(list.Raw); size > n*50 {
		t.Errorf("%d bytes", size)
	}
	out := files{p, t.TempDir()}
	out.want([]string{"verify OK"}, "openssl", "crl", "-in", out.pem("crl.pem", "X509 CRL", list.Raw), "-noout",
		"-CAfile", out.pem("issuer.pem", "CERTIFICATE", p.issuer.Raw), "-verify")
}

// A full shard, every certificate revoked with a reason, stays under the smallest
// limit known among gateways, 1 MiB (design decision 13).
func TestAFullShardFits(t *testing.T) {
	p := newPKI(t)
	for range 16_384 {
		p.record("d", 0, newSerial(), func(c *record.Certificate) { c.Revoked, c.Reason = p.clock.Now(), 1 })
	}
	p.must(p.service.Publish(background, p.shard(0)))
	if size := len(p.get("/crl/operational/0.crl", http.StatusOK)); size > 1<<20 {
		t.Errorf("%d bytes", size)
	}
}

func TestEntriesOutliveTheirCertificates(t *testing.T) {
	p := newPKI(t)
	serial := newSerial()
	p.record("d", 0, serial, func(c *record.Certificate) { c.NotAfter = p.clock.Now().Add(time.Hour) })
	p.must(err2(p.service.Revoke(background, "d", 0, "", record.Event{})))
	for _, c := range []struct {
		after  time.Duration
		listed bool
	}{{0, true}, {2 * time.Hour, true}, {crlLife - 2*time.Hour, true}, {2 * time.Hour, false}} {
		p.clock.Add(c.after)
		p.must(p.service.Publish(background, p.shard(0)))
		if _, ok := lists(p.crl(0), serial); ok != c.listed {
			t.Errorf("%v later: listed %v, want %v", c.after, ok, c.listed)
		}
	}
}

func TestNumbersOnlyGrow(t *testing.T) {
	p := newPKI(t)
	p.store.open(0)
	last := big.NewInt(0)
	next := func(what string) {
		t.Helper()
		p.must(p.service.Publish(background, p.shard(0)))
		if n := p.crl(0).Number; n.Cmp(last) <= 0 {
			t.Fatalf("%s: number %v after %v", what, n, last)
		} else {
			last = n
		}
	}
	next("first")
	if ms := last.Int64(); ms != p.clock.Now().UnixMilli() {
		t.Errorf("first number %d is not the time in milliseconds", ms)
	}
	next("the same instant")
	p.clock.Add(-48 * time.Hour)
	next("the clock went back")
	p.service = p.newService()
	next("after a restart")
	p.clock.Add(96 * time.Hour)
	next("the clock is right again")
	// A restore from a backup: the record has forgotten lists that were handed out.
	p.store.set(func(m *memory) { clear(m.crls) })
	p.service = p.newService()
	p.clock.Add(time.Second)
	next("after a restore")
}

// Another process may publish too (a replica, or the one before a restart): its
// numbers are passed, and its lists are served a few seconds later.
func TestAnotherProcessPublishes(t *testing.T) {
	p := newPKI(t)
	one, two := p.newService(), p.newService()
	for i := range 6 {
		p.record(fmt.Sprint("d", i), 0, newSerial(), func(*record.Certificate) {})
		s := one
		if i%2 == 1 {
			s = two
		}
		p.must(err2(s.Revoke(background, fmt.Sprint("d", i), 0, "", record.Event{})))
	}
	p.clock.Add(askAgain + time.Second)
	for _, s := range []*Service{one, two} {
		p.service = s
		if n := len(p.crl(0).RevokedCertificateEntries); n != 6 {
			t.Errorf("%d entries, want 6", n)
		}
	}
}

func TestOnlyOpenShardsAreSigned(t *testing.T) {
	p := newPKI(t)
	p.store.open(3)
	if l := p.crl(3); len(l.RevokedCertificateEntries) != 0 || p.store.stored != 1 {
		t.Error("an open shard was not signed once on demand")
	}
	listed := p.store.listed
	for n := range 50 {
		p.get(fmt.Sprintf("/crl/operational/%d.crl", 100+n), http.StatusNotFound)
	}
	if p.store.listed != listed || len(p.service.shards) != 1 {
		t.Errorf("guessing asked the record %d times, and left %d shards in memory", p.store.listed-listed, len(p.service.shards))
	}
	p.store.open(4)
	p.clock.Add(time.Second)
	p.crl(4)
	for _, path := range []string{"operational/03.crl", "operational/-1.crl", "operational/+3.crl", "operational/3", "operational/3.crl/", "other/3.crl", "3.crl", "operational/operational/3.crl", "operational/99999999999999999999.crl", "operational-root/1.crl"} {
		p.get("/crl/"+path, http.StatusNotFound)
	}
}

func TestTheStoreIsAway(t *testing.T) {
	p := newPKI(t)
	p.store.open(1)
	c := p.leaf("d", 0)
	p.must(p.service.Publish(background, p.shard(0)))
	p.store.set(func(m *memory) { m.fail = record.ErrUnavailable })
	p.clock.Add(time.Hour)
	if l := p.crl(0); len(l.RevokedCertificateEntries) != 0 {
		t.Error("not the last good list")
	}
	p.get("/crl/operational/1.crl", http.StatusServiceUnavailable)
	p.get("/crl/operational/9.crl", http.StatusServiceUnavailable)
	if _, err := p.service.Revoke(background, "d", 0, "", record.Event{}); !errors.Is(err, record.ErrUnavailable) || errors.Is(err, ErrUnpublished) {
		t.Error("nothing was recorded, but:", err)
	}
	p.store.set(func(m *memory) { m.fail, m.failCRL = nil, record.ErrUnavailable })
	shards, err := p.service.Revoke(background, "d", 0, "", record.Event{})
	if len(shards) != 1 || !errors.Is(err, ErrUnpublished) || !errors.Is(err, record.ErrUnavailable) {
		t.Error("recorded and not published, but:", shards, err)
	}
	if _, ok := lists(p.crl(0), c.SerialNumber); ok {
		t.Error("listed on a list that could not be stored")
	}
	if _, err := p.service.Revoke(background, "d", 0, "", record.Event{}); !errors.Is(err, ErrUnpublished) {
		t.Error("revoked again while it cannot be published:", err)
	}
	p.store.set(func(m *memory) { m.failCRL = nil })
	p.must(err2(p.service.Revoke(background, "d", 0, "", record.Event{})))
	if _, ok := lists(p.crl(0), c.SerialNumber); !ok {
		t.Error("the second call says that it is published, and it is not")
	}
}

// What is recorded is published, also when the caller hung up in between.
func TestTheCallerHangsUp(t *testing.T) {
	p := newPKI(t)
	c := p.leaf("d", 0)
	ctx, cancel := context.WithCancel(background)
	cancel()
	p.must(err2(p.service.Revoke(ctx, "d", 0, "", record.Event{})))
	if _, ok := lists(p.crl(0), c.SerialNumber); !ok {
		t.Error("recorded and not published")
	}
}

// A key service that signs with another key than it showed must not replace a list.
func TestAGarbledSignatureIsNotPublished(t *testing.T) {
	p := newPKI(t)
	p.store.open(0)
	p.must(p.service.Publish(background, p.shard(0)))
	good := p.get("/crl/operational/0.crl", 200)
	p.service.issuers["operational"].Signer = newKey(p)
	if err := p.service.Publish(background, p.shard(0)); err == nil {
		t.Error("published with another key")
	}
	if !bytes.Equal(p.get("/crl/operational/0.crl", 200), good) {
		t.Error("the good list is gone")
	}
}

func TestConditionalGet(t *testing.T) {
	p := newPKI(t)
	p.store.open(0)
	p.must(p.service.Publish(background, p.shard(0)))
	ask := func(header, value string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/crl/operational/0.crl", nil)
		if header != "" {
			r.Header.Set(header, value)
		}
		w := httptest.NewRecorder()
		p.service.Handler().ServeHTTP(w, r)
		return w
	}
	first := ask("", "")
	tag, modified := first.Header().Get("ETag"), first.Header().Get("Last-Modified")
	if first.Header().Get("Content-Type") != "application/pkix-crl" || tag == "" || modified == "" ||
		first.Header().Get("Cache-Control") != "public, no-transform, must-revalidate, max-age=60" {
		t.Fatal(first.Header())
	}
	if c := ask("If-None-Match", tag).Code; c != http.StatusNotModified {
		t.Error("If-None-Match:", c)
	}
	if c := ask("If-Modified-Since", modified).Code; c != http.StatusNotModified {
		t.Error("If-Modified-Since:", c)
	}
	// Another list in the same second: dates cannot tell them apart, tags can.
	p.must(p.service.Publish(background, p.shard(0)))
	if w := ask("If-Modified-Since", modified); w.Code != http.StatusOK || w.Header().Get("Last-Modified") != "" {
		t.Error("a newer list of the same second was hidden by its date:", w.Code)
	}
	if w := ask("If-None-Match", tag); w.Code != http.StatusOK || w.Header().Get("ETag") == tag {
		t.Error("a newer list has the old tag:", w.Code)
	}
}

func TestRunSignsAtTheStartEveryHourAndAfterFailures(t *testing.T) {
	p := newPKI(t)
	c := p.leaf("d", 0)
	p.store.open(1)
	synctest.Test(t, func(t *testing.T) {
		config := p.config()
		config.Now = time.Now // the bubble's
		s, err := New(config)
		p.must(err)
		// The record and the list disagree, as after a crash between the two; and all within
		// the second that the list names.
		p.must(s.Publish(background, p.shard(0)))
		p.must(err2(p.store.Revoke(background, "d", time.Now(), 0, "", record.Event{})))
		s, err = New(config)
		p.must(err)
		ctx, cancel := context.WithCancel(background)
		go s.Run(ctx)
		stored := func() int { defer p.store.lock()(); return p.store.stored }
		synctest.Wait()
		if n := stored(); n != 4 {
			t.Errorf("%d lists after the start, want 1 + one for each shard and the next", n)
		}
		l, err := s.list(ctx, p.shard(0))
		p.must(err)
		if parsed, err := x509.ParseRevocationList(l.DER); err != nil || len(parsed.RevokedCertificateEntries) != 1 || parsed.RevokedCertificateEntries[0].SerialNumber.Cmp(c.SerialNumber) != 0 {
			t.Error("the crash was not made good:", err)
		}
		time.Sleep(30 * time.Minute)
		if n := stored(); n != 4 {
			t.Errorf("%d lists after half an hour, want no more", n)
		}
		time.Sleep(32 * time.Minute)
		if n := stored(); n != 7 {
			t.Errorf("%d lists after an hour, want all anew", n)
		}
		// A publication fails: it is tried again long before the hour, and the record
		// being away for a while neither stops Run nor floods it.
		p.store.set(func(m *memory) { m.failCRL = record.ErrUnavailable })
		if err := s.Publish(ctx, p.shard(0)); err == nil {
			t.Error("no error")
		}
		time.Sleep(5 * time.Minute)
		p.store.set(func(m *memory) { m.failCRL = nil })
		time.Sleep(time.Minute + time.Second)
		if n := stored(); n != 8 {
			t.Errorf("%d lists after the failure was over, want one more", n)
		}
		if age := s.Age(); age < time.Minute || age > time.Hour {
			t.Errorf("oldest list: %v", age)
		}
		cancel()
		synctest.Wait()
	})
}

func err2[A any](_ A, err error) error { return err }
