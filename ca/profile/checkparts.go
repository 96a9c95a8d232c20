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
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The values that check.go expects, encoded with cryptobyte where the builder uses
// crypto/x509 and encoding/asn1.

// serverNames is a subjectAltName of DNS names, then IP addresses (RFC 5280 §4.2.1.6).
func serverNames(c Content) []byte {
	return build(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, name := range c.DNSNames {
			b.AddASN1(asn1.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
		}
		for _, ip := range c.IPs {
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			b.AddASN1(asn1.Tag(7).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(ip) })
		}
	})
}

// chipNames is the subjectAltName of a device with a TPM: HardwareModuleName (RFC 4108
// §5) if all its parts are known, and PermanentIdentifier (RFC 4043 §2).
func chipNames(tpm *TPM) []byte {
	id, assigner := tpm.EKFingerprint, ""
	if tpm.EKCertificate != nil {
		id, assigner = sha256.Sum256(tpm.EKCertificate), ekPermID
	}
	serial := moduleSerial(tpm)
	return build(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if serial != "" {
			addOther(b, onHardware, func(b *cryptobyte.Builder) {
				addOID(b, hwTPM20)
				b.AddASN1OctetString([]byte(serial))
			})
		}
		addOther(b, onPermID, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(hex.EncodeToString(id[:]))) })
			if assigner != "" {
				addOID(b, assigner)
			}
		})
	})
}

// distributionPoint is a cRLDistributionPoints with one fullName (RFC 5280 §4.2.1.13).
func distributionPoint(url string) []byte {
	constructed0 := asn1.Tag(0).ContextSpecific().Constructed()
	return build(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(constructed0, func(b *cryptobyte.Builder) {
				b.AddASN1(constructed0, func(b *cryptobyte.Builder) { addURL(b, url) })
			})
		})
	})
}

// infoAccess is an authorityInfoAccess of method, URL, method, URL… (RFC 5280 §4.2.2.1).
func infoAccess(pairs ...string) []byte {
	return build(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for i := 0; i < len(pairs); i += 2 {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addOID(b, pairs[i])
				addURL(b, pairs[i+1])
			})
		}
	})
}

// policyList is a certificatePolicies without qualifiers (RFC 5280 §4.2.1.4).
func policyList(ids ...string) []byte {
	return build(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, id := range ids {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, id) })
		}
	})
}

// algorithmOf is the AlgorithmIdentifier of a signing key: ECDSA without parameters
// (RFC 5758 §3.2), RSA with NULL (RFC 4055 §5).
func algorithmOf(signer crypto.PublicKey) ([]byte, error) {
	id, parameters := "", ""
	switch k := signer.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			id = ecdsaSHA256
		case elliptic.P384():
			id = ecdsaSHA384
		}
	case *rsa.PublicKey:
		id, parameters = rsaSHA256, "\x05\x00"
	}
	if id == "" {
		return nil, fmt.Errorf("the issuing key is a %T of an unknown sort", signer)
	}
	return build(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, id)
		b.AddBytes([]byte(parameters))
	}), nil
}

// subjectKeyID is RFC 7093 §2 method 1 over a SubjectPublicKeyInfo.
func subjectKeyID(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var key, algorithm cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&key, asn1.SEQUENCE) || !key.ReadASN1(&algorithm, asn1.SEQUENCE) || !key.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("the key's SubjectPublicKeyInfo is malformed")
	}
	sum := sha256.Sum256(bits)
	return sum[:160/8], nil
}

// addTime writes UTCTime to 2049 and GeneralizedTime after (RFC 5280 §4.1.2.5).
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
	} else {
		b.AddASN1GeneralizedTime(t)
	}
}

func addOther(b *cryptobyte.Builder, id string, content cryptobyte.BuilderContinuation) {
	constructed0 := asn1.Tag(0).ContextSpecific().Constructed()
	b.AddASN1(constructed0, func(b *cryptobyte.Builder) {
		addOID(b, id)
		b.AddASN1(constructed0, func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, content) })
	})
}

func addURL(b *cryptobyte.Builder, url string) {
	b.AddASN1(asn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(url)) })
}

func addOID(b *cryptobyte.Builder, id string) {
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(id)) })
}

func build(tag asn1.Tag, content cryptobyte.BuilderContinuation) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, content)
	return b.BytesOrPanic()
}
