// Package ca signs certificates, and only those that a profile describes and the record holds:
// check → prepare → lint → record the intent → sign → look again → record. After any crash every
// certificate that might exist is on record.
package ca

import (
	"crypto/x509"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// Request asks for one certificate.
type Request struct {
	// Profile is the certificate's shape, Content what varies in it.
	Profile profile.Kind
	Content profile.Content
	// Issuer is the issuer that an OCSP responder answers for, or that a Proof is about; empty
	// for all other profiles, each of which has a fixed issuer.
	Issuer string
	// Device is the record's ID of the device it is for; empty for the installation's own.
	Device string
	// Predecessor is the serial number of the certificate that authenticated the
	// request; empty if none did.
	Predecessor string
}

// Issued is a certificate that was signed, looked at again and recorded.
type Issued struct {
	Certificate *x509.Certificate
	// Chain is DER, the certificate first, then its issuer, without the root.
	Chain [][]byte
	// Record is the recorded row.
	Record record.Certificate
	// Again is true if it had been issued before, and was found on record.
	Again bool
}
