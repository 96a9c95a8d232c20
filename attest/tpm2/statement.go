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

// statement is a TPMS_ATTEST of TPM2_Certify (TPM 2.0 Part 2 §10.12).
type statement struct {
	*gotpm.TPMSAttest
	certify *gotpm.TPMSCertifyInfo
}

func readStatement(raw []byte) (statement, error) {
	a, err := unmarshal[gotpm.TPMSAttest](raw)
	if err != nil {
		return statement{}, refuse(CodeStatementMalformed, "", "the statement is malformed: %v", err)
	}
	// The magic is what a restricted key never signs in anything from outside.
	if a.Magic != gotpm.TPMGeneratedValue {
		return statement{}, refuse(CodeStatementMalformed, "", "the statement was not made by a TPM")
	}
	if a.Type != gotpm.TPMSTAttestCertify {
		return statement{}, refuse(CodeStatementType, "", "the statement is of type %#04x, not a TPM2_Certify", uint16(a.Type))
	}
	certify, err := a.Attested.Certify()
	if err != nil {
		return statement{}, refuse(CodeStatementMalformed, "", "the statement is malformed: %v", err)
	}
	return statement{a, certify}, nil
}

// check says whether the statement is about key and was made for binding.
func (s statement) check(key *public, binding [32]byte) error {
	if subtle.ConstantTimeCompare(s.ExtraData.Buffer, binding[:]) != 1 {
		return refuse(CodeStatementBinding, "start again from the first message", "the statement was made for another message, connection or server")
	}
	if !bytes.Equal(s.certify.Name.Buffer, key.name) {
		return refuse(CodeStatementName, "", "the statement is about another key than the one to be certified")
	}
	return nil
}

// signedByPrimary reports whether the AK is a primary of the endorsement hierarchy, by
// the qualified name that the TPM signed (TPM 2.0 Part 1, "Qualified Name"). For a key
// elsewhere the TPM blurs firmware version and counters, so they say nothing.
func (s statement) signedByPrimary(ak *public) bool {
	qualified, err := name(ak.area.NameAlg, append(binary.BigEndian.AppendUint32(nil, uint32(gotpm.TPMRHEndorsement)), ak.name...))
	return err == nil && bytes.Equal(s.QualifiedSigner.Buffer, qualified)
}

// checkSignature verifies a TPMT_SIGNATURE over message by the AK, in the AK's own
// scheme and hash and no other.
func checkSignature(ak *public, message, raw []byte) error {
	sig, err := unmarshal[gotpm.TPMTSignature](raw)
	if err != nil {
		return refuse(CodeSignatureMalformed, "", "the signature is malformed: %v", err)
	}
	if sig.SigAlg != ak.scheme {
		return refuse(CodeSignatureScheme, "", "the signature's scheme %#04x is not the attestation key's", uint16(sig.SigAlg))
	}
	h := hashes[ak.hash]
	d := h.New()
	d.Write(message)
	digest := d.Sum(nil)

	var hash gotpm.TPMIAlgHash
	var valid bool
	switch key := ak.key.(type) {
	case *ecdsa.PublicKey:
		s, err := sig.Signature.ECDSA()
		if err != nil {
			return refuse(CodeSignatureMalformed, "", "the signature is malformed: %v", err)
		}
		hash, valid = s.Hash, verifyECDSA(key, digest, s)
	case *rsa.PublicKey:
		s, err := rsaSignature(sig)
		if err != nil {
			return refuse(CodeSignatureMalformed, "", "the signature is malformed: %v", err)
		}
		hash = s.Hash
		if ak.scheme == gotpm.TPMAlgRSAPSS {
			// TPMs differ in the length of their salt (TPM 2.0 Part 1 §B.7).
			valid = rsa.VerifyPSS(key, h, digest, s.Sig.Buffer, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: h}) == nil
		} else {
			valid = rsa.VerifyPKCS1v15(key, h, digest, s.Sig.Buffer) == nil
		}
	}
	switch {
	case hash != ak.hash:
		return refuse(CodeSignatureScheme, "", "the signature's hash %#04x is not the attestation key's", uint16(hash))
	case !valid:
		return refuse(CodeSignatureWrong, "", "the attestation key did not sign the statement")
	}
	return nil
}

func rsaSignature(sig *gotpm.TPMTSignature) (*gotpm.TPMSSignatureRSA, error) {
	if sig.SigAlg == gotpm.TPMAlgRSAPSS {
		return sig.Signature.RSAPSS()
	}
	return sig.Signature.RSASSA()
}

// verifyECDSA takes r and s as the TPM writes them: big-endian and at most as long as
// the order; crypto/ecdsa refuses what is not within 1 to n-1 (SEC 1 §4.1.4).
func verifyECDSA(key *ecdsa.PublicKey, digest []byte, sig *gotpm.TPMSSignatureECC) bool {
	size := (key.Params().BitSize + 7) / 8
	if len(sig.SignatureR.Buffer) > size || len(sig.SignatureS.Buffer) > size {
		return false
	}
	return ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer))
}
