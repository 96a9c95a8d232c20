package tpm2

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"math/big"

	gotpm "github.com/google/go-tpm/tpm2"
)

// statement holds the fields used here of a TPMS_ATTEST from TPM2_Certify.
type statement struct {
	signer, extraData []byte // the signer's qualified name
	firmware          uint64
	name              []byte
}

// readStatement reads TPMS_ATTEST, TPMS_CLOCK_INFO and TPMS_CERTIFY_INFO (TPM 2.0 Part 2
// §10.12.12, §10.11.1, §10.12.3).
func readStatement(raw []byte) (s statement, err error) {
	r := read(raw)
	magic, kind := r.uint32(), r.uint16()
	switch {
	case r.err != nil: // reported below
	case magic != uint32(gotpm.TPMGeneratedValue): // a restricted key signs nothing from outside that begins with it
		return s, refuse(CodeStatementMalformed, "", "the statement was not made by a TPM")
	case kind != uint16(gotpm.TPMSTAttestCertify):
		return s, refuse(CodeStatementType, "", "the statement is of type %#04x, not a TPM2_Certify", kind)
	}
	s.signer, s.extraData = r.sized(), r.sized()
	r.uint64()  // clock
	r.uint64()  // resetCount, restartCount
	r.boolean() // safe
	s.firmware = r.uint64()
	s.name = r.sized()
	r.sized() // qualifiedName
	if err := r.end(); err != nil {
		return s, refuse(CodeStatementMalformed, "", "the statement is malformed: %v", err)
	}
	return s, nil
}

// check verifies that the statement is about key and was made for binding.
func (s statement) check(key *public, binding [32]byte) error {
	if subtle.ConstantTimeCompare(s.extraData, binding[:]) != 1 {
		return refuse(CodeStatementBinding, "start again from the first message", "the statement was made for another message, connection or server")
	}
	if !bytes.Equal(s.name, key.name) {
		return refuse(CodeStatementName, "", "the statement is about another key than the one to be certified")
	}
	return nil
}

// signedByPrimary reports whether the AK is a primary of the endorsement hierarchy, by
// the qualified name that the TPM signed (TPM 2.0 Part 1, "Qualified Name"). For a key
// elsewhere the TPM blurs the firmware version, so it says nothing.
func (s statement) signedByPrimary(ak *public) bool {
	qualified, err := name(ak.nameAlg, append(binary.BigEndian.AppendUint32(nil, uint32(gotpm.TPMRHEndorsement)), ak.name...))
	return err == nil && bytes.Equal(s.signer, qualified)
}

// signature is a TPMT_SIGNATURE of one of the schemes that keys may have.
type signature struct {
	scheme, hash gotpm.TPMAlgID
	// value is the RSA signature, or r of an ECDSA signature (r, s).
	value, s []byte
}

// readSignature reads TPMT_SIGNATURE (TPM 2.0 Part 2 §11.3.4).
func readSignature(raw []byte) (sig signature, err error) {
	r := read(raw)
	switch sig.scheme = r.algorithm(); sig.scheme {
	case gotpm.TPMAlgRSASSA, gotpm.TPMAlgRSAPSS: // TPMS_SIGNATURE_RSA (§11.3.1)
		sig.hash, sig.value = r.algorithm(), r.sized()
	case gotpm.TPMAlgECDSA: // TPMS_SIGNATURE_ECC (§11.3.2)
		sig.hash, sig.value, sig.s = r.algorithm(), r.sized(), r.sized()
	default:
		r.unknown("scheme", sig.scheme)
	}
	return sig, r.end()
}

// checkSignature verifies a TPMT_SIGNATURE over message by the AK, in the AK's own
// scheme and hash and no other.
func checkSignature(ak *public, message, raw []byte) error {
	sig, err := readSignature(raw)
	switch _, other := err.(unknown); {
	case err != nil && !other:
		return refuse(CodeSignatureMalformed, "", "the signature is malformed: %v", err)
	case other, sig.scheme != ak.scheme:
		return refuse(CodeSignatureScheme, "", "the signature's scheme %#04x is not the attestation key's", uint16(sig.scheme))
	case sig.hash != ak.hash:
		return refuse(CodeSignatureScheme, "", "the signature's hash %#04x is not the attestation key's", uint16(sig.hash))
	}
	h := hashes[ak.hash]
	d := h.New()
	d.Write(message)
	digest := d.Sum(nil)

	var valid bool
	switch key := ak.key.(type) {
	case *ecdsa.PublicKey:
		valid = verifyECDSA(key, digest, sig.value, sig.s)
	case *rsa.PublicKey:
		if ak.scheme == gotpm.TPMAlgRSAPSS {
			// TPMs differ in the length of their salt (TPM 2.0 Part 1 §B.7).
			valid = rsa.VerifyPSS(key, h, digest, sig.value, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: h}) == nil
		} else {
			valid = rsa.VerifyPKCS1v15(key, h, digest, sig.value) == nil
		}
	}
	if !valid {
		return refuse(CodeSignatureWrong, "", "the attestation key did not sign the statement")
	}
	return nil
}

// verifyECDSA takes r and s as the TPM writes them: big-endian and at most as long as
// the order; crypto/ecdsa refuses what is not within 1 to n-1 (SEC 1 §4.1.4).
func verifyECDSA(key *ecdsa.PublicKey, digest, r, s []byte) bool {
	size := (key.Params().BitSize + 7) / 8
	if len(r) > size || len(s) > size {
		return false
	}
	return ecdsa.Verify(key, digest, new(big.Int).SetBytes(r), new(big.Int).SetBytes(s))
}
