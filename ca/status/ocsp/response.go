package ocsp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Unsigned answers: OCSPResponse with a responseStatus alone (RFC 6960 §4.2.1).
var (
	// Malformed: the request cannot be parsed.
	Malformed = []byte{0x30, 3, 0x0a, 1, 1}
	// InternalError: something is wrong with the responder.
	InternalError = []byte{0x30, 3, 0x0a, 1, 2}
	// TryLater: the status cannot be read now.
	TryLater = []byte{0x30, 3, 0x0a, 1, 3}
	// Unauthorized: the responder does not answer for this issuer (RFC 6960 §2.3).
	Unauthorized = []byte{0x30, 3, 0x0a, 1, 6}
)

// Status of a certificate; the values are the tags of CertStatus.
type Status uint8

// CertStatus (RFC 6960 §4.2.1).
const (
	Good    Status = 0
	Revoked Status = 1
	Unknown Status = 2
)

// Response is one certificate's status, with those in More, to be signed.
type Response struct {
	// CertID is Request.CertID.
	CertID []byte
	Status Status
	// Since and Reason (RFC 5280 §5.3.1) belong to Revoked; reason 0 is left out.
	Since  time.Time
	Reason int
	// ThisUpdate is when the status was known, and also producedAt. The status may be relied upon
	// until NextUpdate.
	ThisUpdate, NextUpdate time.Time
	// Nonce is Request.Nonce; nil leaves it out.
	Nonce []byte
	// More are the statuses of Request.More, each with only CertID, Status, Since and Reason; the
	// times are those of the first.
	More []Response
}

var oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}

// Sign makes the OCSPResponse. responder is key's certificate, which is enclosed and named by its
// key. The key must be ECDSA P-256.
func (r Response) Sign(responder *x509.Certificate, key crypto.Signer) ([]byte, error) {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("ocsp: the responder's key is not ECDSA P-256")
	}
	tbs, err := r.data(responder)
	if err != nil {
		return nil, fmt.Errorf("ocsp: %w", err)
	}
	digest := sha256.Sum256(tbs)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("ocsp: signing: %w", err)
	}
	return envelope(tbs, signature, responder.Raw)
}

// CheckResponder checks a responder against RFC 6960 §4.2.2.2: issued by the very CA that it
// answers for, for this purpose, and valid now.
func CheckResponder(c *x509.Certificate, key crypto.Signer, issuer *x509.Certificate, now time.Time) error {
	switch public, ok := c.PublicKey.(*ecdsa.PublicKey); {
	case !ok || !public.Equal(key.Public()):
		return errors.New("the OCSP responder's certificate is not for its key")
	case !bytes.Equal(c.RawIssuer, issuer.RawSubject) || !bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId):
		return errors.New("the OCSP responder's certificate is not by this issuer")
	case !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return errors.New("the OCSP responder's certificate lacks id-kp-OCSPSigning")
	case now.Before(c.NotBefore) || !now.Before(c.NotAfter):
		return errors.New("the OCSP responder's certificate is not valid now")
	}
	return nil
}

// data is ResponseData (RFC 6960 §4.2.1).
func (r Response) data(responder *x509.Certificate) ([]byte, error) {
	bits, err := keyBits(responder)
	if err != nil {
		return nil, err
	}
	keyHash := sha1.Sum(bits) // KeyHash is SHA-1 by definition (RFC 6960 §4.2.1)
	b := cryptobyte.NewBuilder(make([]byte, 0, 256))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(keyHash[:]) })
		b.AddASN1GeneralizedTime(r.ThisUpdate.UTC())
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, r.single)
			for _, m := range r.More {
				m.ThisUpdate, m.NextUpdate = r.ThisUpdate, r.NextUpdate
				b.AddASN1(cbasn1.SEQUENCE, m.single)
			}
		})
		if r.Nonce != nil {
			b.AddASN1(explicit(1), r.extensions)
		}
	})
	return b.Bytes()
}

// single is the content of SingleResponse.
func (r Response) single(b *cryptobyte.Builder) {
	b.AddBytes(r.CertID)
	switch r.Status {
	case Revoked:
		b.AddASN1(explicit(uint8(Revoked)), func(b *cryptobyte.Builder) {
			b.AddASN1GeneralizedTime(r.Since.UTC())
			if r.Reason != 0 { // unspecified is omitted (RFC 5280 §5.3.1)
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(r.Reason)) })
			}
		})
	default:
		b.AddASN1(cbasn1.Tag(r.Status).ContextSpecific(), func(*cryptobyte.Builder) {}) // IMPLICIT NULL
	}
	b.AddASN1GeneralizedTime(r.ThisUpdate.UTC())
	b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(r.NextUpdate.UTC()) })
}

// extensions is Extensions with only the nonce.
func (r Response) extensions(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidNonce)
			b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(r.Nonce) })
		})
	})
}

// envelope wraps signed ResponseData into BasicOCSPResponse and that into OCSPResponse.
func envelope(tbs, signature, certificate []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+len(certificate)+64))
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0) // successful
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidBasic)
				b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddBytes(tbs)
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(oidECDSAWithSHA256) // no parameters: RFC 5758 §3.2
						})
						b.AddASN1BitString(signature)
						b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
							b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(certificate) })
						})
					})
				})
			})
		})
	})
	return b.Bytes()
}
