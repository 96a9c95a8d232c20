package profile

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// This file holds a finished certificate against what it had to become. It shares no
// table and no encoder with the builder (only the reader of EK certificates): it walks the DER itself, and writes every
// extension a second time, from the standards, in the one form that DER allows. What it
// was not told to expect, it refuses.

// Leaf is what a leaf certificate must be, down to the byte.
type Leaf struct {
	kind   Kind
	wanted wanted
}

// Expect writes down what the certificate of this kind, content and placement must be.
func Expect(k Kind, c Content, p Placement) (Leaf, error) {
	w, err := leafWanted(k, c, p)
	if err != nil {
		err = fmt.Errorf("the %s certificate cannot be: %w", k, err)
	}
	return Leaf{k, w}, err
}

// Check reads a certificate's DER as a stranger would and returns it if it is exactly
// what was expected. It does not look at the signature; see CheckSignature.
func (l Leaf) Check(der []byte) (*x509.Certificate, error) {
	return read(string(l.kind), der, l.wanted.hold(der))
}

// Check is Expect and Leaf.Check.
func Check(k Kind, c Content, p Placement, der []byte) (*x509.Certificate, error) {
	l, err := Expect(k, c, p)
	if err != nil {
		return nil, err
	}
	return l.Check(der)
}

// CheckAuthority is Check for a CA certificate.
func CheckAuthority(a Authority, p Placement, der []byte) (*x509.Certificate, error) {
	w, err := authorityWanted(a, p)
	if err == nil {
		err = w.hold(der)
	}
	return read(a.Issuer+" CA", der, err)
}

// CheckSignature verifies that the issuer's certificate, a CA's with keyCertSign,
// signed cert; a root is its own issuer.
func CheckSignature(cert, issuer *x509.Certificate) error {
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("the signature is not %s's: %w", issuer.Subject.CommonName, err)
	}
	return nil
}

func read(name string, der []byte, err error) (*x509.Certificate, error) {
	var cert *x509.Certificate
	if err == nil {
		cert, err = x509.ParseCertificate(der)
	}
	if err == nil && len(cert.UnhandledCriticalExtensions) > 0 {
		err = fmt.Errorf("critical extension %v is not understood", cert.UnhandledCriticalExtensions[0])
	}
	if err != nil {
		return nil, fmt.Errorf("the %s certificate is not what it should be: %w", name, err)
	}
	return cert, nil
}

// wanted is a certificate as it must be.
type wanted struct {
	serial     *big.Int
	algorithm  []byte // DER of the AlgorithmIdentifier
	issuer     []byte // DER of the Name; nil: the same as the subject
	notBefore  time.Time
	notAfter   time.Time
	subject    []attribute
	key        []byte // DER of the SubjectPublicKeyInfo
	extensions map[string]extension
}

type attribute struct{ id, value string }

type extension struct {
	critical bool
	value    []byte
}

// Object identifiers, as the DER of their contents in hex, so that they are not the
// builder's constants read back.
const (
	atCommonName   = "550403"
	atSerialNumber = "550405"
	atOrganisation = "55040a"

	ceSubjectKeyID   = "551d0e"
	ceKeyUsage       = "551d0f"
	ceAltName        = "551d11"
	ceConstraints    = "551d13"
	ceDistribution   = "551d1f"
	cePolicies       = "551d20"
	ceAuthorityKeyID = "551d23"
	ceExtKeyUsage    = "551d25"
	peInfoAccess     = "2b06010505070101"
	pkixNoCheck      = "2b0601050507300105"

	adOCSP     = "2b06010505073001"
	adIssuers  = "2b06010505073002"
	kpServer   = "2b06010505070301"
	kpClient   = "2b06010505070302"
	kpOCSP     = "2b06010505070309"
	kpProof    = "2a864886f71401be40937ad92bfc25d600819f6a82b05a84bf9a6c86b4d4690201" // arc.2.1
	kpAIK      = "6781050803"                                                         // 2.23.133.8.3
	capTPM     = "6781050b0101"                                                       // 2.23.133.11.1.1
	capFixed   = "6781050b0102"                                                       // 2.23.133.11.1.2
	capRestr   = "6781050b0103"                                                       // 2.23.133.11.1.3
	anyPolicy  = "551d2000"
	ours       = "2a864886f71401be40937ad92bfc25d600819f6a82b05a84bf9a6c86b4d46901" // arc.1
	onPermID   = "2b06010505070803"
	onHardware = "2b06010505070804"
	hwTPM20    = "6781050102" // 2.23.133.1.2
	ekPermID   = "6781050c01" // 2.23.133.12.1

	ecdsaSHA256 = "2a8648ce3d040302"
	ecdsaSHA384 = "2a8648ce3d040303"
	rsaSHA256   = "2a864886f70d01010b"
)

// leafWanted writes down what a leaf of this kind must be.
func leafWanted(k Kind, c Content, p Placement) (wanted, error) {
	if p.Issuer == nil {
		return wanted{}, errors.New("a leaf needs an issuer")
	}
	w, err := wantedOf(c.Key, p)
	if err != nil {
		return w, err
	}
	name, policy, usage := "", "", ""
	w.notAfter = p.NotBefore.Add(c.Lifetime - time.Second)
	device := c.Model + ":" + c.Serial
	switch k {
	case IDevID:
		name, policy, w.notAfter = c.Model, ours+"01", NoEnd
	case AK:
		name, policy, usage, w.notAfter = c.Model, ours+"02", kpAIK, NoEnd
	case LDevID:
		if name = c.CommonName; name == "" {
			name = device
		}
		policy, usage = ours+"03", kpClient
	case DeviceServer:
		name, policy, usage = device, ours+"0a", kpServer
		w.add(ceAltName, false, serverNames(c))
	case Server:
		name, policy, usage = "Hallmark server", ours+"04", kpServer
		w.add(ceAltName, false, serverNames(c))
	case Operator:
		name, policy, usage = c.Operator, ours+"05", kpClient
	case Relay:
		name, policy, usage = c.Operator, ours+"07", kpClient
	case OCSP:
		name, policy, usage = "OCSP responder", ours+"06", kpOCSP
	case Proof:
		name, policy, usage = c.Code, ours+"09", kpProof
	default:
		return w, fmt.Errorf("there is no profile %q", k)
	}
	w.subject = append(w.subject, attribute{atCommonName, name})
	w.add(ceKeyUsage, true, unhex("03020780")) // digitalSignature alone
	w.add(ceConstraints, true, unhex("3000"))  // cA FALSE
	if usage != "" {
		w.add(ceExtKeyUsage, false, build(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, usage) }))
	}
	if k == OCSP {
		w.add(pkixNoCheck, false, unhex("0500"))
	} else {
		w.add(ceDistribution, false, distributionPoint(p.CRL))
		w.add(peInfoAccess, false, infoAccess(adOCSP, p.OCSP, adIssuers, p.CA))
	}
	policies := []string{policy}
	if k == IDevID || k == AK {
		w.subject = append(w.subject, attribute{atSerialNumber, device})
		policies = append(policies, w.addChip(k, c.TPM)...)
	}
	w.add(cePolicies, false, policyList(policies...))
	return w, nil
}

// addChip adds the names of a TPM, and returns the policies its assurance allows.
func (w *wanted) addChip(k Kind, tpm *TPM) []string {
	if tpm == nil {
		return nil
	}
	w.add(ceAltName, false, chipNames(tpm))
	switch {
	case !tpm.Certified:
		return nil
	case k == AK:
		return []string{capTPM, capRestr}
	}
	return []string{capTPM, capFixed}
}

// authorityWanted writes down what a CA certificate must be.
func authorityWanted(a Authority, p Placement) (wanted, error) {
	if a.Root != (p.Issuer == nil) {
		return wanted{}, errors.New("a root has no issuer and an issuer has one")
	}
	w, err := wantedOf(a.Key, p)
	if err != nil {
		return w, err
	}
	title, years, depth := "Operational", 10, 0
	switch a.Issuer {
	case Operational:
	case Infrastructure:
		title = "Infrastructure"
	case Manufacturing:
		title, depth = "Manufacturing", 1
	default:
		return w, fmt.Errorf("there is no issuer %q", a.Issuer)
	}
	role := "issuer"
	if a.Root {
		role, years, depth = "root", 20, depth+1
	}
	w.notAfter = p.NotBefore.UTC().AddDate(years, 0, 0).Add(-time.Second)
	if a.Issuer == Manufacturing {
		w.notAfter = NoEnd
	}
	id := w.extensions[ceSubjectKeyID].value[2:6] // behind the OCTET STRING's tag and length
	w.subject = append(w.subject, attribute{atCommonName, title + " " + role + " " + hex.EncodeToString(id)})
	w.add(ceKeyUsage, true, unhex("03020106")) // keyCertSign, cRLSign
	w.add(ceConstraints, true, unhex("30060101ff0201"+fmt.Sprintf("%02x", depth)))
	if !a.Root {
		w.add(cePolicies, false, policyList(anyPolicy))
		w.add(ceDistribution, false, distributionPoint(p.CRL))
		w.add(peInfoAccess, false, infoAccess(adIssuers, p.CA))
	}
	return w, nil
}

// wantedOf is what leaves, issuers and roots have in common.
func wantedOf(key crypto.PublicKey, p Placement) (wanted, error) {
	w := wanted{
		serial: p.Serial, notBefore: p.NotBefore,
		subject:    []attribute{{atOrganisation, p.Organisation}},
		extensions: map[string]extension{},
	}
	if y := p.NotBefore.UTC().Year(); y < 1950 || y > 9000 {
		return w, fmt.Errorf("a certificate cannot begin in the year %d", y)
	}
	var err error
	if w.key, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return w, err
	}
	id, err := subjectKeyID(w.key)
	if err != nil {
		return w, err
	}
	w.add(ceSubjectKeyID, false, build(asn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes(id) }))
	signer := key
	if p.Issuer != nil {
		signer, w.issuer, id = p.Issuer.PublicKey, p.Issuer.RawSubject, p.Issuer.SubjectKeyId
	}
	w.add(ceAuthorityKeyID, false, build(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(id) })
	}))
	w.algorithm, err = algorithmOf(signer)
	return w, err
}

func (w *wanted) add(id string, critical bool, value []byte) {
	w.extensions[id] = extension{critical, value}
}

// hold walks a certificate (RFC 5280 §4.1) and compares it with what is wanted.
func (w wanted) hold(der []byte) error {
	in := cryptobyte.String(der)
	var cert, tbs, inner, outer, issuer, validity, subject, key, extensions cryptobyte.String
	var signature []byte
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !in.Empty() ||
		!cert.ReadASN1(&tbs, asn1.SEQUENCE) || !cert.ReadASN1Element(&outer, asn1.SEQUENCE) ||
		!cert.ReadASN1BitStringAsBytes(&signature) || !cert.Empty() {
		return errors.New("it is not a certificate in DER")
	}
	version, serial := 0, new(big.Int)
	if !tbs.ReadOptionalASN1Integer(&version, asn1.Tag(0).ContextSpecific().Constructed(), 0) ||
		!tbs.ReadASN1Integer(serial) || !tbs.ReadASN1Element(&inner, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&issuer, asn1.SEQUENCE) || !tbs.ReadASN1(&validity, asn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&subject, asn1.SEQUENCE) || !tbs.ReadASN1Element(&key, asn1.SEQUENCE) ||
		!tbs.ReadASN1(&extensions, asn1.Tag(3).ContextSpecific().Constructed()) || !tbs.Empty() {
		return errors.New("its fields are not those of a certificate with extensions and without unique identifiers")
	}
	if w.issuer == nil {
		w.issuer = subject
	}
	switch {
	case version != 2:
		return fmt.Errorf("it is not version 3 but %d", version+1)
	case serial.Sign() <= 0 || (serial.BitLen()+8)/8 != 16:
		return errors.New("its serial number is not a positive one of 16 bytes")
	case w.serial == nil || serial.Cmp(w.serial) != 0:
		return fmt.Errorf("its serial number is %x", serial)
	case !bytes.Equal(inner, w.algorithm) || !bytes.Equal(outer, w.algorithm):
		return errors.New("its signature algorithm is not the issuing key's")
	case !bytes.Equal(issuer, w.issuer):
		return errors.New("its issuer's name is not that of the issuer, byte for byte (RFC 5280 §7.1)")
	case !bytes.Equal(validity, append(timeElement(w.notBefore), timeElement(w.notAfter)...)):
		return fmt.Errorf("it is not valid from %s to %s", w.notBefore.UTC(), w.notAfter.UTC())
	case !bytes.Equal(key, w.key):
		return errors.New("it certifies another key")
	}
	if err := w.holdSubject(subject); err != nil {
		return err
	}
	return w.holdExtensions(extensions)
}

// holdSubject wants one attribute per RDN, in order, as PrintableString or UTF8String
// (RFC 5280 §4.1.2.4).
func (w *wanted) holdSubject(in cryptobyte.String) error {
	var got []attribute
	var names cryptobyte.String
	in.ReadASN1(&names, asn1.SEQUENCE)
	for !names.Empty() {
		var set, pair, id, value cryptobyte.String
		var tag asn1.Tag
		if !names.ReadASN1(&set, asn1.SET) || !set.ReadASN1(&pair, asn1.SEQUENCE) || !set.Empty() ||
			!pair.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || !pair.ReadAnyASN1(&value, &tag) || !pair.Empty() ||
			tag != asn1.PrintableString && tag != asn1.UTF8String {
			return errors.New("its subject is not a plain list of text attributes")
		}
		got = append(got, attribute{hex.EncodeToString(id), string(value)})
	}
	if !slices.Equal(got, w.subject) {
		return fmt.Errorf("its subject is %q, not %q", got, w.subject)
	}
	return nil
}

// holdExtensions wants exactly the extensions of the profile, once each.
func (w *wanted) holdExtensions(in cryptobyte.String) error {
	var list cryptobyte.String
	if !in.ReadASN1(&list, asn1.SEQUENCE) || !in.Empty() {
		return errors.New("its extensions are not a list")
	}
	seen := map[string]bool{}
	for !list.Empty() {
		var e, id, value cryptobyte.String
		critical := false
		if !list.ReadASN1(&e, asn1.SEQUENCE) || !e.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) ||
			!readCritical(&e, &critical) || !e.ReadASN1(&value, asn1.OCTET_STRING) || !e.Empty() {
			return errors.New("an extension is malformed")
		}
		name := hex.EncodeToString(id)
		want, ok := w.extensions[name]
		switch {
		case !ok:
			return fmt.Errorf("it has extension %s, which the profile does not know", name)
		case seen[name]:
			return fmt.Errorf("it has extension %s twice (RFC 5280 §4.2)", name)
		case critical != want.critical:
			return fmt.Errorf("extension %s: critical is %t", name, critical)
		case !bytes.Equal(value, want.value):
			return fmt.Errorf("extension %s is %x, not %x", name, []byte(value), want.value)
		}
		seen[name] = true
	}
	for name := range w.extensions {
		if !seen[name] {
			return fmt.Errorf("it lacks extension %s", name)
		}
	}
	return nil
}

// readCritical reads critical BOOLEAN DEFAULT FALSE, which DER never writes as FALSE.
func readCritical(in *cryptobyte.String, critical *bool) bool {
	if !in.PeekASN1Tag(asn1.BOOLEAN) {
		return true
	}
	return in.ReadASN1Boolean(critical) && *critical
}
