package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// Founding is what a new installation's CAs are made of.
type Founding struct {
	// Organisation is the maker's name in every subject.
	Organisation string
	// BaseURL is where CRLs, OCSP and CA certificates will be served: "http://HOST:PORT".
	BaseURL string
	// Names are the issuers to make, each with its root; none means profile.Issuers().
	Names []string
	// Now is when the CAs begin.
	Now time.Time
	// Key makes and stores the key of one CA, named as in URLs ("operational",
	// "operational-root"): P-256 or P-384.
	Key func(name string) (crypto.Signer, error)
}

// Founded is one issuer with a root of its own.
type Founded struct {
	// Name is the issuer's name; its root's is profile.RootOf(Name).
	Name string
	// Root is the root's certificate, Certificate the issuer's.
	Root, Certificate *x509.Certificate
	// RootSigner and Signer are their keys, as Founding.Key made them. The root's is
	// needed again only to replace or revoke the issuer.
	RootSigner, Signer crypto.Signer
	// RootCRL is the root's CRL (DER). It is empty and lasts as long as the issuer, so that a
	// relying party that checks the whole chain has one while the root's key is offline; revoking
	// the issuer takes that key and a list with a greater number.
	RootCRL []byte
}

// Found makes issuers, each with a root of its own, in the order of Names. Each certificate is
// made like a leaf: prepared, linted, signed, and looked at again. Nothing is stored except by
// Key.
func Found(f Founding) ([]Founded, error) {
	base, err := profile.BaseURL(f.BaseURL)
	if err != nil {
		return nil, err
	}
	f.BaseURL = base
	lints, err := newLinter()
	if err != nil {
		return nil, err
	}
	var all []Founded
	if len(f.Names) == 0 {
		f.Names = profile.Issuers()
	}
	for _, name := range f.Names {
		founded, err := f.found(lints, name)
		if err != nil {
			return nil, fmt.Errorf("found the %s CA: %w", name, err)
		}
		all = append(all, founded)
	}
	return all, nil
}

func (f Founding) found(lints *linter, name string) (Founded, error) {
	root := profile.RootOf(name)
	made := Founded{Name: name}
	var err error
	if made.RootSigner, err = f.Key(root); err != nil {
		return made, fmt.Errorf("make the root's key: %w", err)
	}
	if made.Signer, err = f.Key(name); err != nil {
		return made, fmt.Errorf("make the issuer's key: %w", err)
	}
	p := profile.Placement{
		Serial: profile.NewSerial(), NotBefore: f.Now.UTC().Add(-backdate).Truncate(time.Second),
		Organisation: f.Organisation,
	}
	a := profile.Authority{Issuer: profile.LineOf(name), Root: true, Key: made.RootSigner.Public()}
	if made.Root, err = certify(lints, a, p, made.RootSigner); err != nil {
		return made, err
	}
	p.Serial, p.Issuer = profile.NewSerial(), made.Root
	p.CRL, p.CA = profile.CRLURL(f.BaseURL, root, 0), profile.CAURL(f.BaseURL, root)
	a = profile.Authority{Issuer: profile.LineOf(name), Key: made.Signer.Public()}
	if made.Certificate, err = certify(lints, a, p, made.RootSigner); err != nil {
		return made, err
	}
	made.RootCRL, err = rootCRL(made.Root, made.RootSigner, rootCRLOf(big.NewInt(1), nil, f.Now, made.Certificate.NotAfter))
	return made, err
}

// certify makes one CA certificate: prepare, lint, sign, look again.
func certify(lints *linter, a profile.Authority, p profile.Placement, signer crypto.Signer) (*x509.Certificate, error) {
	template, err := profile.AuthorityTemplate(a, p)
	if err != nil {
		return nil, err
	}
	expected, err := profile.ExpectAuthority(a, p)
	if err != nil {
		return nil, err
	}
	name, parent := "issuer", p.Issuer
	if a.Root {
		name, parent = "root", template
	}
	signature, err := specimenSignature(parent.PublicKey)
	if err != nil {
		return nil, err
	}
	specimen, err := profile.Assemble(expected.TBS(), signature)
	if err != nil {
		return nil, err
	}
	if err := lints.check(name, specimen); err != nil {
		return nil, err
	}
	der, err := profile.Sign(expected.TBS(), signer, func(key crypto.Signer) error {
		_, err := x509.CreateCertificate(rand.Reader, template, parent, a.Key, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	cert, err := expected.Check(der)
	if err != nil {
		return nil, err
	}
	if a.Root {
		parent = cert
	}
	return cert, profile.CheckSignature(cert, parent)
}
