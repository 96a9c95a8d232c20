// Package gate is where a request of a named caller, an operator or a relay, is authenticated, judged
// and answered.
//
// Who calls is established from the connection and the record; a handler gets a [Call],
// whose Event it writes in the same transaction as the change it makes; a refused change
// is written down too; and an error becomes what the outside reads in one place.
package gate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/internal/ration"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// maxBody bounds a request, in bytes, but for those that carry lists.
const maxBody = 64 << 10

// Caller is somebody who has been recognised; the zero value is a stranger.
type Caller struct {
	Name string
	// Certificate is what the connection proved to hold the key of.
	Certificate *x509.Certificate
}

// Gate recognises callers; every field but Unseen is needed.
type Gate struct {
	// Kind is what callers are, as in the actor of their events: "operator" for
	// "operator:anna".
	Kind string
	// Authenticate recognises who is behind a TLS 1.3 connection whose client certificate was
	// requested but not verified. A refusal is a *wire.Problem.
	Authenticate func(ctx context.Context, state *tls.ConnectionState) (Caller, error)
	// Unseen counts the alerts that a caller has not seen (jobs.HeaderAlerts).
	Unseen func(ctx context.Context, name string) (int, error)
	// Note writes down refusals (record.Audit).
	Note func(ctx context.Context, es ...record.Event) error
	Now  func() time.Time
	Log  *slog.Logger
}

// Route is one verb of an API.
type Route struct {
	// Pattern is http.ServeMux's.
	Pattern string
	// Handle gives the answer, which is sent as JSON, or an http.Handler, which writes the answer
	// itself. A refusal is a *wire.Problem; other errors are worded by this package.
	Handle func(ctx context.Context, c *Call) (any, error)
	// Limit bounds the body, in bytes; 0 means 64 KiB.
	Limit int64
	// Open routes answer strangers.
	Open bool
}

// Handler serves routes, and refuses what a page of another site asks for: a browser
// may hold a caller's certificate.
func (g Gate) Handler(routes []Route) http.Handler {
	d := &door{Gate: g}
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.HandleFunc(rt.Pattern, func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, rt) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d.fail(w, r, Refuse(http.StatusNotFound, wire.CodeNotFound, "", "there is no %s %s", r.Method, r.URL.Path))
	})
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.fail(w, r, Refuse(http.StatusForbidden, wire.CodeForbidden, "", "a page of another site asked for this"))
	}))
	return protection.Handler(mux)
}

// door is a gate at work.
type door struct {
	Gate
	strangers ration.Ration
}

// serve judges who calls, lets the route do its work and writes down what it refused.
func (d *door) serve(w http.ResponseWriter, r *http.Request, rt Route) {
	c := &Call{Request: r, Now: d.Now(), kind: d.Kind, limit: rt.Limit}
	if c.limit == 0 {
		c.limit = maxBody
	}
	answer, err := d.judged(c, rt)
	d.alert(w, c)
	if err != nil {
		d.noteRefusal(c, err)
		d.fail(w, r, err)
		return
	}
	if h, ok := answer.(http.Handler); ok {
		h.ServeHTTP(w, r)
		return
	}
	d.reply(w, http.StatusOK, "application/json", answer)
}

// alert tells the caller of unseen alerts. If they cannot be counted the request goes on.
func (d *door) alert(w http.ResponseWriter, c *Call) {
	if d.Unseen == nil || c.Caller.Name == "" {
		return
	}
	n, err := d.Unseen(c.Request.Context(), c.Caller.Name)
	if err != nil {
		d.Log.Error("the alerts could not be counted", "err", err)
	} else if n > 0 {
		w.Header().Set(jobs.HeaderAlerts, strconv.Itoa(n))
	}
}

func (d *door) judged(c *Call, rt Route) (any, error) {
	ctx := c.Request.Context()
	if !rt.Open {
		var err error
		if c.Caller, err = d.Authenticate(ctx, c.Request.TLS); err != nil {
			return nil, err
		}
		c.again = func() error { _, err := d.Authenticate(ctx, c.Request.TLS); return err }
	}
	return rt.Handle(ctx, c)
}

// Call is one request of a recognised caller, or of a stranger on an open route.
type Call struct {
	Request *http.Request
	Caller  Caller
	// Now is when the request came.
	Now   time.Time
	kind  string
	limit int64
	// again recognises the caller once more; nil on an open route.
	again func() error
}

// Event is the line that will be written with a change, which the record refuses if the caller
// is disabled by then.
func (c *Call) Event(verb, object string) record.Event {
	return record.Event{Time: c.Now, Actor: c.kind + ":" + c.Caller.Name, By: c.Caller.Name, Verb: verb, Object: object, Detail: map[string]string{}}
}

// Read decodes the body strictly. The media type must be named: what a form on another
// site's page can send never bears it. A body may take a minute to come, and its caller
// may be disabled meanwhile.
func (c *Call) Read(v any) error {
	if media, _, err := mime.ParseMediaType(c.Request.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return Refuse(http.StatusUnsupportedMediaType, wire.CodeMalformed, "send Content-Type: application/json", "the body is not declared to be JSON")
	}
	if err := wire.Decode(c.Request.Body, c.limit, v); err != nil {
		return Malformed(err)
	}
	if c.again == nil {
		return nil
	}
	return c.again()
}

// Page reads the parameters of a listing and refuses all others.
func (c *Call) Page() (p record.Page, filter string, err error) {
	p.Limit = 100
	for name, values := range c.Request.URL.Query() {
		switch {
		case len(values) != 1:
			return p, "", Malformed(fmt.Errorf("parameter %q is given %d times", name, len(values)))
		case name == "filter":
			filter = values[0]
		case name == "after":
			p.After = values[0]
		case name == "limit":
			if p.Limit, err = strconv.Atoi(values[0]); err != nil || p.Limit < 1 || p.Limit > wire.MaxPage {
				return p, "", Malformed(fmt.Errorf("limit %q: 1 to %d", values[0], wire.MaxPage))
			}
		default:
			return p, "", Malformed(fmt.Errorf("there is no parameter %q", name))
		}
	}
	return p, filter, nil
}

// Within reports whether seconds that a caller wrote are between two durations. It compares whole
// seconds, so that no multiplication can overflow first.
func Within(seconds int64, least, most time.Duration) bool {
	return seconds >= int64(least/time.Second) && seconds <= int64(most/time.Second)
}

// noteRefusal writes down that a change was refused. What operators may not read is
// not recorded, nor what failed: that is the log's.
func (d *door) noteRefusal(c *Call, err error) {
	p := Problem(err)
	if c.Request.Method == http.MethodGet || p.Status >= http.StatusInternalServerError {
		return
	}
	e := c.Event(d.Kind+".refused", c.Request.Method+" "+shorten(c.Request.URL.Path, 200))
	e.Reason, e.By = shorten(p.Code+": "+p.Detail, 500), "" // that it was refused stands in any case
	if c.Caller.Name == "" {
		dropped, keep := d.strangers.Take("", 1, c.Now)
		if !keep {
			return
		}
		e.Actor = "stranger"
		if dropped > 0 {
			e.Detail["not_recorded_before"] = strconv.Itoa(dropped)
		}
	}
	// The refusal stands even if it cannot be recorded.
	if err := d.Note(context.WithoutCancel(c.Request.Context()), e); err != nil {
		d.Log.Error("a refusal could not be recorded", "path", c.Request.URL.Path, "code", p.Code, "err", err)
	}
}

func (d *door) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := Problem(err)
	if p.Status >= http.StatusInternalServerError {
		d.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60") // RFC 9110 §10.2.3
	}
	d.reply(w, p.Status, wire.ProblemType, p)
}

func (d *door) reply(w http.ResponseWriter, status int, media string, v any) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		d.Log.Debug("answer not delivered", "err", err)
	}
}

// shorten bounds what strangers write into the record.
func shorten(text string, bytes int) string {
	if len(text) <= bytes {
		return text
	}
	return strings.ToValidUTF8(text[:bytes], "") + "…"
}
