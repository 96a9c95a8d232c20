package wire

import (
	"fmt"
	"time"
)

// ProblemType is the media type of errors (RFC 9457).
const ProblemType = "application/problem+json"

// Problem is an RFC 9457 problem. Code is stable and meant for programs; Detail and
// Hint are for the person at the line.
type Problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
	// RetryAfter is the answer's Retry-After (RFC 9110 §10.2.3): how long to wait before asking
	// again. Zero if it had none.
	RetryAfter time.Duration `json:"-"`
}

func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Detail
	}
	return fmt.Sprintf("%s (%s)", p.Detail, p.Hint)
}

// Codes of problems that a client acts on. Refused evidence has codes of its own
// (attest.Refusal), which are passed on unchanged.
const (
	CodeMalformed     = "malformed"         // 400: the message is not of the protocol
	CodeTooLarge      = "too-large"         // 413
	CodeUnauthorised  = "unauthorised"      // 401: no, or no acceptable, client certificate
	CodeForbidden     = "forbidden"         // 403: the caller may not do this
	CodeNotFound      = "not-found"         // 404
	CodeConflict      = "conflict"          // 409: exists already, or changed meanwhile
	CodeEvidence      = "evidence-refused"  // 403: the attestation does not hold
	CodeSession       = "session-invalid"   // 403: expired, used or not ours: start again
	CodeTicketInvalid = "ticket-invalid"    // 403: unknown ticket or wrong MAC
	CodeTicketUsed    = "ticket-used"       // 403
	CodeTicketExpired = "ticket-expired"    // 403
	CodeTicketSerial  = "ticket-serial"     // 403: the ticket is for another serial number
	CodeTicketEK      = "ticket-ek"         // 403: the ticket is for another TPM
	CodeTicketNeeded  = "ticket-needed"     // 403: this TPM is not known and brought no ticket
	CodeSerialInvalid = "serial-invalid"    // 400: placeholder, blank or outside the alphabet
	CodeSerialTaken   = "serial-taken"      // 409: another TPM has this serial number
	CodeEKTaken       = "ek-taken"          // 409: this TPM or key has another serial number
	CodeAKChanged     = "ak-changed"        // 409: this TPM is enrolled with another attestation key
	CodeKeyChanged    = "key-changed"       // 409: this TPM is enrolled with another IDevID key
	CodeAssurance     = "assurance-too-low" // 403: the model asks for more than the TPM could prove
	CodeEKType        = "ek-type"           // 403: another endorsement key of this make of TPM counts
	CodeNotListed     = "ek-not-listed"     // 403: the lot has a list and this TPM is not on it
	CodeLotClosed     = "lot-closed"        // 403
	CodeQuotaFull     = "quota-full"        // 403
	CodeSuspended     = "device-suspended"  // 403: may be lifted; ask again later
	CodeRevoked       = "device-revoked"    // 403: final
	CodeBarred        = "identity-barred"   // 403: a tombstone covers this TPM or serial: final
	CodeForked        = "key-forked"        // 403: a key without hardware exists twice; the device is suspended
	CodeGrantNeeded   = "grant-needed"      // 403: an administrator must let it come back
	CodeGraceOver     = "grace-over"        // 403: it stayed away for longer than its model allows
	CodeApproval      = "approval-needed"   // 403: another operator must approve; Detail names the request
	CodeCount         = "count-needed"      // 409: everything is selected, and the count was not typed back
	CodeTooOften      = "too-often"         // 429: one device asks for certificates without end
	CodeStreams       = "too-many-streams"  // 429: one relying party follows the feed too often at once
	CodeTurn          = "turn"              // 503: many ask at once; nothing failed, ask again after Retry-After
	CodeUnavailable   = "unavailable"       // 503: try again
	CodeInternal      = "internal"          // 500
)

// Codes for an LDevID that can no longer renew: the device shows its IDevID instead.
const (
	CodeSuperseded         = "certificate-old"     // 403: a newer certificate is in use
	CodeCertificateExpired = "certificate-expired" // 403: by the server's clock
	CodeCertificateUnknown = "certificate-unknown" // 403: not on record
	CodeCertificateRevoked = "certificate-revoked" // 403: the certificate, not its device
)

// Final reports whether asking again can never help.
func (p *Problem) Final() bool { return p.Code == CodeRevoked || p.Code == CodeBarred }
