package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	zcrypto "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3/lint"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// TestLinter: it finds what is wrong, and excuses only what is listed, where it is listed.
func TestLinter(t *testing.T) {
	l, err := newLinter()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "issuer"}, SubjectKeyId: []byte{1}}
	template := x509.Certificate{
		SerialNumber: profile.NewSerial(), Subject: pkix.Name{CommonName: "leaf", SerialNumber: "A_B"},
		NotBefore: time.Now(), NotAfter: profile.NoEnd, KeyUsage: x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, SubjectKeyId: []byte{2},
	}
	check := func(name string, change func(*x509.Certificate)) error {
		c := template
		change(&c)
		der, err := x509.CreateCertificate(rand.Reader, &c, issuer, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return l.check(name, der)
	}
	if err := check(string(profile.IDevID), func(*x509.Certificate) {}); err != nil {
		t.Error(err)
	}
	if err := check(string(profile.LDevID), func(*x509.Certificate) {}); err == nil {
		t.Error("an IDevID's excuse serves an LDevID")
	}
	for name, change := range map[string]func(*x509.Certificate){
		"serial number 0":      func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0) },
		"no key identifier":    func(c *x509.Certificate) { c.SubjectKeyId = nil },
		"a leaf that signs":    func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"an empty CRL address": func(c *x509.Certificate) { c.CRLDistributionPoints = []string{""} },
		"a critical key identifier": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 14}, Critical: true, Value: []byte{4, 1, 2}}}
		},
	} {
		if check(string(profile.IDevID), change) == nil {
			t.Errorf("%s passes", name)
		}
	}
	if l.check(string(profile.IDevID), []byte("?")) == nil {
		t.Error("garbage passes")
	}
	for name, rules := range accepted {
		for excused := range rules {
			if !slices.ContainsFunc(l.rules, func(r rule) bool { return r.Name == excused }) {
				t.Errorf("%s is excused from rule %s, which does not exist", name, excused)
			}
		}
	}
}

// TestAbsentRules: each rule that is left out finds nothing to look at in a certificate
// with every extension that a profile has, be it a device's or a CA's.
func TestAbsentRules(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, isCA := range []bool{false, true} {
		template := &x509.Certificate{
			SerialNumber: profile.NewSerial(), Subject: pkix.Name{CommonName: "all", SerialNumber: "A_B", Organization: []string{"Acme"}},
			NotBefore: time.Now(), NotAfter: profile.NoEnd, KeyUsage: x509.KeyUsageDigitalSignature, IsCA: isCA, BasicConstraintsValid: true,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageOCSPSigning}, SubjectKeyId: []byte{2}, AuthorityKeyId: []byte{3},
			DNSNames: []string{"ca.example"}, IPAddresses: []net.IP{{127, 0, 0, 1}}, CRLDistributionPoints: []string{"http://ca.example/crl"},
			OCSPServer: []string{"http://ca.example/ocsp"}, IssuingCertificateURL: []string{"http://ca.example/ca"},
			PolicyIdentifiers: []asn1.ObjectIdentifier{{2, 5, 29, 32, 0}, {1, 2, 3}},
			ExtraExtensions:   []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: asn1.NullBytes}},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := zcrypto.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range lint.GlobalRegistry().CertificateLints().Lints() {
			if !absent.MatchString(r.Name) {
				continue
			}
			if left++; r.Lint().CheckApplies(cert) {
				t.Errorf("%s would have looked", r.Name)
			}
		}
	}
	if left < 2*30 {
		t.Errorf("%d rules are left out", left/2)
	}
}
