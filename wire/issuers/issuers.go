// Package issuers holds the messages about issuing CAs in the operator protocol.
package issuers

import (
	"time"

	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// Path is like wire.PathWhoami and the others: GET: List[Issuer]; GET /NAME: Issuer; POST
// /NAME/prove of NewProof: Proof; POST /NAME/revoke of NewRevocation: Revocation.
const Path = "/v1/issuers"

// States of an issuer.
const (
	Issues    = "issues"
	Succeeded = "succeeded" // another of its line issues; what it has issued stays valid
	Waiting   = "waiting"   // its revocation needs another operator
	Revoked   = "revoked"
)

// Issuer is one issuing CA.
type Issuer struct {
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Subject   string    `json:"subject"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// Job is the job that revokes its certificates; empty if there is none.
	Job string `json:"job,omitempty"`
	// Listed is since when its root's CRL lists it; zero while it does not.
	Listed time.Time `json:"listed,omitzero"`
	// Fingerprint is the hex SHA-256 of the certificate.
	Fingerprint string `json:"fingerprint"`
	// PEM is the certificate, Root its root's.
	PEM  string `json:"pem"`
	Root string `json:"root"`
}

// NewProof asks an issuer to certify a cloud's verification code.
type NewProof struct {
	Code string `json:"code"`
}

// Proof is the certificate that proves to a cloud possession of an issuer's key.
type Proof struct {
	Issuer  string    `json:"issuer"`
	Expires time.Time `json:"expires"`
	PEM     string    `json:"pem"`
}

// DefaultWithin is the default window in which devices renew after a revocation.
const DefaultWithin = time.Hour

// NewRevocation revokes every certificate that an issuer has issued.
type NewRevocation struct {
	// Reason is one of wire.RevocationReasons.
	Reason string `json:"reason"`
	// Why is in words, for the audit, at most 1,000 bytes.
	Why string `json:"why,omitempty"`
	// Reissue makes a renewal plan for its devices, whose window is Within long, in seconds;
	// 0 means DefaultWithin.
	Reissue bool  `json:"reissue,omitempty"`
	Within  int64 `json:"within,omitempty"`
	// BreakGlass is why it cannot wait for another operator's approval.
	BreakGlass string `json:"break_glass,omitempty"`
}

// Revocation is what a NewRevocation has started.
type Revocation struct {
	Issuer string `json:"issuer"`
	// Successor is the issuer that issues in its place.
	Successor string `json:"successor"`
	// Job revokes the certificates, of that many Devices; State is "waiting" or "running".
	Job     string `json:"job"`
	State   string `json:"state"`
	Devices int64  `json:"devices"`
	// Approval is the request for another operator's consent, or the review of a break-glass.
	Approval string `json:"approval,omitempty"`
	// Plan has the devices renew; nil if none was made.
	Plan *renewal.Plan `json:"plan,omitempty"`
	// Listed is as in Issuer.
	Listed time.Time `json:"listed,omitzero"`
}
