package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// TestSpecimen: whatever the issuer's algorithm, what is linted is what x509 signs for the
// issuer itself, in a certificate that is whole, with a signature that is not his.
func TestSpecimen(t *testing.T) {
	for name, make := range map[string]func() (crypto.Signer, error){
		"P-256":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		"P-384":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
		"RSA-2048": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
	} {
		t.Run(name, func(t *testing.T) {
			key, err := make()
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now().Truncate(time.Second)
			root := &x509.Certificate{SerialNumber: profile.NewSerial(), Subject: pkix.Name{CommonName: "issuer"}, SubjectKeyId: []byte{1}, NotBefore: now, NotAfter: profile.NoEnd}
			issuer := parse(t)(x509.CreateCertificate(rand.Reader, root, root, key.Public(), key))
			c := profile.Content{Key: leaf.Public(), Principal: "anna", Lifetime: time.Hour}
			p := profile.Placement{Serial: profile.NewSerial(), NotBefore: now, Issuer: issuer, Organisation: "Acme Devices", CRL: "http://a/crl", OCSP: "http://a/ocsp", CA: "http://a/ca"}
			expected, err := profile.Expect(profile.Operator, c, p)
			if err != nil {
				t.Fatal(err)
			}
			signature, err := specimenSignature(issuer.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			specimen := parse(t)(profile.Assemble(expected.TBS(), signature))
			template, err := profile.Template(profile.Operator, c, p)
			if err != nil {
				t.Fatal(err)
			}
			real := parse(t)(x509.CreateCertificate(rand.Reader, template, issuer, template.PublicKey, key))
			if !bytes.Equal(specimen.RawTBSCertificate, real.RawTBSCertificate) || specimen.SignatureAlgorithm != real.SignatureAlgorithm {
				t.Error("another certificate is linted than is signed")
			}
			if issuer.CheckSignature(specimen.SignatureAlgorithm, specimen.RawTBSCertificate, specimen.Signature) == nil {
				t.Error("the issuer's key signed what is linted")
			}
		})
	}
	if _, err := specimenSignature(nil); err == nil {
		t.Error("an issuer without a key")
	}
}

func parse(t *testing.T) func([]byte, error) *x509.Certificate {
	return func(der []byte, err error) *x509.Certificate {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}
