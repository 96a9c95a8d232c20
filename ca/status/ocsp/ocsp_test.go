package ocsp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	second "golang.org/x/crypto/ocsp"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func authority(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"},
		NotBefore: now, NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true}, &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func TestParseRequestAgreesWithASecondOpinion(t *testing.T) {
	ca, _ := authority(t)
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		der, err := second.CreateRequest(&x509.Certificate{SerialNumber: big.NewInt(0x1234567890)}, ca, &second.RequestOptions{Hash: hash})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := second.ParseRequest(der)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRequest(der)
		if err != nil || r.Hash != hash || r.Nonce != nil || !bytes.Equal(r.NameHash, theirs.IssuerNameHash) ||
			!bytes.Equal(r.KeyHash, theirs.IssuerKeyHash) || r.Serial.Cmp(theirs.SerialNumber) != 0 {
			t.Fatalf("%+v %v", r, err)
		}
		name, key, err := IssuerHashes(ca, hash)
		if err != nil || !bytes.Equal(name, theirs.IssuerNameHash) || !bytes.Equal(key, theirs.IssuerKeyHash) {
			t.Errorf("issuer hashes: %x %x %v", name, key, err)
		}
	}
}

// ext is an extension for encoding/asn1, with which the requests here are written:
// apart from cryptobyte, which reads them.
type ext struct {
	ID       asn1.ObjectIdentifier
	Critical bool `asn1:"optional"`
	Value    []byte
}

type certID struct {
	Algorithm pkix.AlgorithmIdentifier
	Name, Key []byte
	Serial    *big.Int
}

type single struct {
	ID         certID
	Extensions []ext `asn1:"explicit,tag:0,optional,omitempty"`
}

type tbs struct {
	Version    int           `asn1:"explicit,tag:0,optional,default:0"`
	Requestor  asn1.RawValue `asn1:"optional"`
	List       []single
	Extensions []ext `asn1:"explicit,tag:2,optional,omitempty"`
}

type request struct {
	TBS       tbs
	Signature asn1.RawValue `asn1:"optional"`
}

func sample() request {
	return request{TBS: tbs{List: []single{{ID: certID{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidSHA1, Parameters: asn1.NullRawValue},
		Name:      bytes.Repeat([]byte{1}, 20), Key: bytes.Repeat([]byte{2}, 20), Serial: big.NewInt(77)}}}}}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func nonce(t testing.TB, n int) ext {
	return ext{ID: oidNonce, Value: encode(t, bytes.Repeat([]byte{7}, n))}
}

func TestParseRequest(t *testing.T) {
	other := ext{ID: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 4}, Value: []byte{5, 0}} // acceptable responses
	critical := other
	critical.Critical = true
	tagged := func(tag int, content []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: content}
	}
	for _, c := range []struct {
		name   string
		change func(*request)
		ok     bool
		nonce  int
	}{
		{"plain", func(*request) {}, true, 0},
		{"no parameters", func(r *request) { r.TBS.List[0].ID.Algorithm.Parameters = asn1.RawValue{} }, true, 0},
		{"a hash unknown here", func(r *request) { r.TBS.List[0].ID.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 3} }, true, 0},
		{"nonce of 1", func(r *request) { r.TBS.Extensions = []ext{nonce(t, 1)} }, true, 1},
		{"nonce of 128", func(r *request) { r.TBS.Extensions = []ext{other, nonce(t, 128)} }, true, 128},
		{"unknown extension", func(r *request) { r.TBS.Extensions = []ext{other} }, true, 0},
		{"unknown single extension", func(r *request) { r.TBS.List[0].Extensions = []ext{other} }, true, 0},
		{"signed", func(r *request) { r.Signature = tagged(0, []byte{0x30, 0}) }, true, 0},
		{"with a requestor", func(r *request) { r.TBS.Requestor = tagged(1, []byte{0x82, 1, 'a'}) }, true, 0},
		{"the longest serial", func(r *request) { r.TBS.List[0].ID.Serial = new(big.Int).Lsh(big.NewInt(1), 159) }, true, 0},

		{"nonce of 0", func(r *request) { r.TBS.Extensions = []ext{nonce(t, 0)} }, false, 0},
		{"nonce of 129", func(r *request) { r.TBS.Extensions = []ext{nonce(t, 129)} }, false, 0},
		{"nonce without its OCTET STRING", func(r *request) { r.TBS.Extensions = []ext{{ID: oidNonce, Value: []byte("raw")}} }, false, 0},
		{"two nonces", func(r *request) { r.TBS.Extensions = []ext{nonce(t, 16), nonce(t, 16)} }, false, 0},
		{"nonce for a single request", func(r *request) { r.TBS.List[0].Extensions = []ext{nonce(t, 16)} }, false, 0},
		{"critical extension", func(r *request) { r.TBS.Extensions = []ext{critical} }, false, 0},
		{"critical single extension", func(r *request) { r.TBS.List[0].Extensions = []ext{critical} }, false, 0},
		{"as many certificates as there may be", func(r *request) { r.TBS.List = slices.Repeat(r.TBS.List, MaxCertificates) }, true, 0},
		{"one certificate more", func(r *request) { r.TBS.List = slices.Repeat(r.TBS.List, MaxCertificates+1) }, false, 0},
		{"a hundred certificates", func(r *request) { r.TBS.List = slices.Repeat(r.TBS.List, 100) }, false, 0},
		{"a second one that is none", func(r *request) {
			r.TBS.List = append(r.TBS.List, single{ID: certID{Algorithm: r.TBS.List[0].ID.Algorithm, Serial: big.NewInt(-1)}})
		}, false, 0},
		{"a nonce for the second", func(r *request) {
			r.TBS.List = append(r.TBS.List, single{ID: r.TBS.List[0].ID, Extensions: []ext{nonce(t, 16)}})
		}, false, 0},
		{"no certificate", func(r *request) { r.TBS.List = nil }, false, 0},
		{"negative serial", func(r *request) { r.TBS.List[0].ID.Serial = big.NewInt(-1) }, false, 0},
		{"serial too long", func(r *request) { r.TBS.List[0].ID.Serial = new(big.Int).Lsh(big.NewInt(1), 160) }, false, 0},
		{"parameters", func(r *request) {
			r.TBS.List[0].ID.Algorithm.Parameters = asn1.RawValue{FullBytes: []byte{2, 1, 0}}
		}, false, 0},
		{"too large", func(r *request) { r.Signature = tagged(0, make([]byte, MaxRequest)) }, false, 0},
	} {
		r := sample()
		c.change(&r)
		der := encode(t, r)
		got, err := ParseRequest(der)
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrMalformed)) || len(got.Nonce) != c.nonce {
			t.Errorf("%s: %v, nonce of %d", c.name, err, len(got.Nonce))
		}
		if !c.ok {
			continue
		}
		if len(got.More) != len(r.TBS.List)-1 {
			t.Errorf("%s: %d more", c.name, len(got.More))
		}
		if _, err := ParseRequest(append(der, 0)); err == nil {
			t.Errorf("%s: trailing byte accepted", c.name)
		}
		if _, err := ParseRequest(der[:len(der)-1]); err == nil {
			t.Errorf("%s: truncated, accepted", c.name)
		}
	}
}

func TestResponseAgreesWithASecondOpinion(t *testing.T) {
	ca, key := authority(t)
	ask, err := second.CreateRequest(&x509.Certificate{SerialNumber: big.NewInt(77)}, ca, &second.RequestOptions{Hash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRequest(ask)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Response{
		{Status: Good},
		{Status: Unknown},
		{Status: Revoked, Since: now.Add(-time.Hour)},
		{Status: Revoked, Since: now.Add(-time.Hour), Reason: 6},
		{Status: Good, Nonce: []byte("sixteen octets..")},
	} {
		want.CertID, want.ThisUpdate, want.NextUpdate = r.CertID, now, now.Add(time.Hour)
		der, err := want.Sign(ca, key)
		if err != nil {
			t.Fatal(err)
		}
		// The certificate enclosed is the CA's own here, which second checks the answer with.
		got, err := second.ParseResponse(der, ca)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status != int(want.Status) || got.SerialNumber.Int64() != 77 || got.RevocationReason != want.Reason ||
			!got.ThisUpdate.Equal(now) || !got.NextUpdate.Equal(now.Add(time.Hour)) || !got.ProducedAt.Equal(now) ||
			got.IssuerHash != crypto.SHA256 || !got.RevokedAt.Equal(want.Since) || len(got.ResponderKeyHash) != 20 {
			t.Errorf("%+v, want %+v", got, want)
		}
		if has := strings.Contains(string(der), "sixteen octets.."); has != (want.Nonce != nil) {
			t.Error("nonce in the answer:", has)
		}
	}
}

// An answer's ResponseData, octet by octet, with a fixed responder key hash.
func TestResponseBytes(t *testing.T) {
	ca, _ := authority(t)
	der, err := Response{CertID: []byte{0x30, 0}, Status: Revoked, Since: now, Reason: 1, ThisUpdate: now, NextUpdate: now}.data(ca)
	if err != nil {
		t.Fatal(err)
	}
	at := hex.EncodeToString([]byte("20261122120000Z"))
	_, keyHash, err := IssuerHashes(ca, crypto.SHA1)
	if err != nil {
		t.Fatal(err)
	}
	want := "306b" + "a216" + "0414" + hex.EncodeToString(keyHash) + "180f" + at +
		"3040" + "303e" + "3000" + "a116" + "180f" + at + "a003" + "0a0101" + "180f" + at + "a011" + "180f" + at
	if hex.EncodeToString(der) != want {
		t.Errorf("%x, want %s", der, want)
	}
}

func TestOnlyP256Signs(t *testing.T) {
	ca, _ := authority(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{p384, rsa2048} {
		if _, err := (Response{CertID: []byte{0x30, 0}, ThisUpdate: now, NextUpdate: now}).Sign(ca, key); err == nil {
			t.Errorf("%T signed", key)
		}
	}
}

// FuzzParseRequest: what is accepted is also what a second parser reads, and its
// CertID is a part of the input.
func FuzzParseRequest(f *testing.F) {
	f.Add(encode(f, sample()))
	r := sample()
	r.TBS.Extensions = []ext{nonce(f, 16)}
	f.Add(encode(f, r))
	r.TBS.List = slices.Repeat(r.TBS.List, 3)
	f.Add(encode(f, r))
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := ParseRequest(der)
		if err != nil {
			return
		}
		if len(got.Nonce) > 128 || len(got.More) >= MaxCertificates {
			t.Fatalf("%+v", got)
		}
		for _, one := range append([]Request{got}, got.More...) {
			if !bytes.Contains(der, one.CertID) || one.Serial.BitLen() > 160 {
				t.Fatalf("%+v", one)
			}
			var id certID
			if rest, err := asn1.Unmarshal(one.CertID, &id); err != nil || len(rest) > 0 || id.Serial.Cmp(one.Serial) != 0 {
				t.Fatalf("CertID %x: %v", one.CertID, err)
			}
		}
	})
}
