// Package attest turns evidence into claims: what a piece of hardware has proved.
//
// A verifier (attest/tpm2, …) checks [Evidence] against a binding and returns [Pending]; when the
// device has returned the secret of a credential challenge, or at once where the evidence leaves
// nothing to challenge, Pending becomes [Claims]. No code outside this tree can construct either.
// The verifiers use no network, no files and no clock: time and trust anchors are arguments.
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

// Facts is what a verifier established, as read from Pending or Claims.
type Facts = seal.Facts

// TPM is the part of Facts that speaks of a TPM 2.0.
type TPM = seal.TPM

// Pending is evidence that has verified and awaits the activated secret: until then nobody knows
// that the attestation key is in the same chip as the endorsement key. The device carries it,
// sealed (Seal, OpenPending).
type Pending = seal.Pending

// Claims is what was proved. Only a verifier can make one, and the zero value yields ErrZero.
type Claims = seal.Claims

// Errors of the sealed types.
var (
	// ErrZero is the error of a Pending or Claims that no verifier made.
	ErrZero = seal.ErrZero
	// ErrSecret means that the device returned another secret than the one sent to its EK.
	ErrSecret = seal.ErrSecret
)

// OpenPending reverses Pending.Seal. Only provisioner/session may call it (internal/archtest
// enforces that), because the holder of the key vouches for the contents.
func OpenPending(aead cipher.AEAD, blob, additional []byte) (Pending, error) {
	return seal.Open(aead, blob, additional)
}

// Evidence is what a device sends, not yet verified. Which fields are used depends on Kind; all
// of them are untrusted bytes.
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

// Verifier turns evidence of one kind into facts and challenges the device that made it.
type Verifier interface {
	// Verify checks the whole evidence of a device that enrols.
	Verify(e Evidence, binding [32]byte, now time.Time) (Pending, error)
	// Reverify checks the evidence of a device on record for a fresh key.
	Reverify(k Known, e Evidence, binding [32]byte) (Pending, error)
	// Challenge encrypts a secret (32 bytes) to the device that made pending evidence. It is not
	// called for evidence that needs no challenge.
	Challenge(p Pending, secret []byte) (Challenge, error)
}

// Verifiers are the kinds of evidence that an installation accepts, by Evidence.Kind. A device
// keeps the kind that it enrolled with.
type Verifiers map[string]Verifier

var _ Verifier = Verifiers{}

func (v Verifiers) of(kind string) (Verifier, error) {
	if one := v[kind]; one != nil {
		return one, nil
	}
	return nil, &Refusal{Code: CodeKind, Detail: fmt.Sprintf("evidence of kind %.20q is not accepted here", kind)}
}

// Verify calls the verifier for the evidence's kind.
func (v Verifiers) Verify(e Evidence, binding [32]byte, now time.Time) (Pending, error) {
	one, err := v.of(e.Kind)
	if err != nil {
		return Pending{}, err
	}
	return one.Verify(e, binding, now)
}

// Reverify calls the verifier for the recorded kind and refuses evidence of any other.
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

// Challenge calls the verifier that made p.
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

// CodeKind is the code for evidence of a kind that is not accepted here, or not from this device,
// or that carries fields of another kind or message. Every other code belongs to one kind.
const CodeKind = "evidence-kind"

// Refusal says why evidence was refused: a stable code for programs, a sentence for the person at
// the line and, where there is one, the next step.
type Refusal struct {
	// Code is stable, lower case with hyphens: "ak-not-restricted".
	Code string
	// Detail says what was found.
	Detail string
	// Hint says what to do about it; may be empty.
	Hint string
}

func (r *Refusal) Error() string { return "attestation refused: " + r.Detail }
