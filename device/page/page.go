// Package page says who is let in to a web page of the device's own: TLS with the server
// certificate of each moment, and clients who show a certificate of the owner's.
package page

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/hallmark-pki/hallmark/device"
)

// operatorPolicy marks operators' certificates (ca/profile).
const operatorPolicy = "1.2.840.113556.1.8000.2554.11435.15909.11008.20458.39002.9424236.13445737.1.5"

// ErrNone: the device has no certificate for a web page of its own.
var ErrNone = errors.New("the device has no certificate for a web page of its own")

// Operators names, for Server.TLSConfig, the installation's operators.
const Operators = "operators"

// What becomes of a client of whom is not known whether its certificate was revoked.
const (
	// FailOpen lets it in: the device may have no way to the CRL.
	FailOpen = "open"
	// FailClosed does not.
	FailClosed = "closed"
)

// Server serves a page with a device's identity.
type Server struct {
	*device.Identity
	// Lists are what is known of revoked certificates; nil means that each configuration
	// has its own.
	Lists *Lists
	// Report is told, now and then, of clients that were let in unknown; nil means nobody.
	Report func(line string)
}

// ServerTLSConfig is for the server's side of TLS: each handshake shows the certificate of
// that moment, and admits clients alone whose certificate is an operator's (clients is
// Operators), or chains to a certificate of a PEM file. One that was revoked is refused; fail
// says what becomes of one whose CRL is not to be had, FailOpen or FailClosed. ErrNone if the
// device has no server certificate.
func (s Server) ServerTLSConfig(clients, fail string) (*tls.Config, error) {
	if fail != FailOpen && fail != FailClosed {
		return nil, fmt.Errorf("%q: say %q or %q", fail, FailOpen, FailClosed)
	}
	if _, err := s.handshake(clients, fail); err != nil {
		return nil, err
	}
	if s.Lists == nil {
		s.Lists = new(Lists)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Resumption would skip both the key and the look at the client's certificate.
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.handshake(clients, fail) },
	}, nil
}

// handshake is the server's side of one handshake.
func (s Server) handshake(clients, fail string) (*tls.Config, error) {
	c, err := s.Credential()
	if err != nil {
		return nil, err
	}
	if len(c.Page) == 0 {
		return nil, ErrNone
	}
	which := clients
	switch clients {
	case Operators:
		which = device.InfrastructureRoots
	case "", device.SystemRoots, device.InfrastructureRoots: // half the world; every relay
		return nil, fmt.Errorf("clients are %q, or those of a PEM file of CA certificates", Operators)
	}
	roots, err := s.Roots(which)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: c.Page, PrivateKey: c.Certificate.PrivateKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: roots, Time: s.Now,
	}
	config.VerifyConnection = func(c tls.ConnectionState) error {
		// The infrastructure root stands behind relays as well: pin the profile, not the chain.
		if clients == Operators && !slices.ContainsFunc(c.PeerCertificates[0].Policies, func(p x509.OID) bool { return p.String() == operatorPolicy }) {
			return errors.New("the client's certificate is not an operator's")
		}
		return s.unrevoked(c.VerifiedChains[0], fail)
	}
	return config, nil
}

// unrevoked refuses a chain of which anything was revoked.
func (s Server) unrevoked(chain []*x509.Certificate, fail string) error {
	for i := range len(chain) - 1 {
		revoked, err := s.Lists.revoked(chain[i], chain[i+1], s.Now())
		switch {
		case revoked:
			return fmt.Errorf("the certificate of %s was revoked", chain[i].Subject)
		case err == nil, i > 0 && errors.Is(err, errNoList): // a private CA's own
		case fail == FailClosed:
			return fmt.Errorf("whether the certificate of %s was revoked is not known: %w", chain[i].Subject, err)
		case s.Report != nil && s.Lists.tell():
			s.Report(fmt.Sprintf("%s is let in; whether its certificate was revoked is not known: %v", chain[i].Subject, err))
		}
	}
	return nil
}
