package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

const (
	// maxBehind is how far back, in numbers, the stream reaches: a relay takes 65,536 changes at once,
	// and who runs a command for each has nothing else to learn their names from. A follower further
	// behind is better served with the deny-list.
	maxBehind = 49_152
	// writeTimeout bounds each write: a follower that is too slow is dropped, and may resume.
	writeTimeout = 10 * time.Second
)

// Handler serves wire.PathFeed and below: documents and the stream. The caller decides who may
// connect; still reports whether a follower still may, and is called before sending news that
// might bar it, and with each heartbeat. If still is nil only the documents are served: they are
// signed, and need no protected connection.
//
// The stream replaces its listener's time limits by its own, and ends with the request's context.
func (f *Feed) Handler(still func(context.Context) bool) http.Handler {
	mux := http.NewServeMux()
	if still != nil {
		mux.HandleFunc("GET "+wire.PathChanges, func(w http.ResponseWriter, r *http.Request) { f.serveChanges(w, r, still) })
	}
	mux.HandleFunc("GET "+wire.PathFeed+"/", f.serveDocument)
	return mux
}

func (f *Feed) serveDocument(w http.ResponseWriter, r *http.Request) {
	d := f.documents[strings.TrimPrefix(r.URL.Path, wire.PathFeed+"/")]
	if d == nil {
		refuse(w, http.StatusNotFound, wire.CodeNotFound, "there is no such document", "GET "+wire.PathFeed+"/ISSUER or "+wire.PathFeed+"/ISSUER/filter")
		return
	}
	last, err := f.Store.LastChange(r.Context())
	var data []byte
	var etag string
	if err == nil {
		data, etag, err = d.get(r.Context(), last, f.Now())
	}
	if err != nil {
		f.unavailable(w, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", d.kind)
	h.Set("Cache-Control", "no-cache") // cached, but revalidated each time
	h.Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (f *Feed) unavailable(w http.ResponseWriter, err error) {
	f.Log.Error("the feed cannot answer", "error", err)
	w.Header().Set("Retry-After", "5")
	refuse(w, http.StatusServiceUnavailable, wire.CodeUnavailable, "the record cannot be read now", "try again in a few seconds")
}

func refuse(w http.ResponseWriter, status int, code, detail, hint string) {
	w.Header().Set("Content-Type", wire.ProblemType)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(wire.Problem{Status: status, Code: code, Detail: detail, Hint: hint})
}

// after reads the number after which a follower resumes: the header of a client that reconnects
// by itself (WHATWG HTML §9.2.4) is newer than its URL.
func after(r *http.Request) (int64, error) {
	text := r.URL.Query().Get("after")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		text = id
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of a change", text)
	}
	return n, nil
}

func (f *Feed) serveChanges(w http.ResponseWriter, r *http.Request, still func(context.Context) bool) {
	from, err := after(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, wire.CodeMalformed, err.Error(), "take the deny-list and ask with ?after=ITS-NUMBER")
		return
	}
	who, position, ok := f.follow()
	if !ok {
		w.Header().Set("Retry-After", "30")
		refuse(w, http.StatusServiceUnavailable, wire.CodeUnavailable, "there are too many followers, or the server stops", "try again in half a minute")
		return
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.leave(who)
	}()
	gone, err := f.gone(r.Context(), from, position)
	switch {
	case err != nil:
		f.unavailable(w, err)
	case gone:
		refuse(w, http.StatusGone, wire.CodeFeedGone, fmt.Sprintf("the stream does not go on after %d", from),
			"take the deny-list of "+wire.PathFeed+"/ISSUER and go on after its number")
	default:
		s := &stream{w, http.NewResponseController(w), f.Now, still}
		f.stream(r.Context(), s, who, from, position)
	}
}

// gone reports whether a follower must start again. A number ahead of what was announced may come
// from another replica; one ahead of the record was undone by a restore.
func (f *Feed) gone(ctx context.Context, from, position int64) (bool, error) {
	if from <= position {
		return position-from > maxBehind, nil
	}
	last, err := f.Store.LastChange(ctx)
	return from > last, err
}

// stream sends the changes after from, and then news.
func (f *Feed) stream(ctx context.Context, s *stream, who *follower, from, position int64) {
	// A change that barred the client while it connected may have been announced before it was a
	// follower.
	if !s.still(ctx) || s.begin() != nil || f.catchUp(ctx, s, from, position) != nil {
		return
	}
	heartbeat := time.NewTicker(wire.Heartbeat)
	defer heartbeat.Stop()
	for {
		var next news
		select {
		case <-ctx.Done():
			return
		case told, ok := <-who.news:
			if !ok {
				return
			}
			next = told
		case <-heartbeat.C:
			next = news{[]byte(":\n\n"), true} // a comment
		}
		if next.doubt && !s.still(ctx) || s.send(next.text) != nil {
			return
		}
	}
}

// catchUp sends what was announced before the follower came. A certificate that changes meanwhile
// moves beyond position, and comes with the news.
func (f *Feed) catchUp(ctx context.Context, s *stream, from, position int64) error {
	for from < position {
		changes, err := f.Store.Changes(ctx, from, handful)
		if err != nil {
			return err
		}
		n := 0
		for n < len(changes) && changes[n].Number <= position {
			n++
		}
		if n == 0 {
			break
		}
		text, err := f.encode(changes[:n])
		if err == nil {
			err = s.send(text)
		}
		if err != nil {
			return err
		}
		from = changes[n-1].Number
	}
	var current bytes.Buffer
	if err := event(&current, wire.EventCurrent, max(from, position), wire.Position{Number: max(from, position)}); err != nil {
		return err
	}
	return s.send(current.Bytes())
}

// stream is the response to one follower.
type stream struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	now   func() time.Time
	still func(context.Context) bool
}

// begin sends the header, and lifts the listener's time limits, which are for responses that end.
func (s *stream) begin() error {
	if err := s.c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	h := s.w.Header()
	h.Set("Content-Type", wire.StreamType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold it back
	return s.send([]byte("retry: 1000\n\n"))
}

func (s *stream) send(text []byte) error {
	if err := s.c.SetWriteDeadline(s.now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	return s.c.Flush()
}
