package crl

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

func issuer(t testing.TB, curve elliptic.Curve) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Issuer"}, SubjectKeyId: []byte("key"),
		NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// What crypto/x509 writes of the same list is the same to the byte, but for the signature.
func TestTheSameAsCryptoX509(t *testing.T) {
	at := time.Date(2026, 11, 28, 17, 0, 0, 0, time.UTC)
	var entries []Entry
	for i, serial := range []string{"00", "7f", "80", "0080", "00ff01", "ffffffffffffffffffffffffffffffff", "0102030405060708090a0b0c0d0e0f10", strings.Repeat("f1", 20)} {
		for _, since := range []time.Time{at, time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600)), time.Date(2051, 1, 1, 0, 0, 0, 0, time.UTC)} {
			entries = append(entries, Entry{Serial: serial, Since: since.Add(time.Duration(i) * time.Millisecond), Reason: i % 7})
		}
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		c, key := issuer(t, curve)
		for _, n := range []int{0, 1, len(entries)} {
			l := List{Number: 1 << 40, ThisUpdate: at, NextUpdate: at.AddDate(30, 0, 0), Entries: entries[:n]}
			template := &x509.RevocationList{Number: big.NewInt(l.Number), ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate}
			for _, e := range l.Entries {
				serial, _ := new(big.Int).SetString(e.Serial, 16)
				template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: e.Since, ReasonCode: e.Reason})
			}
			theirs, err := x509.CreateRevocationList(rand.Reader, template, c, key)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := l.Sign(c, key)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := parse(t, ours, c), parse(t, theirs, c); string(got.RawTBSRevocationList) != string(want.RawTBSRevocationList) {
				t.Errorf("%s, %d entries:\n%x, want\n%x", curve.Params().Name, n, got.RawTBSRevocationList, want.RawTBSRevocationList)
			}
		}
	}
}

func parse(t *testing.T, der []byte, issuer *x509.Certificate) *x509.RevocationList {
	t.Helper()
	l, err := x509.ParseRevocationList(der)
	if err == nil {
		err = l.CheckSignatureFrom(issuer)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestExtensions(t *testing.T) {
	c, key := issuer(t, elliptic.P256())
	l := List{Number: 9, ThisUpdate: time.Now(), NextUpdate: time.Now(), Point: "http://a/b", Freshest: "http://a/d", Base: 7}
	der, err := l.Sign(c, key)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range parse(t, der, c).Extensions {
		got = append(got, fmt.Sprintf("%v %v %x", e.Id, e.Critical, e.Value))
	}
	name := func(uri string) string { return "a00e" + "a00c" + "860a" + hex.EncodeToString([]byte(uri)) }
	want := []string{ // by hand
		"2.5.29.35 false 300580036b6579",
		"2.5.29.20 false 020109",
		"2.5.29.27 true 020107",
		"2.5.29.28 true 3013" + name("http://a/b") + "8101ff",
		"2.5.29.46 false 3012" + "3010" + name("http://a/d"),
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("extensions\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRefusals(t *testing.T) {
	c, key := issuer(t, elliptic.P256())
	for _, serial := range []string{"", "x", "abc", strings.Repeat("00", 21)} {
		if _, err := (List{Entries: []Entry{{Serial: serial}}}).Sign(c, key); err == nil {
			t.Errorf("serial number %q was taken", serial)
		}
	}
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{foreign, p521} {
		if _, err := (List{}).Sign(c, key); err == nil {
			t.Errorf("%T signed", key)
		}
	}
}
