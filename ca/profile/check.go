package profile

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// This file writes every certificate a second time, from the standards, in DER, and compares the
// finished one with that. It shares no table and no encoder with the builder (only the reader of
// EK certificates): the builder fills in a template, which crypto/x509 encodes; here element
// encodes. The two must agree to the byte.

// Expected is exactly what a certificate must be.
type Expected struct {
	name      string
	tbs       []byte // TBSCertificate
	algorithm []byte // AlgorithmIdentifier
}

// Expect writes the certificate of this kind, content and placement.
func Expect(k Kind, c Content, p Placement) (Expected, error) {
	w, err := leafWanted(k, c, p)
	return w.written(string(k), err)
}

// ExpectAuthority is Expect for a CA certificate.
func ExpectAuthority(a Authority, p Placement) (Expected, error) {
	w, err := authorityWanted(a, p)
	return w.written(a.Issuer+" CA", err)
}

// TBS is the TBSCertificate, which is to be signed (RFC 5280 §4.1.1.1).
func (e Expected) TBS() []byte { return e.tbs }

// Check parses a certificate's DER and returns it if it is exactly what was expected. It does not
// verify the signature; see CheckSignature.
func (e Expected) Check(der []byte) (*x509.Certificate, error) {
	cert, err := e.read(der)
	if err != nil {
		return nil, fmt.Errorf("the %s certificate is not what it should be: %w", e.name, err)
	}
	return cert, nil
}

func (e Expected) read(der []byte) (*x509.Certificate, error) {
	in := cryptobyte.String(der)
	var cert, tbs, algorithm cryptobyte.String
	var signature []byte
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !in.Empty() ||
		!cert.ReadASN1Element(&tbs, asn1.SEQUENCE) || !cert.ReadASN1Element(&algorithm, asn1.SEQUENCE) ||
		!cert.ReadASN1BitStringAsBytes(&signature) || !cert.Empty() {
		return nil, errors.New("it is not a certificate in DER")
	}
	if !bytes.Equal(tbs, e.tbs) {
		return nil, difference(tbs, e.tbs)
	}
	if !bytes.Equal(algorithm, e.algorithm) {
		return nil, errors.New("its signature algorithm is not the issuing key's")
	}
	read, err := x509.ParseCertificate(der)
	if err == nil && len(read.UnhandledCriticalExtensions) > 0 {
		err = fmt.Errorf("critical extension %v is not understood", read.UnhandledCriticalExtensions[0])
	}
	return read, err
}

// difference says where two encodings differ.
func difference(got, want []byte) error {
	n := 0
	for n < len(got) && n < len(want) && got[n] == want[n] {
		n++
	}
	const shown = 16 // the rest is in the record, or in the certificate
	return fmt.Errorf("from byte %d of its signed part on it is %x…, not %x…", n, got[n:min(n+shown, len(got))], want[n:min(n+shown, len(want))])
}

// CheckSignature verifies that the issuer's certificate, a CA's with keyCertSign,
// signed cert; a root is its own issuer.
func CheckSignature(cert, issuer *x509.Certificate) error {
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("the signature is not %s's: %w", issuer.Subject.CommonName, err)
	}
	return nil
}

// wanted is a certificate as it must be, in DER except for the times and the serial number.
type wanted struct {
	serial              *big.Int
	algorithm           string // AlgorithmIdentifier
	issuer              string // Name; empty: the same as the subject
	notBefore, notAfter time.Time
	subject             []string // RelativeDistinguishedName
	key                 string   // SubjectPublicKeyInfo
	keyID, issuerKeyID  string   // without header
	extensions          []string // in the order in which crypto/x509 writes them; no standard prescribes one
}

// Object identifiers, as the DER of their contents, and so written independently of the
// builder's.
const (
	atCommonName   = "\x55\x04\x03"
	atSerialNumber = "\x55\x04\x05"
	atOrganisation = "\x55\x04\x0a"

	ceSubjectKeyID   = "\x55\x1d\x0e"
	ceKeyUsage       = "\x55\x1d\x0f"
	ceAltName        = "\x55\x1d\x11"
	ceConstraints    = "\x55\x1d\x13"
	ceDistribution   = "\x55\x1d\x1f"
	cePolicies       = "\x55\x1d\x20"
	ceAuthorityKeyID = "\x55\x1d\x23"
	ceExtKeyUsage    = "\x55\x1d\x25"
	peInfoAccess     = "\x2b\x06\x01\x05\x05\x07\x01\x01"
	pkixNoCheck      = "\x2b\x06\x01\x05\x05\x07\x30\x01\x05"

	adOCSP     = "\x2b\x06\x01\x05\x05\x07\x30\x01"
	adIssuers  = "\x2b\x06\x01\x05\x05\x07\x30\x02"
	kpServer   = "\x2b\x06\x01\x05\x05\x07\x03\x01"
	kpClient   = "\x2b\x06\x01\x05\x05\x07\x03\x02"
	kpOCSP     = "\x2b\x06\x01\x05\x05\x07\x03\x09"
	kpProof    = "\x2a\x86\x48\x86\xf7\x14\x01\xbe\x40\x93\x7a\xd9\x2b\xfc\x25\xd6\x00\x81\x9f\x6a\x82\xb0\x5a\x84\xbf\x9a\x6c\x86\xb4\xd4\x69\x02\x01" // arc.2.1
	kpAIK      = "\x67\x81\x05\x08\x03"                                                                                                                 // 2.23.133.8.3
	capTPM     = "\x67\x81\x05\x0b\x01\x01"                                                                                                             // 2.23.133.11.1.1
	capFixed   = "\x67\x81\x05\x0b\x01\x02"                                                                                                             // 2.23.133.11.1.2
	capRestr   = "\x67\x81\x05\x0b\x01\x03"                                                                                                             // 2.23.133.11.1.3
	anyPolicy  = "\x55\x1d\x20\x00"
	ours       = "\x2a\x86\x48\x86\xf7\x14\x01\xbe\x40\x93\x7a\xd9\x2b\xfc\x25\xd6\x00\x81\x9f\x6a\x82\xb0\x5a\x84\xbf\x9a\x6c\x86\xb4\xd4\x69\x01" // arc.1
	onPermID   = "\x2b\x06\x01\x05\x05\x07\x08\x03"
	onHardware = "\x2b\x06\x01\x05\x05\x07\x08\x04"
	hwTPM20    = "\x67\x81\x05\x01\x02" // 2.23.133.1.2
	ekPermID   = "\x67\x81\x05\x0c\x01" // 2.23.133.12.1

	ecdsaSHA256 = "\x2a\x86\x48\xce\x3d\x04\x03\x02"
	ecdsaSHA384 = "\x2a\x86\x48\xce\x3d\x04\x03\x03"
	rsaSHA256   = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
)

// leafWanted is what a leaf of this kind must be.
func leafWanted(k Kind, c Content, p Placement) (wanted, error) {
	if p.Issuer == nil {
		return wanted{}, errors.New("a leaf needs an issuer")
	}
	w, err := wantedOf(c.Key, p)
	if err != nil {
		return w, err
	}
	name, policy, usage, err := particulars(k, c)
	if err != nil {
		return w, err
	}
	w.name(atCommonName, name)
	w.notAfter = p.NotBefore.Add(c.Lifetime - time.Second)
	if k == IDevID || k == AK {
		w.name(atSerialNumber, c.Model+":"+c.Serial)
		w.notAfter = NoEnd
	}
	w.add(ceKeyUsage, true, "\x03\x02\x07\x80") // digitalSignature alone
	if usage != "" {
		w.add(ceExtKeyUsage, false, element(sequence, element(oID, usage)))
	}
	w.add(ceConstraints, true, "\x30\x00") // cA FALSE
	w.addKeyIDs()
	if k != OCSP {
		w.add(peInfoAccess, false, infoAccess(adOCSP, p.OCSP, adIssuers, p.CA))
	}
	if k == Server || k == DeviceServer {
		w.add(ceAltName, false, serverNames(c))
	}
	w.add(cePolicies, false, policyList(append([]string{policy}, chipPolicies(k, c.TPM)...)...))
	if k != OCSP {
		w.add(ceDistribution, false, distributionPoint(p.CRL))
	} else {
		w.add(pkixNoCheck, false, "\x05\x00")
	}
	if c.TPM != nil {
		w.add(ceAltName, false, chipNames(c.TPM))
	}
	return w, nil
}

// particulars are a leaf's common name, its policy, and its extended key usage, if any.
func particulars(k Kind, c Content) (name, policy, usage string, err error) {
	device := c.Model + ":" + c.Serial
	switch k {
	case IDevID:
		return c.Model, ours + "\x01", "", nil
	case AK:
		return c.Model, ours + "\x02", kpAIK, nil
	case LDevID:
		if c.CommonName != "" {
			device = c.CommonName
		}
		return device, ours + "\x03", kpClient, nil
	case DeviceServer:
		return device, ours + "\x0a", kpServer, nil
	case Server:
		return "Hallmark server", ours + "\x04", kpServer, nil
	case Operator:
		return c.Principal, ours + "\x05", kpClient, nil
	case Relay:
		return c.Principal, ours + "\x07", kpClient, nil
	case OCSP:
		return "OCSP responder", ours + "\x06", kpOCSP, nil
	case Proof:
		return c.Code, ours + "\x09", kpProof, nil
	}
	return "", "", "", fmt.Errorf("there is no profile %q", k)
}

// chipPolicies are the TCG policies that a TPM's EK certificate justifies.
func chipPolicies(k Kind, tpm *TPM) []string {
	switch {
	case tpm == nil || len(tpm.EKCertificate) == 0:
		return nil
	case k == AK:
		return []string{capTPM, capRestr}
	}
	return []string{capTPM, capFixed}
}

// authorityWanted is what a CA certificate must be.
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
	w.name(atCommonName, fmt.Sprintf("%s %s %x", title, role, w.keyID[:4]))
	w.add(ceKeyUsage, true, "\x03\x02\x01\x06") // keyCertSign, cRLSign
	w.add(ceConstraints, true, "\x30\x06\x01\x01\xff\x02\x01"+string(rune(depth)))
	w.addKeyIDs()
	if !a.Root {
		w.add(peInfoAccess, false, infoAccess(adIssuers, p.CA))
		w.add(cePolicies, false, policyList(anyPolicy))
		w.add(ceDistribution, false, distributionPoint(p.CRL))
	}
	return w, nil
}

// wantedOf is what leaves, issuers and roots have in common.
func wantedOf(key crypto.PublicKey, p Placement) (wanted, error) {
	w := wanted{serial: p.Serial, notBefore: p.NotBefore}
	if y := p.NotBefore.UTC().Year(); y < 1950 || y > 9000 {
		return w, fmt.Errorf("a certificate cannot begin in the year %d", y)
	}
	if w.serial == nil || w.serial.Sign() <= 0 || (w.serial.BitLen()+8)/8 != 16 {
		return w, errors.New("its serial number is not a positive one of 16 bytes")
	}
	w.name(atOrganisation, p.Organisation)
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return w, err
	}
	w.key = string(der)
	if w.keyID, err = subjectKeyID(der); err != nil {
		return w, err
	}
	signer := key
	w.issuerKeyID = w.keyID
	if p.Issuer != nil {
		signer, w.issuer, w.issuerKeyID = p.Issuer.PublicKey, string(p.Issuer.RawSubject), string(p.Issuer.SubjectKeyId)
	}
	w.algorithm, err = algorithmOf(signer)
	return w, err
}

// name adds an attribute to the subject, alone in its RDN, as a PrintableString if possible (RFC
// 5280 §4.1.2.4).
func (w *wanted) name(id, value string) {
	var tag byte = printableString
	if strings.ContainsFunc(value, unprintable) {
		tag = utf8String
	}
	w.subject = append(w.subject, element(set, element(sequence, element(oID, id), element(tag, value))))
}

// unprintable reports characters that a PrintableString lacks (X.680 §41.4).
func unprintable(r rune) bool {
	letter := r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune(" '()+,-./:=?", r)
}

// add adds an Extension; critical is DEFAULT FALSE, which DER omits.
func (w *wanted) add(id string, critical bool, value string) {
	flag := ""
	if critical {
		flag = "\x01\x01\xff"
	}
	w.extensions = append(w.extensions, element(sequence, element(oID, id), flag, element(octetString, value)))
}

func (w *wanted) addKeyIDs() {
	w.add(ceSubjectKeyID, false, element(octetString, w.keyID))
	w.add(ceAuthorityKeyID, false, element(sequence, element(primitive(0), w.issuerKeyID)))
}

// written encodes w, unless err is set.
func (w wanted) written(name string, err error) (Expected, error) {
	if err != nil {
		return Expected{}, fmt.Errorf("the %s certificate cannot be: %w", name, err)
	}
	return Expected{name, []byte(w.tbs()), []byte(w.algorithm)}, nil
}

// tbs writes a TBSCertificate (RFC 5280 §4.1).
func (w wanted) tbs() string {
	subject := element(sequence, w.subject...)
	if w.issuer == "" {
		w.issuer = subject
	}
	return element(sequence,
		"\xa0\x03\x02\x01\x02", // version 3
		element(integer, string(w.serial.FillBytes(make([]byte, 16)))),
		w.algorithm,
		w.issuer, // copied byte for byte (RFC 5280 §7.1)
		element(sequence, timeElement(w.notBefore), timeElement(w.notAfter)),
		subject,
		w.key,
		element(constructed(3), element(sequence, w.extensions...)))
}
