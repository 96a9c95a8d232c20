// Package profile says what may ever be signed: one certificate shape per Kind, field by field,
// and a check of the finished certificate that is written apart from the builder so as not to
// share its errors.
package profile

import (
	"crypto"
	"net"
	"time"
)

// Kind is a certificate shape.
type Kind string

// Kinds of leaf certificates.
const (
	IDevID Kind = "idevid" // birth certificate, manufacturing issuer, no end
	AK     Kind = "ak"     // attestation key certificate, manufacturing issuer, no end
	LDevID Kind = "ldevid" // working certificate, operational issuer
	// DeviceServer is for the web page of a device, operational issuer.
	DeviceServer Kind = "device-server"
	Server       Kind = "server"   // our own TLS servers, infrastructure issuer
	Operator     Kind = "operator" // a person's client certificate, infrastructure issuer
	Relay        Kind = "relay"    // what runs beside a relying party, infrastructure issuer
	OCSP         Kind = "ocsp"     // an OCSP responder, certified by the issuer it answers for
	Proof        Kind = "proof"    // shows a cloud that an issuer's key is ours; for nothing else
)

// Issuer names, as they stand in URLs and in the record. Each has a root of its own.
const (
	Manufacturing  = "manufacturing"
	Operational    = "operational"
	Infrastructure = "infrastructure"
)

// Content is what varies between certificates of one kind. A field that the kind does not take
// must be zero.
type Content struct {
	// Key is the key to certify.
	Key crypto.PublicKey
	// Model and Serial: device certificates (IDevID, AK, LDevID, DeviceServer).
	Model, Serial string
	// TPM: IDevID and AK certificates of a device with a TPM.
	TPM *TPM
	// Principal is the operator's or the relying party's name: Operator and Relay certificates.
	Principal string
	// CommonName of an LDevID, if it is not MODEL:SERIAL.
	CommonName string
	// Code is the code that a cloud wants certified: Proof certificates.
	Code string
	// DNSNames and IPs: Server certificates; DNSNames alone: DeviceServer certificates.
	DNSNames []string
	IPs      []net.IP
	// Lifetime is the certificate's life; not taken by IDevID and AK, which have no end
	// (99991231235959Z, IEEE 802.1AR-2018 §8.6).
	Lifetime time.Duration
}

// TPM names the chip in manufacturing certificates; it never appears in an LDevID.
type TPM struct {
	// EKFingerprint is the SHA-256 of the EK's SubjectPublicKeyInfo.
	EKFingerprint [32]byte
	// EKCertificate is the EK certificate (DER) that a trusted maker signed; nil if there is none.
	// Only with one do the TCG policy OIDs (tcg-cap-verifiedTPMResidency, …) stand in the
	// certificate.
	EKCertificate []byte
	// Maker is the TCG vendor ID in it, as text ("STM"), or in hex if it is not text ("00001014");
	// empty if unknown.
	Maker string
}
