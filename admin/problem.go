package admin

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/hallmark-pki/hallmark/admin/selector"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// problem is the one place where an error becomes what the outside reads. What it does
// not know is an internal error, whose detail stays in the log.
func problem(err error) *wire.Problem {
	var known *wire.Problem
	var filter *selector.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &filter):
		return &wire.Problem{Status: http.StatusBadRequest, Code: wire.CodeFilter, Detail: filter.Error()}
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
	}
	return &wire.Problem{Status: http.StatusInternalServerError, Code: wire.CodeInternal, Detail: "internal error", Hint: "the server's log says more"}
}

func refuse(status int, code, hint, format string, args ...any) error {
	return &wire.Problem{Status: status, Code: code, Hint: hint, Detail: fmt.Sprintf(format, args...)}
}

// invalid is a request that is of the protocol and cannot be granted as it stands.
func invalid(hint, format string, args ...any) error {
	return refuse(http.StatusBadRequest, wire.CodeMalformed, hint, format, args...)
}

func malformed(err error) error {
	if errors.Is(err, wire.ErrTooLarge) {
		return refuse(http.StatusRequestEntityTooLarge, wire.CodeTooLarge, "", "%v", err)
	}
	return refuse(http.StatusBadRequest, wire.CodeMalformed, "", "%v", err)
}

// absent words ErrNotFound for the thing that was named; other errors pass through.
func absent(err error, hint, format string, args ...any) error {
	if !errors.Is(err, record.ErrNotFound) {
		return err
	}
	return refuse(http.StatusNotFound, wire.CodeNotFound, hint, format, args...)
}
