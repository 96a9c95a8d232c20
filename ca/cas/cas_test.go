package cas_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
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

// TestSign: softcas signs what it is given, to the byte, and leaves the template alone.
func TestSign(t *testing.T) {
	issuer, key := newIssuer(t)
	s, err := cas.New(t.Context(), cas.Options{Type: cas.SoftCAS, Chain: []*x509.Certificate{issuer}, Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]time.Time{
		"a month": time.Now().Add(30 * 24 * time.Hour), "no end": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "leaf"}, SubjectKeyId: []byte{4, 5, 6},
			NotBefore: time.Now().Add(-time.Minute).Truncate(time.Second), NotAfter: end.Truncate(time.Second).UTC(),
			SignatureAlgorithm: x509.ECDSAWithSHA256, PublicKey: key.Public(), KeyUsage: x509.KeyUsageDigitalSignature,
		}
		before := *template
		got, err := s.Sign(template)
		if err != nil {
			t.Fatal(name, err)
		}
		if !reflect.DeepEqual(before, *template) {
			t.Errorf("%s: the template was changed", name)
		}
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, template.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		want, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if string(got.RawTBSCertificate) != string(want.RawTBSCertificate) || got.CheckSignatureFrom(issuer) != nil {
			t.Errorf("%s: signed %x", name, got.Raw)
		}
	}
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
