package cas_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/cas"
)

func newIssuer(t *testing.T) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, SubjectKeyId: []byte{1, 2, 3},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// counting counts how often a key is used.
type counting struct {
	crypto.Signer
	used int
}

func (c *counting) Sign(random io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	c.used++
	return c.Signer.Sign(random, digest, o)
}

// TestSign: softcas signs what was prepared, to the byte; if it would build anything else,
// the issuer's key is not used.
func TestSign(t *testing.T) {
	issuer, key := newIssuer(t)
	counted := &counting{Signer: key}
	s, err := cas.New(t.Context(), cas.Options{Type: cas.SoftCAS, Chain: []*x509.Certificate{issuer}, Signer: counted})
	if err != nil {
		t.Fatal(err)
	}
	throwaway, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent := *issuer
	parent.PublicKey = throwaway.Public()
	for name, end := range map[string]time.Time{
		"a month": time.Now().Add(30 * 24 * time.Hour), "no end": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "leaf"}, SubjectKeyId: []byte{4, 5, 6},
			NotBefore: time.Now().Add(-time.Minute).Truncate(time.Second), NotAfter: end.Truncate(time.Second).UTC(),
			SignatureAlgorithm: x509.ECDSAWithSHA256, PublicKey: key.Public(), KeyUsage: x509.KeyUsageDigitalSignature,
			CRLDistributionPoints: []string{"http://ca.example/1.crl"},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, &parent, template.PublicKey, throwaway)
		if err != nil {
			t.Fatal(err)
		}
		template.RawTBSCertificate = parse(t, der).RawTBSCertificate
		prepared, before := template, *template
		signed, err := s.Sign(prepared)
		if err != nil {
			t.Fatal(name, err)
		}
		if !reflect.DeepEqual(before, *prepared) {
			t.Errorf("%s: what was prepared was changed", name)
		}
		if got := parse(t, signed); string(got.RawTBSCertificate) != string(prepared.RawTBSCertificate) || got.CheckSignatureFrom(issuer) != nil {
			t.Errorf("%s: signed %x", name, signed)
		}
		for what, change := range map[string]func(*x509.Certificate){
			"serial number": func(c *x509.Certificate) { c.SerialNumber = big.NewInt(8) },
			"end":           func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(-time.Hour) },
			"key":           func(c *x509.Certificate) { c.PublicKey = throwaway.Public() },
			"extensions":    func(c *x509.Certificate) { c.CRLDistributionPoints = nil },
			"intent":        func(c *x509.Certificate) { c.RawTBSCertificate = c.RawTBSCertificate[:40] },
		} {
			c := *prepared
			change(&c)
			used := counted.used
			if der, err := s.Sign(&c); err == nil || der != nil || counted.used != used {
				t.Errorf("%s: another %s than was prepared: %v, the key was used %d times", name, what, err, counted.used-used)
			}
		}
	}
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewRefuses(t *testing.T) {
	issuer, key := newIssuer(t)
	_, other := newIssuer(t)
	chain := []*x509.Certificate{issuer}
	for _, x := range []struct {
		o    cas.Options
		want string
	}{
		{cas.Options{Type: "vaultcas", Chain: chain, Signer: key}, "recorded first"},
		{cas.Options{Type: "cloudcas", Chain: chain, Signer: key}, "recorded first"},
		{cas.Options{Type: "stepcas", Chain: chain, Signer: key}, "recorded first"},
		{cas.Options{Type: "", Chain: chain, Signer: key}, "no signer"},
		{cas.Options{Type: cas.SoftCAS, Signer: key}, "certificate and key"},
		{cas.Options{Type: cas.SoftCAS, Chain: chain}, "certificate and key"},
		{cas.Options{Type: cas.SoftCAS, Chain: chain, Signer: other}, "not that of the issuer"},
	} {
		if _, err := cas.New(t.Context(), x.o); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%+v: %v", x.o.Type, err)
		}
	}
}
