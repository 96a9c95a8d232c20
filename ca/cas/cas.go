// Package cas has a certificate authority service of smallstep/certificates sign exactly what it
// is given.
//
// A service is software with a key from ca/keys (softcas). What it returns is not trusted:
// package ca looks again.
package cas

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/smallstep/certificates/cas/apiv1"
	"github.com/smallstep/certificates/cas/softcas"

	"github.com/hallmark-pki/hallmark/ca/profile"
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
	chain  []*x509.Certificate
	signer crypto.Signer
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
	// softcas reports what else is wrong now, and not when a device waits.
	if _, err := softcas.New(ctx, apiv1.Options{Type: apiv1.SoftCAS, CertificateChain: o.Chain, Signer: o.Signer}); err != nil {
		return nil, err
	}
	return &Service{o.Chain, o.Signer}, nil
}

// Sign makes the certificate of which prepared is the template, and returns its DER. The service
// builds what is to be signed from prepared's fields; unless that equals
// prepared.RawTBSCertificate, the issuer's key is not used. The caller must verify the signature.
func (s *Service) Sign(prepared *x509.Certificate) ([]byte, error) {
	return profile.Sign(prepared.RawTBSCertificate, s.signer, func(key crypto.Signer) error {
		template := *prepared // softcas changes it
		backend := softcas.SoftCAS{CertificateChain: s.chain, Signer: key}
		_, err := backend.CreateCertificate(&apiv1.CreateCertificateRequest{
			Template: &template,
			Lifetime: template.NotAfter.Sub(template.NotBefore), // softcas wants it, and uses it only without NotAfter
		})
		if err != nil {
			return fmt.Errorf("softcas: %w", err)
		}
		return nil
	})
}
