package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// maxBody bounds a request, but for those that carry lists.
const maxBody = 64 << 10

// route is one verb of the API.
type route struct {
	pattern string
	handle  func(*Service, context.Context, *call) (any, error)
	// limit bounds the body, in bytes; 0 means maxBody.
	limit int64
	// open routes answer without an operator's certificate.
	open bool
}

var routes = []route{
	{pattern: "GET " + wire.PathTrust, handle: (*Service).trust, open: true},
	{pattern: "POST " + wire.PathAccept, handle: (*Service).accept, open: true},
	{pattern: "GET " + wire.PathWhoami, handle: (*Service).whoami},

	{pattern: "GET " + wire.PathModels, handle: (*Service).models},
	{pattern: "GET " + wire.PathModels + "/{name}", handle: (*Service).model},
	{pattern: "POST " + wire.PathModels, handle: (*Service).createModel},
	{pattern: "GET " + wire.PathLots, handle: (*Service).lots},
	{pattern: "GET " + wire.PathLots + "/{name}", handle: (*Service).lot},
	{pattern: "POST " + wire.PathLots, handle: (*Service).createLot, limit: 160 * wire.MaxListed},
	{pattern: "POST " + wire.PathLots + "/{name}/close", handle: (*Service).closeLot},
	{pattern: "POST " + wire.PathTickets, handle: (*Service).createTickets, limit: 256 * wire.MaxTickets},

	{pattern: "GET " + wire.PathDevices, handle: (*Service).devices},
	{pattern: "GET " + wire.PathDevices + "/{device}", handle: (*Service).device},
	{pattern: "POST " + wire.PathDevices + "/{device}/suspend", handle: (*Service).suspend},
	{pattern: "POST " + wire.PathDevices + "/{device}/restore", handle: (*Service).restore},
	{pattern: "POST " + wire.PathDevices + "/{device}/revoke", handle: (*Service).revoke},
	{pattern: "GET " + wire.PathCerts, handle: (*Service).certificates},
	{pattern: "GET " + wire.PathCerts + "/{serial}", handle: (*Service).certificate},

	{pattern: "GET " + wire.PathOperators, handle: (*Service).operators},
	{pattern: "POST " + wire.PathOperators, handle: (*Service).invite},
	{pattern: "POST " + wire.PathOperators + "/{name}/disable", handle: (*Service).disable},
	{pattern: "POST " + wire.PathRenewal, handle: (*Service).renew},

	{pattern: "GET " + wire.PathVendorCA, handle: (*Service).authorities},
	{pattern: "POST " + wire.PathVendorCA, handle: (*Service).importAuthorities, limit: 4 << 20},
	{pattern: "DELETE " + wire.PathVendorCA + "/{fingerprint}", handle: (*Service).removeAuthority},
	{pattern: "GET " + wire.PathAudit, handle: (*Service).audit},
}

// Handler serves the operators' listener, which requests client certificates over TLS
// 1.3 without session tickets and leaves judging them to this package.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, rt) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, refuse(http.StatusNotFound, wire.CodeNotFound, "", "there is no %s %s", r.Method, r.URL.Path))
	})
	// A browser may hold an operator's certificate: no other site's page may use it.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, refuse(http.StatusForbidden, wire.CodeForbidden, "", "a page of another site asked for this"))
	}))
	return protection.Handler(mux)
}

// serve judges who calls, lets the route do its work and writes down what it refused.
func (s *Service) serve(w http.ResponseWriter, r *http.Request, rt route) {
	c := &call{request: r, now: s.Now(), limit: rt.limit}
	if c.limit == 0 {
		c.limit = maxBody
	}
	answer, err := s.judged(c, rt)
	if err != nil {
		s.noteRefusal(c, err)
		s.fail(w, r, err)
		return
	}
	s.reply(w, http.StatusOK, "application/json", answer)
}

func (s *Service) judged(c *call, rt route) (any, error) {
	ctx := c.request.Context()
	if !rt.open {
		var err error
		if c.caller, err = s.Authenticate(ctx, c.request.TLS); err != nil {
			return nil, err
		}
		c.again = func() error { _, err := s.Authenticate(ctx, c.request.TLS); return err }
	}
	return rt.handle(s, ctx, c)
}

// call is one request of a recognised operator, or of nobody on an open route.
type call struct {
	request *http.Request
	caller  Caller
	now     time.Time
	limit   int64
	// again recognises the caller once more; nil on an open route.
	again func() error
}

// event is the line that will be written with a change.
func (c *call) event(verb, object string) record.Event {
	return record.Event{Time: c.now, Actor: "operator:" + c.caller.Operator, Verb: verb, Object: object, Detail: map[string]string{}}
}

// read decodes the body strictly. The media type must be named: what a form on another
// site's page can send never bears it. A body may take a minute to come, and its operator
// may be disabled meanwhile.
func (c *call) read(v any) error {
	if media, _, err := mime.ParseMediaType(c.request.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, wire.CodeMalformed, "send Content-Type: application/json", "the body is not declared to be JSON")
	}
	if err := wire.Decode(c.request.Body, c.limit, v); err != nil {
		return malformed(err)
	}
	if c.again == nil {
		return nil
	}
	return c.again()
}

// page reads the parameters of a listing and refuses all others.
func (c *call) page() (p record.Page, filter string, err error) {
	p.Limit = 100
	for name, values := range c.request.URL.Query() {
		switch {
		case len(values) != 1:
			return p, "", malformed(fmt.Errorf("parameter %q is given %d times", name, len(values)))
		case name == "filter":
			filter = values[0]
		case name == "after":
			p.After = values[0]
		case name == "limit":
			if p.Limit, err = strconv.Atoi(values[0]); err != nil || p.Limit < 1 || p.Limit > wire.MaxPage {
				return p, "", malformed(fmt.Errorf("limit %q: 1 to %d", values[0], wire.MaxPage))
			}
		default:
			return p, "", malformed(fmt.Errorf("there is no parameter %q", name))
		}
	}
	return p, filter, nil
}

// noteRefusal writes down that a change was refused. What operators may not read is
// not recorded, nor what failed: that is the log's.
func (s *Service) noteRefusal(c *call, err error) {
	p := problem(err)
	if c.request.Method == http.MethodGet || p.Status >= http.StatusInternalServerError {
		return
	}
	e := c.event("operator.refused", c.request.Method+" "+shorten(c.request.URL.Path, 200))
	e.Reason = shorten(p.Code+": "+p.Detail, 500)
	if c.caller.Operator == "" {
		dropped, keep := s.strangers.take(c.now)
		if !keep {
			return
		}
		e.Actor = "stranger"
		if dropped > 0 {
			e.Detail["not_recorded_before"] = strconv.Itoa(dropped)
		}
	}
	// The refusal stands even if it cannot be recorded.
	if err := s.Store.Note(context.WithoutCancel(c.request.Context()), e); err != nil {
		s.Log.Error("a refusal could not be recorded", "path", c.request.URL.Path, "code", p.Code, "err", err)
	}
}

func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problem(err)
	if p.Status >= http.StatusInternalServerError {
		s.Log.Error("an operator's request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60") // RFC 9110 §10.2.3
	}
	s.reply(w, p.Status, wire.ProblemType, p)
}

func (s *Service) reply(w http.ResponseWriter, status int, media string, v any) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.Log.Debug("answer not delivered", "err", err)
	}
}

// shorten bounds what strangers write into the record.
func shorten(text string, bytes int) string {
	if len(text) <= bytes {
		return text
	}
	return text[:bytes] + "…"
}

func (s *Service) trust(context.Context, *call) (any, error) { return s.Bundle(), nil }

func (s *Service) whoami(_ context.Context, c *call) (any, error) {
	return wire.Whoami{Name: s.Name, Version: s.Version, Operator: c.caller.Operator, Time: c.now,
		Certificate: certificateSerial(c.caller.Certificate), Expires: c.caller.Certificate.NotAfter}, nil
}
