package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Caller is an operator who has been recognised.
type Caller struct {
	// Operator is the name in the record.
	Operator string
	// Certificate is what the connection proved to hold the key of.
	Certificate *x509.Certificate
}

// Authenticate recognises the operator behind a TLS 1.3 connection whose client
// certificate was requested but not verified. It pins issuer and profile, not merely a
// chain (design decision 2), and holds certificate and operator against the record as
// it is now, so that a disabled operator's open connection is worth nothing. An error
// that says no is a *wire.Problem.
func (s *Service) Authenticate(ctx context.Context, state *tls.ConnectionState) (Caller, error) {
	if state == nil || state.Version < tls.VersionTLS13 || len(state.PeerCertificates) == 0 {
		return Caller{}, unauthorised("operators show a client certificate over TLS 1.3", "use the hallmark command with the settings of an operator")
	}
	leaf := state.PeerCertificates[0]
	kind, _ := profile.Of(leaf)
	if kind != profile.Operator || !bytes.Equal(leaf.RawIssuer, s.Infrastructure.RawSubject) || leaf.CheckSignatureFrom(s.Infrastructure) != nil {
		return Caller{}, unauthorised("the certificate shown is not an operator's of this installation", "")
	}
	if now := s.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return Caller{}, unauthorised("the certificate shown ended on "+leaf.NotAfter.UTC().Format(time.DateOnly), recovery)
	}
	name := leaf.Subject.CommonName
	row, err := s.Store.Status(ctx, profile.Infrastructure, profile.SerialText(leaf.SerialNumber))
	switch {
	case errors.Is(err, record.ErrNotFound) || err == nil && (!bytes.Equal(row.DER, leaf.Raw) || row.Operator != name):
		return Caller{}, unauthorised("the certificate shown is not in the record", recovery)
	case err != nil:
		return Caller{}, err
	case !row.Revoked.IsZero():
		return Caller{}, unauthorised("the certificate shown is revoked", recovery)
	}
	operator, err := s.Store.Operator(ctx, name)
	switch {
	case errors.Is(err, record.ErrNotFound):
		return Caller{}, unauthorised("there is no operator "+name, recovery)
	case err != nil:
		return Caller{}, err
	case !operator.Disabled.IsZero():
		return Caller{}, unauthorised("the operator "+name+" is disabled", recovery)
	}
	return Caller{Operator: name, Certificate: leaf}, nil
}

const recovery = "ask another operator for an invitation, or run hallmarkd operator recover on the server"

func unauthorised(detail, hint string) error {
	return &wire.Problem{Status: http.StatusUnauthorized, Code: wire.CodeUnauthorised, Detail: detail, Hint: hint}
}

// sampler lets one event a minute through and counts the others: strangers must not be
// able to fill the record (design decision 19).
type sampler struct {
	mu      sync.Mutex
	last    time.Time
	dropped int
}

// take reports whether to write an event now and how many were passed over before it.
func (s *sampler) take(now time.Time) (dropped int, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.last) < time.Minute {
		s.dropped++
		return 0, false
	}
	dropped, s.dropped, s.last = s.dropped, 0, now
	return dropped, true
}
