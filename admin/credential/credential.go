// Package credential recognises who holds one of the installation's own client
// certificates, an operator or a relying party's relay, and opens requests for new ones.
//
// Both listeners request client certificates and verify none; whoever is recognised here
// showed one of the wanted issuer and profile that the record knows and has not ended.
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

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Holder is who has been recognised.
type Holder struct {
	// Name is the name in the record.
	Name string
	// Certificate is what the connection proved to hold the key of.
	Certificate *x509.Certificate
}

// Pin says whose certificates are meant. All fields are needed.
type Pin struct {
	// Profile is the kind of certificate, Noun the word for who holds one.
	Profile profile.Kind
	Noun    string
	// Issuer is the infrastructure issuer.
	Issuer *x509.Certificate
	// Recovery is the hint for who has lost his certificate.
	Recovery string
	// Status is record.Revocations.Status.
	Status func(ctx context.Context, issuer, serial string) (record.Certificate, error)
	// Disabled finds when the holder of that name was disabled, zero if never;
	// record.ErrNotFound if there is none.
	Disabled func(ctx context.Context, name string) (time.Time, error)
	Now      func() time.Time
}

// Recognise finds the holder behind a TLS 1.3 connection whose client certificate was
// requested but not verified. It pins issuer and profile, not merely a chain (design
// decision 2), and holds certificate and holder against the record as it is now, so that
// a disabled holder's open connection is worth nothing. An error that says no is a
// *wire.Problem.
func (p *Pin) Recognise(ctx context.Context, state *tls.ConnectionState) (Holder, error) {
	if state == nil || state.Version < tls.VersionTLS13 || len(state.PeerCertificates) == 0 {
		return Holder{}, p.no("this needs the client certificate of an %s over TLS 1.3", p.Noun)
	}
	leaf := state.PeerCertificates[0]
	kind, _ := profile.Of(leaf)
	if kind != p.Profile || !bytes.Equal(leaf.RawIssuer, p.Issuer.RawSubject) || leaf.CheckSignatureFrom(p.Issuer) != nil {
		return Holder{}, p.no("the certificate shown is not an %s's of this installation", p.Noun)
	}
	if now := p.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return Holder{}, p.no("the certificate shown ended on %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	name := leaf.Subject.CommonName
	row, err := p.Status(ctx, profile.Infrastructure, profile.SerialText(leaf.SerialNumber))
	switch {
	case errors.Is(err, record.ErrNotFound) || err == nil && (!bytes.Equal(row.DER, leaf.Raw) || row.Operator != name):
		return Holder{}, p.no("the certificate shown is not in the record")
	case err != nil:
		return Holder{}, err
	case !row.Revoked.IsZero():
		return Holder{}, p.no("the certificate shown is revoked")
	}
	disabled, err := p.Disabled(ctx, name)
	switch {
	case errors.Is(err, record.ErrNotFound):
		return Holder{}, p.no("there is no %s %s", p.Noun, name)
	case err != nil:
		return Holder{}, err
	case !disabled.IsZero():
		return Holder{}, p.no("the %s %s is disabled", p.Noun, name)
	}
	return Holder{Name: name, Certificate: leaf}, nil
}

func (p *Pin) no(format string, args ...any) error {
	return &wire.Problem{Status: http.StatusUnauthorized, Code: wire.CodeUnauthorised, Detail: fmt.Sprintf(format, args...), Hint: p.Recovery}
}

// Request is a request for a certificate as it came.
type Request struct {
	// State is the connection that it came on, Client the certificate that was recognised
	// there; nil if the request brings an invitation.
	State  *tls.ConnectionState
	Client *x509.Certificate
	// Label is the binding's.
	Label string
	wire.KeyRequest
}

// Verify checks the MAC of a single-use permission (provisioner/factory.Permissions).
type Verify func(kind, id string, binding [32]byte, mac []byte) bool

// Open checks that a request was made on its connection by the holder of the new key
// and, where a kind of permission is wanted, of its secret.
func Open(in Request, kind string, verify Verify) (message wire.NewKey, key *ecdsa.PublicKey, err error) {
	if err := wire.DecodeBytes(in.Message, &message); err != nil {
		return message, nil, malformed(err.Error())
	}
	if in.State == nil || in.State.Version < tls.VersionTLS13 {
		return message, nil, &wire.Problem{Status: http.StatusUnauthorized, Code: wire.CodeUnauthorised, Detail: "this needs TLS 1.3"}
	}
	binding := wire.Binding{Label: in.Label, Message: in.Message}
	if in.Client != nil {
		binding.Client = in.Client.Raw
	}
	if binding.Exporter, err = in.State.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength); err != nil {
		return message, nil, err
	}
	sum := binding.Sum()
	if kind != "" && !verify(kind, message.Invitation, sum, in.MAC) {
		return message, nil, &wire.Problem{Status: http.StatusForbidden, Code: wire.CodeInvitation,
			Detail: "the invitation is not of this installation", Hint: "copy the whole line, or ask for a new one"}
	}
	parsed, err := x509.ParsePKIXPublicKey(message.Key)
	key, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return message, nil, malformed("the key to certify is not a P-256 key")
	}
	if !ecdsa.VerifyASN1(key, sum[:], in.Signature) {
		return message, nil, malformed("the request is not signed by the new key for this connection")
	}
	return message, key, nil
}

func malformed(detail string) error {
	return &wire.Problem{Status: http.StatusBadRequest, Code: wire.CodeMalformed, Detail: detail}
}
