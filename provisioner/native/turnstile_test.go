package native

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// A thousand at once: never more are worked on than there are places, and each of the
// others gets a turn of its own, at the pace of those before.
func TestTurnstile(t *testing.T) {
	t.Parallel()
	const places, crowd = 4, 1000
	goOn, full := make(chan bool), make(chan bool)
	h := &handler{Config: Config{Now: time.Now, Log: slog.New(slog.DiscardHandler)}, turnstile: newTurnstile(places)}
	h.turnstile.took = 2 * time.Second // two a second with four places
	var inside, most atomic.Int64
	work := h.through(func(w http.ResponseWriter, _ *http.Request, body []byte) {
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
			if w.Code != http.StatusServiceUnavailable || err != nil || json.Unmarshal(w.Body.Bytes(), &p) != nil || p.Code != wire.CodeUnavailable {
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
	if len(h.turnstile.places) != 0 {
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
		if got := stile.later(now); got != time.Duration(i+2)*time.Second {
			t.Errorf("turn %d: %v", i, got)
		}
	}
	for _, set := range []time.Time{now.AddDate(-5, 0, 0), now.AddDate(5, 0, 0)} {
		if got := stile.later(set); got != 2*time.Second {
			t.Errorf("at %v: %v", set, got)
		}
	}
	for range 5000 {
		if got := stile.later(now); got > maxTurn+2*time.Second {
			t.Fatalf("%v", got)
		}
	}
}

// A place is given back by whoever panics, and not taken by whoever has hung up.
func TestTurnstileIsLeft(t *testing.T) {
	t.Parallel()
	h := &handler{Config: Config{Now: time.Now, Log: slog.New(slog.DiscardHandler)}, turnstile: newTurnstile(1)}
	func() {
		defer func() { recover() }()
		h.through(func(http.ResponseWriter, *http.Request, []byte) { panic("a mistake") })(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, wire.PathPoll, nil))
	}()
	ctx, cancel := context.WithCancel(t.Context())
	leave, _ := h.turnstile.enter(ctx, time.Hour, time.Now)
	if leave == nil {
		t.Fatal("the place is lost")
	}
	cancel()
	if second, _ := h.turnstile.enter(ctx, time.Hour, time.Now); second != nil {
		t.Fatal("two in one place")
	}
	leave()
}
