package softkey_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/softkey"
)

var binding = [32]byte{1, 2, 3}

// Most tools hash what they sign: whoever writes another client is told which signature
// does not hold, and why.
func TestSignatureOverTheHashOfTheBinding(t *testing.T) {
	birth, working := newKey(t), newKey(t)
	hashed := sha256.Sum256(binding[:])
	v := softkey.Verifier{}
	_, err := v.Verify(attest.Evidence{Kind: attest.KindSoftKey, Key: birth.spki, Signature: birth.sign(t, hashed)}, binding, time.Now())
	wantRefusal(t, err, "the key did not sign this message (signature)", "not hashed again")

	known := attest.Known{Birth: birth.spki}
	for _, c := range []struct {
		signature, statement [32]byte
		detail               string
	}{
		{hashed, binding, "the IDevID key on record did not sign this message (signature)"},
		{binding, hashed, "the working key did not sign this message (statement)"},
	} {
		_, err := v.Reverify(known, attest.Evidence{Kind: attest.KindSoftKey, Key: working.spki,
			Signature: birth.sign(t, c.signature), Statement: working.sign(t, c.statement)}, binding)
		wantRefusal(t, err, c.detail, "not hashed again")
	}
}

// A device whose one key serves for everything signs once.
func TestOneKeySignsOnce(t *testing.T) {
	k := newKey(t)
	e := attest.Evidence{Kind: attest.KindSoftKey, Key: k.spki, Signature: k.sign(t, binding)}
	if _, err := (softkey.Verifier{}).Reverify(attest.Known{Birth: k.spki}, e, binding); err != nil {
		t.Error(err)
	}
	e.Statement = k.sign(t, binding)
	_, err := softkey.Verifier{}.Reverify(attest.Known{Birth: k.spki}, e, binding)
	wantRefusal(t, err, "brings a signature and no statement", "")
}

func wantRefusal(t *testing.T, err error, detail, hint string) {
	t.Helper()
	var r *attest.Refusal
	if !errors.As(err, &r) || r.Code != softkey.CodeSignature || !strings.Contains(r.Detail, detail) || !strings.Contains(r.Hint, hint) {
		t.Errorf("got %#v, want %s: %s", err, softkey.CodeSignature, detail)
	}
}

type key struct {
	*ecdsa.PrivateKey
	spki []byte
}

func newKey(t *testing.T) key {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key{k, spki}
}

func (k key) sign(t *testing.T, digest [32]byte) []byte {
	t.Helper()
	s, err := ecdsa.SignASN1(rand.Reader, k.PrivateKey, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return s
}
