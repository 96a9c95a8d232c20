package admin

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Authorities are the issuing CAs.
type Authorities interface {
	// Issuing lists the issuers' certificates with their roots, by name.
	Issuing() []Issuing
	// Prove has an issuer certify a code that a cloud gave, under a key that nobody keeps.
	Prove(ctx context.Context, issuer, code string, e record.Event) (*x509.Certificate, error)
}

// Issuing is an issuer's certificate and its root's.
type Issuing struct {
	Name              string
	Certificate, Root *x509.Certificate
}

func (s *Service) issuers(_ context.Context, _ *gate.Call) (any, error) {
	return view.List(s.Authorities.Issuing(), "", showIssuer), nil
}

func (s *Service) issuer(_ context.Context, c *gate.Call) (any, error) {
	i, err := s.issuing(c.Request.PathValue("name"))
	return showIssuer(i), err
}

func (s *Service) issuing(name string) (Issuing, error) {
	for _, i := range s.Authorities.Issuing() {
		if i.Name == name {
			return i, nil
		}
	}
	return Issuing{}, gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "hallmark issuer list shows those there are", "there is no issuer %q", name)
}

// prove certifies the code that AWS IoT or Azure IoT Hub gave, which shows them that
// whoever registers an issuer holds its key.
func (s *Service) prove(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.NewProof
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	i, err := s.issuing(c.Request.PathValue("name"))
	if err != nil {
		return nil, err
	}
	if err := profile.CheckCode(in.Code); err != nil {
		return nil, gate.Invalid("copy the code that the cloud shows", "%v", err)
	}
	e := c.Event("issuer.proved", i.Name)
	e.Detail["code"] = in.Code
	cert, err := s.Authorities.Prove(ctx, i.Name, in.Code, e)
	if err != nil {
		return nil, err
	}
	return wire.Proof{Issuer: i.Name, Expires: cert.NotAfter, PEM: certificatePEM(cert.Raw)}, nil
}

func showIssuer(i Issuing) wire.Issuer {
	if i.Certificate == nil {
		return wire.Issuer{}
	}
	sum := sha256.Sum256(i.Certificate.Raw)
	return wire.Issuer{Name: i.Name, Subject: i.Certificate.Subject.String(), NotBefore: i.Certificate.NotBefore, NotAfter: i.Certificate.NotAfter,
		Fingerprint: hex.EncodeToString(sum[:]), PEM: certificatePEM(i.Certificate.Raw), Root: certificatePEM(i.Root.Raw)}
}
