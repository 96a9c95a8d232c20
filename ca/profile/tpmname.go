package profile

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
)

var (
	oidSubjectAltName      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidAuthorityKeyID      = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidNoCheck             = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	oidPermanentIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}
	oidHardwareModuleName  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}
	oidTPM20               = asn1.ObjectIdentifier{2, 23, 133, 1, 2}  // tcg-tpm20
	oidEKPermID            = asn1.ObjectIdentifier{2, 23, 133, 12, 1} // tcg-on-ekPermIdSha256
	policyResidency        = oid("2.23.133.11.1.1")                   // tcg-cap-verifiedTPMResidency
)

// otherName is RFC 5280 §4.2.1.6; T is what stands in it.
type otherName[T any] struct {
	Type  asn1.ObjectIdentifier
	Value T `asn1:"explicit,tag:0"`
}

// hardwareModuleName is RFC 4108 §5.
type hardwareModuleName struct {
	Type   asn1.ObjectIdentifier
	Serial []byte
}

// permanentIdentifier is RFC 4043 §2. Without assigner the value is unique among the
// certificates of one issuer.
type permanentIdentifier struct {
	Value    string                `asn1:"utf8"`
	Assigner asn1.ObjectIdentifier `asn1:"optional"`
}

// subjectAltName names the chip as TCG's "TPM 2.0 Keys for Device Identity and
// Attestation" does: by maker, EK certificate's issuer key and serial number, and by
// the SHA-256 of that certificate. Where there is no EK certificate the identifier is
// the SHA-256 of the EK, without TCG's assigner, which would call it something else.
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

// moduleSerial is "MAKER:EK-AKI:EK-SERIAL", the latter two in lower-case hex; empty if
// one of the three is not known. EK certificates are often malformed in ways that
// crypto/x509 refuses (negative serial numbers, critical names), so only the two fields
// are read; that the certificate is genuine is for the verifier to say.
func moduleSerial(tpm *TPM) string {
	var cert struct {
		TBS struct {
			Version       int `asn1:"optional,explicit,tag:0"`
			Serial        asn1.RawValue
			Algorithm     asn1.RawValue
			Issuer        asn1.RawValue
			Validity      asn1.RawValue
			Subject       asn1.RawValue
			Key           asn1.RawValue
			IssuerUnique  asn1.BitString `asn1:"optional,tag:1"`
			SubjectUnique asn1.BitString `asn1:"optional,tag:2"`
			Extensions    []struct {
				ID       asn1.ObjectIdentifier
				Critical bool `asn1:"optional"`
				Value    []byte
			} `asn1:"optional,explicit,tag:3"`
		}
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(tpm.EKCertificate, &cert); err != nil {
		return ""
	}
	for _, e := range cert.TBS.Extensions {
		var id struct {
			Key    []byte        `asn1:"optional,tag:0"`
			Issuer asn1.RawValue `asn1:"optional,tag:1"`
			Serial asn1.RawValue `asn1:"optional,tag:2"`
		}
		if !e.ID.Equal(oidAuthorityKeyID) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &id); err == nil && len(id.Key) > 0 && tpm.Maker != "" {
			return fmt.Sprintf("%s:%x:%x", tpm.Maker, id.Key, cert.TBS.Serial.Bytes)
		}
	}
	return ""
}
