package crl

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

func issuer(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Issuer"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Whatever keys CAs have: what crypto/x509 finds signed is, and nothing else.
func TestSigned(t *testing.T) {
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	key, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	other := issuer(t, p256)
	for _, key := range []crypto.Signer{p256, p384, key} {
		c := issuer(t, key)
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: time.Now()}}}, c, key)
		if err != nil {
			t.Fatal(err)
		}
		if !Signed(der, c) || !Signed(der, issuer(t, p384), c) {
			t.Errorf("%T: it is signed", key)
		}
		changed := bytes.Clone(der)
		changed[len(changed)/2] ^= 1
		if Signed(der) || key != p256 && Signed(der, other) || Signed(changed, c) || Signed(der[:len(der)-1], c) || Signed(append(der, 0), c) || Signed(nil, c) {
			t.Errorf("%T: it is not signed", key)
		}
	}
}

// What nobody signed costs no more than itself.
func TestUnsigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := issuer(t, key)
	entries := make([]x509.RevocationListEntry, 10_000)
	for i := range entries {
		entries[i] = x509.RevocationListEntry{SerialNumber: big.NewInt(int64(i + 1)), RevocationTime: time.Now()}
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: entries}, c, key)
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1] ^= 1
	if n := testing.AllocsPerRun(1, func() {
		if Signed(der, c) {
			t.Error("it is not signed")
		}
	}); n > 1000 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzSigned: whatever a list is, crypto/x509 finds it signed by the same issuers, if it can read it.
func FuzzSigned(f *testing.F) {
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	key, err2 := rsa.GenerateKey(rand.Reader, 2048)
	if err1 != nil || err2 != nil {
		f.Fatal(err1, err2)
	}
	issuers := []*x509.Certificate{issuer(f, p256), issuer(f, key)}
	var signed [][]byte // what they have signed
	for n, key := range []crypto.Signer{p256, key} {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: time.Now()}}}, issuers[n], key)
		if err != nil {
			f.Fatal(err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			f.Fatal(err)
		}
		signed = append(signed, list.RawTBSRevocationList)
		f.Add(der)
		f.Add(list.RawTBSRevocationList)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		got, want := Signed(der, issuers...), false
		list, err := x509.ParseRevocationList(der)
		if err == nil {
			want = bytes.Equal(list.Raw, der) && (list.CheckSignatureFrom(issuers[0]) == nil || list.CheckSignatureFrom(issuers[1]) == nil)
		}
		if err == nil && got != want || got && !bytes.Contains(der, signed[0]) && !bytes.Contains(der, signed[1]) {
			t.Fatalf("signed: %v, not %v: %x", got, want, der)
		}
	})
}
