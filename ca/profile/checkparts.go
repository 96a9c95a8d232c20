package profile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The values that check.go expects.

// Identifier octets (X.690 §8.1.2).
const (
	integer         = 0x02
	octetString     = 0x04
	oID             = 0x06
	utf8String      = 0x0c
	printableString = 0x13
	utcTime         = 0x17
	generalizedTime = 0x18
	sequence        = 0x30
	set             = 0x31
)

// primitive and constructed tag what a standard writes as [n], IMPLICIT of a string or around
// elements (X.690 §8.1.2.2, §8.14).
func primitive(n byte) byte   { return 0x80 | n }
func constructed(n byte) byte { return 0xa0 | n }

// element is one DER element of up to 16 MiB: tag, length, and the concatenated parts (X.690
// §8.1.3, §10.1).
func element(tag byte, parts ...string) string {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	var b strings.Builder
	b.Grow(5 + n)
	b.WriteByte(tag)
	switch {
	case n < 0x80:
		b.WriteByte(byte(n))
	case n < 0x100:
		b.Write([]byte{0x81, byte(n)})
	case n < 0x10000:
		b.Write([]byte{0x82, byte(n >> 8), byte(n)})
	default:
		b.Write([]byte{0x83, byte(n >> 16), byte(n >> 8), byte(n)})
	}
	for _, p := range parts {
		b.WriteString(p)
	}
	return b.String()
}

// serverNames is a subjectAltName of DNS names, then IP addresses (RFC 5280 §4.2.1.6).
func serverNames(c Content) string {
	var names []string
	for _, name := range c.DNSNames {
		names = append(names, element(primitive(2), name))
	}
	for _, ip := range c.IPs {
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		names = append(names, element(primitive(7), string(ip)))
	}
	return element(sequence, names...)
}

// chipNames is the subjectAltName of a device with a TPM: HardwareModuleName (RFC 4108
// §5) if all its parts are known, and PermanentIdentifier (RFC 4043 §2).
func chipNames(tpm *TPM) string {
	id, assigner := tpm.EKFingerprint, ""
	if len(tpm.EKCertificate) > 0 {
		id, assigner = sha256.Sum256(tpm.EKCertificate), element(oID, ekPermID)
	}
	module := ""
	if serial := moduleSerial(tpm); serial != "" {
		module = other(onHardware, element(oID, hwTPM20), element(octetString, serial))
	}
	return element(sequence, module, other(onPermID, element(utf8String, hex.EncodeToString(id[:])), assigner))
}

// other is an otherName in a list of GeneralNames (RFC 5280 §4.2.1.6).
func other(id string, parts ...string) string {
	return element(constructed(0), element(oID, id), element(constructed(0), element(sequence, parts...)))
}

// distributionPoint is a cRLDistributionPoints with one fullName (RFC 5280 §4.2.1.13).
func distributionPoint(url string) string {
	return element(sequence, element(sequence, element(constructed(0), element(constructed(0), element(primitive(6), url)))))
}

// infoAccess is an authorityInfoAccess of method, URL, method, URL… (RFC 5280 §4.2.2.1).
func infoAccess(pairs ...string) string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, element(sequence, element(oID, pairs[i]), element(primitive(6), pairs[i+1])))
	}
	return element(sequence, all...)
}

// policyList is a certificatePolicies without qualifiers (RFC 5280 §4.2.1.4).
func policyList(ids ...string) string {
	var all []string
	for _, id := range ids {
		all = append(all, element(sequence, element(oID, id)))
	}
	return element(sequence, all...)
}

// algorithmOf is the AlgorithmIdentifier of a signing key: ECDSA without parameters
// (RFC 5758 §3.2), RSA with NULL (RFC 4055 §5).
func algorithmOf(signer crypto.PublicKey) (string, error) {
	switch k := signer.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return element(sequence, element(oID, ecdsaSHA256)), nil
		case elliptic.P384():
			return element(sequence, element(oID, ecdsaSHA384)), nil
		}
	case *rsa.PublicKey:
		return element(sequence, element(oID, rsaSHA256), "\x05\x00"), nil
	}
	return "", fmt.Errorf("the issuing key is a %T of an unknown sort", signer)
}

// subjectKeyID is RFC 7093 §2 method 1 over a SubjectPublicKeyInfo.
func subjectKeyID(spki []byte) (string, error) {
	in := cryptobyte.String(spki)
	var key, algorithm cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&key, asn1.SEQUENCE) || !key.ReadASN1(&algorithm, asn1.SEQUENCE) || !key.ReadASN1BitStringAsBytes(&bits) {
		return "", errors.New("the key's SubjectPublicKeyInfo is malformed")
	}
	sum := sha256.Sum256(bits)
	return string(sum[:160/8]), nil
}

// timeElement is UTCTime to 2049 and GeneralizedTime after (RFC 5280 §4.1.2.5).
func timeElement(t time.Time) string {
	if t = t.UTC(); t.Year() < 2050 {
		return element(utcTime, t.Format("060102150405Z"))
	}
	return element(generalizedTime, t.Format("20060102150405Z"))
}
