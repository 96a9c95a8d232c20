package gate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/selector"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Problem is the one place where an error becomes what the outside reads. What it does
// not know is an internal error, whose detail stays in the log.
func Problem(err error) *wire.Problem {
	var known *wire.Problem
	var filter *selector.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &filter):
		return &wire.Problem{Status: http.StatusBadRequest, Code: wire.CodeFilter, Detail: filter.Error()}
	case errors.Is(err, record.ErrDisabled):
		return &wire.Problem{Status: http.StatusUnauthorized, Code: wire.CodeUnauthorised, Detail: "the name in the certificate shown was disabled meanwhile; nothing was changed",
			Hint: "an operator who should still have it invites again: hallmark operator invite, or hallmark relying-party invite"}
	case errors.Is(err, record.ErrSpent):
		return &wire.Problem{Status: http.StatusConflict, Code: wire.CodeConflict,
			Detail: "the other operator's approval was used, expired or was withdrawn before this was done; this was not done",
			Hint:   "see whether it is done already; if not, type it again, which asks for another approval"}
	case errors.Is(err, status.ErrUnpublished):
		return &wire.Problem{Status: http.StatusServiceUnavailable, Code: wire.CodeUnavailable,
			Detail: "it is recorded and OCSP says so, but a CRL could not be published",
			Hint:   "the server keeps trying; its log says what is wrong"}
	case errors.Is(err, record.ErrBadCursor):
		return &wire.Problem{Status: http.StatusBadRequest, Code: wire.CodeMalformed, Detail: "after is not what the page before gave",
			Hint: "ask for the first page again"}
	case errors.Is(err, record.ErrNotFound):
		return &wire.Problem{Status: http.StatusNotFound, Code: wire.CodeNotFound, Detail: "there is no such thing"}
	case errors.Is(err, record.ErrExists), errors.Is(err, record.ErrConflict):
		return &wire.Problem{Status: http.StatusConflict, Code: wire.CodeConflict, Detail: "the record changed meanwhile", Hint: "look again, then try again"}
	case errors.Is(err, record.ErrUnavailable):
		return &wire.Problem{Status: http.StatusServiceUnavailable, Code: wire.CodeUnavailable,
			Detail: "the record cannot be written now", Hint: "nothing was changed; the server's log says what is wrong"}
	case errors.Is(err, context.DeadlineExceeded):
		return &wire.Problem{Status: http.StatusServiceUnavailable, Code: wire.CodeUnavailable,
			Detail: "the server was not through in time", Hint: "look how far it came, then try again; the server's log says more"}
	}
	return &wire.Problem{Status: http.StatusInternalServerError, Code: wire.CodeInternal, Detail: "internal error", Hint: "the server's log says more"}
}

// Refuse is an error that says no: an HTTP status, a stable code, what is wrong, and what
// to do next, which may be empty.
func Refuse(status int, code, hint, format string, args ...any) error {
	return &wire.Problem{Status: status, Code: code, Hint: hint, Detail: fmt.Sprintf(format, args...)}
}

// Invalid is a request that is of the protocol and cannot be granted as it stands.
func Invalid(hint, format string, args ...any) error {
	return Refuse(http.StatusBadRequest, wire.CodeMalformed, hint, format, args...)
}

// Malformed is a request that is not of the protocol.
func Malformed(err error) error {
	if errors.Is(err, wire.ErrTooLarge) {
		return Refuse(http.StatusRequestEntityTooLarge, wire.CodeTooLarge, "", "%v", err)
	}
	if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() { // the server's time to read is over
		return Refuse(http.StatusServiceUnavailable, wire.CodeUnavailable, "nothing was changed: try again, over a faster network", "the request did not arrive in time")
	}
	return Refuse(http.StatusBadRequest, wire.CodeMalformed, "", "%v", err)
}

// Absent words ErrNotFound for the thing that was named; other errors pass through.
func Absent(err error, hint, format string, args ...any) error {
	if !errors.Is(err, record.ErrNotFound) {
		return err
	}
	return Refuse(http.StatusNotFound, wire.CodeNotFound, hint, format, args...)
}

// Conflict tells the caller the record's own words for what stands in the way (ErrConflict);
// other errors pass through.
func Conflict(err error, hint string) error {
	if !errors.Is(err, record.ErrConflict) {
		return err
	}
	return Refuse(http.StatusConflict, wire.CodeConflict, hint, "%s", strings.TrimPrefix(err.Error(), record.ErrConflict.Error()+": "))
}

// Unauthorised is a caller who could not be recognised.
func Unauthorised(detail, hint string) error {
	return &wire.Problem{Status: http.StatusUnauthorized, Code: wire.CodeUnauthorised, Detail: detail, Hint: hint}
}
