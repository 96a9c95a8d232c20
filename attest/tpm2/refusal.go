package tpm2

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/attest"
)

// Codes of refused evidence (attest.Refusal.Code). They are stable: programs on the
// line act on them, and docs list them.
const (
	// CodeTooLarge: part of the evidence is larger than any honest one.
	CodeTooLarge = "evidence-too-large"

	// CodeEKMalformed: the EK's public area is not one canonical TPMT_PUBLIC.
	CodeEKMalformed = "ek-malformed"
	// CodeEKAttributes: the EK is not a key that only decrypts for its own chip.
	CodeEKAttributes = "ek-attributes"
	// CodeEKAlgorithm: the EK's type, size, curve, hash or cipher is not accepted.
	CodeEKAlgorithm = "ek-algorithm"
	// CodeEKWeak: the EK can be broken (ROCA, short modulus, point off its curve).
	CodeEKWeak = "ek-weak"
	// CodeEKTemplate: an EK that no trusted maker certified is not made from a TCG template.
	CodeEKTemplate = "ek-not-template"

	// CodeCertificateMalformed: the EK certificate cannot be read.
	CodeCertificateMalformed = "ek-certificate-malformed"
	// CodeCertificateDates: the EK certificate is expired or not valid yet.
	CodeCertificateDates = "ek-certificate-dates"
	// CodeCertificatePurpose: the certificate is not for an endorsement key.
	CodeCertificatePurpose = "ek-certificate-purpose"
	// CodeCertificateCritical: the EK certificate has a critical extension that is not known here.
	CodeCertificateCritical = "ek-certificate-critical"
	// CodeCertificateKey: the EK certificate is for another key than the EK that was shown.
	CodeCertificateKey = "ek-certificate-key"
	// CodeCertificateSimulated: the EK certificate says that the TPM is a test program.
	CodeCertificateSimulated = "ek-certificate-simulated"

	// CodeAKMalformed: the AK's public area is not one canonical TPMT_PUBLIC.
	CodeAKMalformed = "ak-malformed"
	// CodeAKRestricted: the AK would sign anything, not only what its TPM made.
	CodeAKRestricted = "ak-not-restricted"
	// CodeAKAttributes: the AK may leave its chip, was made outside it, or does more than sign.
	CodeAKAttributes = "ak-attributes"
	// CodeAKAlgorithm: the AK's type, size, curve, scheme or hash is not accepted.
	CodeAKAlgorithm = "ak-algorithm"
	// CodeAKWeak: the AK can be broken (ROCA, short modulus, point off its curve).
	CodeAKWeak = "ak-weak"

	// CodeKeyMalformed: the device key's public area is not one canonical TPMT_PUBLIC.
	CodeKeyMalformed = "key-malformed"
	// CodeKeyRestricted: the device key is restricted, so it cannot sign in TLS.
	CodeKeyRestricted = "key-restricted"
	// CodeKeyAttributes: the device key may leave its chip, was made outside it, or does more than sign.
	CodeKeyAttributes = "key-attributes"
	// CodeKeyAlgorithm: the device key's type, size, curve, scheme or hash is not accepted.
	CodeKeyAlgorithm = "key-algorithm"
	// CodeKeyWeak: the device key can be broken (ROCA, short modulus, point off its curve).
	CodeKeyWeak = "key-weak"

	// CodeStatementMalformed: the statement is not one canonical TPMS_ATTEST.
	CodeStatementMalformed = "statement-malformed"
	// CodeStatementType: the statement is not a TPM2_Certify.
	CodeStatementType = "statement-type"
	// CodeStatementBinding: the statement was made for another message, connection or server.
	CodeStatementBinding = "statement-binding"
	// CodeStatementName: the statement is about another key.
	CodeStatementName = "statement-name"
	// CodeSignatureMalformed: the signature is not one canonical TPMT_SIGNATURE.
	CodeSignatureMalformed = "signature-malformed"
	// CodeSignatureScheme: the signature's scheme or hash is not the AK's.
	CodeSignatureScheme = "signature-scheme"
	// CodeSignatureWrong: the AK did not sign the statement.
	CodeSignatureWrong = "signature-wrong"
)

func refuse(code, hint, format string, a ...any) error {
	return &attest.Refusal{Code: code, Detail: fmt.Sprintf(format, a...), Hint: hint}
}
