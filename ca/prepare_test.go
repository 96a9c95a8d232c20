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

// TestRehearsal: whatever the issuer's algorithm, what is rehearsed is what x509 signs
// for the issuer itself, in a certificate that is whole, by a key that is not his.
func TestRehearsal(t *testing.T) {
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
			issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "issuer"}, SubjectKeyId: []byte{1}, PublicKey: key.Public()}
			template := &x509.Certificate{SerialNumber: profile.NewSerial(), Subject: pkix.Name{CommonName: "leaf"}, PublicKey: key.Public(),
				NotBefore: time.Now(), NotAfter: profile.NoEnd, SubjectKeyId: []byte{2}}
			r, err := newRehearsal(issuer)
			if err != nil {
				t.Fatal(err)
			}
			rehearsed := parse(t)(r.sign(template))
			if err := r.parent.CheckSignature(rehearsed.SignatureAlgorithm, rehearsed.RawTBSCertificate, rehearsed.Signature); err != nil {
				t.Error(err)
			}
			real := parse(t)(x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), key))
			if !bytes.Equal(rehearsed.RawTBSCertificate, real.RawTBSCertificate) || rehearsed.SignatureAlgorithm != real.SignatureAlgorithm {
				t.Error("another certificate was rehearsed than is signed")
			}
			if issuer.CheckSignature(rehearsed.SignatureAlgorithm, rehearsed.RawTBSCertificate, rehearsed.Signature) == nil {
				t.Error("the issuer's key signed a rehearsal")
			}
			template.PublicKey = nil
			if _, err := r.sign(template); err == nil {
				t.Error("a template without a key was rehearsed")
			}
		})
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
