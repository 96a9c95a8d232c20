package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

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
		for rule := range rules {
			if !slices.ContainsFunc(l.rules, func(r *lint.CertificateLint) bool { return r.Name == rule }) {
				t.Errorf("%s is excused from rule %s, which does not exist", name, rule)
			}
		}
	}
}
