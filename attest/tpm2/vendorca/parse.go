// Package vendorca knows what TPM makers put into their certificates: it reads their
// endorsement key (EK) certificates although some break X.509, and says whether one
// was issued under a certificate that the operator imported.
//
// It is lenient only in how a certificate is written down, never in what is signed: a
// repaired copy is parsed, and the signature is checked over the original bytes. No
// maker's root is built in; the operator imports them (docs/tpm-makers.md).
package vendorca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"
)

// maxNV bounds what one NV index may hold; honest EK certificates need 2 KiB, chains 6.
const maxNV = 16 << 10

// maxIssuer bounds the issuer's name as text, in bytes. It is recorded even if the device forged
// the certificate; makers' names have about a hundred bytes.
const maxIssuer = 512

// EK is an endorsement key certificate.
type EK struct {
	// Certificate is parsed; its Raw is what the maker signed, without padding. A
	// critical extension that is neither known to crypto/x509 nor the TCG subject
	// alternative name stays in UnhandledCriticalExtensions. PublicKey is RSA or ECDSA.
	Certificate *x509.Certificate
	// Maker is the TCG vendor ID as text ("STM"), or in hex ("00001014") where that is
	// not plain. Model is as written. Both are empty if the certificate does not say, and
	// mean nothing unless its issuer is trusted.
	Maker, Model string

	named []string // OIDs of the attributes read so far
}

// ParseEK reads an EK certificate as it lies in NV: possibly behind a TCG header,
// possibly followed by padding, possibly with a serial number or a key type that
// crypto/x509 does not accept.
func ParseEK(nv []byte) (EK, error) {
	der, rest, err := cut(nv)
	if err != nil {
		return EK{}, err
	}
	if !padding(rest) {
		return EK{}, errors.New("something other than padding follows the certificate")
	}
	c, err := parse(der)
	if err != nil {
		return EK{}, err
	}
	if issuer := c.Issuer.String(); len(issuer) > maxIssuer || !printable(issuer) {
		return EK{}, errors.New("the name of the certificate's issuer is not a short text")
	}
	e := EK{Certificate: c}
	if err := e.readNames(); err != nil {
		return EK{}, err
	}
	return e, nil
}

// certificates yields the DER elements in what a TPM holds besides its EK certificate; several
// may be concatenated.
func certificates(sent [][]byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, nv := range sent {
			for len(nv) > 0 {
				der, rest, err := cut(nv)
				if err != nil {
					break
				}
				if !yield(der) {
					return
				}
				nv = rest
			}
		}
	}
}

// parseHelpers reads the CA certificates among what a device sent. What cannot be read or has an
// unreasonable key is left out: these certificates only help to find an anchor, and prove nothing
// by themselves.
func parseHelpers(sent [][]byte) (helpers []*x509.Certificate) {
	for der := range certificates(sent) {
		if len(helpers) == maxHelpers {
			break
		}
		if c, err := parse(der); err == nil {
			helpers = append(helpers, c)
		}
	}
	return slices.DeleteFunc(helpers, unreasonable)
}

// cut splits off the first DER element, without a TCG header in front of it.
func cut(nv []byte) (der, rest []byte, err error) {
	if len(nv) > maxNV {
		return nil, nil, fmt.Errorf("%d bytes are too many for a certificate", len(nv))
	}
	// TCG PC Client Specific Implementation Specification 1.21 §7.4:
	// TCG_PCCLIENT_STORED_CERT is tag 0x1001, type 0 (full), a 16-bit length, and
	// before the certificate possibly TCG_FULL_CERT's tag 0x1002.
	if bytes.HasPrefix(nv, []byte{0x10, 0x01, 0x00}) {
		if len(nv) < 5 || int(binary.BigEndian.Uint16(nv[3:])) > len(nv)-5 {
			return nil, nil, errors.New("the TCG header announces more bytes than there are")
		}
		size := int(binary.BigEndian.Uint16(nv[3:]))
		inner := bytes.TrimPrefix(nv[5:5+size], []byte{0x10, 0x02})
		der, tail, err := cutDER(inner)
		if err != nil || !padding(tail) {
			return nil, nil, errors.New("there is no certificate behind the TCG header")
		}
		return der, nv[5+size:], nil
	}
	return cutDER(nv)
}

func cutDER(b []byte) (der, rest []byte, err error) {
	var v asn1.RawValue
	if rest, err = asn1.Unmarshal(b, &v); err != nil || v.Class != asn1.ClassUniversal || v.Tag != asn1.TagSequence {
		return nil, nil, errors.New("this is not a DER certificate")
	}
	return b[:len(b)-len(rest)], rest, nil
}

func padding(b []byte) bool {
	return len(bytes.Trim(b, "\x00")) == 0 || len(bytes.Trim(b, "\xff")) == 0
}

// parse is x509.ParseCertificate that also accepts odd serial numbers (negative, padded with
// zeros) and keys of type RSAES-OAEP.
func parse(der []byte) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		repaired, ok := parseOddSerial(der)
		if !ok {
			return nil, err // about the certificate as it is
		}
		c = repaired
	}
	if c.PublicKey == nil {
		if c.PublicKey, err = oaepKey(c.RawSubjectPublicKeyInfo); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// parseOddSerial parses a copy whose serial number is made positive and minimal, and
// puts the original bytes back so that the signature is checked over what was signed.
func parseOddSerial(der []byte) (*x509.Certificate, bool) {
	outer, ok := elements(der)
	if !ok || len(outer) != 3 {
		return nil, false
	}
	tbs, ok := elements(outer[0])
	if !ok || len(tbs) < 7 { // [0] version, serialNumber, …: a version 3 certificate
		return nil, false
	}
	original := outer[0]
	var serial asn1.RawValue
	if _, err := asn1.Unmarshal(tbs[1], &serial); err != nil || serial.Class != asn1.ClassUniversal || serial.Tag != asn1.TagInteger {
		return nil, false
	}
	value, err := asn1.Marshal(new(big.Int).SetBytes(serial.Bytes))
	if err != nil {
		return nil, false
	}
	tbs[1] = value
	outer[0] = sequence(tbs)
	c, err := x509.ParseCertificate(sequence(outer))
	if err != nil {
		return nil, false
	}
	c.Raw, c.RawTBSCertificate = der, original
	return c, true
}

// elements lists the DER elements inside a SEQUENCE, headers included.
func elements(der []byte) ([][]byte, bool) {
	var v asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 || v.Tag != asn1.TagSequence {
		return nil, false
	}
	var parts [][]byte
	for b := v.Bytes; len(b) > 0; {
		var e asn1.RawValue
		rest, err := asn1.Unmarshal(b, &e)
		if err != nil {
			return nil, false
		}
		parts, b = append(parts, e.FullBytes), rest
	}
	return parts, true
}

func sequence(parts [][]byte) []byte {
	// Marshalling a RawValue cannot fail: it only puts a length in front.
	der, _ := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join(parts, nil)})
	return der
}

var oidRSAESOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7} // RFC 4055 §4

// oaepKey reads an RSA key declared as RSAES-OAEP, as in older EK certificates. The parameters
// are ignored: they bind those who encrypt to it, and MakeCredential follows the TPM's.
func oaepKey(spki []byte) (any, error) {
	var s struct {
		Algorithm struct {
			OID        asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Key asn1.BitString
	}
	if rest, err := asn1.Unmarshal(spki, &s); err != nil || len(rest) > 0 {
		return nil, errors.New("the certificate's public key is malformed")
	}
	if !s.Algorithm.OID.Equal(oidRSAESOAEP) {
		return nil, fmt.Errorf("the certificate's public key is of a type that is not supported (%v)", s.Algorithm.OID)
	}
	return x509.ParsePKCS1PublicKey(s.Key.RightAlign())
}
