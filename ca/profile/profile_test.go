package profile_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// ca is a signing CA of the test, made through the profiles themselves.
type ca struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var begin = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func newRoot(t testing.TB) ca {
	t.Helper()
	key := newKey(t)
	template, err := profile.AuthorityTemplate(profile.Authority{Issuer: profile.Manufacturing, Root: true, Key: key.Public()},
		profile.Placement{Serial: profile.NewSerial(), NotBefore: begin, Organisation: "Acme Devices"})
	if err != nil {
		t.Fatal(err)
	}
	return ca{sign(t, template, template, key), key}
}

func sign(t testing.TB, template, parent *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, template.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// check holds a certificate against what it must be.
func check(k profile.Kind, c profile.Content, p profile.Placement, der []byte) (*x509.Certificate, error) {
	e, err := profile.Expect(k, c, p)
	if err != nil {
		return nil, err
	}
	return e.Check(der)
}

func (c ca) placement() profile.Placement {
	return profile.Placement{
		Serial: profile.NewSerial(), NotBefore: begin, Issuer: c.cert, Organisation: "Acme Devices",
		CRL: "http://ca.example/crl/manufacturing/7.crl", OCSP: "http://ca.example/ocsp", CA: "http://ca.example/ca/manufacturing.crt",
	}
}

// ekCertificate is a TPM maker's certificate with the given authority key identifier.
func ekCertificate(t testing.TB, aki []byte) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(0xf1e2d3)},
		&x509.Certificate{Subject: pkix.Name{CommonName: "TPM maker"}, SubjectKeyId: aki}, newKey(t).Public(), newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// content is good content of a kind.
func content(t testing.TB, k profile.Kind) profile.Content {
	c := profile.Content{Key: newKey(t).Public()}
	switch k {
	case profile.IDevID, profile.AK:
		c.Model, c.Serial = "gateway", "SN-0001"
		c.TPM = &profile.TPM{Maker: "STM", EKCertificate: ekCertificate(t, []byte{0xab, 0xcd}), EKFingerprint: sha256.Sum256([]byte("EK"))}
	case profile.LDevID:
		c.Model, c.Serial, c.Lifetime = "gateway", "SN-0001", 30*24*time.Hour
	case profile.DeviceServer:
		c.Model, c.Serial, c.DNSNames, c.Lifetime = "gateway", "SN-0001", []string{"sn-0001.local"}, 30*24*time.Hour
	case profile.Server:
		c.DNSNames, c.IPs, c.Lifetime = []string{"ca.example", "localhost"}, []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}, 90*24*time.Hour
	case profile.Operator, profile.Relay:
		c.Principal, c.Lifetime = "anna", 90*24*time.Hour
	case profile.Proof:
		c.Code, c.Lifetime = "8f3a2c1d9e7b4a60", 24*time.Hour
	case profile.OCSP:
		c.Lifetime = 30 * 24 * time.Hour
	}
	return c
}

// TestRecognise: issuer and profile are pinned together, by the issuer's key.
func TestRecognise(t *testing.T) {
	operational, infrastructure := newRoot(t), newRoot(t)
	pins := profile.Pins{profile.Operational: operational.cert, profile.Infrastructure: infrastructure.cert}
	impostor := ca{operational.cert, newKey(t)} // the same name, another key
	for name, c := range map[string]struct {
		kind   profile.Kind
		signer ca
		change func(*x509.Certificate)
		want   string
	}{
		"LDevID":                     {profile.LDevID, operational, nil, profile.Operational},
		"operator":                   {profile.Operator, infrastructure, nil, profile.Infrastructure},
		"LDevID of another line":     {profile.LDevID, infrastructure, nil, ""},
		"operator of another line":   {profile.Operator, operational, nil, ""},
		"IDevID of another line":     {profile.IDevID, operational, nil, ""},
		"OCSP responder":             {profile.OCSP, operational, nil, ""},
		"issuer's name, another key": {profile.LDevID, impostor, nil, ""},
		"another issuer":             {profile.LDevID, newRoot(t), nil, ""},
		"no profile":                 {profile.LDevID, operational, func(c *x509.Certificate) { c.Policies = nil }, ""},
		"two profiles": {profile.LDevID, operational, func(c *x509.Certificate) {
			c.Policies = append(slices.Clone(c.Policies), must(x509.ParseOID(profile.Policy(profile.IDevID))))
		}, ""},
	} {
		p := c.signer.placement()
		template, err := profile.Template(c.kind, content(t, c.kind), p)
		if err != nil {
			t.Fatal(err)
		}
		if c.change != nil {
			c.change(template)
		}
		parent := *c.signer.cert
		parent.PublicKey = c.signer.key.Public()
		issuer, kind, ok := pins.Recognise(sign(t, template, &parent, c.signer.key))
		if ok != (c.want != "") || issuer != c.want || ok && kind != c.kind {
			t.Errorf("%s: %q, %q, %v", name, issuer, kind, ok)
		}
	}
}

// TestCommonName: only a working certificate may have a name of its own, and none that
// could be another device's MODEL:SERIAL.
func TestCommonName(t *testing.T) {
	root := newRoot(t)
	c, p := content(t, profile.LDevID), root.placement()
	c.CommonName = "acme-SN-0001"
	template, err := profile.Template(profile.LDevID, c, p)
	if err != nil {
		t.Fatal(err)
	}
	cert := sign(t, template, root.cert, root.key)
	if _, err := check(profile.LDevID, c, p, cert.Raw); err != nil || cert.Subject.CommonName != "acme-SN-0001" {
		t.Errorf("%s: %v", cert.Subject, err)
	}
	if _, err := check(profile.LDevID, content(t, profile.LDevID), p, cert.Raw); err == nil {
		t.Error("the name is not looked at")
	}
	for _, bad := range []string{"gateway:SN-0002", "a,O=b", strings.Repeat("a", 65), "a b"} {
		c.CommonName = bad
		if c.Validate(profile.LDevID) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
	c = content(t, profile.IDevID)
	c.CommonName = "acme"
	if c.Validate(profile.IDevID) == nil {
		t.Error("a birth certificate with a name of its own")
	}
}

// TestOrganisations: builder and check choose the same string type for any maker's name.
func TestOrganisations(t *testing.T) {
	root := newRoot(t)
	for _, name := range []string{"Acme (Devices), 2: a+b='c'/d-e.?", "Müller & Söhne", "A & B", "50 * 2", "a_b", "株式会社", `a"b`, "a@b", "a;b"} {
		c, p := content(t, profile.LDevID), root.placement()
		p.Organisation = name
		cert := sign(t, must(profile.Template(profile.LDevID, c, p)), root.cert, root.key)
		if _, err := check(profile.LDevID, c, p, cert.Raw); err != nil || cert.Subject.Organization[0] != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFields(t *testing.T) {
	const (
		ski, ku, san, bc, crl, pol, aki, eku = "2.5.29.14", "2.5.29.15!", "2.5.29.17", "2.5.29.19!", "2.5.29.31", "2.5.29.32", "2.5.29.35", "2.5.29.37"
		aia, nocheck                         = "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.48.1.5"
		arc                                  = "1.2.840.113556.1.8000.2554.11435.15909.11008.20458.39002.9424236.13445737.1."
	)
	root := newRoot(t)
	for _, want := range []struct {
		kind       profile.Kind
		subject    string
		end        string
		extensions []string // ! marks critical
		usages     []x509.ExtKeyUsage
		other      string
		policies   []string
	}{
		{profile.IDevID, "SERIALNUMBER=gateway:SN-0001,CN=gateway,O=Acme Devices", "9999-12-31T23:59:59Z",
			[]string{ski, ku, san, bc, crl, pol, aki, aia}, nil, "", []string{arc + "1", "2.23.133.11.1.1", "2.23.133.11.1.2"}},
		{profile.AK, "SERIALNUMBER=gateway:SN-0001,CN=gateway,O=Acme Devices", "9999-12-31T23:59:59Z",
			[]string{ski, ku, san, bc, crl, pol, aki, eku, aia}, nil, "2.23.133.8.3", []string{arc + "2", "2.23.133.11.1.1", "2.23.133.11.1.3"}},
		{profile.LDevID, "CN=gateway:SN-0001,O=Acme Devices", "2026-12-22T08:59:59Z",
			[]string{ski, ku, bc, crl, pol, aki, eku, aia}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, "", []string{arc + "3"}},
		{profile.DeviceServer, "CN=gateway:SN-0001,O=Acme Devices", "2026-12-22T08:59:59Z",
			[]string{ski, ku, san, bc, crl, pol, aki, eku, aia}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, "", []string{arc + "10"}},
		{profile.Server, "CN=Hallmark server,O=Acme Devices", "2027-02-20T08:59:59Z",
			[]string{ski, ku, san, bc, crl, pol, aki, eku, aia}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, "", []string{arc + "4"}},
		{profile.Operator, "CN=anna,O=Acme Devices", "2027-02-20T08:59:59Z",
			[]string{ski, ku, bc, crl, pol, aki, eku, aia}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, "", []string{arc + "5"}},
		{profile.Relay, "CN=anna,O=Acme Devices", "2027-02-20T08:59:59Z",
			[]string{ski, ku, bc, crl, pol, aki, eku, aia}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, "", []string{arc + "7"}},
		{profile.OCSP, "CN=OCSP responder,O=Acme Devices", "2026-12-22T08:59:59Z",
			[]string{ski, ku, bc, pol, aki, eku, nocheck}, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, "", []string{arc + "6"}},
		{profile.Proof, "CN=8f3a2c1d9e7b4a60,O=Acme Devices", "2026-11-23T08:59:59Z",
			[]string{ski, ku, bc, crl, pol, aki, eku, aia}, nil, strings.TrimSuffix(arc, "1.") + "2.1", []string{arc + "9"}},
	} {
		t.Run(string(want.kind), func(t *testing.T) {
			c, p := content(t, want.kind), root.placement()
			template, err := profile.Template(want.kind, c, p)
			if err != nil {
				t.Fatal(err)
			}
			cert := sign(t, template, root.cert, root.key)
			var extensions, policies []string
			for _, e := range cert.Extensions {
				name := e.Id.String()
				if e.Critical {
					name += "!"
				}
				extensions = append(extensions, name)
			}
			for _, o := range cert.Policies {
				policies = append(policies, o.String())
			}
			slices.Sort(extensions)
			slices.Sort(want.extensions)
			other := ""
			for _, o := range cert.UnknownExtKeyUsage {
				other += o.String()
			}
			for _, x := range []struct{ what, got, want string }{
				{"subject", cert.Subject.String(), want.subject},
				{"notBefore", cert.NotBefore.Format(time.RFC3339), "2026-11-22T09:00:00Z"},
				{"notAfter", cert.NotAfter.Format(time.RFC3339), want.end},
				{"extensions", fmt.Sprint(extensions), fmt.Sprint(want.extensions)},
				{"extKeyUsage", fmt.Sprint(cert.ExtKeyUsage, other), fmt.Sprint(want.usages, want.other)},
				{"policies", fmt.Sprint(policies), fmt.Sprint(want.policies)},
				{"keyUsage", fmt.Sprint(cert.KeyUsage), fmt.Sprint(x509.KeyUsageDigitalSignature)},
				{"CA", fmt.Sprint(cert.IsCA), "false"},
			} {
				if x.got != x.want {
					t.Errorf("%s is %s, want %s", x.what, x.got, x.want)
				}
			}
			if got, err := check(want.kind, c, p, cert.Raw); err != nil || !got.Equal(cert) {
				t.Errorf("Check: %v", err)
			}
			if k, ok := profile.Of(cert); !ok || k != want.kind {
				t.Errorf("Of says %q, %t", k, ok)
			}
			if err := profile.CheckSignature(cert, root.cert); err != nil {
				t.Error(err)
			}
			other2 := newRoot(t)
			if err := profile.CheckSignature(cert, other2.cert); err == nil {
				t.Error("another CA's signature passes")
			}
		})
	}
}

// TestChipNames holds the otherNames against RFC 4108, RFC 4043 and TCG, byte by byte.
func TestChipNames(t *testing.T) {
	root := newRoot(t)
	for name, x := range map[string]struct {
		tpm  *profile.TPM
		want []string // in the DER of the extension
		not  []string
	}{
		"certified": {
			&profile.TPM{Maker: "STM", EKCertificate: ekCertificate(t, []byte{0xab, 0xcd}), EKFingerprint: [32]byte{1}},
			[]string{"\x2b\x06\x01\x05\x05\x07\x08\x04\xa0", "\x67\x81\x05\x01\x02", "STM:abcd:00f1e2d3", "\x2b\x06\x01\x05\x05\x07\x08\x03\xa0", "\x67\x81\x05\x0c\x01"}, nil,
		},
		"no issuer key in the EK certificate": {
			&profile.TPM{Maker: "STM", EKCertificate: ekCertificate(t, nil), EKFingerprint: [32]byte{1}},
			[]string{"\x67\x81\x05\x0c\x01"}, []string{"STM"},
		},
		"EK certificate with names that are too long to be true": {
			&profile.TPM{Maker: "STM", EKCertificate: ekCertificate(t, make([]byte, 33000)), EKFingerprint: [32]byte{1}},
			[]string{"STM:0000", "\x67\x81\x05\x0c\x01"}, nil,
		},
		"EK certificate that nobody can read": {
			&profile.TPM{Maker: "STM", EKCertificate: []byte("?"), EKFingerprint: [32]byte{1}},
			[]string{fmt.Sprintf("%x", sha256.Sum256([]byte("?"))), "\x67\x81\x05\x0c\x01"}, []string{"STM"},
		},
		"no EK certificate": {
			&profile.TPM{EKFingerprint: [32]byte{0xfe}},
			[]string{"\x2b\x06\x01\x05\x05\x07\x08\x03", "fe00000000"}, []string{"\x67\x81\x05\x0c\x01", "\x67\x81\x05\x01\x02"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := content(t, profile.IDevID), root.placement()
			c.TPM = x.tpm
			template, err := profile.Template(profile.IDevID, c, p)
			if err != nil {
				t.Fatal(err)
			}
			cert := sign(t, template, root.cert, root.key)
			if _, err := check(profile.IDevID, c, p, cert.Raw); err != nil {
				t.Error(err)
			}
			i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.String() == "2.5.29.17" })
			for _, s := range x.want {
				if !strings.Contains(string(cert.Extensions[i].Value), s) {
					t.Errorf("%x lacks %x", cert.Extensions[i].Value, s)
				}
			}
			for _, s := range x.not {
				if strings.Contains(string(cert.Extensions[i].Value), s) {
					t.Errorf("%x has %x", cert.Extensions[i].Value, s)
				}
			}
			policies := 1
			if x.tpm.EKCertificate != nil {
				policies = 3 // a maker vouches for it
			}
			if len(cert.Policies) != policies {
				t.Errorf("policies %v, want %d", cert.Policies, policies)
			}
		})
	}
}

// TestCheckRefuses changes one field of a good certificate at a time.
func TestCheckRefuses(t *testing.T) {
	root := newRoot(t)
	extension := func(id ...int) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Value: []byte{5, 0}})
		}
	}
	changes := map[string]func(*x509.Certificate){
		"another serial number":  func(c *x509.Certificate) { c.SerialNumber = profile.NewSerial() },
		"short serial number":    func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) },
		"later notBefore":        func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Second) },
		"other notAfter":         func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(-time.Second) },
		"other organisation":     func(c *x509.Certificate) { c.Subject.Organization = []string{"Acme"} },
		"two organisations":      func(c *x509.Certificate) { c.Subject.Organization = []string{"Acme Devices", "Acme"} },
		"another common name":    func(c *x509.Certificate) { c.Subject.CommonName += "x" },
		"no common name":         func(c *x509.Certificate) { c.Subject.CommonName = "" },
		"an organisational unit": func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"x"} },
		"another subject serial": func(c *x509.Certificate) { c.Subject.SerialNumber += "x" },
		"another key":            func(c *x509.Certificate) { c.PublicKey = newKey(t).Public() },
		"another key identifier": func(c *x509.Certificate) { c.SubjectKeyId = make([]byte, 20) },
		"no key identifier":      func(c *x509.Certificate) { c.SubjectKeyId = nil },
		"more key usage":         func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyAgreement },
		"certificate signing":    func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"no key usage":           func(c *x509.Certificate) { c.KeyUsage = 0 },
		"more extended key usage": func(c *x509.Certificate) {
			c.ExtKeyUsage = append(slices.Clone(c.ExtKeyUsage), x509.ExtKeyUsageCodeSigning)
		},
		"any extended key usage": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"unknown key usage":      func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
		"a CA":                   func(c *x509.Certificate) { c.IsCA = true },
		"no basic constraints":   func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"no policy":              func(c *x509.Certificate) { c.Policies = nil },
		"one policy more": func(c *x509.Certificate) {
			c.Policies = append(slices.Clone(c.Policies), must(x509.ParseOID("2.5.29.32.0")))
		},
		"another policy":   func(c *x509.Certificate) { c.Policies = []x509.OID{must(x509.ParseOID("1.2.3"))} },
		"a DNS name more":  func(c *x509.Certificate) { c.DNSNames = append(slices.Clone(c.DNSNames), "evil.example") },
		"an email address": func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example"} },
		"another CRL": func(c *x509.Certificate) {
			c.CRLDistributionPoints = []string{"http://ca.example/crl/manufacturing/8.crl"}
		},
		"two CRLs": func(c *x509.Certificate) {
			c.CRLDistributionPoints = append(slices.Clone(c.CRLDistributionPoints), "http://x")
		},
		"another OCSP responder": func(c *x509.Certificate) { c.OCSPServer = []string{"http://evil.example/"} },
		"another CA address":     func(c *x509.Certificate) { c.IssuingCertificateURL = []string{"http://evil.example/"} },
		"noRevAvail":             extension(2, 5, 29, 56),
		"an unknown extension":   extension(1, 2, 3, 4),
		"nameConstraints":        func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"x.example"} },
		"another hash":           func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 },
		"a critical unknown thing": func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		},
	}
	for _, k := range profile.Kinds() {
		for name, change := range changes {
			c, p := content(t, k), root.placement()
			template, err := profile.Template(k, c, p)
			if err != nil {
				t.Fatal(err)
			}
			good := sign(t, template, root.cert, root.key)
			change(template)
			der, err := x509.CreateCertificate(rand.Reader, template, root.cert, template.PublicKey, root.key)
			if err != nil {
				continue // crypto/x509 would not sign it either (two subjectAltNames, …)
			}
			bad, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if string(bad.RawTBSCertificate) == string(good.RawTBSCertificate) {
				continue // the change does not reach this kind
			}
			if _, err := check(k, c, p, der); err == nil {
				t.Errorf("%s certificate with %s passes", k, name)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestCheckEveryByte: no byte of a certificate's signed part can change unseen.
func TestCheckEveryByte(t *testing.T) {
	root := newRoot(t)
	for _, k := range profile.Kinds() {
		c, p := content(t, k), root.placement()
		good := sign(t, must(profile.Template(k, c, p)), root.cert, root.key)
		signed := len(good.Raw) - len(good.Signature)
		for i := range signed {
			bad := slices.Clone(good.Raw)
			bad[i] ^= 1
			if _, err := check(k, c, p, bad); err == nil {
				t.Errorf("%s certificate: byte %d changed, and it passes", k, i)
			} else if len(err.Error()) > 200 {
				t.Fatalf("%s certificate: byte %d changed, and nobody would read %q", k, i, err)
			}
		}
	}
}

func TestCheckTellsPlacementsApart(t *testing.T) {
	root, other := newRoot(t), newRoot(t)
	for _, k := range profile.Kinds() {
		c, p := content(t, k), root.placement()
		good := sign(t, must(profile.Template(k, c, p)), root.cert, root.key)
		p.Issuer = other.cert
		if _, err := check(k, c, p, good.Raw); err == nil {
			t.Errorf("%s certificate passes for another issuer", k)
		}
		for _, wrong := range profile.Kinds() {
			if _, err := check(wrong, c, root.placement(), good.Raw); err == nil {
				t.Errorf("%s certificate passes for %s, or with another serial number", k, wrong)
			}
		}
	}
}

func TestAuthorities(t *testing.T) {
	root := newRoot(t)
	for _, issuer := range profile.Issuers() {
		a := profile.Authority{Issuer: issuer, Key: newKey(t).Public()}
		p := root.placement()
		template, err := profile.AuthorityTemplate(a, p)
		if err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(*x509.Certificate){
			"":                       func(*x509.Certificate) {},
			"longer path":            func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = c.MaxPathLen+1, false },
			"no path length":         func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false },
			"not a CA":               func(c *x509.Certificate) { c.IsCA, c.MaxPathLen, c.MaxPathLenZero = false, 0, false },
			"signing anything":       func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature },
			"no CRLs":                func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign },
			"an extended key usage":  func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
			"another common name":    func(c *x509.Certificate) { c.Subject.CommonName = "Operational issuer 00000000" },
			"another end":            func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(-time.Hour) },
			"nameConstraints":        func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"x.example"} },
			"no policy":              func(c *x509.Certificate) { c.Policies = nil },
			"another key identifier": func(c *x509.Certificate) { c.SubjectKeyId = make([]byte, 20) },
		} {
			changed := *template
			change(&changed)
			cert := sign(t, &changed, root.cert, root.key)
			_, err := must(profile.ExpectAuthority(a, p)).Check(cert.Raw)
			if (err == nil) != (name == "") {
				t.Errorf("%s issuer certificate with %s: %v", issuer, name, err)
			}
		}
	}
	p := root.placement()
	p.Issuer = nil
	for _, issuer := range profile.Issuers() {
		key := newKey(t)
		a := profile.Authority{Issuer: issuer, Root: true, Key: key.Public()}
		template, err := profile.AuthorityTemplate(a, p)
		if err != nil {
			t.Fatal(err)
		}
		cert := sign(t, template, template, key)
		if _, err := must(profile.ExpectAuthority(a, p)).Check(cert.Raw); err != nil {
			t.Errorf("%s root: %v", issuer, err)
		}
	}
	if _, err := profile.Expect(profile.Operator, profile.Content{Key: newKey(t).Public(), Principal: "anna", Lifetime: time.Hour}, p); err == nil {
		t.Error("a leaf without issuer can be expected")
	}
	stranger := profile.Authority{Issuer: "other", Root: true, Key: newKey(t).Public()}
	if _, err := profile.AuthorityTemplate(stranger, p); err == nil {
		t.Error("a root of no line can be built")
	}
	if _, err := profile.ExpectAuthority(stranger, p); err == nil {
		t.Error("a root of no line can be expected")
	}
	if _, err := profile.ExpectAuthority(profile.Authority{Issuer: profile.Operational, Key: newKey(t).Public()}, p); err == nil {
		t.Error("an issuer without issuer can be")
	}
}

func TestValidateRefuses(t *testing.T) {
	long := strings.Repeat("a", 41)
	rsaKey := func(bits int) crypto.PublicKey {
		n := new(big.Int).SetBit(new(big.Int), bits-1, 1)
		return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
	}
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	for _, x := range []struct {
		kind   profile.Kind
		name   string
		change func(*profile.Content)
	}{
		{"vpn", "unknown kind", func(*profile.Content) {}},
		{profile.IDevID, "no key", func(c *profile.Content) { c.Key = nil }},
		{profile.IDevID, "P-224", func(c *profile.Content) { c.Key = p224.Public() }},
		{profile.IDevID, "off the curve", func(c *profile.Content) {
			k := *newKey(t).Public().(*ecdsa.PublicKey)
			//lint:ignore SA1019 There is no other way to make a key that must not exist.
			k.X = new(big.Int).Add(k.X, big.NewInt(1))
			c.Key = &k
		}},
		{profile.IDevID, "RSA-1024", func(c *profile.Content) { c.Key = rsaKey(1024) }},
		{profile.IDevID, "RSA-8192", func(c *profile.Content) { c.Key = rsaKey(8192) }},
		{profile.Server, "RSA", func(c *profile.Content) { c.Key = rsaKey(2048) }},
		{profile.IDevID, "a private key", func(c *profile.Content) { c.Key = newKey(t) }},
		{profile.IDevID, "no model", func(c *profile.Content) { c.Model = "" }},
		{profile.IDevID, "capital model", func(c *profile.Content) { c.Model = "Gateway" }},
		{profile.IDevID, "long model", func(c *profile.Content) { c.Model = long[:24] }},
		{profile.IDevID, "no serial", func(c *profile.Content) { c.Serial = "" }},
		{profile.IDevID, "long serial", func(c *profile.Content) { c.Serial = long }},
		{profile.IDevID, "blank in serial", func(c *profile.Content) { c.Serial = "SN 1" }},
		{profile.IDevID, "newline in serial", func(c *profile.Content) { c.Serial = "SN1\n" }},
		{profile.IDevID, "NUL in serial", func(c *profile.Content) { c.Serial = "SN1\x00" }},
		{profile.IDevID, "lifetime", func(c *profile.Content) { c.Lifetime = time.Hour }},
		{profile.IDevID, "operator", func(c *profile.Content) { c.Principal = "anna" }},
		{profile.IDevID, "maker without certificate", func(c *profile.Content) { c.TPM.EKCertificate = nil }},
		{profile.IDevID, "no fingerprint", func(c *profile.Content) { c.TPM.EKFingerprint = [32]byte{} }},
		{profile.IDevID, "long maker", func(c *profile.Content) { c.TPM.Maker = "STMicroel" }},
		{profile.IDevID, "colon in maker", func(c *profile.Content) { c.TPM.Maker = "S:M" }},
		{profile.LDevID, "TPM", func(c *profile.Content) { c.TPM = &profile.TPM{EKFingerprint: [32]byte{1}} }},
		{profile.LDevID, "no lifetime", func(c *profile.Content) { c.Lifetime = 0 }},
		{profile.LDevID, "lifetime that ends before it begins", func(c *profile.Content) { c.Lifetime = time.Second - 1 }},
		{profile.LDevID, "negative lifetime", func(c *profile.Content) { c.Lifetime = -time.Hour }},
		{profile.LDevID, "long lifetime", func(c *profile.Content) { c.Lifetime = 826 * 24 * time.Hour }},
		{profile.LDevID, "DNS name", func(c *profile.Content) { c.DNSNames = []string{"x.example"} }},
		{profile.DeviceServer, "no names", func(c *profile.Content) { c.DNSNames = nil }},
		{profile.DeviceServer, "an address", func(c *profile.Content) { c.IPs = []net.IP{net.IPv4(192, 0, 2, 1)} }},
		{profile.DeviceServer, "no device", func(c *profile.Content) { c.Model, c.Serial = "", "" }},
		{profile.DeviceServer, "a name of its own", func(c *profile.Content) { c.CommonName = "acme" }},
		{profile.Server, "no names", func(c *profile.Content) { c.DNSNames, c.IPs = nil, nil }},
		{profile.Server, "wildcard", func(c *profile.Content) { c.DNSNames = []string{"*.example"} }},
		{profile.Server, "address as a name", func(c *profile.Content) { c.DNSNames = []string{"192.0.2.1"} }},
		{profile.Server, "capital name", func(c *profile.Content) { c.DNSNames = []string{"CA.example"} }},
		{profile.Server, "trailing dot", func(c *profile.Content) { c.DNSNames = []string{"ca.example."} }},
		{profile.Server, "half an address", func(c *profile.Content) { c.IPs = []net.IP{{1, 2}} }},
		{profile.Server, "unspecified address", func(c *profile.Content) { c.IPs = []net.IP{net.IPv4zero} }},
		{profile.Server, "33 names", func(c *profile.Content) { c.DNSNames = slices.Repeat([]string{"x"}, 33) }},
		{profile.Server, "model", func(c *profile.Content) { c.Model = "x" }},
		{profile.Operator, "capital name", func(c *profile.Content) { c.Principal = "Anna" }},
		{profile.Operator, "no name", func(c *profile.Content) { c.Principal = "" }},
		{profile.OCSP, "name", func(c *profile.Content) { c.DNSNames = []string{"x"} }},
	} {
		c := content(t, x.kind)
		if x.kind != "vpn" && c.Validate(x.kind) != nil {
			t.Fatal("the good content is bad")
		}
		x.change(&c)
		if err := c.Validate(x.kind); err == nil {
			t.Errorf("%s content with %s passes", x.kind, x.name)
		}
		if _, err := profile.Template(x.kind, c, newRoot(t).placement()); err == nil {
			t.Errorf("%s certificate with %s is built", x.kind, x.name)
		}
	}
	for _, name := range []string{"", " Acme", "Acme\n", "A\x00cme", "\xff", strings.Repeat("ä", 65)} {
		if profile.CheckOrganisation(name) == nil {
			t.Errorf("organisation %q passes", name)
		}
	}
}

// TestIssuerEndsFirst: a leaf never outlives its issuer.
func TestIssuerEndsFirst(t *testing.T) {
	root := newRoot(t)
	p := root.placement()
	issuer := *root.cert
	issuer.NotAfter = begin.Add(time.Hour)
	p.Issuer = &issuer
	for _, k := range profile.Kinds() {
		if _, err := profile.Template(k, content(t, k), p); err == nil || !strings.Contains(err.Error(), "issuer") {
			t.Errorf("%s: %v", k, err)
		}
	}
}

func TestOf(t *testing.T) {
	oid := func(k profile.Kind) x509.OID { return must(x509.ParseOID(profile.Policy(k))) }
	for name, x := range map[string]struct {
		policies []x509.OID
		want     profile.Kind
	}{
		"none":         {nil, ""},
		"strange":      {[]x509.OID{must(x509.ParseOID("1.2.3"))}, ""},
		"one":          {[]x509.OID{must(x509.ParseOID("1.2.3")), oid(profile.LDevID)}, profile.LDevID},
		"two":          {[]x509.OID{oid(profile.LDevID), oid(profile.Operator)}, ""},
		"twice as one": {[]x509.OID{oid(profile.LDevID), oid(profile.LDevID)}, ""},
	} {
		if k, ok := profile.Of(&x509.Certificate{Policies: x.policies}); k != x.want && ok || ok != (x.want != "") {
			t.Errorf("%s: %q, %t", name, k, ok)
		}
	}
	if profile.Policy("vpn") != "" {
		t.Error("an unknown kind has a policy")
	}
}

func TestSerial(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		n := profile.NewSerial()
		text := profile.SerialText(n)
		if der := must(asn1.Marshal(n)); len(der) != 18 || n.Sign() != 1 || len(text) != 32 || seen[text] {
			t.Fatalf("serial number %x is %d bytes", n, len(der)-2)
		}
		seen[text] = true
	}
	if got := profile.SerialText(big.NewInt(0xABC)); got != "00000000000000000000000000000abc" {
		t.Error(got)
	}
}

func TestBaseURL(t *testing.T) {
	for _, bad := range []string{"", "ca.example", "https://ca.example", "http://", "http://u:p@ca.example", "http://ca.example?x", "http://ca.example#x", "http://ca.example?", "http://:8445", "ftp://ca.example"} {
		if _, err := profile.BaseURL(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
	base := must(profile.BaseURL("http://ca.example:8445/pki/"))
	if got := profile.CRLURL(base, profile.Operational, 7); got != "http://ca.example:8445/pki/crl/operational/7.crl" {
		t.Error(got)
	}
}

// fixed is a CA and good content that are the same in every process: the workers of a
// fuzzer must agree on what a seed means.
func fixed(f *testing.F) (ca, func(profile.Kind) (profile.Content, profile.Placement)) {
	key := must(ecdsa.ParseRawPrivateKey(elliptic.P256(), []byte("0123456789abcdef0123456789abcdef")))
	p := profile.Placement{Serial: new(big.Int).Lsh(big.NewInt(0x40), 120), NotBefore: begin, Organisation: "Acme Devices"}
	template := must(profile.AuthorityTemplate(profile.Authority{Issuer: profile.Manufacturing, Root: true, Key: key.Public()}, p))
	root := ca{sign(f, template, template, key), key}
	return root, func(k profile.Kind) (profile.Content, profile.Placement) {
		c, p := content(f, k), root.placement()
		c.Key, p.Serial = key.Public(), template.SerialNumber
		if c.TPM != nil {
			c.TPM.EKCertificate = []byte("an EK certificate")
		}
		return c, p
	}
}

// FuzzCheck: whatever the bytes, Check does not panic, and what it passes is what was
// asked for, up to the signature.
func FuzzCheck(f *testing.F) {
	root, good := fixed(f)
	type certificate struct {
		c   profile.Content
		p   profile.Placement
		tbs []byte
	}
	all := map[profile.Kind]certificate{}
	for _, k := range profile.Kinds() {
		c, p := good(k)
		cert := sign(f, must(profile.Template(k, c, p)), root.cert, root.key)
		all[k] = certificate{c, p, cert.RawTBSCertificate}
		f.Add(cert.Raw)
	}
	f.Add(root.cert.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		for k, want := range all {
			got, err := check(k, want.c, want.p, der)
			if err == nil && string(got.RawTBSCertificate) != string(want.tbs) {
				t.Errorf("%s: %x passes", k, der)
			}
		}
	})
}

// FuzzEKCertificate: builder and check read the same from any EK certificate, so that
// no chip's oddity keeps it from being certified.
func FuzzEKCertificate(f *testing.F) {
	root, good := fixed(f)
	c, p := good(profile.IDevID)
	f.Add(ekCertificate(f, []byte{1, 2}))
	f.Add(ekCertificate(f, nil))
	f.Fuzz(func(t *testing.T, der []byte) {
		if len(der) == 0 {
			return
		}
		c := c
		c.TPM = &profile.TPM{Maker: "STM", EKCertificate: der, EKFingerprint: [32]byte{1}}
		template, err := profile.Template(profile.IDevID, c, p)
		if err != nil {
			t.Fatal(err)
		}
		cert := sign(t, template, root.cert, root.key)
		if _, err := check(profile.IDevID, c, p, cert.Raw); err != nil {
			t.Error(err)
		}
	})
}
