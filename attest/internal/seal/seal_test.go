package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"testing"
)

func TestZeroValuesSayNothing(t *testing.T) {
	if _, err := (Claims{}).Facts(); !errors.Is(err, ErrZero) {
		t.Errorf("zero claims: %v", err)
	}
	if _, err := (Pending{}).Facts(); !errors.Is(err, ErrZero) {
		t.Errorf("zero pending: %v", err)
	}
	secret := make([]byte, 32)
	if _, err := (Pending{}).Activated(secret, secret); !errors.Is(err, ErrZero) {
		t.Errorf("zero pending activated: %v", err)
	}
}

func TestActivatedNeedsTheWholeSecret(t *testing.T) {
	p := NewPending(Facts{Kind: "tpm2", Key: []byte("k")})
	want := bytes.Repeat([]byte{5}, 32)
	for name, got := range map[string][]byte{"none": nil, "other": bytes.Repeat([]byte{6}, 32), "prefix": want[:31], "longer": append(bytes.Clone(want), 0)} {
		if _, err := p.Activated(want, got); !errors.Is(err, ErrSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.Activated(nil, nil); !errors.Is(err, ErrSecret) {
		t.Errorf("an empty secret proved something: %v", err)
	}
	c, err := p.Activated(want, bytes.Clone(want))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := c.Facts(); err != nil || string(f.Key) != "k" {
		t.Errorf("facts %+v, %v", f, err)
	}
}

func TestSealedEvidenceOpensOnlyUnchanged(t *testing.T) {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := NewPending(Facts{Kind: "tpm2", TPM: &TPM{Maker: "STM"}}).Seal(aead, []byte("ad"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(aead, blob, []byte("ad"))
	if err != nil {
		t.Fatal(err)
	}
	if f, _ := p.Facts(); f.TPM.Maker != "STM" {
		t.Errorf("facts %+v", f)
	}
	if _, err := Open(aead, blob, []byte("other")); err == nil {
		t.Error("opened with other additional data")
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if _, err := Open(aead, bad, []byte("ad")); err == nil {
			t.Fatalf("opened with byte %d changed", i)
		}
	}
	if _, err := Open(aead, blob[:5], []byte("ad")); err == nil {
		t.Error("opened five bytes")
	}
}
