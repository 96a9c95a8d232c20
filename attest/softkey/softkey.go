// Package softkey verifies evidence without hardware: possession of a key, and claims that say no
// more than that. Whether the key lives in a file or in a chip that cannot attest is unknown; it
// is recorded as software.
//
// The IDevID key signs the binding, which covers the message and so the key to be certified, and
// is fresh for every connection (package wire); a working key that is to be certified signs it as
// well, so that nobody gets a certificate for somebody else's key (RFC 4211 §4). No challenge
// could prove more, so message one already yields claims.
package softkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/internal/seal"
)

// Codes of refusals. They mean the same as those of the same name in package tpm2.
const (
	// CodeKey: the key is not a SubjectPublicKeyInfo in DER.
	CodeKey = "key-malformed"
	// CodeAlgorithm: it is not ECDSA on P-256.
	CodeAlgorithm = "key-algorithm"
	// CodeSignature: a signature over the binding does not hold.
	CodeSignature = "signature-wrong"
)

// maxKey bounds a SubjectPublicKeyInfo, in bytes; P-256 has 91.
const maxKey = 128

// Verifier verifies possession of keys. It is safe for concurrent use.
type Verifier struct{}

var _ attest.Verifier = Verifier{}

// Verify checks that the key to be certified, the IDevID key, signed the binding. The result
// needs no challenge. Evidence that does not hold is an *attest.Refusal.
func (Verifier) Verify(e attest.Evidence, binding [32]byte, _ time.Time) (attest.Pending, error) {
	if err := bare(e); err != nil {
		return attest.Pending{}, err
	}
	if len(e.Statement) > 0 {
		return attest.Pending{}, refuse(attest.CodeKind, "an enrolment brings one signature, by the key itself")
	}
	key, err := parse(e.Key)
	if err != nil {
		return attest.Pending{}, err
	}
	if !ecdsa.VerifyASN1(key, binding[:], e.Signature) {
		return attest.Pending{}, unsigned("signature", "the key")
	}
	return seal.NewProved(attest.Facts{Kind: attest.KindSoftKey, Key: e.Key, Birth: e.Key, Binding: binding}), nil
}

// Reverify checks that the recorded IDevID key vouches for a working key and that the caller
// holds the working key as well. A device that has only one key, as with some secure elements,
// has that key certified again.
func (Verifier) Reverify(known attest.Known, e attest.Evidence, binding [32]byte) (attest.Pending, error) {
	if err := bare(e); err != nil {
		return attest.Pending{}, err
	}
	birth, err := parse(known.Birth)
	if err != nil {
		return attest.Pending{}, fmt.Errorf("recorded IDevID key: %w", err)
	}
	key, err := parse(e.Key)
	if err != nil {
		return attest.Pending{}, err
	}
	if !ecdsa.VerifyASN1(birth, binding[:], e.Signature) {
		return attest.Pending{}, unsigned("signature", "the IDevID key on record")
	}
	switch single := bytes.Equal(known.Birth, e.Key); { // a single key signs once
	case single && len(e.Statement) > 0:
		return attest.Pending{}, refuse(CodeSignature, "the IDevID key, certified again, brings a signature and no statement")
	case !single && !ecdsa.VerifyASN1(key, binding[:], e.Statement):
		return attest.Pending{}, unsigned("statement", "the working key")
	}
	return seal.NewProved(attest.Facts{Kind: attest.KindSoftKey, Key: e.Key, Birth: known.Birth, Binding: binding}), nil
}

// Challenge is never called: this evidence needs none.
func (Verifier) Challenge(attest.Pending, []byte) (attest.Challenge, error) {
	return attest.Challenge{}, errors.New("softkey: there is no chip to challenge")
}

// bare refuses evidence that carries fields of another kind.
func bare(e attest.Evidence) error {
	if e.Kind != attest.KindSoftKey || len(e.EKPublic) > 0 || len(e.AKPublic) > 0 || len(e.Certificates) > 0 {
		return refuse(attest.CodeKind, "a device without a TPM brings a key and signatures, nothing else")
	}
	return nil
}

// parse reads a P-256 key, and only in its DER encoding.
func parse(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxKey {
		return nil, refuse(CodeKey, "the key has %d bytes; at most %d are allowed", len(der), maxKey)
	}
	any, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, refuse(CodeKey, "the key is not a SubjectPublicKeyInfo")
	}
	key, ok := any.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, refuse(CodeAlgorithm, "the key is not ECDSA on P-256")
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, der) {
		return nil, refuse(CodeKey, "the key is not encoded as DER demands")
	}
	return key, nil
}

func refuse(code, format string, args ...any) *attest.Refusal {
	return &attest.Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// unsigned says which signature is wrong and hints at the usual mistake in a new client.
func unsigned(field, key string) *attest.Refusal {
	return &attest.Refusal{Code: CodeSignature, Detail: key + " did not sign this message (" + field + ")",
		Hint: "ECDSA, in ASN.1, over the 32 bytes of the binding as they are, not hashed again"}
}
