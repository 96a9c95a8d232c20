package swtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
)

// testVendor is the TPM maker id that swtpm has of its own: it means "no maker", and
// a server refuses it unless it is configured for simulated TPMs.
const testVendor = "id:00001014"

// Algorithm is the kind of a maker's CA keys.
type Algorithm string

// Algorithms that makers of real TPMs use.
const (
	P256 Algorithm = "P-256"
	P384 Algorithm = "P-384"
	RSA  Algorithm = "RSA"
)

// Maker is a maker of TPMs: a root, an intermediate, and the EK certificates that the
// intermediate signs.
type Maker struct {
	// Root is what an operator imports, Intermediate what a chip may carry in NV.
	Root, Intermediate *x509.Certificate
	key                crypto.Signer
	now                time.Time
}

// NewMaker founds a TPM maker at the given time.
func NewMaker(algorithm Algorithm, now time.Time) (*Maker, error) {
	rootKey, err := newKey(algorithm)
	if err != nil {
		return nil, err
	}
	key, err := newKey(algorithm)
	if err != nil {
		return nil, err
	}
	root, err := authority("Test TPM Maker Root "+string(algorithm), now, rootKey.Public(), nil, rootKey)
	if err != nil {
		return nil, err
	}
	intermediate, err := authority("Test TPM Maker EK CA "+string(algorithm), now, key.Public(), root, rootKey)
	if err != nil {
		return nil, err
	}
	return &Maker{Root: root, Intermediate: intermediate, key: key, now: now}, nil
}

func newKey(algorithm Algorithm) (crypto.Signer, error) {
	switch algorithm {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA:
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return nil, fmt.Errorf("swtpm: no maker's algorithm is called %q", algorithm)
}

// authority makes a CA certificate, self-issued if parent is nil.
func authority(name string, now time.Time, public crypto.PublicKey, parent *x509.Certificate, signer crypto.Signer) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"Hallmark tests"}, CommonName: name},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// certify signs an EK certificate in the form that the TCG EK Credential Profile asks
// for (standards.md §2.3): empty subject, critical SAN with the TPM's attributes.
func (m *Maker) certify(key crypto.PublicKey, o Options) ([]byte, error) {
	san, err := attributes(o)
	if err != nil {
		return nil, err
	}
	// tPMSpecification (2.23.133.2.16): family "2.0", level 0, revision 138.
	specification, err := asn1.Marshal([]struct {
		Type   asn1.ObjectIdentifier
		Values []tpmSpecification `asn1:"set"`
	}{{asn1.ObjectIdentifier{2, 23, 133, 2, 16}, []tpmSpecification{{"2.0", 0, 138}}}})
	if err != nil {
		return nil, err
	}
	usage := x509.KeyUsageKeyEncipherment
	if _, ecc := key.(*ecdsa.PublicKey); ecc {
		usage = x509.KeyUsageKeyAgreement
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    m.now.Add(-time.Hour), NotAfter: m.now.AddDate(20, 0, 0),
		KeyUsage: usage, BasicConstraintsValid: true,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}, // tcg-kp-EKCertificate
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 9}, Value: specification},
		},
	}
	if o.Edit != nil {
		o.Edit(template)
	}
	return x509.CreateCertificate(rand.Reader, template, m.Intermediate, key, m.key)
}

type tpmSpecification struct {
	Family          string `asn1:"utf8"`
	Level, Revision int
}

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value string `asn1:"utf8"`
}

// attributes is the SAN: one directoryName of three RDNs, tpmManufacturer, tpmModel
// and tpmVersion (2.23.133.2.1 to .3).
func attributes(o Options) ([]byte, error) {
	var rdns []asn1.RawValue
	for i, value := range []string{o.VendorID, o.Model, o.Version} {
		der, err := asn1.Marshal(attribute{asn1.ObjectIdentifier{2, 23, 133, 2, i + 1}, value})
		if err != nil {
			return nil, err
		}
		rdns = append(rdns, asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: der})
	}
	name, err := asn1.Marshal(rdns)
	if err != nil {
		return nil, err
	}
	// directoryName [4] is EXPLICIT, since Name is a CHOICE (RFC 5280 §4.2.1.6).
	directoryName, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: directoryName})
}
