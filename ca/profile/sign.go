package profile

import (
	"bytes"
	"crypto"
	"errors"
	"io"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// Sign has build make a certificate with a key that signs tbs and nothing else, and returns its
// DER. Whatever else build wants signed, key is not used.
//
// The caller must verify the signature. x509.CreateCertificate would, too, but is stopped before:
// verifying takes longer than signing.
func Sign(tbs []byte, key crypto.Signer, build func(crypto.Signer) error) ([]byte, error) {
	g := &guard{Signer: key, intent: tbs}
	if err := build(g); err == nil {
		return nil, errors.New("a certificate was built without the key")
	} else if !errors.Is(err, errSigned) {
		return nil, err
	}
	return Assemble(tbs, g.signature)
}

// guard lets a key sign one message and no other, and then stops its caller with errSigned.
type guard struct {
	crypto.Signer
	intent, signature []byte
}

var errSigned = errors.New("signed; stop here")

// SignMessage makes guard a crypto.MessageSigner, which sees the message and not only a digest.
func (g *guard) SignMessage(random io.Reader, tbs []byte, o crypto.SignerOpts) (_ []byte, err error) {
	if !bytes.Equal(tbs, g.intent) {
		return nil, errors.New("something else than was prepared was about to be signed: " + difference(tbs, g.intent).Error())
	}
	if g.signature, err = crypto.SignMessage(g.Signer, random, tbs, o); err != nil {
		return nil, err
	}
	return nil, errSigned
}

// Sign refuses callers that pass only a digest.
func (g *guard) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a digest does not say what it is of")
}

// Assemble makes a Certificate (RFC 5280 §4.1) from a TBSCertificate and its signature, and
// verifies neither. The outer signatureAlgorithm must equal the inner, and so is copied from it.
func Assemble(tbs, signature []byte) ([]byte, error) {
	var in, algorithm cryptobyte.String = tbs, nil
	if !in.ReadASN1(&in, der.SEQUENCE) ||
		!in.SkipOptionalASN1(der.Tag(0).Constructed().ContextSpecific()) || // version
		!in.SkipASN1(der.INTEGER) || !in.ReadASN1Element(&algorithm, der.SEQUENCE) {
		return nil, errors.New("what is to be signed is not a certificate")
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}
