// Package cas asks a certificate authority service of smallstep/certificates to sign
// exactly what it is given.
//
// A service may be software with a key from ca/keys (softcas), or another CA. What it
// returns is not trusted to be what was asked for: package ca looks again.
package cas

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"

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
	// It would say what else is wrong, now and not when a device waits.
	if _, err := softcas.New(ctx, apiv1.Options{Type: apiv1.SoftCAS, CertificateChain: o.Chain, Signer: o.Signer}); err != nil {
		return nil, err
	}
	return &Service{o.Chain, o.Signer}, nil
}

// Sign asks for a certificate like prepared, which may be signed by anybody, and returns
// its DER. The service builds what is to be signed from prepared's fields; unless that is
// prepared.RawTBSCertificate to the byte, the issuer's key is not used.
//
// The signature is not looked at: whoever asks must, and x509.CreateCertificate, which
// would too, is stopped before (it takes longer than signing).
func (s *Service) Sign(prepared *x509.Certificate) ([]byte, error) {
	once := &guard{Signer: s.signer, intent: prepared.RawTBSCertificate}
	backend := softcas.SoftCAS{CertificateChain: s.chain, Signer: once}
	_, err := backend.CreateCertificate(&apiv1.CreateCertificateRequest{
		Template: &x509.Certificate{
			SerialNumber: prepared.SerialNumber, SignatureAlgorithm: prepared.SignatureAlgorithm,
			NotBefore: prepared.NotBefore, NotAfter: prepared.NotAfter,
			RawSubject: prepared.RawSubject, PublicKey: prepared.PublicKey, SubjectKeyId: prepared.SubjectKeyId,
			ExtraExtensions: prepared.Extensions,
		},
		Lifetime: prepared.NotAfter.Sub(prepared.NotBefore), // softcas wants it, and uses it only without NotAfter
	})
	if !errors.Is(err, errSigned) {
		return nil, fmt.Errorf("softcas: %w", err)
	}
	return profile.Assemble(once.intent, once.signature)
}

// guard lets a key sign one text and no other, and then ends whatever its caller was about.
type guard struct {
	crypto.Signer
	intent, signature []byte
}

var errSigned = errors.New("signed; stop here")

// SignMessage makes guard a crypto.MessageSigner, which sees more than a digest.
func (g *guard) SignMessage(random io.Reader, tbs []byte, o crypto.SignerOpts) (_ []byte, err error) {
	if !bytes.Equal(tbs, g.intent) {
		return nil, errors.New("something else than what was prepared was about to be signed")
	}
	if g.signature, err = crypto.SignMessage(g.Signer, random, tbs, o); err != nil {
		return nil, err
	}
	return nil, errSigned
}

// Sign is for who sees digests only.
func (g *guard) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a digest does not say what it is of")
}
