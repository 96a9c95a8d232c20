package profile

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"
)

// spec is what is fixed for a kind, as far as a table can say it. Only the builder reads it, not
// check.go.
type spec struct {
	issuer     string   // who signs it; empty: the issuer it speaks for (OCSP, Proof)
	policy     x509.OID // marks the profile, see arc
	eku        []x509.ExtKeyUsage
	otherEKU   []asn1.ObjectIdentifier
	tcgPolicy  x509.OID      // second TCG policy of a certified TPM's key
	longest    time.Duration // longest life; zero: no end
	noStatus   bool          // it names neither CRL nor OCSP
	takes      fields
	acceptsRSA bool // TPMs and their AKs may be RSA; our own keys are not
}

// fields are the parts of Content that a kind takes.
type fields struct{ device, tpm, principal, names, code, alias bool }

const day = 24 * time.Hour

// arc is the root of Hallmark's own object identifiers. The project has no private enterprise
// number, and the arc meant for such projects, 2.25.UUID, ends in a 128-bit integer that zcrypto
// (zlint) and parsers on devices cannot read. This is the arc that Microsoft opened to everybody:
// a UUID, here 2cab3e25-2b00-4fea-985a-8fcd6ccd2a69, cut into seven small integers. Never change
// it: relying parties pin it.
const arc = "1.2.840.113556.1.8000.2554.11435.15909.11008.20458.39002.9424236.13445737"

// arcNumbers is arc as numbers.
var arcNumbers = asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 11435, 15909, 11008, 20458, 39002, 9424236, 13445737}

var specs = map[Kind]spec{
	IDevID: {
		issuer: Manufacturing, policy: oid(arc + ".1.1"), tcgPolicy: oid("2.23.133.11.1.2"),
		takes: fields{device: true, tpm: true}, acceptsRSA: true,
		// No extended key usage: an IDevID may be shown for any purpose that begins
		// with proving who made the device (IEEE 802.1AR-2018 §8.10).
	},
	AK: {
		issuer: Manufacturing, policy: oid(arc + ".1.2"), tcgPolicy: oid("2.23.133.11.1.3"),
		otherEKU: []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}, // tcg-kp-AIKCertificate
		takes:    fields{device: true, tpm: true}, acceptsRSA: true,
	},
	LDevID: {
		issuer: Operational, policy: oid(arc + ".1.3"), eku: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		longest: 825 * day, takes: fields{device: true, alias: true}, acceptsRSA: true,
	},
	DeviceServer: {
		issuer: Operational, policy: oid(arc + ".1.10"), eku: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		longest: 825 * day, takes: fields{device: true, names: true}, acceptsRSA: true,
	},
	Server: {
		issuer: Infrastructure, policy: oid(arc + ".1.4"), eku: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		longest: 398 * day, takes: fields{names: true},
	},
	Operator: {
		issuer: Infrastructure, policy: oid(arc + ".1.5"), eku: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		longest: 398 * day, takes: fields{principal: true},
	},
	Relay: {
		issuer: Infrastructure, policy: oid(arc + ".1.7"), eku: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		longest: 398 * day, takes: fields{principal: true},
	},
	OCSP: {
		policy: oid(arc + ".1.6"), eku: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		longest: 90 * day, noStatus: true,
	},
	Proof: {
		// Without an extended key usage OpenSSL would accept it for any purpose, a device's
		// included; nothing else uses this one.
		policy: oid(arc + ".1.9"), otherEKU: []asn1.ObjectIdentifier{append(slices.Clone(arcNumbers), 2, 1)},
		longest: 2 * day, takes: fields{code: true},
	},
}

// IssuerOf is the line that signs a kind; empty for OCSP and Proof, which the issuer they speak
// for signs, and for an unknown kind.
func IssuerOf(k Kind) string { return specs[k].issuer }

// RootOf is the name of an issuer's root, as in URLs: "operational-root".
func RootOf(issuer string) string { return issuer + "-root" }

// Of is the profile under which a certificate was issued, according to its policies; false if it
// carries none of ours or more than one. It means nothing before the issuer's signature was
// verified.
func Of(cert *x509.Certificate) (Kind, bool) {
	var found Kind
	for _, p := range cert.Policies {
		for k, s := range specs {
			if !p.Equal(s.policy) {
				continue
			}
			if found != "" {
				return "", false
			}
			found = k
		}
	}
	return found, found != ""
}

// Policy is the certificate policy that marks a kind, for relying parties that check
// policies (openssl verify -explicit_policy -policy OID); empty for an unknown kind.
func Policy(k Kind) string {
	s, ok := specs[k]
	if !ok {
		return ""
	}
	return s.policy.String()
}

func oid(dotted string) x509.OID {
	o, err := x509.ParseOID(dotted)
	if err != nil {
		panic("profile: " + dotted + ": " + err.Error()) // a constant of this file is wrong
	}
	return o
}
