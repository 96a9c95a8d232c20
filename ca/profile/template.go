package profile

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// NoEnd is the notAfter of certificates without end: GeneralizedTime 99991231235959Z
// (RFC 5280 §4.1.2.5, IEEE 802.1AR-2018 §8.6).
var NoEnd = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// Placement is what the issuing CA adds to a certificate's content.
type Placement struct {
	// Serial is the serial number, from NewSerial.
	Serial *big.Int
	// NotBefore begins the certificate's life, in whole seconds.
	NotBefore time.Time
	// Issuer is the signing CA's certificate; nil for a root.
	Issuer *x509.Certificate
	// CRL, OCSP and CA are the plain-HTTP URLs of the CRL shard, the OCSP responder and
	// the issuer's certificate (RFC 5280 §8 warns of https here: it can loop). An OCSP
	// responder's certificate carries none of them, a root none, an issuer no OCSP.
	CRL, OCSP, CA string
	// Organisation is the maker's name, organizationName in every subject.
	Organisation string
}

// Template builds the certificate of a kind, complete but for the signature, from content that
// passes Validate.
func Template(k Kind, c Content, p Placement) (*x509.Certificate, error) {
	if err := c.Validate(k); err != nil {
		return nil, err
	}
	s := specs[k]
	end := NoEnd
	if s.longest != 0 {
		// RFC 5280 §4.1.2.5: both ends belong to the validity, hence one second less.
		end = p.NotBefore.Add(c.Lifetime - time.Second).UTC()
	}
	t, err := base(c.Key, p, end)
	if err != nil {
		return nil, fmt.Errorf("%s certificate: %w", k, err)
	}
	t.Subject = subject(k, c, p.Organisation)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage, t.UnknownExtKeyUsage = s.eku, s.otherEKU
	t.Policies = []x509.OID{s.policy}
	t.DNSNames, t.IPAddresses = c.DNSNames, c.IPs
	if s.noStatus {
		// RFC 6960 §4.2.2.2.1: a responder's own status is not checked; it is short-lived.
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidNoCheck, Value: asn1.NullBytes})
	} else {
		t.CRLDistributionPoints = []string{p.CRL}
		t.OCSPServer = []string{p.OCSP}
		t.IssuingCertificateURL = []string{p.CA}
	}
	if c.TPM != nil {
		err = addTPM(t, s, c.TPM)
	}
	return t, err
}

// base fills what all certificates have in common.
func base(key crypto.PublicKey, p Placement, end time.Time) (*x509.Certificate, error) {
	signer := key
	if p.Issuer != nil {
		signer = p.Issuer.PublicKey
		if end.After(p.Issuer.NotAfter) {
			return nil, fmt.Errorf("its issuer ends on %s, before it would: the issuer must be replaced first",
				p.Issuer.NotAfter.Format(time.DateOnly))
		}
	}
	algorithm, err := signatureAlgorithm(signer)
	if err != nil {
		return nil, err
	}
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	if err := CheckOrganisation(p.Organisation); err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          p.Serial,
		NotBefore:             p.NotBefore.UTC(),
		NotAfter:              end,
		SignatureAlgorithm:    algorithm,
		PublicKey:             key,
		SubjectKeyId:          id, // Go adds none to a leaf
		BasicConstraintsValid: true,
	}, nil
}

// subject names what is certified. A manufacturing certificate follows IEEE 802.1AR-2018 §8.6:
// model in commonName, and in serialNumber a value unique in the issuer's domain, which a
// product's serial number is only together with its model. The AK's subject equals the IDevID's
// (TCG, TPM 2.0 Keys for Device Identity and Attestation). With an underscore in a serial number
// Go writes a UTF8String where X.520 wants a PrintableString; of the programs in docs/status.md
// only Erlang cannot read it.
func subject(k Kind, c Content, organisation string) pkix.Name {
	n := pkix.Name{Organization: []string{organisation}}
	switch k {
	case IDevID, AK:
		n.CommonName, n.SerialNumber = c.Model, c.Model+":"+c.Serial
	case LDevID, DeviceServer:
		n.CommonName = cmp.Or(c.CommonName, c.Model+":"+c.Serial)
	case Operator, Relay:
		n.CommonName = c.Principal
	case OCSP:
		n.CommonName = "OCSP responder"
	case Proof:
		n.CommonName = c.Code // as AWS IoT and Azure IoT Hub want it
	case Server:
		// The name that counts is in subjectAltName (RFC 9525 §2); this is for people.
		n.CommonName = "Hallmark server"
	}
	return n
}

// addTPM adds the names of the chip to a manufacturing certificate and, if its maker
// vouches for it, the TCG policies that say so.
func addTPM(t *x509.Certificate, s spec, tpm *TPM) error {
	san, err := subjectAltName(tpm)
	if err != nil {
		return err
	}
	// Not critical, since the subject is not empty (RFC 5280 §4.2.1.6); Go's verifier would
	// refuse a critical one that holds only otherNames.
	t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidSubjectAltName, Value: san})
	if len(tpm.EKCertificate) > 0 {
		t.Policies = append(t.Policies, policyResidency, s.tcgPolicy)
	}
	return nil
}

// signatureAlgorithm is the algorithm for a signing key. It is not left to crypto/x509 or the
// CAS, because the prepared certificate names it before signing.
func signatureAlgorithm(signer crypto.PublicKey) (x509.SignatureAlgorithm, error) {
	switch k := signer.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return x509.ECDSAWithSHA256, nil
		case elliptic.P384():
			return x509.ECDSAWithSHA384, nil
		}
	case *rsa.PublicKey:
		return x509.SHA256WithRSA, nil
	}
	return 0, errors.New("the issuing key must be ECDSA P-256 or P-384, or RSA")
}

// keyID is RFC 7093 §2 method 1: the leftmost 160 bits of the SHA-256 of the value of
// subjectPublicKey, which is a point (RFC 5480 §2.2) or an RSAPublicKey (RFC 3279 §2.3.1).
func keyID(key crypto.PublicKey) ([]byte, error) {
	var value []byte
	var err error
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		value, err = k.Bytes()
	case *rsa.PublicKey:
		value = x509.MarshalPKCS1PublicKey(k)
	default:
		err = fmt.Errorf("a key of type %T", key)
	}
	sum := sha256.Sum256(value)
	return sum[:20], err
}
