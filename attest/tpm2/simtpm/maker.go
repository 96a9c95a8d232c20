// Package simtpm is a TPM 2.0 in software: the structures are a TPM's, the keys are ordinary ones
// in memory. It exists for tests and load, which need thousands of devices and no chip.
//
// Nothing here protects anything. Its certificates carry the vendor ID of test TPMs,
// which a server refuses unless its configuration says otherwise.
package simtpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
)

// Maker makes simulated TPMs and certifies their endorsement keys through a root and
// an intermediate, as real makers do.
type Maker struct {
	// Root is what an operator imports to trust the maker; Intermediate issues the EK
	// certificates and is in every device's NV.
	Root, Intermediate *x509.Certificate

	key      crypto.Signer
	from, to time.Time
	// Alter, if set, changes each EK certificate before it is signed.
	Alter func(*x509.Certificate)
}

// NewMaker makes a maker whose certificates are valid from a day before now.
func NewMaker(now time.Time) (*Maker, error) {
	m := &Maker{from: now.Add(-24 * time.Hour), to: now.AddDate(25, 0, 0)}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if m.Root, err = m.authority("Simulated TPM Root CA", nil, rootKey, rootKey); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	m.key = key
	m.Intermediate, err = m.authority("Simulated TPM EK CA 1", m.Root, key, rootKey)
	return m, err
}

// authority makes a CA certificate for key; a nil parent makes it self-signed.
func (m *Maker) authority(name string, parent *x509.Certificate, key, signer crypto.Signer) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber:          serialNumber(),
		Subject:               pkix.Name{Organization: []string{"Simulated TPM Maker"}, CommonName: name},
		NotBefore:             m.from,
		NotAfter:              m.to,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// certify makes the EK certificate, in the shape of the TCG EK Credential Profile §3.2.
func (m *Maker) certify(ek crypto.PublicKey) ([]byte, error) {
	usage := x509.KeyUsageKeyEncipherment
	if _, ok := ek.(*ecdsa.PublicKey); ok {
		usage = x509.KeyUsageKeyAgreement
	}
	names, err := AltName("id:"+vendorca.MakerTest, "simtpm", "id:00010000")
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serialNumber(),
		NotBefore:             m.from,
		NotAfter:              m.to,
		KeyUsage:              usage,
		BasicConstraintsValid: true,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:       []pkix.Extension{names},
	}
	if m.Alter != nil {
		m.Alter(template)
	}
	return x509.CreateCertificate(rand.Reader, template, m.Intermediate, ek, m.key)
}

// AltName makes the critical subject alternative name of an EK certificate: a
// directoryName with maker ("id:53544D20"), model and version (EK profile §3.2.9).
func AltName(maker, model, version string) (pkix.Extension, error) {
	var name pkix.RDNSequence
	for i, value := range []string{maker, model, version} {
		name = append(name, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, i + 1}, Value: value}})
	}
	directory, err := asn1.Marshal(name)
	if err != nil {
		return pkix.Extension{}, err
	}
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory}})
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: names}, err
}

// serialNumber is positive and always 16 bytes long.
func serialNumber() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}
