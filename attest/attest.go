// Package attest turns evidence into claims: what a piece of hardware has proved.
//
// A verifier (attest/tpm2, …) checks [Evidence] against a binding and returns
// [Pending]; when the device has returned the secret of a credential challenge, or at
// once where the evidence leaves nothing to challenge, Pending becomes [Claims]. No code
// outside this tree can make either. The verifiers use no network, no files and no clock:
// time and trust anchors are arguments.
package attest

import (
	"crypto/cipher"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/attest/internal/seal"
)

// Kinds of evidence.
const (
	KindTPM2    = "tpm2"
	KindSoftKey = "softkey"
)

// Facts is what a verifier established; read it from Pending or Claims.
type Facts = seal.Facts

// TPM is the part of Facts that speaks of a TPM 2.0.
type TPM = seal.TPM

// Pending is evidence that is sound in itself and waits for the activated secret:
// until then nobody knows that the attestation key is in the same chip as the
// endorsement key. It travels with the device, sealed (Seal, OpenPending).
type Pending = seal.Pending

// Claims is what was proved. Only a verifier can make one; the zero value is
// refused by every consumer.
type Claims = seal.Claims

// Errors of the sealed types.
var (
	// ErrZero is returned for a Pending or Claims that no verifier made.
	ErrZero = seal.ErrZero
	// ErrSecret means that the device returned another secret than the one sent to its EK.
	ErrSecret = seal.ErrSecret
)

// OpenPending reverses Pending.Seal. It belongs to provisioner/session alone
// (internal/archtest holds that): whoever has the key vouches for the contents.
func OpenPending(aead cipher.AEAD, blob, additional []byte) (Pending, error) {
	return seal.Open(aead, blob, additional)
}

// Evidence is what a device sends, still unproved. Which fields are used depends
// on Kind; every field is foreign bytes.
type Evidence struct {
	// Kind is one of the Kind constants.
	Kind string
	// Certificates: tpm2, the EK certificate as read from NV (padding and headers
	// included), then the intermediates found in NV 0x01C00100–0x01C001FF, each
	// element possibly several concatenated DER certificates; may be empty.
	Certificates [][]byte
	// EKPublic and AKPublic are TPMT_PUBLIC structures without a TPM2B length.
	EKPublic, AKPublic []byte
	// Key is the key to be certified: tpm2, its TPMT_PUBLIC; softkey, its
	// SubjectPublicKeyInfo (DER).
	Key []byte
	// Statement and Signature: tpm2, TPMS_ATTEST of TPM2_Certify and its TPMT_SIGNATURE;
	// softkey, the signatures over the binding of Key itself, if it is not the IDevID
	// key, and of the IDevID key (ASN.1 ECDSA).
	Statement, Signature []byte
}

// Known is what the record holds of a device that attests again.
type Known struct {
	// Kind is the kind of evidence that the device was enrolled with.
	Kind string
	// EKPublic and AKPublic: tpm2, the TPMT_PUBLIC structures accepted at enrolment.
	EKPublic, AKPublic []byte
	// Birth: softkey, the SubjectPublicKeyInfo (DER) of the IDevID key.
	Birth []byte
}

// Verifier turns evidence of one kind into facts and challenges whoever made it.
type Verifier interface {
	// Verify checks the whole evidence of a device that enrols.
	Verify(e Evidence, binding [32]byte, now time.Time) (Pending, error)
	// Reverify checks the evidence of a device on record for a fresh key.
	Reverify(k Known, e Evidence, binding [32]byte) (Pending, error)
	// Challenge hides a secret (32 bytes) for whoever made pending evidence. It is not
	// asked for evidence that is proved already.
	Challenge(p Pending, secret []byte) (Challenge, error)
}

// Verifiers are the kinds of evidence that an installation takes, by Evidence.Kind. Each
// kind answers for its own; a device keeps the kind that it was enrolled with.
type Verifiers map[string]Verifier

var _ Verifier = Verifiers{}

func (v Verifiers) of(kind string) (Verifier, error) {
	if one := v[kind]; one != nil {
		return one, nil
	}
	return nil, &Refusal{Code: CodeKind, Detail: fmt.Sprintf("evidence of kind %.20q is not accepted here", kind)}
}

// Verify lets the kind's verifier check evidence.
func (v Verifiers) Verify(e Evidence, binding [32]byte, now time.Time) (Pending, error) {
	one, err := v.of(e.Kind)
	if err != nil {
		return Pending{}, err
	}
	return one.Verify(e, binding, now)
}

// Reverify lets the verifier of the recorded kind check evidence, which must be of it.
func (v Verifiers) Reverify(k Known, e Evidence, binding [32]byte) (Pending, error) {
	if e.Kind != k.Kind {
		return Pending{}, &Refusal{Code: CodeKind,
			Detail: fmt.Sprintf("the device is on record with evidence of kind %q and brought %.20q", k.Kind, e.Kind)}
	}
	one, err := v.of(k.Kind)
	if err != nil {
		return Pending{}, err
	}
	return one.Reverify(k, e, binding)
}

// Challenge lets the verifier that made p challenge its device.
func (v Verifiers) Challenge(p Pending, secret []byte) (Challenge, error) {
	facts, err := p.Facts()
	if err != nil {
		return Challenge{}, err
	}
	one, err := v.of(facts.Kind)
	if err != nil {
		return Challenge{}, err
	}
	return one.Challenge(p, secret)
}

// Challenge is a TPM2_MakeCredential result: TPM2B_ID_OBJECT and
// TPM2B_ENCRYPTED_SECRET, both without their length prefix.
type Challenge struct {
	Credential, Secret []byte
}

// CodeKind is the code of evidence of a kind that is not taken here, or not from this
// device, or that carries parts of another kind or message. All other codes are each
// kind's own.
const CodeKind = "evidence-kind"

// Refusal is a reason not to believe evidence: a stable code for programs and a
// sentence for the person at the line, with the next step where there is one.
type Refusal struct {
	// Code is stable, lower case with hyphens: "ak-not-restricted".
	Code string
	// Detail says what was found.
	Detail string
	// Hint says what to do about it; may be empty.
	Hint string
}

func (r *Refusal) Error() string { return "attestation refused: " + r.Detail }
