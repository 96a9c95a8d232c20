package tpm2

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/internal/seal"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
)

// Verifier verifies TPM 2.0 evidence. It is safe for concurrent use.
type Verifier struct {
	trust          func() *vendorca.Set
	allowSimulated bool
}

// New makes a Verifier. trust returns the current TPM makers' certificates, or nil.
// allowSimulated accepts EK certificates of test makers (simtpm, swtpm). Never set it where
// devices are real: it admits anybody who has a test maker's key.
func New(trust func() *vendorca.Set, allowSimulated bool) *Verifier {
	return &Verifier{trust, allowSimulated}
}

// Verify checks the evidence of an enrolment, made over binding. The result still awaits the
// secret of Challenge: until then nobody knows that AK and EK are in one chip. An EK whose
// certificate chains to no imported maker is not an error: the facts say so (Certified,
// Uncertified) and the model's rules decide. Anything else that is wrong is an *attest.Refusal.
func (v *Verifier) Verify(e attest.Evidence, binding [32]byte, now time.Time) (attest.Pending, error) {
	if e.Kind != attest.KindTPM2 {
		return attest.Pending{}, refuse(attest.CodeKind, "", "the evidence is of kind %q", e.Kind)
	}
	ek, err := readPublic(roleEK, e.EKPublic)
	if err != nil {
		return attest.Pending{}, err
	}
	ak, err := readPublic(roleAK, e.AKPublic)
	if err != nil {
		return attest.Pending{}, err
	}
	key, err := readPublic(roleKey, e.Key)
	if err != nil {
		return attest.Pending{}, err
	}
	if err := key.signsTLS(); err != nil {
		return attest.Pending{}, err
	}
	facts, err := certified(ek, ak, key, e, binding)
	if err != nil {
		return attest.Pending{}, err
	}
	if err := v.judgeEK(facts.TPM, ek, e.Certificates, now); err != nil {
		return attest.Pending{}, err
	}
	return seal.NewPending(facts), nil
}

// Reverify checks the evidence of a renewal, made over binding by the recorded AK. Only Key,
// Statement and Signature are taken from it; the other parts must be empty. The recorded EK's
// certificate is not judged again: Certified is false in these facts, and only the record knows
// whether it was.
func (v *Verifier) Reverify(known attest.Known, e attest.Evidence, binding [32]byte) (attest.Pending, error) {
	if e.Kind != attest.KindTPM2 || len(e.EKPublic) > 0 || len(e.AKPublic) > 0 || len(e.Certificates) > 0 {
		return attest.Pending{}, refuse(attest.CodeKind, "", "a renewal brings a key and a statement about it, nothing else")
	}
	ek, err := readPublic(roleEK, known.EKPublic)
	if err != nil {
		return attest.Pending{}, fmt.Errorf("recorded endorsement key: %w", err)
	}
	ak, err := readPublic(roleAK, known.AKPublic)
	if err != nil {
		return attest.Pending{}, fmt.Errorf("recorded attestation key: %w", err)
	}
	key, err := readPublic(roleKey, e.Key)
	if err != nil {
		return attest.Pending{}, err
	}
	facts, err := certified(ek, ak, key, e, binding)
	if err != nil {
		return attest.Pending{}, err
	}
	return seal.NewPending(facts), nil
}

// certified checks that the AK certifies the key over binding, and returns the facts that follow.
func certified(ek, ak, key *public, e attest.Evidence, binding [32]byte) (attest.Facts, error) {
	s, err := readStatement(e.Statement)
	if err != nil {
		return attest.Facts{}, err
	}
	if err := s.check(key, binding); err != nil {
		return attest.Facts{}, err
	}
	if err := checkSignature(ak, e.Statement, e.Signature); err != nil {
		return attest.Facts{}, err
	}
	chip := &attest.TPM{
		EKPublic: ek.raw, EKName: ek.name, EKFingerprint: sha256.Sum256(ek.spki), EKType: ek.typeName(),
		AKPublic: ak.raw, AKName: ak.name, AKKey: ak.spki,
	}
	if s.signedByPrimary(ak) {
		chip.Firmware = s.firmware
	}
	return attest.Facts{Kind: attest.KindTPM2, Key: key.spki, Binding: binding, TPM: chip}, nil
}

// Challenge encrypts secret (16 to 32 bytes) so that only a TPM that holds both the EK
// and the AK of p can return it: TPM2_MakeCredential in software.
func (v *Verifier) Challenge(p attest.Pending, secret []byte) (attest.Challenge, error) {
	facts, err := p.Facts()
	if err != nil {
		return attest.Challenge{}, err
	}
	if facts.TPM == nil {
		return attest.Challenge{}, errors.New("tpm2: this evidence comes from no TPM")
	}
	if len(secret) < 16 || len(secret) > 32 { // at most the digest of the EK's Name, TPM 2.0 Part 3 §12.6
		return attest.Challenge{}, fmt.Errorf("tpm2: a secret of %d bytes cannot be a credential", len(secret))
	}
	ek, err := readPublic(roleEK, facts.TPM.EKPublic)
	if err != nil {
		return attest.Challenge{}, fmt.Errorf("tpm2: endorsement key: %w", err)
	}
	c, err := makeCredential(ek, facts.TPM.AKName, secret)
	if err != nil {
		return attest.Challenge{}, fmt.Errorf("tpm2: credential: %w", err)
	}
	return c, nil
}

// fromTemplate reports whether the EK equals a TCG template but for its unique field, which comes
// last in a TPMT_PUBLIC, so that the rest can be compared as bytes.
func fromTemplate(ek *public) bool {
	for _, t := range templatePrefixes {
		if bytes.HasPrefix(ek.raw, t) {
			return true
		}
	}
	return false
}

var templatePrefixes = func() (prefixes [][]byte) {
	for _, t := range EKTemplates() {
		size := 4 // two empty coordinates
		t.Public.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{})
		if t.Public.Type == gotpm.TPMAlgRSA {
			size = 2 // an empty modulus
			t.Public.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{})
		}
		b := gotpm.Marshal(t.Public)
		prefixes = append(prefixes, b[:len(b)-size])
	}
	return prefixes
}()
