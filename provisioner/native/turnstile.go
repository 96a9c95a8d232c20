package native

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

const (
	// defaultPlaces is how many requests are worked on at once: enough that they share the
	// record's commits, and so few that each is answered soon, whatever stands in line.
	defaultPlaces = 64
	// patience is how long a request waits for a place before it is told when to come again.
	patience = 100 * time.Millisecond
	// firstTook is how long a request is thought to take before any was seen.
	firstTook = 10 * time.Millisecond
	// maxTurn bounds how far ahead turns are given out.
	maxTurn = 10 * time.Minute
)

// turnstile keeps a server that many devices ask at once from being late for all of them:
// so many requests are worked on, the others are given turns one after the other, as fast
// as the ones before them were answered, and are told at once.
type turnstile struct {
	places chan struct{}

	mu   sync.Mutex
	took time.Duration // how long a request keeps its place, on average
	turn time.Time     // until when turns are given out
}

func newTurnstile(places int) *turnstile {
	if places == 0 {
		places = defaultPlaces
	}
	return &turnstile{places: make(chan struct{}, places), took: firstTook}
}

// enter waits for a place, at most as long as patience. It gives what leaves the place
// again, or nil and after how long to come back.
func (t *turnstile) enter(ctx context.Context, patience time.Duration, now func() time.Time) (leave func(), again time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case t.places <- struct{}{}:
	case <-ctx.Done():
		return nil, time.Second
	case <-timer.C:
		return nil, t.later(now())
	}
	begun := now()
	return func() {
		t.mu.Lock()
		t.took += (max(now().Sub(begun), 0) - t.took) / 16
		t.mu.Unlock()
		<-t.places
	}, 0
}

// later gives out the next turn.
func (t *turnstile) later(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turn.Before(now) || t.turn.Sub(now) > maxTurn { // the clock may have been set
		t.turn = now
	}
	t.turn = t.turn.Add(t.took/time.Duration(cap(t.places)) + 1)
	if last := now.Add(maxTurn); t.turn.After(last) {
		t.turn = last // the last minute is crowded then; agents add a jitter of their own
	}
	// A whole second more, which is what Retry-After counts in (RFC 9110 §10.2.3).
	return t.turn.Sub(now).Truncate(time.Second) + time.Second
}

// through lets requests through the turnstile. Neither a device that sends slowly nor one
// that reads slowly keeps a place meanwhile. Message two of an enrolment waits in any case:
// half of the work is done.
func (h *handler) through(work func(w http.ResponseWriter, r *http.Request, body []byte)) http.HandlerFunc {
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
		leave, again := h.turnstile.enter(r.Context(), wait, h.Now)
		if leave == nil {
			h.fail(w, r, &wire.Problem{Status: http.StatusServiceUnavailable, Code: wire.CodeUnavailable, RetryAfter: again,
				Detail: "many devices ask at once, and this one has been given a turn", Hint: "nothing is wrong: the device asks again by itself"})
			return
		}
		out := &held{ResponseWriter: w}
		func() {
			defer leave()
			work(out, r, body)
		}()
		out.send()
	}
}

// usual is more than most messages have, in bytes.
const usual = 8 << 10

// read gives the whole body. What a device says its length is, it is believed as far as is usual.
func read(r *http.Request) ([]byte, error) {
	body := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), usual)+bytes.MinRead))
	_, err := body.ReadFrom(io.LimitReader(r.Body, wire.MaxMessage+1))
	if err == nil && body.Len() > wire.MaxMessage {
		err = wire.ErrTooLarge
	}
	return body.Bytes(), err
}

// held is an answer that is sent later.
type held struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (o *held) WriteHeader(status int)      { o.status = status }
func (o *held) Write(b []byte) (int, error) { return o.body.Write(b) }

func (o *held) send() {
	o.Header().Set("Content-Length", strconv.Itoa(o.body.Len()))
	if o.status != 0 {
		o.ResponseWriter.WriteHeader(o.status)
	}
	o.ResponseWriter.Write(o.body.Bytes()) // who has hung up meanwhile asks again
}
