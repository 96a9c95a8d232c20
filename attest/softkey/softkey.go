// Package softkey verifies evidence without hardware: possession of a key, and claims
// that say no more than that. Where the key lives, in a file or in a chip that cannot
// attest, nobody knows; it is recorded as software.
//
// The IDevID key signs the binding, which covers the message and so the key to be
// certified, and is fresh for every connection (package wire); a working key that is to
// be certified signs it as well, so that nobody is given a certificate for another's key
// (RFC 4211 §4). No challenge could prove more: the claims are there with message one.
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

// Codes of refusals; those of keys and signatures mean the same as a TPM's.
const (
	// CodeKey: the key is no SubjectPublicKeyInfo in DER.
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

// Verify checks that the key to be certified, the IDevID key, signed the binding. The
// result is proved: there is nothing to challenge. What is wrong is an *attest.Refusal.
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

// Reverify checks that the recorded IDevID key vouches for a working key, and that the
// caller holds that as well. A device whose one key serves for everything, because a
// secure element has no other, has it certified again.
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
	switch single := bytes.Equal(known.Birth, e.Key); { // one key for everything signs once
	case single && len(e.Statement) > 0:
		return attest.Pending{}, refuse(CodeSignature, "the IDevID key, certified again, brings a signature and no statement")
	case !single && !ecdsa.VerifyASN1(key, binding[:], e.Statement):
		return attest.Pending{}, unsigned("statement", "the working key")
	}
	return seal.NewProved(attest.Facts{Kind: attest.KindSoftKey, Key: e.Key, Birth: known.Birth, Binding: binding}), nil
}

// Challenge is never asked: this evidence is proved as it comes.
func (Verifier) Challenge(attest.Pending, []byte) (attest.Challenge, error) {
	return attest.Challenge{}, errors.New("softkey: there is no chip to challenge")
}

// bare refuses evidence that carries another kind's parts.
func bare(e attest.Evidence) error {
	if e.Kind != attest.KindSoftKey || len(e.EKPublic) > 0 || len(e.AKPublic) > 0 || len(e.Certificates) > 0 {
		return refuse(attest.CodeKind, "a device without a TPM brings a key and signatures, nothing else")
	}
	return nil
}

// parse reads a P-256 key in the one encoding that DER allows.
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

// unsigned says which signature does not hold, and to whoever writes another client why.
func unsigned(field, key string) *attest.Refusal {
	return &attest.Refusal{Code: CodeSignature, Detail: key + " did not sign this message (" + field + ")",
		Hint: "ECDSA, in ASN.1, over the 32 bytes of the binding as they are, not hashed again"}
}
