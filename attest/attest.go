// Package attest turns evidence into claims: what a piece of hardware has proved.
//
// A verifier (attest/tpm2, …) checks [Evidence] against a binding and returns
// [Pending]; when the device has returned the secret of a credential challenge,
// Pending becomes [Claims]. No code outside this tree can make either. The tree
// uses no network, no files and no clock: time and trust anchors are arguments.
package attest

import (
	"crypto/cipher"

	"github.com/hallmark-pki/hallmark/attest/internal/seal"
)

// Kinds of evidence.
const (
	KindTPM2    = "tpm2"
	KindSoftKey = "softkey"
	KindIDevID  = "idevid"
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
	// Key is the key to be certified: tpm2, its TPMT_PUBLIC.
	Key []byte
	// Statement and Signature: tpm2, TPMS_ATTEST of TPM2_Certify and its TPMT_SIGNATURE.
	Statement, Signature []byte
}

// Known is what the record holds of a device that attests again.
type Known struct {
	// EKPublic and AKPublic are the TPMT_PUBLIC structures accepted at enrolment.
	EKPublic, AKPublic []byte
}

// Challenge is a TPM2_MakeCredential result: TPM2B_ID_OBJECT and
// TPM2B_ENCRYPTED_SECRET, both without their length prefix.
type Challenge struct {
	Credential, Secret []byte
}

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
