package tpm2

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
)

// Bounds of what a device may send beside its EK certificate: NV 0x01C00100 to
// 0x01C001FF hold a few certificates of a kilobyte or two.
const (
	maxCertificates     = 16
	maxCertificateBytes = 32 << 10
)

// judgeEK fills in chip what its EK certificate proves. Only a certificate that is wrong in
// itself is refused; one that chains to no trusted maker leaves chip uncertified. An uncertified
// EK must be made from a TCG template: otherwise other keys of a TPM could pose as EKs, and one
// chip as many.
func (v *Verifier) judgeEK(chip *attest.TPM, ek *public, certificates [][]byte, now time.Time) error {
	if err := boundCertificates(certificates); err != nil {
		return err
	}
	if len(certificates) > 0 && len(certificates[0]) > 0 {
		cert, err := vendorca.ParseEK(certificates[0])
		if err != nil {
			return refuse(CodeCertificateMalformed, "read the certificate from the TPM again",
				"the EK certificate cannot be read: %v", err)
		}
		if err := v.checkCertificate(cert, ek, now); err != nil {
			return err
		}
		chip.EKCertificate, chip.EKIssuer = cert.Certificate.Raw, cert.Certificate.Issuer.String()
		chip.Maker, chip.Model = cert.Maker, cert.Model
		if err := v.trust().Verify(cert, certificates[1:], now); err != nil {
			chip.Uncertified = err.Error()
		} else {
			chip.Certified = true
		}
	}
	if !chip.Certified && !fromTemplate(ek) {
		return refuse(CodeEKTemplate, "make the EK from a TCG template, or import the certificates of its maker with: hallmark vendorca import FILE",
			"no trusted maker certified the endorsement key, and it is not made from a TCG template")
	}
	return nil
}

func boundCertificates(certificates [][]byte) error {
	total := 0
	for _, c := range certificates {
		total += len(c)
	}
	if len(certificates) > maxCertificates || total > maxCertificateBytes {
		return refuse(CodeTooLarge, "", "%d certificates of %d bytes in all are too many", len(certificates), total)
	}
	return nil
}

// oidEKCertificate is tcg-kp-EKCertificate (TCG EK Credential Profile, extended key usage).
var oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}

// checkCertificate checks the EK certificate by itself: everything but its chain.
func (v *Verifier) checkCertificate(cert vendorca.EK, ek *public, now time.Time) error {
	c := cert.Certificate
	key, ok := ek.key.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !key.Equal(c.PublicKey):
		return refuse(CodeCertificateKey, "if the TPM was re-seeded (TPM2_ChangeEPS), its maker's certificate no longer belongs to it",
			"the EK certificate of %q is for another key than the TPM's endorsement key", c.Issuer)
	case !slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal):
		return refuse(CodeCertificatePurpose, "", "the certificate of %q is not for an endorsement key (extended key usage 2.23.133.8.1 is missing)", c.Issuer)
	case c.IsCA || c.KeyUsage&x509.KeyUsageCertSign != 0:
		return refuse(CodeCertificatePurpose, "", "the EK certificate of %q is a CA's", c.Issuer)
	// A key that may sign is a general-purpose EK (EK profile, key usage), not a restricted one,
	// whatever the device claims: its owner could decrypt our credential with TPM2_RSA_Decrypt
	// and answer for an AK outside the chip.
	case c.KeyUsage&x509.KeyUsageDigitalSignature != 0:
		return refuse(CodeCertificatePurpose, "", "the EK certificate of %q is for a general-purpose key, which proves nothing about others", c.Issuer)
	case len(c.UnhandledCriticalExtensions) > 0: // RFC 5280 §4.2
		return refuse(CodeCertificateCritical, "", "the EK certificate of %q has the critical extension %v, which is not known here", c.Issuer, c.UnhandledCriticalExtensions[0])
	case now.Before(c.NotBefore):
		return refuse(CodeCertificateDates, "check the server's clock", "the EK certificate of %q is not valid before %s", c.Issuer, c.NotBefore.Format(time.DateOnly))
	case now.After(c.NotAfter):
		return refuse(CodeCertificateDates, "", "the EK certificate of %q expired on %s", c.Issuer, c.NotAfter.Format(time.DateOnly))
	case cert.Simulated() && !v.allowSimulated:
		return refuse(CodeCertificateSimulated, "a server for tests accepts simulated TPMs if its configuration says so",
			"the EK certificate says that this TPM is a test program (TCG vendor ID %s)", cert.Maker)
	}
	return nil
}
