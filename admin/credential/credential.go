// Package credential is the installation's own client certificates, those of operators and of
// relying parties' relays: who holds one, and how they get them.
//
// Both listeners request client certificates and verify none. A holder is recognised here by a
// certificate of the wanted issuer and profile that the record knows and that has not been ended.
package credential

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Pin says whose certificates are meant. All fields are needed.
type Pin struct {
	// Profile is the kind of certificate, Noun the word for who holds one.
	Profile profile.Kind
	Noun    string
	// Issuers are those that may have signed it.
	Issuers profile.Pins
	// Recovery is the hint for a holder without a certificate that counts.
	Recovery string
	// Status is record.Revocations.Status.
	Status func(ctx context.Context, issuer, serial string) (record.Certificate, error)
	// Disabled finds when the holder of that name was disabled, zero if never;
	// record.ErrNotFound if there is none.
	Disabled func(ctx context.Context, name string) (time.Time, error)
	Now      func() time.Time
}

// Recognise finds the holder behind a TLS 1.3 connection whose client certificate was requested but
// not verified. It pins issuer and profile, and looks up certificate and holder in the record as it
// is now, so that a disabled holder's open connection is worth nothing. A refusal is a *wire.Problem.
func (p *Pin) Recognise(ctx context.Context, state *tls.ConnectionState) (gate.Caller, error) {
	if state == nil || state.Version < tls.VersionTLS13 || len(state.PeerCertificates) == 0 {
		return gate.Caller{}, p.no("%ss show a client certificate over TLS 1.3", p.Noun)
	}
	leaf := state.PeerCertificates[0]
	issuer, kind, ours := p.Issuers.Recognise(leaf)
	if !ours || kind != p.Profile {
		return gate.Caller{}, p.no("the certificate shown is none of this installation's %ss", p.Noun)
	}
	switch now := p.Now(); {
	case now.Before(leaf.NotBefore):
		return gate.Caller{}, gate.Unauthorised(fmt.Sprintf("the certificate shown begins on %s, and here it is %s", leaf.NotBefore.UTC().Format(time.DateTime+" UTC"), now.UTC().Format(time.DateTime+" UTC")), "set the server's clock")
	case now.After(leaf.NotAfter):
		return gate.Caller{}, p.no("the certificate shown ended on %s, and here it is %s", leaf.NotAfter.UTC().Format(time.DateOnly), now.UTC().Format(time.DateOnly))
	}
	name := leaf.Subject.CommonName
	row, err := p.Status(ctx, issuer, profile.SerialText(leaf.SerialNumber))
	switch {
	case errors.Is(err, record.ErrNotFound) || err == nil && (!bytes.Equal(row.DER, leaf.Raw) || row.Principal != name):
		return gate.Caller{}, p.no("the certificate shown is not in the record")
	case err != nil:
		return gate.Caller{}, err
	case !row.Revoked.IsZero():
		return gate.Caller{}, p.no("the certificate shown is revoked")
	}
	disabled, err := p.Disabled(ctx, name)
	switch {
	case errors.Is(err, record.ErrNotFound):
		return gate.Caller{}, p.no("there is no %s %s", p.Noun, name)
	case err != nil:
		return gate.Caller{}, err
	case !disabled.IsZero():
		return gate.Caller{}, p.no("the %s %s is disabled", p.Noun, name)
	}
	return gate.Caller{Name: name, Certificate: leaf}, nil
}

func (p *Pin) no(format string, args ...any) error {
	return gate.Unauthorised(fmt.Sprintf(format, args...), p.Recovery)
}

// Permissions makes single-use permissions, tickets and invitations, and checks their MACs
// (provisioner/factory.Permissions).
type Permissions interface {
	NewID() string
	Secret(kind, id string) []byte
	Verify(kind, id string, binding [32]byte, mac []byte) bool
}

// open reads a request for a certificate (wire.KeyRequest) and checks that it was made on
// its connection, under the binding's label, by the holder of the new key and, where a
// kind of permission is wanted, of its secret, which p checks.
func open(c *gate.Call, label, kind string, p Permissions) (message wire.NewKey, key *ecdsa.PublicKey, err error) {
	var in wire.KeyRequest
	if err := c.Read(&in); err != nil {
		return message, nil, err
	}
	if err := wire.DecodeBytes(in.Message, &message); err != nil {
		return message, nil, gate.Malformed(err)
	}
	binding := wire.Binding{Label: label, Message: in.Message}
	if c.Caller.Certificate != nil {
		binding.Client = c.Caller.Certificate.Raw
	}
	if c.Request.TLS == nil {
		return message, nil, gate.Unauthorised("this needs TLS 1.3", "")
	}
	if binding.Exporter, err = c.Request.TLS.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength); err != nil {
		return message, nil, err
	}
	sum := binding.Sum()
	if kind != "" && !p.Verify(kind, message.Invitation, sum, in.MAC) {
		return message, nil, gate.Refuse(http.StatusForbidden, wire.CodeInvitation, "copy the whole line, or ask for a new one", "the invitation is not of this installation")
	}
	parsed, err := x509.ParsePKIXPublicKey(message.Key)
	key, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return message, nil, gate.Invalid("", "the key to certify is not a P-256 key")
	}
	if !ecdsa.VerifyASN1(key, sum[:], in.Signature) {
		return message, nil, gate.Invalid("", "the request is not signed by the new key for this connection")
	}
	return message, key, nil
}
