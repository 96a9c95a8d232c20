package bundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// key signs bundles: a root's, or one of their own signers'.
type key struct {
	*ecdsa.PrivateKey
	der []byte // of the root's certificate, or the SubjectPublicKeyInfo
}

func newKey(t *testing.T, root bool) key {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if root {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
		der, err = x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key{k, der}
}

func (k key) sum() [32]byte { return sha256.Sum256(k.der) }

func sign(t *testing.T, number int64, root key, signers []key, by ...key) wire.SignedBundle {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(root.Public())
	if err != nil {
		t.Fatal(err)
	}
	roots := [][]byte{root.der}
	b := wire.Bundle{Number: number, Name: "Acme", Created: time.Unix(1, 0), Servers: []string{"https://ca.example"},
		Infrastructure: roots, Operational: roots, Manufacturing: roots, TimeKeys: [][]byte{spki}, Threshold: len(signers)}
	for _, s := range signers {
		b.Signers = append(b.Signers, s.der)
	}
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	out, digest := wire.SignedBundle{Bundle: text}, wire.BundleDigest(text)
	for _, k := range by {
		signature, err := ecdsa.SignASN1(rand.Reader, k.PrivateKey, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		sum := k.sum()
		out.Signatures = append(out.Signatures, wire.BundleSignature{Signer: hex.EncodeToString(sum[:]), Signature: signature})
	}
	return out
}

func TestTake(t *testing.T) {
	root, anna, bert, cleo := newKey(t, true), newKey(t, false), newKey(t, false), newKey(t, false)
	pinned := func(sum [32]byte) bool { return sum == root.sum() }
	both := []key{anna, bert}
	second := sign(t, 2, root, both, root, anna, bert)
	third := sign(t, 3, root, []key{anna, cleo}, anna, bert, cleo)
	fourth := sign(t, 4, root, []key{cleo}, anna, cleo)
	way := []wire.SignedBundle{sign(t, 1, root, nil, root), second, third, fourth}
	for name, c := range map[string]struct {
		answer wire.RelayTrust
		want   int64 // 0: refused
		says   string
	}{
		"the same":                      {wire.RelayTrust{Bundle: second}, 2, ""},
		"the next":                      {wire.RelayTrust{Bundle: third}, 3, ""},
		"the way":                       {wire.RelayTrust{Bundle: fourth, Steps: way}, 4, ""},
		"one that its keys have signed": {wire.RelayTrust{Bundle: sign(t, 9, root, nil, root, anna, bert)}, 9, ""},
		"by the root's key alone":       {wire.RelayTrust{Bundle: sign(t, 3, root, nil, root)}, 0, "signed by 0 of the keys that bundle 2 names, want 2"},
		"by one of two":                 {wire.RelayTrust{Bundle: sign(t, 9, root, nil, root, anna)}, 0, "trust.json, and the pinned root decides"},
		"without the way":               {wire.RelayTrust{Bundle: fourth}, 0, "signed by 1 of the keys"},
		"older":                         {wire.RelayTrust{Bundle: way[0]}, 0, "is older than 2"},
		"another of its number":         {wire.RelayTrust{Bundle: sign(t, 2, root, nil, root, anna, bert)}, 0, "another of its number"},
	} {
		dir := t.TempDir()
		if b, err := Take(dir, wire.RelayTrust{Bundle: second}, pinned); err != nil || b.Number != 2 {
			t.Fatalf("the first: %d, %v", b.Number, err)
		}
		b, err := Take(dir, c.answer, pinned)
		if c.want == 0 {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: bundle %d, %v", name, b.Number, err)
			}
			continue
		}
		if err != nil || b.Number != c.want {
			t.Errorf("%s: bundle %d, %v", name, b.Number, err)
		}
		if _, err := Take(dir, wire.RelayTrust{Bundle: way[0]}, pinned); err == nil {
			t.Errorf("%s: it is not kept", name)
		}
	}
}

func TestTakeTheFirst(t *testing.T) {
	root, stranger := newKey(t, true), newKey(t, true)
	pinned := func(sum [32]byte) bool { return sum == root.sum() }
	dir := t.TempDir()
	if _, err := Take(dir, wire.RelayTrust{Bundle: sign(t, 1, stranger, nil, stranger)}, pinned); err == nil {
		t.Error("a stranger's is taken")
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(dir, wire.RelayTrust{Bundle: sign(t, 1, root, nil, root)}, pinned); err == nil || !strings.Contains(err.Error(), "is damaged: remove it") {
		t.Errorf("beside a damaged one: %v", err)
	}
}
