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
	"strconv"
	"strings"
	"testing"
	"time"

	zcrypto "github.com/zmap/zcrypto/x509"

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

// TestRulesAbout: a rule that is passed over where an extension is absent would have
// found nothing to look at, in a device's certificate or a CA's, with every other
// extension or with none.
func TestRulesAbout(t *testing.T) {
	l, err := newLinter()
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for extension := range about {
		full := &x509.Certificate{
			SerialNumber: profile.NewSerial(), Subject: pkix.Name{CommonName: "all", SerialNumber: "A_B", Organization: []string{"Acme"}},
			NotBefore: time.Now(), NotAfter: profile.NoEnd, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageOCSPSigning}, SubjectKeyId: []byte{2}, AuthorityKeyId: []byte{3},
			DNSNames: []string{"*.ca.example"}, IPAddresses: []net.IP{{127, 0, 0, 1}}, CRLDistributionPoints: []string{"http://ca.example/crl"},
			OCSPServer: []string{"http://ca.example/ocsp"}, IssuingCertificateURL: []string{"http://ca.example/ca"},
			PolicyIdentifiers: []asn1.ObjectIdentifier{{2, 5, 29, 32, 0}, {1, 2, 3}},
		}
		for other := range about {
			if other == extension || other == "2.5.29.17" {
				continue
			}
			var id asn1.ObjectIdentifier
			for part := range strings.SplitSeq(other, ".") {
				n, _ := strconv.Atoi(part)
				id = append(id, n)
			}
			full.ExtraExtensions = append(full.ExtraExtensions, pkix.Extension{Id: id, Value: []byte{0x30, 0}})
		}
		if extension == "2.5.29.17" {
			full.DNSNames, full.IPAddresses = nil, nil
		}
		authority := *full
		authority.IsCA, authority.KeyUsage = true, x509.KeyUsageCertSign
		bare := &x509.Certificate{SerialNumber: profile.NewSerial(), NotAfter: profile.NoEnd}
		for _, template := range []*x509.Certificate{full, &authority, bare} {
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := zcrypto.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := cert.ExtensionsMap[extension]; ok {
				t.Fatalf("the certificate without %s has it", extension)
			}
			for _, r := range l.rules {
				if r.about != extension {
					continue
				}
				if found[extension]++; r.body.CheckApplies(cert) {
					t.Errorf("%s would have looked where %s is absent", r.Name, extension)
				}
			}
		}
	}
	for extension := range about {
		if found[extension] == 0 {
			t.Errorf("no rule is about %s", extension)
		}
	}
}
