package steps

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

type root struct {
	key *ecdsa.PrivateKey
	der []byte
}

func newRoot(t testing.TB) root {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return root{key, der}
}

func (r root) pinned(sum [32]byte) bool { return sum == sha256.Sum256(r.der) }

func signed(t testing.TB, number int64, by root, listed ...root) wire.SignedBundle {
	t.Helper()
	b := wire.Bundle{Number: number, Name: "Acme", Created: time.Unix(1, 0), Servers: []string{"https://ca.example"}}
	for _, r := range listed {
		b.Infrastructure = append(b.Infrastructure, r.der)
	}
	spki, err := x509.MarshalPKIXPublicKey(by.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	b.Operational, b.Manufacturing, b.TimeKeys = b.Infrastructure, b.Infrastructure, [][]byte{spki}
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	digest := wire.BundleDigest(text)
	signature, err := ecdsa.SignASN1(rand.Reader, by.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(by.der)
	return wire.SignedBundle{Bundle: text, Signatures: []wire.BundleSignature{{Signer: hex.EncodeToString(sum[:]), Signature: signature}}}
}

func TestOpen(t *testing.T) {
	a, b, c := newRoot(t), newRoot(t), newRoot(t)
	way := []wire.SignedBundle{signed(t, 1, a, a), signed(t, 2, a, a, b), signed(t, 3, b, b), signed(t, 4, b, b, c), signed(t, 5, c, c)}
	for name, k := range map[string]struct {
		list []wire.SignedBundle
		pin  root
		want int64
	}{
		"the whole way":                {way, a, 5},
		"from the middle":              {way, b, 5},
		"the newest alone":             {way[4:], c, 5},
		"an unknown root":              {way, newRoot(t), 0},
		"a gap":                        {append(way[:2:2], way[3:]...), a, 0},
		"the wrong order":              {[]wire.SignedBundle{way[1], way[0]}, b, 0},
		"the end signed by a stranger": {append(way[:2:2], signed(t, 3, c, c)), a, 0},
		"nothing":                      {nil, a, 0},
		"without end":                  {make([]wire.SignedBundle, wire.MaxSteps+1), a, 0},
	} {
		got, err := Open(k.list, k.pin.pinned)
		if got.Number != k.want || (err == nil) != (k.want > 0) {
			t.Errorf("%s: bundle %d, %v, want %d", name, got.Number, err, k.want)
		}
	}
}

// FuzzOpen: whatever stands in the middle of the way, nothing leads to a bundle that the
// roots on it did not sign.
func FuzzOpen(f *testing.F) {
	a, b := newRoot(f), newRoot(f)
	first, last := signed(f, 1, a, a, b), signed(f, 3, b, b)
	middle := signed(f, 2, b, b)
	f.Add(middle.Bundle, middle.Signatures[0].Signer, middle.Signatures[0].Signature)
	f.Fuzz(func(t *testing.T, text []byte, name string, signature []byte) {
		changed := wire.SignedBundle{Bundle: text, Signatures: []wire.BundleSignature{{Signer: name, Signature: signature}}}
		if got, err := Open([]wire.SignedBundle{first, changed, last}, a.pinned); err == nil && string(text) != string(middle.Bundle) {
			t.Fatalf("opened %+v", got)
		}
	})
}
