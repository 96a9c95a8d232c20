// Package seal is the only constructor of claims: only a verifier under attest/ can state that a
// piece of hardware has proved something.
//
// The compiler enforces it: the package is internal to attest, the fields are unexported, and
// each type's methods refuse its zero value.
package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
)

// Facts is what was established about a device and its key. See attest.Facts.
type Facts struct {
	// Kind names the verifier: "tpm2", "softkey".
	Kind string
	// Key is the SubjectPublicKeyInfo (DER) of the key that a certificate may be issued for.
	Key []byte
	// Binding is the digest that the evidence was made over (the wire binding).
	Binding [32]byte
	// Birth is the SubjectPublicKeyInfo (DER) of the IDevID key if that key made the evidence
	// itself; nil if an attestation key did.
	Birth []byte
	// TPM holds what is known of the chip; nil when no TPM took part.
	TPM *TPM
}

// TPM is what a TPM 2.0 verifier established about one chip. See attest.TPM.
type TPM struct {
	// EKPublic is the endorsement key's TPMT_PUBLIC, EKName its Name (nameAlg ‖ digest).
	EKPublic []byte
	EKName   []byte
	// EKFingerprint is the SHA-256 of the endorsement key's SubjectPublicKeyInfo: the
	// chip's key in the inventory (certificate serial numbers are not unique across makers).
	EKFingerprint [32]byte
	// EKType is the endorsement key's algorithm and size: "P-256", "RSA-2048". The certificate
	// proves no more about the key: the rest of EKPublic is the device's word.
	EKType string
	// EKCertificate is the certificate exactly as its maker signed it (DER); nil if there is none.
	EKCertificate []byte
	// EKIssuer is the certificate's issuer, RFC 2253 form; empty without certificate.
	EKIssuer string
	// Certified: the certificate chains to a TPM maker that the installation trusts.
	Certified bool
	// Uncertified says why Certified is false although a certificate was sent: one
	// sentence that names the missing issuer and the next step. Empty otherwise.
	Uncertified string
	// Maker ("STM") and Model come from the EK certificate (TCG EK profile 3.2.9), and are
	// empty without one. They are proved only when Certified.
	Maker string
	Model string
	// AKPublic is the attestation key's TPMT_PUBLIC, AKName its Name, AKKey its SubjectPublicKeyInfo.
	AKPublic []byte
	AKName   []byte
	AKKey    []byte
	// Firmware is attested (TPMS_ATTEST), not claimed.
	Firmware uint64
}

// Pending is verified evidence that does not yet prove that the attestation key and the
// endorsement key are in one chip. See attest.Pending.
type Pending struct {
	facts *Facts
	// proved: no challenge could prove more. It is not sealed: what a device brings back always
	// awaits its secret.
	proved bool
}

// Claims is proved evidence. See attest.Claims.
type Claims struct{ facts *Facts }

// ErrZero is returned for a value that no verifier made.
var ErrZero = errors.New("attest: empty value: nothing was verified")

// ErrSecret means that the activated secret was not the one sent.
var ErrSecret = errors.New("the activated secret does not match: the attestation key is not beside this endorsement key")

// NewPending is for verifiers whose evidence still needs a credential activation.
func NewPending(f Facts) Pending { return Pending{facts: &f} }

// NewProved is for verifiers whose evidence needs no challenge.
func NewProved(f Facts) Pending { return Pending{&f, true} }

// Proved gives the claims of evidence that needs no challenge.
func (p Pending) Proved() (c Claims, ok bool) {
	if p.facts == nil || !p.proved {
		return Claims{}, false
	}
	return Claims{p.facts}, true
}

// Facts returns what was established so far; the zero Pending gives ErrZero.
func (p Pending) Facts() (Facts, error) {
	if p.facts == nil {
		return Facts{}, ErrZero
	}
	return *p.facts, nil
}

// Activated turns pending evidence into claims if got equals want (at least 16
// bytes), compared in constant time.
func (p Pending) Activated(want, got []byte) (Claims, error) {
	if p.facts == nil {
		return Claims{}, ErrZero
	}
	if len(want) < 16 || subtle.ConstantTimeCompare(want, got) != 1 {
		return Claims{}, ErrSecret
	}
	return Claims{p.facts}, nil
}

// Seal encrypts pending evidence for the device to carry: without the key nobody can read, change
// or make one.
func (p Pending) Seal(aead cipher.AEAD, additional []byte) ([]byte, error) {
	if p.facts == nil {
		return nil, ErrZero
	}
	var plain packer
	p.facts.pack(&plain)
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain.b)+aead.Overhead())
	rand.Read(nonce) // never fails since Go 1.24
	return aead.Seal(nonce, nonce, plain.b, additional), nil
}

// Open reverses Seal; it fails unless the key and the additional data are the same.
func Open(aead cipher.AEAD, blob, additional []byte) (Pending, error) {
	if len(blob) < aead.NonceSize() {
		return Pending{}, errors.New("attest: sealed evidence is too short")
	}
	plain, err := aead.Open(nil, blob[:aead.NonceSize()], blob[aead.NonceSize():], additional)
	if err != nil {
		return Pending{}, errors.New("attest: sealed evidence does not open")
	}
	f, err := unpack(plain)
	if err != nil {
		return Pending{}, err
	}
	return Pending{facts: &f}, nil
}

// Facts returns what was proved; the zero Claims gives ErrZero.
func (c Claims) Facts() (Facts, error) {
	if c.facts == nil {
		return Facts{}, ErrZero
	}
	return *c.facts, nil
}
