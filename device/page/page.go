// Package page is the access control of a device's own web page: TLS with the current server
// certificate, and clients that show a certificate of the owner's.
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

// What happens to a client whose revocation status is not known.
const (
	// FailOpen lets it in: the device may be unable to reach the CRL.
	FailOpen = "open"
	// FailClosed does not.
	FailClosed = "closed"
)

// Server serves a page with a device's identity.
type Server struct {
	*device.Identity
	// Lists is the cache of CRLs; nil means that each configuration has its own.
	Lists *Lists
	// Report occasionally receives a line about a client that was let in with unknown status; may
	// be nil.
	Report func(line string)
}

// ServerTLSConfig is for the server side of TLS: each handshake shows the current certificate,
// and admits only clients whose certificate is an operator's (clients is Operators) or chains to
// a certificate in the PEM file that clients names. Revoked ones are refused; fail, FailOpen or
// FailClosed, says what happens if the CRL is unavailable. ErrNone if the device has no server
// certificate.
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
		// Resumption would skip both the key and the check of the client's certificate.
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.handshake(clients, fail) },
	}, nil
}

// handshake is the configuration of one handshake.
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
	case "", device.SystemRoots, device.InfrastructureRoots: // the public web's clients; every relay
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
		// The infrastructure root certifies relays as well: pin the profile, not the chain.
		if clients == Operators && !slices.ContainsFunc(c.PeerCertificates[0].Policies, func(p x509.OID) bool { return p.String() == operatorPolicy }) {
			return errors.New("the client's certificate is not an operator's")
		}
		return s.unrevoked(c.VerifiedChains[0], fail)
	}
	return config, nil
}

// unrevoked refuses a chain if any certificate in it was revoked.
func (s Server) unrevoked(chain []*x509.Certificate, fail string) error {
	for i := range len(chain) - 1 {
		revoked, err := s.Lists.revoked(chain[i], chain[i+1], s.Now())
		switch {
		case revoked:
			return fmt.Errorf("the certificate of %s was revoked", chain[i].Subject)
		case err == nil, i > 0 && errors.Is(err, errNoList): // a private CA without CRLs
		case fail == FailClosed:
			return fmt.Errorf("whether the certificate of %s was revoked is not known: %w", chain[i].Subject, err)
		case s.Report != nil && s.Lists.tell():
			s.Report(fmt.Sprintf("%s is let in; whether its certificate was revoked is not known: %v", chain[i].Subject, err))
		}
	}
	return nil
}
