// Package ocsp reads OCSP requests and writes OCSP responses (RFC 6960, within the profile of RFC
// 9919). It knows the format, and nothing about who may ask or what the answer is.
//
// It does not use golang.org/x/crypto/ocsp, against which the tests compare: that drops a
// request's nonce, names the responder by subject only, takes producedAt from the system clock,
// and cannot put a nonce into a response.
package ocsp

import (
	"crypto"
	_ "crypto/sha1" // CertID hashes: RFC 6960 clients still send SHA-1
	_ "crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxRequest bounds a request, in bytes. An honest one has about 120 for each certificate and at
// most 140 for a nonce; the rest is room for a signature, which is ignored, and for a hundred
// certificates, so that a client with too many gets Malformed instead of an HTTP error.
const MaxRequest = 16 << 10

// MaxCertificates bounds how many certificates one request may ask about: those of a device and
// its issuers, not of a fleet.
const MaxCertificates = 16

// ErrMalformed is wrapped by every error of ParseRequest; answer Malformed.
var ErrMalformed = errors.New("not an OCSP request")

// Object identifiers of RFC 6960 §4 and of the hashes of a CertID.
var (
	oidBasic  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidNonce  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
	oidSHA1   = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

// Hashes are the hashes that identify an issuer in a CertID: SHA-1 for older clients, SHA-256 as
// in RFC 9919 §3.1.1. Neither protects anything: they only say whose certificate is meant.
var Hashes = []crypto.Hash{crypto.SHA1, crypto.SHA256}

// Request asks for the status of one certificate, and of those in More.
type Request struct {
	// CertID is the DER of the CertID as sent. The response repeats it, for clients that compare
	// bytes.
	CertID []byte
	// Hash made NameHash and KeyHash from the issuer; 0 if it is not one of Hashes.
	Hash              crypto.Hash
	NameHash, KeyHash []byte
	// Serial is the certificate's serial number, at most 20 octets.
	Serial *big.Int
	// Nonce is to be repeated in the answer; nil if none was sent.
	Nonce []byte
	// More are the other certificates asked about, each without Nonce and More. RFC 9919 §3.1.1
	// has clients ask about one, RFC 6960 §4.1.1 lets them ask about several.
	More []Request
}

// ParseRequest parses an OCSPRequest, strictly DER. It must hold 1 to MaxCertificates Requests
// and no critical extension but a nonce. A requestor's name and a signature are ignored: the
// answer is public.
func ParseRequest(der []byte) (Request, error) {
	if len(der) > MaxRequest {
		return Request{}, fmt.Errorf("%w: over %d bytes", ErrMalformed, MaxRequest)
	}
	input := cryptobyte.String(der)
	var request, tbs, list cryptobyte.String
	switch {
	case !input.ReadASN1(&request, cbasn1.SEQUENCE) || !input.Empty(),
		!request.ReadASN1(&tbs, cbasn1.SEQUENCE),
		!skipOptional(&request, 0) || !request.Empty(), // optionalSignature
		!skipOptional(&tbs, 0),                         // version: v1 is all there is
		!skipOptional(&tbs, 1),                         // requestorName
		!tbs.ReadASN1(&list, cbasn1.SEQUENCE):
		return Request{}, ErrMalformed
	}
	r, err := readSingle(&list)
	if err != nil {
		return Request{}, err
	}
	for !list.Empty() {
		if len(r.More) == MaxCertificates-1 {
			return Request{}, fmt.Errorf("%w: more than %d certificates", ErrMalformed, MaxCertificates)
		}
		next, err := readSingle(&list)
		if err != nil {
			return Request{}, err
		}
		r.More = append(r.More, next)
	}
	r.Nonce, err = readExtensions(&tbs, 2)
	return r, err
}

// readSingle reads one Request of the list. singleRequestExtensions [0] are not
// requestExtensions [2]; only the latter may carry a nonce (RFC 6960 §4.4.1).
func readSingle(list *cryptobyte.String) (r Request, err error) {
	var single cryptobyte.String
	if !list.ReadASN1(&single, cbasn1.SEQUENCE) {
		return r, ErrMalformed
	}
	if err := r.readCertID(&single); err != nil {
		return r, err
	}
	_, err = readExtensions(&single, 0)
	return r, err
}

func (r *Request) readCertID(in *cryptobyte.String) error {
	var element, id, algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	r.Serial = new(big.Int)
	if !in.ReadASN1Element(&element, cbasn1.SEQUENCE) {
		return ErrMalformed
	}
	r.CertID = element
	switch {
	case !element.ReadASN1(&id, cbasn1.SEQUENCE),
		!id.ReadASN1(&algorithm, cbasn1.SEQUENCE),
		!algorithm.ReadASN1ObjectIdentifier(&oid),
		!skipNull(&algorithm) || !algorithm.Empty(),
		!id.ReadASN1Bytes(&r.NameHash, cbasn1.OCTET_STRING),
		!id.ReadASN1Bytes(&r.KeyHash, cbasn1.OCTET_STRING),
		!id.ReadASN1Integer(r.Serial) || !id.Empty():
		return fmt.Errorf("%w: CertID", ErrMalformed)
	case r.Serial.Sign() < 0 || r.Serial.BitLen() > 20*8: // RFC 5280 §4.1.2.2
		return fmt.Errorf("%w: serial number", ErrMalformed)
	}
	switch {
	case oid.Equal(oidSHA1):
		r.Hash = crypto.SHA1
	case oid.Equal(oidSHA256):
		r.Hash = crypto.SHA256
	}
	return nil
}

// readExtensions reads the optional extensions under a context tag to the end of in and returns
// the nonce among them. An unknown extension is ignored unless it is critical (RFC 6960 §4.4).
func readExtensions(in *cryptobyte.String, tag uint8) (nonce []byte, err error) {
	var wrapped, list cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&wrapped, &present, explicit(tag)) || !in.Empty() {
		return nil, ErrMalformed
	}
	if !present {
		return nil, nil
	}
	if !wrapped.ReadASN1(&list, cbasn1.SEQUENCE) || !wrapped.Empty() {
		return nil, fmt.Errorf("%w: extensions", ErrMalformed)
	}
	for !list.Empty() {
		var extension, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if !list.ReadASN1(&extension, cbasn1.SEQUENCE) ||
			!extension.ReadASN1ObjectIdentifier(&oid) ||
			!extension.ReadOptionalASN1Boolean(&critical, cbasn1.BOOLEAN, false) ||
			!extension.ReadASN1(&value, cbasn1.OCTET_STRING) || !extension.Empty() {
			return nil, fmt.Errorf("%w: extension", ErrMalformed)
		}
		switch {
		case oid.Equal(oidNonce) && tag == 2 && nonce == nil:
			if nonce, err = readNonce(value); err != nil {
				return nil, err
			}
		case oid.Equal(oidNonce) || critical:
			return nil, fmt.Errorf("%w: extension %v", ErrMalformed, oid)
		}
	}
	return nonce, nil
}

// readNonce: Nonce ::= OCTET STRING (SIZE(1..128)), and a responder must refuse an
// empty or longer one (RFC 9654 §2.1).
func readNonce(value cryptobyte.String) (nonce []byte, err error) {
	if !value.ReadASN1Bytes(&nonce, cbasn1.OCTET_STRING) || !value.Empty() || len(nonce) < 1 || len(nonce) > 128 {
		return nil, fmt.Errorf("%w: nonce", ErrMalformed)
	}
	return nonce, nil
}

// DecodePath decodes the base64 of a request in a path (RFC 6960 appendix A.1), from which
// net/url has removed escapes, tolerating what clients and proxies do to it: double escapes, the
// alphabet of RFC 4648 §5, a "+" that became a space, line breaks, missing padding, and extra
// slashes in front. This is unambiguous: a request begins with 0x30, its base64 with "M".
func DecodePath(path string) ([]byte, error) {
	if strings.Contains(path, "%") {
		var err error
		if path, err = url.PathUnescape(path); err != nil {
			return nil, err
		}
	}
	text := strings.TrimRight(strings.TrimLeft(fashions.Replace(path), "/"), "=")
	return base64.RawStdEncoding.DecodeString(text)
}

var fashions = strings.NewReplacer(" ", "+", "-", "+", "_", "/", "\r", "", "\n", "")

// IssuerHashes are the two hashes that identify an issuer in a CertID: over its subject and over
// its public key's bits, without tag, length and unused bits (RFC 6960 §4.1.1).
func IssuerHashes(issuer *x509.Certificate, hash crypto.Hash) (name, key []byte, err error) {
	bits, err := keyBits(issuer)
	if err != nil {
		return nil, nil, err
	}
	h := hash.New()
	h.Write(issuer.RawSubject)
	name = h.Sum(nil)
	h.Reset()
	h.Write(bits)
	return name, h.Sum(nil), nil
}

// keyBits is the content of subjectPublicKey.
func keyBits(c *x509.Certificate) ([]byte, error) {
	var spki cryptobyte.String
	var bits []byte
	in := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	if !in.ReadASN1(&spki, cbasn1.SEQUENCE) || !spki.SkipASN1(cbasn1.SEQUENCE) || !spki.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("certificate without a readable public key")
	}
	return bits, nil
}

func explicit(tag uint8) cbasn1.Tag { return cbasn1.Tag(tag).ContextSpecific().Constructed() }

func skipOptional(in *cryptobyte.String, tag uint8) bool {
	return in.SkipOptionalASN1(explicit(tag))
}

// skipNull skips the parameters of a hash algorithm, which are NULL or absent.
func skipNull(in *cryptobyte.String) bool {
	if in.Empty() {
		return true
	}
	var null cryptobyte.String
	return in.ReadASN1(&null, cbasn1.NULL) && null.Empty()
}
