package provisioner

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/provisioner/decide"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

// Contact is a device certificate of ours that authenticated a request.
type Contact struct {
	Certificate *x509.Certificate
	// Issuer and Serial are the record's key of it.
	Issuer, Serial string
	Profile        profile.Kind
}

// Recognise accepts an IDevID of the manufacturing issuer or an LDevID of the
// operational issuer, within its validity, and nothing else: it pins issuer and
// profile, not merely a chain (design decision 2). The caller has seen proof of the
// key. Whether the certificate is still current is judged with the record.
func (s *Service) Recognise(c *x509.Certificate) (Contact, error) {
	kind, _ := profile.Of(c)
	issuer, name := s.Operational, profile.Operational
	if kind == profile.IDevID {
		issuer, name = s.Manufacturing, profile.Manufacturing
	} else if kind != profile.LDevID {
		return Contact{}, &decide.Refusal{Code: "unauthorised", Detail: "this certificate is not a device's identity",
			Hint: "show the IDevID or the LDevID"}
	}
	if !bytes.Equal(c.RawIssuer, issuer.RawSubject) || c.CheckSignatureFrom(issuer) != nil {
		return Contact{}, &decide.Refusal{Code: "unauthorised", Detail: "the certificate shown is not of this installation"}
	}
	if now := s.Now(); now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return Contact{}, &decide.Refusal{Code: "certificate-expired",
			Detail: fmt.Sprintf("the certificate shown ended on %s", c.NotAfter.UTC().Format("2006-01-02")), Hint: "renew with the IDevID"}
	}
	return Contact{Certificate: c, Issuer: name, Serial: fmt.Sprintf("%032x", c.SerialNumber), Profile: kind}, nil
}

// Probe answers a device that tries a certificate before it relies on it: it accepts
// what Renew would, and notes that the certificate is in use, so that from now on its
// predecessor renews no more.
func (s *Service) Probe(ctx context.Context, c *x509.Certificate) error {
	contact, err := s.Recognise(c)
	if err != nil {
		return err
	}
	view, err := s.Store.Look(ctx, record.Query{Issuer: contact.Issuer, CertificateSerial: contact.Serial})
	if err != nil {
		return err
	}
	if view.ByID == nil {
		return unknownCertificate
	}
	if err := decide.Renewal(decide.Case{Now: s.Now(), Who: identity.Identity{Device: *view.ByID, Known: true}, View: view}); err != nil {
		return err
	}
	if !view.Presented.Used.IsZero() {
		return nil
	}
	return s.Store.Seen(ctx, contact.Issuer, contact.Serial, s.Now())
}

var unknownCertificate = &decide.Refusal{Code: "certificate-unknown",
	Detail: "the certificate shown is not on record", Hint: "enrol again: hallmark-device enrol"}
