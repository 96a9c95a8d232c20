package provisioner

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// authority is an issuing CA of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: profile.NewSerial(), Subject: pkix.Name{CommonName: "issuer"}, SubjectKeyId: []byte{1}, PublicKey: key.Public(),
		NotBefore: time.Now(), NotAfter: profile.NoEnd, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a := authority{template, key}
	a.cert = a.sign(t, template)
	return a
}

func (a authority) sign(t *testing.T, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, template.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, der)
}

func (a authority) leaf(t *testing.T, k profile.Kind, c profile.Content) *x509.Certificate {
	t.Helper()
	c.Key, c.Lifetime = a.key.Public(), time.Hour
	template, err := profile.Template(k, c, profile.Placement{Serial: profile.NewSerial(), NotBefore: time.Now(), Issuer: a.cert, Organisation: "Acme Devices"})
	if err != nil {
		t.Fatal(err)
	}
	return a.sign(t, template)
}

func parsed(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMemory: a memory gives the answers of its pins, whatever it has met.
func TestMemory(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	m := newMemory(profile.Pins{profile.Operational: ours.cert})
	device := profile.Content{Model: "gateway", Serial: "SN-0001"}
	good := ours.leaf(t, profile.LDevID, device)
	for range 3 {
		if issuer, kind, ok := m.recognise(good); issuer != profile.Operational || kind != profile.LDevID || !ok {
			t.Errorf("%s, %s, %t", issuer, kind, ok)
		}
	}
	forged := slices.Clone(good.Raw)
	forged[len(forged)-1] ^= 1 // in the signature
	for name, bad := range map[string]*x509.Certificate{
		"a forged signature":     parsed(t, forged),
		"another issuer's":       other.leaf(t, profile.LDevID, device),
		"a kind of another line": ours.leaf(t, profile.Operator, profile.Content{Principal: "anna"}),
		"none of our profiles":   ours.cert,
	} {
		m.remember(bad, profile.Manufacturing) // which is not pinned
		for range 2 {
			if _, _, ok := m.recognise(bad); ok {
				t.Errorf("%s is recognised", name)
			}
		}
	}
	issued := ours.leaf(t, profile.LDevID, device)
	m.remember(issued, profile.Operational)
	if issuer, kind, ok := m.recognise(issued); issuer != profile.Operational || kind != profile.LDevID || !ok {
		t.Errorf("issued: %s, %s, %t", issuer, kind, ok)
	}
}
