package provisioner

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/provisioner/decide"
)

// Contact is a device certificate of this installation that authenticated a request.
type Contact struct {
	Certificate *x509.Certificate
	// Issuer and Serial identify it in the record.
	Issuer, Serial string
	Profile        profile.Kind
	// Proved is the earliest time at which possession of its key can have been proved, if that is
	// not now: a message in nonce mode may come late, or twice.
	Proved time.Time
}

// Recognise accepts an IDevID of a manufacturing issuer or an LDevID of an operational issuer,
// within its validity, and nothing else (profile.Pins). The caller must have verified possession
// of the key. Whether the certificate is still current is decided with the record.
func (s *Service) Recognise(c *x509.Certificate) (Contact, error) {
	name, kind, ours := s.met.recognise(c)
	if kind != profile.IDevID && kind != profile.LDevID {
		return Contact{}, &decide.Refusal{Code: "unauthorised", Detail: "this certificate is not a device's identity",
			Hint: "show the IDevID or the LDevID"}
	}
	if !ours {
		return Contact{}, &decide.Refusal{Code: "unauthorised", Detail: "the certificate shown is not of this installation"}
	}
	if now := s.Now(); now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return Contact{}, &decide.Refusal{Code: "certificate-expired",
			Detail: fmt.Sprintf("the certificate shown is good from %s to %s, and here it is %s", day(c.NotBefore), day(c.NotAfter), day(now)), Hint: "renew with the IDevID"}
	}
	return Contact{Certificate: c, Issuer: name, Serial: profile.SerialText(c.SerialNumber), Profile: kind}, nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// remember spares the next connection the verification that the CA has just done.
func (s *Service) remember(i ca.Issued) {
	if !i.Again {
		s.met.remember(i.Certificate, i.Record.Issuer)
	}
}
