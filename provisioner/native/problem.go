package native

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// statuses maps the codes of refusals that are not plain 403s.
var statuses = map[string]int{
	wire.CodeSerialInvalid: http.StatusBadRequest,
	wire.CodeSerialTaken:   http.StatusConflict,
	wire.CodeEKTaken:       http.StatusConflict,
	wire.CodeAKChanged:     http.StatusConflict,
	wire.CodeKeyChanged:    http.StatusConflict,
	wire.CodeUnauthorised:  http.StatusUnauthorized,
	wire.CodeTooOften:      http.StatusTooManyRequests,
}

// problem is the one place where an error becomes what the client reads. An unknown error is an
// internal one, whose detail stays in the log.
func problem(err error) *wire.Problem {
	if known, ok := errors.AsType[*wire.Problem](err); ok {
		return known
	}
	if code, detail, hint, ok := provisioner.Reason(err); ok {
		return &wire.Problem{Status: cmp.Or(statuses[code], http.StatusForbidden), Code: code, Detail: detail, Hint: hint}
	}
	switch {
	case errors.Is(err, record.ErrConflict):
		return &wire.Problem{Status: http.StatusConflict, Code: wire.CodeConflict, Detail: "the record changed meanwhile", Hint: "try again"}
	case errors.Is(err, record.ErrUnavailable):
		return unavailable("the record cannot be written now")
	case errors.Is(err, provisioner.ErrNotSigned):
		return unavailable("the CA cannot sign now")
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable("the server was not through in time")
	}
	return &wire.Problem{Status: http.StatusInternalServerError, Code: wire.CodeInternal, Detail: "internal error", Hint: "try again; the server's log says more"}
}

func unavailable(detail string) *wire.Problem {
	return &wire.Problem{Status: http.StatusServiceUnavailable, Code: wire.CodeUnavailable, Detail: detail, Hint: "try again in a minute; nothing was lost"}
}

func malformed(err error) error {
	if errors.Is(err, wire.ErrTooLarge) {
		return &wire.Problem{Status: http.StatusRequestEntityTooLarge, Code: wire.CodeTooLarge, Detail: err.Error()}
	}
	if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() { // the server's time to read, not the message, is at fault
		return unavailable("the message did not arrive in time")
	}
	return &wire.Problem{Status: http.StatusBadRequest, Code: wire.CodeMalformed, Detail: err.Error()}
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problem(err)
	if h.Refused != nil {
		h.Refused(p.Code)
	}
	gone := errors.Is(r.Context().Err(), context.Canceled) // then most errors are only that
	if p.Status >= 500 && p.RetryAfter == 0 && !gone {
		h.Log.Error("request failed", "path", r.URL.Path, "err", err)
	}
	w.Header().Set("Content-Type", wire.ProblemType)
	w.Header().Set("Cache-Control", "no-store")
	if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", strconv.Itoa(int(cmp.Or(p.RetryAfter, time.Minute)/time.Second)))
	}
	w.WriteHeader(p.Status)
	if err := json.NewEncoder(w).Encode(p); err != nil {
		h.Log.Debug("problem not delivered", "err", err)
	}
}
