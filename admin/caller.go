package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// Authenticate recognises the operator behind a TLS 1.3 connection whose client
// certificate was requested but not verified. It pins issuer and profile, not merely a
// chain (design decision 2), and holds certificate and operator against the record as
// it is now, so that a disabled operator's open connection is worth nothing. An error
// that says no is a *wire.Problem.
func (s *Service) Authenticate(ctx context.Context, state *tls.ConnectionState) (gate.Caller, error) {
	if state == nil || state.Version < tls.VersionTLS13 || len(state.PeerCertificates) == 0 {
		return gate.Caller{}, gate.Unauthorised("operators show a client certificate over TLS 1.3", "use the hallmark command with the settings of an operator")
	}
	leaf := state.PeerCertificates[0]
	kind, _ := profile.Of(leaf)
	if kind != profile.Operator || !bytes.Equal(leaf.RawIssuer, s.Infrastructure.RawSubject) || leaf.CheckSignatureFrom(s.Infrastructure) != nil {
		return gate.Caller{}, gate.Unauthorised("the certificate shown is not an operator's of this installation", "")
	}
	if now := s.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return gate.Caller{}, gate.Unauthorised("the certificate shown ended on "+leaf.NotAfter.UTC().Format(time.DateOnly), recovery)
	}
	name := leaf.Subject.CommonName
	row, err := s.Store.Status(ctx, profile.Infrastructure, profile.SerialText(leaf.SerialNumber))
	switch {
	case errors.Is(err, record.ErrNotFound) || err == nil && (!bytes.Equal(row.DER, leaf.Raw) || row.Operator != name):
		return gate.Caller{}, gate.Unauthorised("the certificate shown is not in the record", recovery)
	case err != nil:
		return gate.Caller{}, err
	case !row.Revoked.IsZero():
		return gate.Caller{}, gate.Unauthorised("the certificate shown is revoked", recovery)
	}
	operator, err := s.Store.Operator(ctx, name)
	switch {
	case errors.Is(err, record.ErrNotFound):
		return gate.Caller{}, gate.Unauthorised("there is no operator "+name, recovery)
	case err != nil:
		return gate.Caller{}, err
	case !operator.Disabled.IsZero():
		return gate.Caller{}, gate.Unauthorised("the operator "+name+" is disabled", recovery)
	}
	return gate.Caller{Name: name, Certificate: leaf}, nil
}

const recovery = "ask another operator for an invitation, or run hallmarkd operator recover on the server"
