package native

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/internal/origin"
	"github.com/hallmark-pki/hallmark/wire"
)

const (
	// defaultPlaces is how many requests are served at once: enough to share the record's
	// commits, and few enough that each is answered soon, however many wait.
	defaultPlaces = 32
	// patience is how long a request waits for a place before it is told when to come back.
	patience = 100 * time.Millisecond
	// firstTook is how long a request is assumed to take before any has finished.
	firstTook = 10 * time.Millisecond
	// maxTurn bounds how far ahead turns are given out.
	maxTurn = 10 * time.Minute
	// maxHosts bounds the hosts that are told apart, to a few MiB. All others count as one.
	maxHosts = 1 << 16
	// sweep is how often hosts whose turns have passed are forgotten.
	sweep = 100 * time.Millisecond
)

// turnstile keeps a server from answering everybody late when many devices ask at once: a fixed
// number of requests is served, and the others are told immediately when to come back, at the
// rate at which requests are being answered.
//
// Places and turns are shared fairly among hosts, however many requests each makes: a flood from
// one leaves the others their share, and a factory behind one address gets everything while
// nobody else asks.
type turnstile struct {
	places int

	mu    sync.Mutex
	taken int
	took  time.Duration // average time that a request keeps its place
	hosts map[netip.Prefix]*host
	queue []*host // those with waiting requests; the first gets the next place
	// Each host has one turn in a round; round is the current one, as of at.
	round float64
	at    time.Time
	turn  time.Time // the last turn that was given out
	swept time.Time
}

// host is where requests come from.
type host struct {
	waiting []chan struct{} // each closed when it is given a place
	round   float64         // that of its last turn
}

func newTurnstile(places int) *turnstile {
	if places == 0 {
		places = defaultPlaces
	}
	return &turnstile{places: places, took: firstTook, hosts: map[netip.Prefix]*host{}}
}

// host finds a host, or the one that stands for all beyond maxHosts; mu is held.
func (t *turnstile) host(from netip.Prefix) *host {
	if t.hosts[from] == nil && len(t.hosts) >= maxHosts {
		from = netip.Prefix{}
	}
	if t.hosts[from] == nil {
		t.hosts[from] = &host{}
	}
	return t.hosts[from]
}

// enter waits for a place, at most for patience. It returns a function that leaves the place, or
// nil and after how long to come back.
func (t *turnstile) enter(ctx context.Context, from netip.Prefix, patience time.Duration, now func() time.Time) (leave func(), again time.Duration) {
	h, place := t.ask(from)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-place:
	case <-ctx.Done():
		if t.giveUp(h, place) {
			return nil, time.Second
		}
	case <-timer.C:
		if t.giveUp(h, place) {
			return nil, t.later(from, now())
		}
	}
	begun := now()
	return func() { t.leave(max(now().Sub(begun), 0)) }, 0
}

// ask takes a place, or joins its host's queue for one; place is closed when it is given.
func (t *turnstile) ask(from netip.Prefix) (h *host, place chan struct{}) {
	place = make(chan struct{})
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken < t.places {
		t.taken++
		close(place)
		return nil, place
	}
	h = t.host(from)
	if h.waiting = append(h.waiting, place); len(h.waiting) == 1 {
		t.queue = append(t.queue, h)
	}
	return h, place
}

// giveUp leaves the queue, unless the place has just been given.
func (t *turnstile) giveUp(h *host, place chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h == nil {
		return false
	}
	n := slices.Index(h.waiting, place)
	if n < 0 {
		return false
	}
	if h.waiting = slices.Delete(h.waiting, n, n+1); len(h.waiting) == 0 {
		t.queue = slices.DeleteFunc(t.queue, func(other *host) bool { return other == h })
	}
	return true
}

// leave hands the place on: hosts take turns, and each host's requests are served in order.
func (t *turnstile) leave(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took += (took - t.took) / 16
	if len(t.queue) == 0 {
		t.taken--
		return
	}
	h := t.queue[0]
	t.queue = t.queue[1:]
	close(h.waiting[0])
	if h.waiting = h.waiting[1:]; len(h.waiting) > 0 {
		t.queue = append(t.queue, h)
	}
}

// later gives out a host's next turn: when every host has had as many, but no later than serving
// all turns given out would take.
func (t *turnstile) later(from netip.Prefix, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	pace := t.took/time.Duration(t.places) + 1
	t.advance(now, pace)
	h := t.host(from)
	h.round = max(h.round, t.round) + 1
	t.turn = t.turn.Add(pace)
	rounds := float64(pace) * float64(len(t.hosts)) * (h.round - t.round)
	wait := time.Duration(min(rounds, float64(t.turn.Sub(now))))
	if wait >= maxTurn {
		wait = maxTurn // the end is crowded then; agents add jitter of their own
		h.round--
	}
	// One second more, since Retry-After counts whole seconds (RFC 9110 §10.2.3).
	return wait.Truncate(time.Second) + time.Second
}

// advance moves the rounds forward, and forgets hosts whose turns have passed. It tolerates a
// clock that is set back. mu is held.
func (t *turnstile) advance(now time.Time, pace time.Duration) {
	passed := now.Sub(t.at)
	if passed < 0 {
		t.turn = t.turn.Add(passed)
	} else if !t.at.IsZero() { // not from the year 1 on: one more must still count
		t.round += float64(passed) / float64(pace) / float64(max(len(t.hosts), 1))
	}
	t.at = now
	over := t.turn.Before(now)
	if last := now.Add(maxTurn); over {
		t.turn = now
	} else if t.turn.After(last) {
		t.turn = last
	}
	if over || now.Sub(t.swept).Abs() >= sweep {
		t.swept = now
		maps.DeleteFunc(t.hosts, func(_ netip.Prefix, h *host) bool { return len(h.waiting) == 0 && (over || h.round <= t.round) })
	}
}

// throttled passes requests through the turnstile. Slow senders and slow readers hold no place
// meanwhile. Message two of an enrolment is never sent away: half of the work is done.
func (h *handler) throttled(work func(w http.ResponseWriter, r *http.Request, body []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := read(r)
		if err != nil {
			h.fail(w, r, malformed(err))
			return
		}
		wait := patience
		if r.URL.Path == wire.PathActivate {
			wait = time.Hour // the listener's time limit ends it sooner
		}
		leave, again := h.turnstile.enter(r.Context(), origin.Of(r.RemoteAddr), wait, h.Now)
		if leave == nil {
			h.fail(w, r, &wire.Problem{Status: http.StatusServiceUnavailable, Code: wire.CodeTurn, RetryAfter: again,
				Detail: "many devices ask at once, and this one has been given a turn", Hint: "nothing is wrong: the device asks again by itself"})
			return
		}
		out := &bufferedAnswer{ResponseWriter: w}
		func() {
			defer leave()
			work(out, r, body)
		}()
		out.send()
	}
}

// usualSize is more than the size of most messages, in bytes.
const usualSize = 8 << 10

// read returns the whole body. The declared length is trusted for allocation only up to usualSize.
func read(r *http.Request) ([]byte, error) {
	body := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), usualSize)+bytes.MinRead))
	_, err := body.ReadFrom(io.LimitReader(r.Body, wire.MaxMessage+1))
	if err == nil && body.Len() > wire.MaxMessage {
		err = wire.ErrTooLarge
	}
	return body.Bytes(), err
}

// bufferedAnswer is an answer that is sent later.
type bufferedAnswer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (o *bufferedAnswer) WriteHeader(status int)      { o.status = status }
func (o *bufferedAnswer) Write(b []byte) (int, error) { return o.body.Write(b) }

func (o *bufferedAnswer) send() {
	o.Header().Set("Content-Length", strconv.Itoa(o.body.Len()))
	if o.status != 0 {
		o.ResponseWriter.WriteHeader(o.status)
	}
	o.ResponseWriter.Write(o.body.Bytes()) // a client that has hung up asks again
}
