// Package crl writes certificate revocation lists (RFC 5280 §5): of a shard, of a whole issuer,
// and of what changed since one of those. It knows the format, and nothing about who is on a
// list.
//
// It does not use x509.CreateRevocationList, against which the tests compare: that takes ten
// times as long, and after a large revocation everybody waits for it.
package crl

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	_ "crypto/sha256" // P-256
	_ "crypto/sha512" // P-384
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ReasonRemoved is removeFromCRL: in a delta, the certificate is good again.
const ReasonRemoved = 8

// List is the content of a list.
type List struct {
	// Number is the crlNumber.
	Number                 int64
	ThisUpdate, NextUpdate time.Time
	// Point is the URI of its shard (issuingDistributionPoint); empty for a list over all
	// certificates of the issuer.
	Point string
	// Freshest is the URI of the delta to this list (freshestCRL); empty for none.
	Freshest string
	// Base is the number of the list that this one is the delta to (deltaCRLIndicator); 0
	// for a complete list.
	Base    int64
	Entries []Entry
}

// Entry is one certificate.
type Entry struct {
	// Serial is the serial number in hex.
	Serial string
	Since  time.Time
	// Reason is the CRLReason; 0 is left out (RFC 5280 §5.3.1).
	Reason int
}

// Sign makes the list. The issuer's key must be ECDSA P-256 or P-384, and it must have a
// subject key identifier.
func (l List) Sign(issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
	hash, algorithm, err := algorithmOf(key)
	if err != nil {
		return nil, err
	}
	tbs, err := l.tbs(issuer, algorithm)
	if err != nil {
		return nil, err
	}
	digest := hash.New()
	digest.Write(tbs)
	signature, err := key.Sign(rand.Reader, digest.Sum(nil), hash)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+32))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		addAlgorithm(b, algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// algorithmOf is RFC 5758 §3.2: ECDSA with the hash of the curve's size.
func algorithmOf(key crypto.Signer) (crypto.Hash, asn1.ObjectIdentifier, error) {
	if public, ok := key.Public().(*ecdsa.PublicKey); ok {
		switch public.Curve {
		case elliptic.P256():
			return crypto.SHA256, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, nil
		case elliptic.P384():
			return crypto.SHA384, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, nil
		}
	}
	return 0, nil, errors.New("the issuer's key is not ECDSA P-256 or P-384")
}

func addAlgorithm(b *cryptobyte.Builder, algorithm asn1.ObjectIdentifier) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(algorithm) })
}

// tbs is TBSCertList (RFC 5280 §5.1).
func (l List) tbs(issuer *x509.Certificate, algorithm asn1.ObjectIdentifier) ([]byte, error) {
	entries := make([]byte, 0, 50*len(l.Entries))
	var err error
	for _, e := range l.Entries {
		if entries, err = appendEntry(entries, e); err != nil {
			return nil, err
		}
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(entries)+1024))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1) // v2
		addAlgorithm(b, algorithm)
		b.AddBytes(issuer.RawSubject)
		b.AddBytes(appendTime(nil, l.ThisUpdate))
		b.AddBytes(appendTime(nil, l.NextUpdate))
		if len(entries) > 0 { // an empty revokedCertificates is omitted (RFC 5280 §5.1.2.6)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(entries) })
		}
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { l.extensions(b, issuer) })
		})
	})
	return b.Bytes()
}

// appendEntry writes one element of revokedCertificates. All lengths in it are below 128.
func appendEntry(b []byte, e Entry) ([]byte, error) {
	serial, err := hex.DecodeString(e.Serial)
	if err != nil || len(serial) == 0 || len(serial) > 20 {
		return nil, fmt.Errorf("%q is not a serial number in hex", e.Serial)
	}
	for len(serial) > 1 && serial[0] == 0 {
		serial = serial[1:]
	}
	size, sign := len(serial), serial[0]>>7 // the number is positive: if its top bit is set, a zero byte goes in front
	size += int(sign)
	at := len(b)
	b = append(b, 0x30, 0, 0x02, byte(size))
	b = append(append(b, make([]byte, sign)...), serial...)
	b = appendTime(b, e.Since)
	if e.Reason != 0 {
		// SEQUENCE OF Extension { 2.5.29.21, OCTET STRING { ENUMERATED } }
		b = append(b, 0x30, 0x0c, 0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x15, 0x04, 0x03, 0x0a, 0x01, byte(e.Reason))
	}
	b[at+1] = byte(len(b) - at - 2)
	return b, nil
}

// appendTime writes a Time: a UTCTime until 2049, a GeneralizedTime after (RFC 5280 §5.1.2.4).
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	if t.Year() < 2050 {
		return t.AppendFormat(append(b, byte(cbasn1.UTCTime), 13), "060102150405Z")
	}
	return t.AppendFormat(append(b, byte(cbasn1.GeneralizedTime), 15), "20060102150405Z")
}

func (l List) extensions(b *cryptobyte.Builder, issuer *x509.Certificate) {
	addExtension(b, 35, false, func(b *cryptobyte.Builder) { // authorityKeyIdentifier
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(issuer.SubjectKeyId) })
		})
	})
	addExtension(b, 20, false, func(b *cryptobyte.Builder) { b.AddASN1Int64(l.Number) })
	if l.Base != 0 { // critical, or a delta would pass for a complete list (RFC 5280 §5.2.4)
		addExtension(b, 27, true, func(b *cryptobyte.Builder) { b.AddASN1Int64(l.Base) })
	}
	if l.Point != "" {
		addExtension(b, 28, true, func(b *cryptobyte.Builder) { addPoint(b, l.Point) })
	}
	if l.Freshest != "" {
		addExtension(b, 46, false, func(b *cryptobyte.Builder) { // CRLDistributionPoints (RFC 5280 §5.2.6)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addName(b, l.Freshest) })
			})
		})
	}
}

// addExtension adds an extension with the id id-ce last.
func addExtension(b *cryptobyte.Builder, last int, critical bool, value func(*cryptobyte.Builder)) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 29, last})
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(cbasn1.OCTET_STRING, value)
	})
}

// addPoint is issuingDistributionPoint, critical (RFC 5280 §5.2.5), or one shard would pass for
// the whole list. It names the shard by the URI that its certificates carry and covers only
// end-entity certificates, the only kind that our issuers sign.
func addPoint(b *cryptobyte.Builder, uri string) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addName(b, uri)
		b.AddASN1(cbasn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddUint8(0xff) }) // onlyContainsUserCerts
	})
}

// addName is distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] } }.
func addName(b *cryptobyte.Builder, uri string) {
	b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(uri)) })
		})
	})
}
