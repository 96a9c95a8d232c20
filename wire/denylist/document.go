// Package denylist holds the two signed documents from which a relying party knows, even offline,
// which certificates of an issuer it must refuse: a [List] of all that are denied, and a
// [Filter], much smaller, that covers all that were issued. Both are signed by the issuer's OCSP
// responder and verified with relying-parties.pem alone.
//
// docs/status.md describes the formats for readers in other languages.
package denylist

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Contexts begin a document, so that its signature cannot pass for another: that of an OCSP
// response, by the same key, covers DER, which begins with 0x30.
const (
	listContext   = "hallmark-denylist-1\n"
	filterContext = "hallmark-filter-1\n"
)

// Bounds of documents, in bytes. MaxDocument is enough for a deny-list of six million
// certificates.
const (
	MaxDocument    = 128 << 20
	maxCertificate = 8 << 10
	maxSignature   = 128
)

// documentSkew is how far ahead of the reader's clock a document's time may be.
const documentSkew = 5 * time.Minute

// ErrNotDocument: the bytes are not the expected document, or incomplete.
var ErrNotDocument = errors.New("not a document of this kind")

// Document is what a deny-list and a filter have in common.
type Document struct {
	// Number is the last change (Change.Number) that it includes.
	Number int64
	// Issuer is the name of the issuer whose certificates it is about.
	Issuer string
	// Time is when it was made, NextUpdate by when a newer one should have replaced it. Whole
	// seconds.
	Time, NextUpdate time.Time
}

// Seal is the signer of documents: an OCSP responder (RFC 6960 §4.2.2.2) of the issuer that they
// are about.
type Seal struct {
	Responder, Issuer *x509.Certificate
	Key               crypto.Signer
}

// seal writes a document:
//
//	context
//	number, time, next update     8 bytes each; times in seconds since 1970
//	name of the issuer            its length in 1 byte before it
//	body                          its length in 4 bytes before it
//	the responder's certificate   DER, its length in 2 bytes before it
//	the issuer's certificate      as well
//	signature                     ASN.1 ECDSA over SHA-256 of all that precedes; as well
//
// Numbers are big-endian.
func (s Seal) seal(context string, d Document, body []byte) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if d.NextUpdate.After(s.Responder.NotAfter) {
		return nil, errors.New("the document would outlive its signer's certificate")
	}
	out := make([]byte, 0, len(body)+len(s.Responder.Raw)+len(s.Issuer.Raw)+256)
	out = append(out, context...)
	for _, n := range []int64{d.Number, d.Time.Unix(), d.NextUpdate.Unix()} {
		out = binary.BigEndian.AppendUint64(out, uint64(n))
	}
	out = append(append(out, byte(len(d.Issuer))), d.Issuer...)
	out = append(binary.BigEndian.AppendUint32(out, uint32(len(body))), body...)
	for _, c := range []*x509.Certificate{s.Responder, s.Issuer} {
		if len(c.Raw) > maxCertificate {
			return nil, errors.New("the signer's certificate is too large")
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(c.Raw))), c.Raw...)
	}
	digest := sha256.Sum256(out)
	signature, err := s.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	out = append(binary.BigEndian.AppendUint16(out, uint16(len(signature))), signature...)
	if len(out) > MaxDocument {
		return nil, wire.ErrTooLarge
	}
	return out, nil
}

func (d Document) check() error {
	if d.Number < 0 || d.Time.Unix() <= 0 || d.NextUpdate.Before(d.Time) {
		return fmt.Errorf("%w: its number and times make no sense", ErrNotDocument)
	}
	return wire.CheckIssuerName(d.Issuer)
}

// open verifies a document and returns its body, a part of data. roots are those of
// relying-parties.pem; at is the reader's time.
func open(context string, data []byte, roots *x509.CertPool, at time.Time) (d Document, by authority, body []byte, err error) {
	if len(data) > MaxDocument {
		return d, by, nil, wire.ErrTooLarge
	}
	r := fields{data}
	if !bytes.Equal(r.take(len(context)), []byte(context)) {
		return d, by, nil, ErrNotDocument
	}
	d.Number = int64(r.number(8))
	d.Time, d.NextUpdate = time.Unix(int64(r.number(8)), 0).UTC(), time.Unix(int64(r.number(8)), 0).UTC()
	d.Issuer = string(r.counted(1, wire.MaxIssuerName))
	body = r.counted(4, MaxDocument)
	responder, issuer := r.counted(2, maxCertificate), r.counted(2, maxCertificate)
	signed := len(data) - len(r.left)
	signature := r.counted(2, maxSignature)
	if r.left == nil || len(r.left) > 0 {
		return d, by, nil, fmt.Errorf("%w: it is cut short, or something follows it", ErrNotDocument)
	}
	if err := d.check(); err != nil {
		return d, by, nil, err
	}
	if d.Time.After(at.Add(documentSkew)) {
		return d, by, nil, fmt.Errorf("it is of %s, and here it is %s: is the clock right?", d.Time.Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	key, by, err := d.signer(responder, issuer, roots)
	if err != nil {
		return d, by, nil, err
	}
	if digest := sha256.Sum256(data[:signed]); !ecdsa.VerifyASN1(key, digest[:], signature) {
		return d, by, nil, errors.New("its signature is wrong")
	}
	return d, by, body, nil
}

// signer checks the signer's certificate against RFC 6960 §4.2.2.2: issued for this purpose by
// the very CA that the document is about, which a trusted root issued. It is verified at the
// document's own time, and must outlive NextUpdate, so that a stored document can still be read
// when its signer has been replaced.
func (d Document) signer(responderDER, issuerDER []byte, roots *x509.CertPool) (*ecdsa.PublicKey, authority, error) {
	responder, err := x509.ParseCertificate(responderDER)
	if err != nil {
		return nil, authority{}, fmt.Errorf("its signer: %w", err)
	}
	issuer, err := x509.ParseCertificate(issuerDER)
	if err != nil {
		return nil, authority{}, fmt.Errorf("its signer's issuer: %w", err)
	}
	_, err = issuer.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: d.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, authority{}, fmt.Errorf("its issuer is not trusted here: %w", err)
	}
	key, ok := responder.PublicKey.(*ecdsa.PublicKey)
	switch {
	case responder.CheckSignatureFrom(issuer) != nil || !bytes.Equal(responder.RawIssuer, issuer.RawSubject):
		return nil, authority{}, errors.New("its signer is not certified by its issuer")
	case !ok || !slices.Contains(responder.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return nil, authority{}, errors.New("its signer may not tell status: no OCSP responder")
	case d.Time.Before(responder.NotBefore) || d.NextUpdate.After(responder.NotAfter):
		return nil, authority{}, errors.New("its signer's certificate does not last as long as it does")
	}
	return key, authority{issuer}, nil
}

// authority is the issuer whose certificates a document is about.
type authority struct{ certificate *x509.Certificate }

// Authority is the certificate of the issuer, which a trusted root issued.
func (a authority) Authority() *x509.Certificate { return a.certificate }

// Covers reports whether a certificate, whose chain has been verified, is from the issuer that
// this document is about.
func (a authority) Covers(c *x509.Certificate) bool {
	return len(c.AuthorityKeyId) > 0 && bytes.Equal(c.AuthorityKeyId, a.certificate.SubjectKeyId)
}

// fields reads from the front; once something is missing, left is nil.
type fields struct{ left []byte }

func (r *fields) take(n int) []byte {
	if r.left == nil || n < 0 || n > len(r.left) {
		r.left = nil
		return nil
	}
	v := r.left[:n:n]
	r.left = r.left[n:]
	return v
}

// number reads a big-endian number of 1 to 8 bytes.
func (r *fields) number(size int) (n uint64) {
	for _, b := range r.take(size) {
		n = n<<8 | uint64(b)
	}
	return n
}

// counted reads a length of size bytes and then that many bytes, at most most.
func (r *fields) counted(size, most int) []byte {
	n := r.number(size)
	if n > uint64(most) {
		r.left = nil
		return nil
	}
	return r.take(int(n))
}
