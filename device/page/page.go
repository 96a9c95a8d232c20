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

// Server serves a page with a device's identity.
type Server struct{ *device.Identity }

// ServerTLSConfig is for the server's side of TLS: each handshake shows the certificate of
// that moment, and admits clients alone whose certificate is an operator's (clients is
// Operators), or chains to a certificate of a PEM file. ErrNone if the device has no server
// certificate. Revocation is not asked for: a client is good until its certificate ends.
func (s Server) ServerTLSConfig(clients string) (*tls.Config, error) {
	if _, err := s.handshake(clients); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Resumption would skip both the key and the look at the client's certificate.
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.handshake(clients) },
	}, nil
}

// handshake is the server's side of one handshake.
func (s Server) handshake(clients string) (*tls.Config, error) {
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
	if clients == Operators {
		// The infrastructure root stands behind relays as well: pin the profile, not the chain.
		config.VerifyConnection = func(s tls.ConnectionState) error {
			if !slices.ContainsFunc(s.PeerCertificates[0].Policies, func(p x509.OID) bool { return p.String() == operatorPolicy }) {
				return errors.New("the client's certificate is not an operator's")
			}
			return nil
		}
	}
	return config, nil
}
