package native

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/origin"
	"github.com/hallmark-pki/hallmark/wire"
)

// A thousand at once: never more are worked on than there are places, and each of the
// others gets a turn of its own, at the pace of those before.
func TestTurnstile(t *testing.T) {
	t.Parallel()
	const places, crowd = 4, 1000
	goOn, full := make(chan bool), make(chan bool)
	now := time.Now() // and stays it, or turns move up while the crowd asks
	h := &handler{Config: Config{Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)}, turnstile: newTurnstile(places)}
	h.turnstile.took = 2 * time.Second // two a second with four places
	var inside, most atomic.Int64
	work := h.throttled(func(w http.ResponseWriter, _ *http.Request, body []byte) {
		if n := inside.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer inside.Add(-1)
		full <- true
		<-goOn
		w.Header().Set("X", "y")
		w.WriteHeader(http.StatusTeapot)
		w.Write(body)
	})
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		work(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader("hello")))
		return w
	}
	var standing sync.WaitGroup
	for range places {
		standing.Go(func() {
			if w := ask(wire.PathRenew); w.Code != http.StatusTeapot || w.Body.String() != "hello" || w.Header().Get("X") != "y" {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
		<-full
	}
	var mu sync.Mutex
	turns := map[int]int{}
	var waiting sync.WaitGroup
	for range crowd {
		waiting.Go(func() {
			w := ask(wire.PathRenew)
			var p wire.Problem
			seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
			if w.Code != http.StatusServiceUnavailable || err != nil || json.Unmarshal(w.Body.Bytes(), &p) != nil || p.Code != wire.CodeTurn {
				t.Errorf("%d %s %v", w.Code, w.Body, err)
			}
			mu.Lock()
			defer mu.Unlock()
			turns[seconds]++
		})
	}
	waiting.Wait()
	// Two a second for a thousand are five hundred seconds, and no second is crowded.
	for second, n := range turns {
		if n > 3 || second < 1 || second > 502 {
			t.Errorf("%d are told to come in %d seconds", n, second)
		}
	}
	if len(turns) < 400 {
		t.Errorf("%d turns for %d", len(turns), crowd)
	}
	// Message two of an enrolment is not sent away.
	standing.Go(func() {
		if w := ask(wire.PathActivate); w.Code != http.StatusTeapot {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
	for range places {
		goOn <- true
	}
	<-full
	goOn <- true
	standing.Wait()
	if most.Load() > places {
		t.Errorf("%d were worked on at once", most.Load())
	}
	if h.turnstile.taken != 0 {
		t.Error("a place is lost")
	}
}

// A clock that is set does not send devices away for years, nor all at once for ever.
func TestTurnsAndClocks(t *testing.T) {
	t.Parallel()
	stile := newTurnstile(1)
	stile.took = time.Second
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	for i := range 5 {
		if got := stile.later(one, now); got != time.Duration(i+2)*time.Second {
			t.Errorf("turn %d: %v", i, got)
		}
	}
	if got := stile.later(one, now.AddDate(-5, 0, 0)); got != 7*time.Second {
		t.Errorf("set back: %v", got)
	}
	if got := stile.later(one, now.AddDate(5, 0, 0)); got != 2*time.Second {
		t.Errorf("set forward: %v", got)
	}
	for range 5000 {
		if got := stile.later(one, now.AddDate(5, 0, 0)); got > maxTurn+2*time.Second {
			t.Fatalf("%v", got)
		}
	}
	if got := stile.later(one, now.AddDate(5, 0, 0).Add(maxTurn/2)); got < maxTurn/2 || got > maxTurn/2+3*time.Second {
		t.Errorf("half of them later: %v", got)
	}
	// The first turn is given out when requests are quick, the next ones when they are not.
	stile = newTurnstile(1)
	stile.took = time.Nanosecond
	stile.later(one, now)
	stile.took = time.Second
	if first, second := stile.later(one, now), stile.later(one, now); second-first != time.Second {
		t.Errorf("two turns: %v and %v", first, second)
	}
}

var (
	one   = origin.Of("192.0.2.1:5000")
	other = origin.Of("192.0.2.2:5000")
)

// A flood from one host moves its own turns alone. Hosts of one device each have theirs one
// after the other; and one address with a whole factory behind it has every turn that nobody
// else wants.
func TestTurnsAreSharedByHosts(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	stile := newTurnstile(1)
	stile.took = time.Second
	for range 10_000 {
		stile.later(one, now)
	}
	if got := stile.later(other, now); got != 3*time.Second {
		t.Errorf("behind a flood: %v", got)
	}
	if got := stile.later(other, now); got != 5*time.Second {
		t.Errorf("its second turn: %v", got)
	}
	stile = newTurnstile(1)
	stile.took = time.Second
	for n := range 100 { // a fleet, and then the factory
		if got := stile.later(origin.Of(fmt.Sprintf("198.51.100.%d:1", n)), now); got != time.Duration(n+2)*time.Second {
			t.Errorf("device %d: %v", n, got)
		}
	}
	for n := range 100 {
		if got := stile.later(one, now); got != time.Duration(n+102)*time.Second {
			t.Errorf("device %d of the factory: %v", n, got)
		}
	}
	for n := range 4 * maxHosts {
		stile.later(origin.Of(fmt.Sprintf("[2001:db8:%x:%x::1]:1", n>>8, n&0xff)), now)
	}
	if len(stile.hosts) > maxHosts+1 {
		t.Errorf("%d hosts are remembered", len(stile.hosts))
	}
	stile.later(one, now.Add(time.Hour))
	if len(stile.hosts) != 1 {
		t.Errorf("%d hosts are remembered an hour later", len(stile.hosts))
	}
}

// Places go round the hosts as well: whoever is alone waits for one before him of the
// flood, not for all of it.
func TestPlacesAreSharedByHosts(t *testing.T) {
	t.Parallel()
	stile := newTurnstile(1)
	_, first := stile.ask(one)
	<-first
	flood := make([]chan struct{}, 5)
	for n := range flood {
		_, flood[n] = stile.ask(one)
	}
	h, lonely := stile.ask(other)
	_, second := stile.ask(other)
	given := func() (n int) {
		for _, place := range append(flood, lonely, second) {
			select {
			case <-place:
				n++
			default:
			}
		}
		return n
	}
	if given() != 0 {
		t.Fatal("more places than there are")
	}
	stile.leave(0)
	<-flood[0]
	stile.leave(0)
	<-lonely
	stile.leave(0)
	<-flood[1]
	if !stile.giveUp(h, second) || stile.giveUp(h, lonely) {
		t.Error("what waits cannot give up, or what has a place can")
	}
	for range 3 {
		stile.leave(0)
	}
	<-flood[4]
	stile.leave(0)
	if given() != 6 || stile.taken != 0 || len(stile.queue) != 0 {
		t.Errorf("%d given, %d taken, %d hosts wait", given(), stile.taken, len(stile.queue))
	}
}

// A place is given back by whoever panics, and not taken by whoever has hung up.
func TestTurnstileIsLeft(t *testing.T) {
	t.Parallel()
	h := &handler{Config: Config{Now: time.Now, Log: slog.New(slog.DiscardHandler)}, turnstile: newTurnstile(1)}
	func() {
		defer func() { recover() }()
		h.throttled(func(http.ResponseWriter, *http.Request, []byte) { panic("a mistake") })(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, wire.PathRenew, nil))
	}()
	ctx, cancel := context.WithCancel(t.Context())
	leave, _ := h.turnstile.enter(ctx, one, time.Hour, time.Now)
	if leave == nil {
		t.Fatal("the place is lost")
	}
	cancel()
	if second, _ := h.turnstile.enter(ctx, one, time.Hour, time.Now); second != nil {
		t.Fatal("two in one place")
	}
	leave()
}
