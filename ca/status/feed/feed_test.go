package feed

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// site has a feed over its record, served.
type site struct {
	testing.TB
	*premises.Site
	feed   *Feed
	server *httptest.Server
	roots  *x509.CertPool
	barred atomic.Bool // nobody may hear the feed
}

func newSite(t testing.TB) *site {
	s := &site{TB: t, Site: premises.OpenSite(t), roots: x509.NewCertPool()}
	s.roots.AddCert(s.Issuer.Root)
	var err error
	s.feed, err = New(t.Context(), Config{Store: s.Store, Lists: s.Status, Responder: s.Responder, Now: time.Now,
		Issuers: map[string]*x509.Certificate{s.Issuer.Name: s.Issuer.Certificate}})
	s.must(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.feed.Run(ctx); close(done) }()
	s.server = httptest.NewServer(s.feed.Handler(func(context.Context) bool { return !s.barred.Load() }))
	t.Cleanup(func() { stop(); <-done; s.server.Close() })
	return s
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// device has certificates for a month.
func (s *site) device(certificates int) (id string, serials []string) {
	s.Helper()
	return s.Device(certificates, 30*24*time.Hour)
}

// reader follows the stream.
type reader struct {
	*site
	body    io.Closer
	lines   *bufio.Scanner
	number  int64 // of the last event
	current int64 // up to which all is told
}

func (s *site) follow(after int64) *reader {
	s.Helper()
	request, err := http.NewRequest("GET", s.server.URL+wire.PathChanges+"?after=0", nil)
	s.must(err)
	request.Header.Set("Last-Event-ID", fmt.Sprint(after)) // which counts more
	r, err := http.DefaultClient.Do(request)
	s.must(err)
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != wire.StreamType {
		text, _ := io.ReadAll(r.Body)
		s.Fatalf("follow after %d: %s %s", after, r.Status, text)
	}
	s.Cleanup(func() { r.Body.Close() })
	return &reader{s, r.Body, bufio.NewScanner(r.Body), after, -1}
}

// next gives one event; an empty name at the end.
func (r *reader) next() (name string, data []byte) {
	r.Helper()
	for r.lines.Scan() {
		key, value, _ := strings.Cut(r.lines.Text(), ": ")
		switch key {
		case "event":
			name = value
		case "id":
			fmt.Sscan(value, &r.number)
		case "data":
			data = []byte(value)
		case "":
			if name != "" {
				return name, data
			}
		}
	}
	return "", nil
}

// until reads the changes to the event that says that all up to number is told.
func (r *reader) until(number int64) (all []wire.Change) {
	r.Helper()
	for r.current < number {
		switch name, data := r.next(); name {
		case wire.EventChange:
			c, err := wire.DecodeChange(data)
			r.must(err)
			all = append(all, c)
		case wire.EventCurrent:
			p, err := wire.DecodePosition(data)
			r.must(err)
			if p.Number != r.number {
				r.Errorf("position %d under the id %d", p.Number, r.number)
			}
			r.current = p.Number
		default:
			r.Fatalf("the stream ended, or has an event %q", name)
		}
	}
	return all
}

func (s *site) get(path string) []byte {
	s.Helper()
	r, err := http.Get(s.server.URL + wire.PathFeed + "/" + path)
	s.must(err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	s.must(err)
	if r.StatusCode != http.StatusOK {
		s.Fatalf("%s: %s %s", path, r.Status, body)
	}
	return body
}

// listed are the serial numbers on all CRLs as they are served.
func (s *site) listed() (serials []string) {
	shards, err := s.Store.Shards(s.Context(), "operational", time.Now())
	s.must(err)
	for _, shard := range shards {
		w := httptest.NewRecorder()
		s.Status.Handler().ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprintf("/crl/operational/%d.crl", shard.Number), nil))
		l, err := x509.ParseRevocationList(w.Body.Bytes())
		s.must(err)
		for _, e := range l.RevokedCertificateEntries {
			serials = append(serials, fmt.Sprintf("%032x", e.SerialNumber))
		}
	}
	slices.Sort(serials)
	return serials
}

func TestAChangeIsAnnouncedWhenItsListIsOut(t *testing.T) {
	s := newSite(t)
	id, serials := s.device(2)
	r := s.follow(0)
	r.until(0)
	for _, step := range []struct {
		status string
		do     func() error
	}{
		{wire.StatusHold, func() error { _, err := s.Status.Suspend(t.Context(), id, premises.Happened("x")); return err }},
		{wire.StatusGood, func() error { return s.restore(id) }},
		{wire.StatusRevoked, func() error { return s.revoke(id, record.ReasonKeyCompromise) }},
	} {
		begin := time.Now()
		s.must(step.do())
		told := r.until(s.Newest())
		if len(told) != 2 || told[0].Status != step.status || told[1].Status != step.status || told[0].Device != "default:"+id || told[0].Name != "acme-"+id {
			t.Fatalf("%s: %+v", step.status, told)
		}
		want := map[bool]int{true: 2, false: 0}[told[0].Denied()]
		if got := s.listed(); len(got) != want {
			t.Errorf("%s is told, and the lists have %d entries", step.status, len(got))
		}
		if took := time.Since(begin); took > wire.Heartbeat {
			t.Errorf("%s reached its follower after %v", step.status, took)
		}
	}
	if told := s.follow(0).until(s.Newest()); len(told) != 2 || told[0].Status != wire.StatusRevoked || !slices.Contains(serials, told[0].Serial) {
		t.Errorf("who comes later is told %+v", told)
	}
}

// A process that dies between recording and publishing must not leave the world
// uninformed, nor must a caller that forgets.
func TestWhatNobodyPublishedIsPublished(t *testing.T) {
	s := newSite(t)
	id, serials := s.device(1)
	r := s.follow(0)
	_, err := s.Store.Suspend(t.Context(), id, time.Now(), premises.Happened("x"))
	s.must(err)
	if told := r.until(s.Newest()); len(told) != 1 || told[0].Serial != serials[0] {
		t.Errorf("%+v", told)
	}
	if got := s.listed(); !slices.Equal(got, serials) {
		t.Errorf("on the lists: %v", got)
	}
}

// Whatever happens, and however often a follower loses its connection: it, the
// deny-list, the filter, the CRLs and the record are of one opinion.
func TestOneOpinion(t *testing.T) {
	s := newSite(t)
	seed := mathrand.Uint64()
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	var devices []string
	for range 12 {
		id, _ := s.device(1 + random.IntN(3))
		devices = append(devices, id)
	}
	known := map[string]bool{}
	r := s.follow(0)
	hear := func() {
		for _, c := range r.until(s.Newest()) {
			if known[c.Serial] = true; !c.Denied() {
				delete(known, c.Serial)
			}
		}
	}
	for range 60 {
		id := devices[random.IntN(len(devices))]
		var err error
		switch random.IntN(7) {
		case 0, 1, 2:
			_, err = s.Status.Suspend(t.Context(), id, premises.Happened("x"))
		case 3, 4:
			err = s.restore(id)
		case 5:
			err = s.revoke(id, record.ReasonSuperseded)
		case 6:
			r.body.Close()
			r = s.follow(r.number)
		}
		if err != nil && !errors.Is(err, record.ErrConflict) {
			t.Fatal(err)
		}
		if random.IntN(3) == 0 {
			hear()
		}
	}
	hear()
	s.compare(slices.Sorted(maps.Keys(known)))
}

func (s *site) compare(known []string) {
	s.Helper()
	want := map[string]bool{}
	all := map[string]bool{}
	_, err := s.Store.Standing(s.Context(), "operational", time.Now(), func(serial string, denied bool) {
		if all[serial] = denied; denied {
			want[serial] = true
		}
	})
	s.must(err)
	if !slices.Equal(known, slices.Sorted(maps.Keys(want))) {
		s.Errorf("the follower knows %v, the record %v", known, want)
	}
	if got := s.listed(); !slices.Equal(got, known) {
		s.Errorf("the CRLs list %v, not %v", got, known)
	}
	time.Sleep(denyListEvery)
	list, err := denylist.OpenList(s.get("operational"), s.roots, time.Now())
	s.must(err)
	filter, err := denylist.OpenFilter(s.get("operational/filter"), s.roots, time.Now())
	s.must(err)
	if list.Number != s.Newest() || filter.Number != s.Newest() || list.Len() != len(want) || int(filter.Issued) != len(all) {
		s.Errorf("list %d with %d, filter %d over %d; the record is at %d with %d of %d", list.Number, list.Len(), filter.Number, filter.Issued, s.Newest(), len(want), len(all))
	}
	for text, denied := range all {
		serial, err := denylist.ParseSerial(text)
		s.must(err)
		if _, got := list.Lookup(serial); got != denied {
			s.Errorf("the deny-list says %v of %s, the record %v", got, text, denied)
		}
		if got := filter.Lookup(serial, filter.Until); (got == denylist.Denied) != denied {
			s.Errorf("the filter says %v of %s, the record %v", got, text, denied)
		}
		if filter.Lookup(serial, time.Now()) != denylist.NotCovered {
			s.Error("the filter covers what may not have been on record when it was made")
		}
	}
}

// A relying party's clock may be behind: to it a certificate that has just ended here is good, and
// what was said of that must not be forgotten yet.
func TestEndedIsListedForSlowClocks(t *testing.T) {
	s := newSite(t)
	id, _ := s.Device(1, time.Minute)
	s.Suspend(id)
	for after, want := range map[time.Duration]int{2 * time.Minute: 1, slow + 2*time.Minute: 0} {
		now := time.Now().Add(after)
		data, _, err := s.feed.denyList(t.Context(), "operational", now)
		s.must(err)
		list, err := denylist.OpenList(data, s.roots, now)
		s.must(err)
		data, _, err = s.feed.filter(t.Context(), "operational", now)
		s.must(err)
		filter, err := denylist.OpenFilter(data, s.roots, now)
		s.must(err)
		if list.Len() != want || int(filter.Denied) != want {
			t.Errorf("%v after it was made: %d on the list, %d in the filter; want %d", after, list.Len(), filter.Denied, want)
		}
	}
}

func TestDocumentsAreFetchedAgainOnlyIfTheyChanged(t *testing.T) {
	s := newSite(t)
	id, _ := s.device(1)
	ask := func(tag string) *http.Response {
		request, _ := http.NewRequest("GET", s.server.URL+wire.PathFeed+"/operational", nil)
		request.Header.Set("If-None-Match", tag)
		r, err := http.DefaultClient.Do(request)
		s.must(err)
		r.Body.Close()
		return r
	}
	tag := ask("").Header.Get("ETag")
	if r := ask(tag); tag == "" || r.StatusCode != http.StatusNotModified {
		t.Error(r.Status)
	}
	s.Suspend(id)
	time.Sleep(denyListEvery)
	if r := ask(tag); r.StatusCode != http.StatusOK || r.Header.Get("ETag") == tag || r.Header.Get("Content-Type") != wire.DenyListType {
		t.Error(r.Status, r.Header)
	}
	if l, err := denylist.OpenList(s.get("operational"), s.roots, time.Now()); err != nil || l.Len() != 1 {
		t.Error(l, err)
	}
}

func TestRefusals(t *testing.T) {
	s := newSite(t)
	id, _ := s.device(1)
	s.Suspend(id)
	s.must(s.Store.SkipChanges(t.Context(), 1_000_000))
	s.Restore(id)
	s.follow(s.Newest() - 1).until(s.Newest()) // not from the last itself: that is told at once, announced or not
	for _, c := range []struct {
		path   string
		status int
		code   string
	}{
		{"/v1/feed/changes", 400, wire.CodeMalformed}, {"/v1/feed/changes?after=x", 400, wire.CodeMalformed}, {"/v1/feed/changes?after=-1", 400, wire.CodeMalformed},
		{"/v1/feed/changes?after=1", 410, wire.CodeFeedGone},       // far behind
		{"/v1/feed/changes?after=9000000", 410, wire.CodeFeedGone}, // of a past that was undone
		{"/v1/feed/", 404, wire.CodeNotFound}, {"/v1/feed/manufacturing", 404, wire.CodeNotFound}, {"/v1/feed/operational/other", 404, wire.CodeNotFound},
	} {
		r, err := http.Get(s.server.URL + c.path)
		s.must(err)
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != c.status || !bytes.Contains(text, []byte(`"code":"`+c.code+`"`)) {
			t.Errorf("%s: %s %s", c.path, r.Status, text)
		}
	}
	s.Store.Close()
	for _, path := range []string{"/v1/feed/operational", "/v1/feed/changes?after=9000000"} {
		if r, err := http.Get(s.server.URL + path); err != nil || r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
			t.Error(path, r.Status, err)
		}
	}
}

// A follower that reads one byte a second is dropped; the others do not notice.
func TestSlowFollowerIsDropped(t *testing.T) {
	s := newSite(t)
	slow, err := net.Dial("tcp", s.server.Listener.Addr().String())
	s.must(err)
	defer slow.Close()
	slow.(*net.TCPConn).SetReadBuffer(1)
	fmt.Fprintf(slow, "GET %s?after=0 HTTP/1.1\r\nHost: x\r\n\r\n", wire.PathChanges)
	go func() {
		for b := make([]byte, 1); ; time.Sleep(time.Second) {
			if _, err := slow.Read(b); err != nil {
				return
			}
		}
	}()
	quick := s.follow(0)
	quick.until(0)
	s.await("two followers", func() bool { return s.followers() == 2 })
	page := make([]record.Change, 1000)
	for n := 0; s.followers() == 2; n++ {
		if n == 300 {
			t.Fatal("300,000 changes wait for somebody who reads a byte a second")
		}
		for i := range page {
			page[i] = record.Change{Number: int64(n*1000 + i + 1), Issuer: "operational", Serial: strings.Repeat("4a", 16), Device: "default:x", NotAfter: time.Now()}
		}
		s.must(s.feed.announce(page))
		quick.until(page[len(page)-1].Number)
	}
	s.must(s.feed.announce([]record.Change{{Number: 1_000_000, Issuer: "operational", Serial: strings.Repeat("4a", 16), Device: "default:x", NotAfter: time.Now()}}))
	quick.until(1_000_000)
}

func (s *site) revoke(device string, reason int) error {
	shards, err := s.Store.Revoke(s.Context(), device, time.Now(), reason, "", premises.Happened("x"))
	_, err = s.Status.PublishChange(s.Context(), shards, err)
	return err
}

func (s *site) restore(device string) error {
	shards, err := s.Store.Restore(s.Context(), device, time.Now(), premises.Happened("x"))
	_, err = s.Status.PublishChange(s.Context(), shards, err)
	return err
}

// followers is how many streams are open.
func (s *site) followers() int {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return len(s.feed.followers)
}

// await polls until a condition holds.
func (s *site) await(what string, holds func() bool) {
	s.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("%s: not after a minute", what)
		}
	}
}

// Whoever is barred hears nothing of what happens from then on: he is not asked after
// while nothing happened to relays' certificates, and before anything that did is told.
func TestWhoIsBarredHearsNoMore(t *testing.T) {
	s := newSite(t)
	r := s.follow(0)
	r.until(0)
	ours := record.Change{Number: 1, Issuer: "operational", Serial: strings.Repeat("4a", 16), Device: "default:x", NotAfter: time.Now()}
	s.must(s.feed.announce([]record.Change{ours}))
	if told := r.until(1); len(told) != 1 {
		t.Fatalf("%+v", told)
	}
	s.barred.Store(true)
	relays, later := ours, ours
	relays.Number, relays.Issuer, later.Number = 2, "infrastructure", 3
	s.must(s.feed.announce([]record.Change{relays, later}))
	if name, data := r.next(); name != "" {
		t.Errorf("he is told %s %s", name, data)
	}
	s.await("nobody follows", func() bool { return s.followers() == 0 })
	answer, err := http.Get(s.server.URL + wire.PathChanges + "?after=0")
	s.must(err)
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); len(text) > 0 || err != nil {
		t.Errorf("who was barred while he came hears %q, %v", text, err)
	}
}

func TestFollowersAreBoundedAndLetGo(t *testing.T) {
	s := newSite(t)
	r := s.follow(0)
	r.until(0)
	s.feed.stop()
	if name, _ := r.next(); name != "" {
		t.Error("the stream goes on after the end")
	}
	if w, err := http.Get(s.server.URL + wire.PathChanges + "?after=0"); err != nil || w.StatusCode != http.StatusServiceUnavailable {
		t.Error(w.Status, err)
	}
}

// A document from a time that has not come is made anew, and so is one that is an hour old;
// between two there is a pause, however much changes.
func TestDocumentsAndTheClock(t *testing.T) {
	made := 0
	d := &document{build: func(context.Context, string, time.Time) ([]byte, int64, error) {
		made++
		return fmt.Append(nil, made), 7, nil
	}}
	now := time.Now()
	for i, step := range []struct {
		after time.Duration
		last  int64
		made  int
	}{{0, 7, 1}, {time.Minute, 7, 1}, {0, 8, 2}, {denyListEvery / 2, 9, 2}, {denyListEvery, 9, 3}, {-time.Hour, 7, 4}, {time.Second, 7, 4}, {resignAfter, 7, 5}} {
		now = now.Add(step.after)
		data, tag, err := d.get(t.Context(), step.last, now)
		if err != nil || made != step.made || string(data) != fmt.Sprint(made) || tag == "" {
			t.Errorf("step %d: made %d times, not %d; %q, %v", i, made, step.made, data, err)
		}
	}
}

// A model may have been allowed a name that relays take for an option of their commands. They hear
// what becomes of its devices all the same, and by this name: a command for another succeeds in vain.
func TestNameThatIsAnOption(t *testing.T) {
	for subject, want := range map[string]string{"CN=-x1": "-x1", "CN=x-1": "x-1"} {
		text, err := json.Marshal(change(record.Change{Number: 1, Issuer: "operational", Serial: strings.Repeat("4a", wire.SerialSize), Device: "lamp:1",
			Subject: subject, Revoked: time.Now(), Reason: record.ReasonKeyCompromise, NotAfter: time.Now()}))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := wire.DecodeChange(text); err != nil || c.Name != want {
			t.Errorf("%s: %v, %+v", subject, err, c)
		}
	}
}

// What no list will ever show keeps no other change waiting.
func TestIssuerThatIsNotHere(t *testing.T) {
	s := newSite(t)
	c := record.Change{Number: 1 << 40, Issuer: s.Issuer.Name, Shard: 1, NotAfter: time.Now().Add(time.Hour)}
	if !s.feed.unlisted(c) {
		t.Error("a change that is on no list yet is announced")
	}
	if c.Issuer += "-2"; s.feed.unlisted(c) {
		t.Error("a change of an issuer that was lost is waited for")
	}
}
