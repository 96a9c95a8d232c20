package profile

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSubjectAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidNoCheck             = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	oidPermanentIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}
	oidHardwareModuleName  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}
	oidTPM20               = asn1.ObjectIdentifier{2, 23, 133, 1, 2}  // tcg-tpm20
	oidEKPermID            = asn1.ObjectIdentifier{2, 23, 133, 12, 1} // tcg-on-ekPermIdSha256
	policyResidency        = oid("2.23.133.11.1.1")                   // tcg-cap-verifiedTPMResidency
)

// authorityKeyID is the DER contents of 2.5.29.35.
const authorityKeyID = "\x55\x1d\x23"

// otherName is RFC 5280 §4.2.1.6 with a value of type T.
type otherName[T any] struct {
	Type  asn1.ObjectIdentifier
	Value T `asn1:"explicit,tag:0"`
}

// hardwareModuleName is RFC 4108 §5.
type hardwareModuleName struct {
	Type   asn1.ObjectIdentifier
	Serial []byte
}

// permanentIdentifier is RFC 4043 §2. Without an assigner the value is unique among the
// certificates of one issuer.
type permanentIdentifier struct {
	Value    string                `asn1:"utf8"`
	Assigner asn1.ObjectIdentifier `asn1:"optional"`
}

// subjectAltName names the chip as TCG's "TPM 2.0 Keys for Device Identity and Attestation" does:
// by maker, EK certificate's issuer key and serial number, and by the SHA-256 of that
// certificate. Without an EK certificate the identifier is the SHA-256 of the EK, and TCG's
// assigner, which stands for the certificate's, is left out.
func subjectAltName(tpm *TPM) ([]byte, error) {
	var names []asn1.RawValue
	add := func(name any) error {
		der, err := asn1.MarshalWithParams(name, "tag:0")
		names = append(names, asn1.RawValue{FullBytes: der})
		return err
	}
	if serial := moduleSerial(tpm); serial != "" {
		if err := add(otherName[hardwareModuleName]{oidHardwareModuleName, hardwareModuleName{oidTPM20, []byte(serial)}}); err != nil {
			return nil, err
		}
	}
	id := permanentIdentifier{Value: hex.EncodeToString(tpm.EKFingerprint[:])}
	if len(tpm.EKCertificate) > 0 {
		sum := sha256.Sum256(tpm.EKCertificate)
		id = permanentIdentifier{hex.EncodeToString(sum[:]), oidEKPermID}
	}
	if err := add(otherName[permanentIdentifier]{oidPermanentIdentifier, id}); err != nil {
		return nil, err
	}
	return asn1.Marshal(names)
}

// moduleSerial is "MAKER:EK-AKI:EK-SERIAL", the latter two in lower-case hex; empty if one of the
// three is not known. The builder and the check share it: two readers of what TPM makers sign
// would disagree about odd chips, and refuse honest devices.
func moduleSerial(tpm *TPM) string {
	issuerKey, serial := ekNames(tpm.EKCertificate)
	if tpm.Maker == "" || issuerKey == "" || serial == "" {
		return ""
	}
	return tpm.Maker + ":" + issuerKey + ":" + serial
}

// ekNames reads only the authority key identifier and the serial number of an EK certificate:
// many of these are malformed in ways that crypto/x509 refuses, and whether this one is genuine
// is for the attestation verifier to decide.
func ekNames(certificate []byte) (issuerKey, serial string) {
	in := cryptobyte.String(certificate)
	var cert, tbs, number, skip, list cryptobyte.String
	if !in.ReadASN1(&cert, der.SEQUENCE) || !cert.ReadASN1(&tbs, der.SEQUENCE) ||
		!tbs.SkipOptionalASN1(der.Tag(0).ContextSpecific().Constructed()) || !tbs.ReadASN1(&number, der.INTEGER) {
		return "", ""
	}
	for range 5 { // signature, issuer, validity, subject, subjectPublicKeyInfo
		if !tbs.ReadASN1(&skip, der.SEQUENCE) {
			return "", ""
		}
	}
	tbs.SkipOptionalASN1(der.Tag(1).ContextSpecific()) // issuerUniqueID
	tbs.SkipOptionalASN1(der.Tag(2).ContextSpecific()) // subjectUniqueID
	if !tbs.ReadASN1(&skip, der.Tag(3).ContextSpecific().Constructed()) || !skip.ReadASN1(&list, der.SEQUENCE) {
		return "", ""
	}
	for !list.Empty() {
		var e, id, value, keyID cryptobyte.String
		if !list.ReadASN1(&e, der.SEQUENCE) || !e.ReadASN1(&id, der.OBJECT_IDENTIFIER) || !e.SkipOptionalASN1(der.BOOLEAN) {
			return "", ""
		}
		if string(id) == authorityKeyID && e.ReadASN1(&value, der.OCTET_STRING) &&
			value.ReadASN1(&value, der.SEQUENCE) && value.ReadASN1(&keyID, der.Tag(0).ContextSpecific()) {
			return hex.EncodeToString(keyID), hex.EncodeToString(number)
		}
	}
	return "", ""
}
