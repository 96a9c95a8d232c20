package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/internal/sdnotify"
	"github.com/hallmark-pki/hallmark/relay/fetch"
	"github.com/hallmark-pki/hallmark/relay/stream"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

const change = `{"number":7,"issuer":"operational","serial":"40000000000000000000000000000001","status":"hold","reason":"certificate-hold","since":"2026-11-01T00:00:00Z","expires":"2026-12-01T00:00:00Z"}`

// hostile is a server whose stream is what say writes; nothing else answers.
func hostile(say func(w io.Writer)) *Relay {
	return &Relay{Config: Config{Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Send: func(ctx context.Context, _, _ string, _ http.Header, _ io.Reader) (*http.Response, error) {
			r, w := io.Pipe()
			context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
			go func() { say(w); w.Close() }()
			return &http.Response{StatusCode: http.StatusOK, Body: r}, nil
		}}}
}

// Whoever sends a byte a second, or nothing, is left after three heartbeats; whoever sends
// lines without end, at once.
func TestHostileStreams(t *testing.T) {
	for _, c := range []struct {
		name string
		say  func(w io.Writer)
		says string
		in   time.Duration
	}{
		{"silent", func(w io.Writer) { io.WriteString(w, ":\n"); time.Sleep(time.Hour) }, "nothing was heard", 3 * wire.Heartbeat},
		{"silent from the start", func(w io.Writer) { time.Sleep(time.Hour) }, "nothing was heard", fetch.Patience},
		{"a byte a second", func(w io.Writer) {
			for range 3600 {
				io.WriteString(w, "x")
				time.Sleep(time.Second)
			}
		}, "nothing was heard", fetch.Patience},
		{"a line without end", func(w io.Writer) {
			for {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 4096)); err != nil {
					return
				}
			}
		}, wire.ErrTooLarge.Error(), 0},
		{"an event without end", func(w io.Writer) {
			for {
				if _, err := io.WriteString(w, "data: x\n"); err != nil {
					return
				}
			}
		}, wire.ErrTooLarge.Error(), 0},
		{"ends at once", func(io.Writer) {}, "the feed ends as soon as it begins", 0},
		{"a change of nobody's", func(w io.Writer) { io.WriteString(w, "event: change\ndata: {\"number\":1,\"issuer\":\"..\"}\n\n") }, "not an issuer's name", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				began := time.Now()
				err := hostile(c.say).follow(ctx, 0, make(chan stream.Event, 64))
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took != c.in {
					t.Errorf("after %v, not %v", took, c.in)
				}
				time.Sleep(2 * time.Hour) // the server ends as well
			})
		})
	}
}

// Whoever reads the log is told that the server is silent, and not by what the attempt was broken off.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Relay{Config: Config{Send: func(ctx context.Context, _, _ string, _ http.Header, _ io.Reader) (*http.Response, error) {
			<-ctx.Done()
			return nil, client.ErrInterrupted
		}}}
		if err := r.read(t.Context(), 0, nil); err == nil || !strings.Contains(err.Error(), "nothing was heard") {
			t.Errorf("%v", err)
		}
	})
}

// A list that keeps coming is not waited for when those that stand have ended.
func TestListsEndMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, began := hostile(func(w io.Writer) {
			for {
				if _, err := w.Write(make([]byte, 100_000)); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}), time.Now()
		r.state.Until = began.Add(10 * time.Minute)
		if _, _, err := r.fetch(t.Context(), "/", document{}, denylist.MaxDocument); err == nil || !strings.Contains(err.Error(), errEnded.Error()) || time.Since(began) != 10*time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		time.Sleep(time.Hour) // the server ends as well
	})
}

// Changes that never come to an end are not collected without end either.
func TestChangesWithoutEnd(t *testing.T) {
	r := &Relay{Config: Config{Log: slog.New(slog.DiscardHandler), Now: time.Now}, sources: map[string]*source{"operational": newSource()},
		events: make(chan stream.Event, 64), failed: make(chan error, 1)}
	c, err := wire.DecodeChange([]byte(change))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			select {
			case r.events <- stream.Event{Number: 7, Change: &c}:
			case <-ctx.Done():
			}
		}
	}()
	r.queued = append(r.queued, stream.Event{Number: 7, Change: &c})
	if err := r.take(ctx); err == nil || !strings.Contains(err.Error(), "changes without end") {
		t.Errorf("%v", err)
	}
	if len(r.pending) > 4*maxTogether {
		t.Errorf("%d changes were kept", len(r.pending))
	}
}

// Nor do they keep the relay from asking for lists, however fast or slowly they come, nor do mere
// positions.
func TestStreamsWithoutEnd(t *testing.T) {
	c, err := wire.DecodeChange([]byte(change))
	if err != nil {
		t.Fatal(err)
	}
	waiting := func(n int) *Relay {
		r := &Relay{Config: Config{Log: slog.New(slog.DiscardHandler), Now: time.Now}, sources: map[string]*source{"operational": newSource()},
			events: make(chan stream.Event, n), failed: make(chan error, 1)}
		return r
	}
	const flood = 8 * maxTogether
	r := waiting(flood)
	for range flood {
		r.events <- stream.Event{Number: 7, Change: &c}
	}
	if err := r.take(t.Context()); err == nil || len(r.pending) > 4*maxTogether || len(r.events) == 0 {
		t.Errorf("%v; %d changes were kept", err, len(r.pending))
	}
	r = waiting(flood)
	for n := range int64(flood) {
		r.events <- stream.Event{Number: n}
	}
	if err := r.take(t.Context()); err != nil || len(r.events) == 0 || r.seen == 0 {
		t.Errorf("%v; all positions were waited for", err)
	}
	synctest.Test(t, func(t *testing.T) {
		r, began := waiting(0), time.Now()
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			for ctx.Err() == nil {
				select {
				case r.events <- stream.Event{Number: 7, Change: &c}:
				case <-ctx.Done():
				}
				time.Sleep(fetch.Patience / 2)
			}
		}()
		time.AfterFunc(24*time.Hour, stop)
		if err := r.take(ctx); err == nil || time.Since(began) > 2*fetch.Patience {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		stop()
		time.Sleep(fetch.Patience) // the server ends as well
	})
}

// Changes that keep coming are not waited for when the lists that stand have ended.
func TestListsEndDuringChanges(t *testing.T) {
	c, err := wire.DecodeChange([]byte(change))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := &Relay{Config: Config{Log: slog.New(slog.DiscardHandler), Now: time.Now}, sources: map[string]*source{"operational": newSource()},
			events: make(chan stream.Event), failed: make(chan error, 1)}
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		r.state.Until = began.Add(2 * time.Minute)
		go func() {
			for ctx.Err() == nil {
				select {
				case r.events <- stream.Event{Number: 7, Change: &c}:
				case <-ctx.Done():
				}
				time.Sleep(slowestChange / 2)
			}
		}()
		if err := r.take(ctx); err == nil || time.Since(began) > 2*time.Minute+time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		stop()
		time.Sleep(time.Second) // the server ends as well
	})
}

// All that the feed reaches back to comes in one piece over 1 Mbit/s.
func TestLongStream(t *testing.T) {
	c, err := wire.DecodeChange([]byte(change))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := &Relay{Config: Config{Log: slog.New(slog.DiscardHandler), Now: time.Now}, sources: map[string]*source{"operational": newSource()},
			events: make(chan stream.Event), failed: make(chan error, 1)}
		go func() {
			for range 49_152 {
				r.events <- stream.Event{Number: 7, Change: &c}
				time.Sleep(400 * time.Second / 125_000)
			}
			r.events <- stream.Event{Number: 7}
		}()
		if err := r.take(t.Context()); err != nil || len(r.pending) != 49_152 {
			t.Errorf("%d changes, %v", len(r.pending), err)
		}
	})
}

// What only the stream says is not held without end.
func TestOnlyTheStreamSaysSo(t *testing.T) {
	c, err := wire.DecodeChange([]byte(change))
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{sources: map[string]*source{"operational": newSource()}, unnamed: map[string]bool{}, fetched: time.Now()}
	s := r.sources["operational"]
	s.told = maxPending
	r.note(stream.Event{Number: 7, Change: &c})
	if !r.fetched.IsZero() || len(s.denied) != 1 {
		t.Error("no signed list is asked for")
	}
	r.note(stream.Event{Number: 7, Change: &c})
	if s.told != maxPending+1 {
		t.Error("the same is counted twice")
	}
	for n := range 1000 {
		c := c
		c.Issuer = fmt.Sprint("operational-", n)
		r.note(stream.Event{Number: 7, Change: &c})
	}
	if len(r.unnamed) > wire.MaxFollowed {
		t.Errorf("%d names of strangers are kept", len(r.unnamed))
	}
}

// The service manager hears that the files are there, and what is wrong (sd_notify(3)).
func TestNotify(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	heard := func() string {
		manager.SetReadDeadline(time.Now().Add(time.Minute))
		var b [4096]byte
		n, err := manager.Read(b[:])
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	s := newSite(t)
	p := s.post()
	p.Systemd = sdnotify.New()
	file := p.file(wire.FormatSerials)
	s.standBetween(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		http.Error(w, "away", http.StatusBadGateway)
	})
	stop := p.run()
	if text := heard(); !strings.HasPrefix(text, "STATUS=the server answers 502") {
		t.Errorf("ready, or something else, before there is a file: %q", text)
	}
	s.standBetween(nil)
	text := heard()
	for strings.HasPrefix(text, "STATUS=") && text != "STATUS=\nWATCHDOG=1" { // of a connection that was just cut
		text = heard()
	}
	if text != "STATUS=\nWATCHDOG=1" {
		t.Errorf("%q", text)
	}
	if text := heard(); text != "READY=1" {
		t.Errorf("%q", text)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	stop()
	// What is there is good, also without Hallmark.
	s.standBetween(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		http.Error(w, "away", http.StatusBadGateway)
	})
	p.run()
	if text := heard(); text != "READY=1" {
		t.Errorf("%q", text)
	}
}

func TestDamagedState(t *testing.T) {
	p := newSite(t).post()
	p.file(wire.FormatSerials)
	write(t, filepath.Join(p.dir, stateFile), "{")
	if _, _, err := New(p.Config); err == nil || !strings.Contains(err.Error(), "damaged: remove it") {
		t.Errorf("%v", err)
	}
	p.must(os.Remove(filepath.Join(p.dir, stateFile)))
	p.must(os.Mkdir(filepath.Join(p.dir, stateFile), 0o700))
	if _, err := ReadStatus(p.dir, time.Now()); err == nil || strings.Contains(err.Error(), "damaged") {
		t.Errorf("what cannot be read: %v", err)
	}
	p.must(os.Remove(filepath.Join(p.dir, stateFile)))
	write(t, filepath.Join(p.dir, stateFile), `{"number":0,"made":null}`)
	p.run()
	p.enforced()
	if _, err := ReadStatus(filepath.Join(p.dir, "nowhere"), time.Now()); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

// A server that is told anew twice within a second ends a stream that has just begun, too. The relay
// asks again what to trust: it would not hear of the next CA for an hour.
func TestServerIsToldTwice(t *testing.T) {
	s := newSite(t)
	var streams, trusts atomic.Int32
	s.standBetween(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch r.URL.Path {
		case wire.PathChanges:
			if streams.Add(1) == 1 {
				return
			}
		case wire.PathRelayTrust:
			trusts.Add(1)
		}
		next.ServeHTTP(w, r)
	})
	p := s.post()
	p.file(wire.FormatSerials)
	p.run()
	p.await("it asks again what to trust", func() bool { return trusts.Load() > 1 && streams.Load() > 1 })
	p.enforced()
	if text := p.log.String(); strings.Contains(text, errCut.Error()) {
		t.Errorf("an alarm:\n%s", text)
	}
}
