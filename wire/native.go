// Package wire holds the messages that cross the network between Hallmark's server, its devices
// and its operators, and the few pure functions on which both ends must agree. It imports only
// the standard library, so that either side can be rewritten.
//
// The native protocol is two POSTs to enrol ([PathEnrol], [PathActivate]) and one to renew
// ([PathRenew]); before them a device may fetch the trust bundle ([PathTrust]) and exchange a
// nonce for the time ([PathTime]), and between renewals it asks when the next is due
// ([PathPoll]).
package wire

import (
	"encoding/json"
	"time"
)

// Protocol and Version enter every binding; a change of meaning changes Version.
const (
	Protocol = "hallmark-native"
	Version  = "1"
)

// Paths of the native protocol, on the device listener.
const (
	PathTrust    = "/v1/trust"    // GET: SignedBundle, the newest; with ?after=N: TrustSteps
	PathTime     = "/v1/time"     // POST TimeRequest: TimeAnswer
	PathNonce    = "/v1/nonce"    // POST (empty): NonceAnswer; nonce mode only
	PathEnrol    = "/v1/enrol"    // POST Envelope of Enrol: Answer with Challenge
	PathActivate = "/v1/activate" // POST Activate: Answer with Identity
	PathRenew    = "/v1/renew"    // POST Envelope of Renew: Answer, mutual TLS
	PathPoll     = "/v1/poll"     // POST Envelope of Poll, without evidence: Steering, mutual TLS
)

// Labels of the messages in envelopes. They enter the binding, so that one message can never pass
// for another.
const (
	LabelEnrol = "enrol"
	LabelRenew = "renew"
	LabelPoll  = "poll" // for the client proof in nonce mode; it carries no evidence
)

// Envelope carries a message with the proof over it. Message is kept as the exact bytes that were
// sent: the binding covers their SHA-256.
type Envelope struct {
	Message json.RawMessage `json:"message"`
	// Statement and Signature are TPMS_ATTEST and TPMT_SIGNATURE of TPM2_Certify over
	// Message's key by the attestation key, with extraData = the binding. Without a TPM
	// they are ASN.1 ECDSA signatures over the binding: Signature by the IDevID key and,
	// in a renewal for another key than that, Statement by the new key.
	Statement Bytes `json:"statement,omitempty"`
	Signature Bytes `json:"signature,omitempty"`
	// TicketMAC is HMAC-SHA-256 over the binding, keyed by the ticket's secret.
	TicketMAC Bytes `json:"ticket_mac,omitempty"`
	// Nonce and Client are for nonce mode only (a proxy terminates TLS).
	Nonce  Bytes        `json:"nonce,omitempty"`
	Client *ClientProof `json:"client,omitempty"`
}

// ClientProof replaces the client certificate of mutual TLS in nonce mode: the chain,
// leaf first, and the leaf key's signature over the binding (ASN.1 ECDSA, or
// RSA-PSS with SHA-256).
type ClientProof struct {
	Certificates Chain `json:"certificates"`
	Signature    Bytes `json:"signature"`
}

// Enrol is message one of an enrolment, or of the return of a device that lost its state: then
// Ticket and Serial are empty and the record knows its keys.
type Enrol struct {
	// Ticket is the ticket's id; its secret is never sent.
	Ticket string `json:"ticket,omitempty"`
	// Serial is the product's serial number; empty if the ticket fixes it.
	Serial string `json:"serial,omitempty"`
	// Kind is the kind of evidence: empty for a TPM 2.0, or KindSoftKey.
	Kind string `json:"kind,omitempty"`
	// EKCertificates: see attest.Evidence.Certificates.
	EKCertificates Chain `json:"ek_certificates,omitempty"`
	// EKPublic, AKPublic and Key are TPMT_PUBLIC structures; Key is the IDevID key. With
	// KindSoftKey there is Key alone, a SubjectPublicKeyInfo (DER).
	EKPublic Bytes `json:"ek_public,omitempty"`
	AKPublic Bytes `json:"ak_public,omitempty"`
	Key      Bytes `json:"key"`
}

// KindSoftKey is evidence without a TPM: possession of the key.
const KindSoftKey = "softkey"

// Renew asks for a working certificate for a fresh key, over mutual TLS with the
// LDevID or the IDevID.
type Renew struct {
	// Kind is the kind of evidence, as in Enrol; it must be the one enrolled with.
	Kind string `json:"kind,omitempty"`
	// Key is the new LDevID key's TPMT_PUBLIC, or with KindSoftKey its SubjectPublicKeyInfo.
	Key Bytes `json:"key"`
	// Activated answers the challenge in the last answer; if absent or stale, the renewal needs a
	// second message (PathActivate).
	Activated *Activate `json:"activated,omitempty"`
}

// Challenge is a credential that only the TPM with both keys can open (TPM2_MakeCredential), and
// the sealed session that the device must return.
type Challenge struct {
	Session []byte `json:"session"`
	// Credential and Secret are TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET without length.
	Credential []byte `json:"credential"`
	Secret     []byte `json:"secret"`
	// Expires is when the session ends.
	Expires time.Time `json:"expires"`
}

// Activate is message two: the session and the secret from TPM2_ActivateCredential.
type Activate struct {
	Session Bytes `json:"session"`
	Secret  Bytes `json:"secret"`
}

// Answer is the answer of PathEnrol, PathActivate and PathRenew: either a challenge to answer at
// PathActivate, or the identity.
type Answer struct {
	Challenge *Challenge `json:"challenge,omitempty"`
	Identity  *Identity  `json:"identity,omitempty"`
}

// Identity is what a device receives. Each chain is DER, leaf first, without the root.
type Identity struct {
	// Device is the name in its certificates: MODEL:SERIAL.
	Device string `json:"device"`
	Model  string `json:"model"`
	Serial string `json:"serial"`
	// IDevID and AK come with enrolment, LDevID with renewal.
	IDevID [][]byte `json:"idevid,omitempty"`
	AK     [][]byte `json:"ak,omitempty"`
	LDevID [][]byte `json:"ldevid,omitempty"`
	Server [][]byte `json:"server,omitempty"` // with LDevID, for its key, if the model names a web page
	// RenewAfter is the start of Steering's window, for devices that do not know Steering.
	RenewAfter time.Time `json:"renew_after,omitzero"`
	// Steering comes with an LDevID.
	Steering *Steering `json:"steering,omitempty"`
	// Next is the challenge whose secret the next renewal returns.
	Next *Challenge `json:"next,omitempty"`
	// Trust is the number of the newest trust bundle.
	Trust int64 `json:"trust"`
}

// Poll asks when to renew, and records that the device was in contact.
type Poll struct{}

// Steering is how a server spreads its devices' requests over time, with the semantics
// of ACME Renewal Information (RFC 9773 §4.2, §4.3).
type Steering struct {
	// Start and End are the window in which to renew. A device picks a uniformly distributed
	// moment in it, and renews at once if that has passed.
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	// Poll is after how many seconds the device asks again; 0 means not before its next renewal.
	Poll int64 `json:"poll,omitempty"`
	// Trust is the number of the newest trust bundle.
	Trust int64 `json:"trust,omitempty"`
}

// Bounds of Steering.Poll, in seconds; a value outside of them means the nearest bound.
const (
	MinPoll = 60
	MaxPoll = 30 * 24 * 3600
)

// NonceAnswer is a nonce for one Envelope in nonce mode.
type NonceAnswer struct {
	Nonce   []byte    `json:"nonce"`
	Expires time.Time `json:"expires"`
}

// TimeRequest exchanges a nonce (16 to 64 bytes) for the time.
type TimeRequest struct {
	Nonce Bytes `json:"nonce"`
}

// TimeAnswer is the server's time, signed by a time key of the trust bundle: ASN.1
// ECDSA over SHA-256 of TimeMessage.
type TimeAnswer struct {
	// Unix is the time in seconds since 1970.
	Unix int64 `json:"unix"`
	// Key is the hex SHA-256 of the time key's SubjectPublicKeyInfo.
	Key       string `json:"key"`
	Signature []byte `json:"signature"`
}
