// Package cas asks a certificate authority service of smallstep/certificates to sign
// exactly what it is given.
//
// A service may be software with a key from ca/keys (softcas), or another CA. What it
// returns is not trusted to be what was asked for: package ca compares.
package cas

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"
)

// SoftCAS signs in this process, with a crypto.Signer that may be a KMS's.
const SoftCAS = "softcas"

// Options says which service signs for one issuer.
type Options struct {
	// Type is SoftCAS.
	Type string
	// Chain is the issuer's certificate, then those above it.
	Chain []*x509.Certificate
	// Signer is the issuer's key.
	Signer crypto.Signer
}

// Service signs for one issuer.
type Service struct {
	backend apiv1.CertificateAuthorityService
}

// New opens a service. It refuses a signer that is not the certificate's.
func New(ctx context.Context, o Options) (*Service, error) {
	switch o.Type {
	case SoftCAS:
	case apiv1.StepCAS, apiv1.CloudCAS, apiv1.VaultCAS:
		return nil, fmt.Errorf("signer %q chooses serial numbers and contents itself, so what it signs cannot be recorded first; this version supports %q", o.Type, SoftCAS)
	default:
		return nil, fmt.Errorf("there is no signer %q; this version supports %q", o.Type, SoftCAS)
	}
	if len(o.Chain) == 0 || o.Signer == nil {
		return nil, errors.New("softcas needs the issuer's certificate and key")
	}
	if k, ok := o.Signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(o.Chain[0].PublicKey) {
		return nil, fmt.Errorf("the key is not that of the issuer certificate %q", o.Chain[0].Subject.CommonName)
	}
	backend, err := softcas.New(ctx, apiv1.Options{Type: apiv1.SoftCAS, CertificateChain: o.Chain, Signer: o.Signer})
	if err != nil {
		return nil, err
	}
	return &Service{backend}, nil
}

// Sign asks for a certificate like template, which must be complete: serial number,
// validity, key identifier and signature algorithm included. The template is not
// changed.
func (s *Service) Sign(template *x509.Certificate) (*x509.Certificate, error) {
	clone := *template // softcas writes issuer and algorithm into what it is given
	answer, err := s.backend.CreateCertificate(&apiv1.CreateCertificateRequest{
		Template: &clone,
		Lifetime: template.NotAfter.Sub(template.NotBefore), // softcas wants it, and uses it only without NotAfter
	})
	if err != nil {
		return nil, err
	}
	return answer.Certificate, nil
}
