package wire

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Paths of the deny-list feed: what a relying party must know about LDevIDs. The documents are
// signed (wire/denylist); the stream relies on its connection.
const (
	PathFeed    = "/v1/feed"         // GET /ISSUER: denylist.List; GET /ISSUER/filter: denylist.Filter
	PathChanges = "/v1/feed/changes" // GET ?after=NUMBER or Last-Event-ID: server-sent events
)

// Media types of the feed.
const (
	DenyListType = "application/vnd.hallmark.denylist"
	FilterType   = "application/vnd.hallmark.filter"
	StreamType   = "text/event-stream"
)

// Names of the stream's events. Every event's id is the number up to which the follower then
// knows everything, and after which it resumes.
const (
	// EventChange carries a Change.
	EventChange = "change"
	// EventCurrent carries a Position: the follower has caught up and has received everything up
	// to this number.
	EventCurrent = "current"
)

// Heartbeat is how often the stream sends something when nothing happens; a follower that
// receives nothing for three of them reconnects.
const Heartbeat = 15 * time.Second

// CodeFeedGone (410): the requested number is further back than the stream reaches, or ahead of
// it because the server was restored. Take the deny-list and go on after its number.
const CodeFeedGone = "feed-gone"

// Position is how far the stream has come.
type Position struct {
	Number int64 `json:"number"`
}

// Statuses of a Change.
const (
	StatusGood    = "good"
	StatusHold    = "hold"
	StatusRevoked = "revoked"
)

// Change is a certificate whose status changed, with its current status. Of several changes of
// one certificate a later follower receives only the last.
type Change struct {
	// Number orders changes: it only grows, with gaps, and is never reused.
	Number int64 `json:"number"`
	// Issuer is the issuer's name in URLs, Serial the serial number, 32 hex digits.
	Issuer string `json:"issuer"`
	Serial string `json:"serial"`
	// Device is MODEL:SERIAL, Name the certificate's commonName, by which relying parties
	// know it (a model may have a template).
	Device string `json:"device,omitempty"`
	Name   string `json:"name,omitempty"`
	// Fingerprint is the hex SHA-256 of the certificate (DER); empty if only its intent is on
	// record.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Successor is the serial number of the certificate that replaced this one in a renewal;
	// empty if there is none.
	Successor string `json:"successor,omitempty"`
	// Status is one of the Status constants; Reason a word of ReasonWord, empty if good.
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Since is when it was revoked or put on hold; zero if good. A hold that became a
	// revocation keeps its date.
	Since time.Time `json:"since,omitzero"`
	// Expires is the certificate's notAfter, after which it may be forgotten.
	Expires time.Time `json:"expires"`
}

// Denied reports whether a relying party must refuse the certificate.
func (c Change) Denied() bool { return c.Status != StatusGood }

// Bounds, in bytes, of a change's JSON, which has about 400, and of a name (RFC 5280 appendix A.1).
const maxChange, maxName = 4 << 10, 64

// DecodeChange parses the data of an EventChange. Unknown keys are ignored, so that an older
// follower can follow a newer server.
func DecodeChange(data []byte) (Change, error) {
	var c Change
	if err := decodeEvent(data, &c); err != nil {
		return Change{}, fmt.Errorf("change: %w", err)
	}
	if err := c.validate(); err != nil {
		return Change{}, fmt.Errorf("change %d: %w", c.Number, err)
	}
	return c, nil
}

// DecodePosition parses the data of an EventCurrent.
func DecodePosition(data []byte) (Position, error) {
	var p Position
	if err := decodeEvent(data, &p); err != nil {
		return Position{}, fmt.Errorf("position: %w", err)
	}
	if p.Number < 0 {
		return Position{}, errors.New("position: a number below 0")
	}
	return p, nil
}

func decodeEvent(data []byte, v any) error {
	if len(data) > maxChange {
		return ErrTooLarge
	}
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	return checkKeys(data)
}

func (c Change) validate() error {
	switch {
	case c.Number < 1:
		return errors.New("no number")
	case CheckIssuerName(c.Issuer) != nil:
		return CheckIssuerName(c.Issuer)
	case !isHex(c.Serial, SerialSize):
		return fmt.Errorf("serial number %q", c.Serial)
	case c.Successor != "" && !isHex(c.Successor, SerialSize), c.Fingerprint != "" && !isHex(c.Fingerprint, 32):
		return fmt.Errorf("successor %q, fingerprint %q", c.Successor, c.Fingerprint)
	case strings.Trim(c.Device+strings.ReplaceAll(c.Name, " ", ""), keyLetters+strings.ToUpper(keyLetters)+".:-") != "", strings.HasPrefix(c.Device, "-"), max(len(c.Device), len(c.Name)) > maxName: // commands are given both; an OCSP responder has a blank
		return fmt.Errorf("device %q, name %q", c.Device, c.Name)
	case c.Status != StatusGood && c.Status != StatusHold && c.Status != StatusRevoked:
		return fmt.Errorf("status %q", c.Status)
	case c.Denied() && (c.Since.IsZero() || c.Reason == "") || !slices.Contains(reasonWords, c.Reason):
		return fmt.Errorf("%s without a date, or for the reason %q", c.Status, c.Reason)
	}
	return nil
}

func isHex(text string, size int) bool {
	_, err := hex.DecodeString(text)
	return err == nil && len(text) == 2*size && text == strings.ToLower(text)
}

// SerialSize is the length of every serial number of a Hallmark issuer, in bytes.
const SerialSize = 16

// MaxIssuerName bounds an issuer's name, in bytes.
const MaxIssuerName = 64

// CheckIssuerName refuses names that are unsafe in URLs and file names.
func CheckIssuerName(name string) error {
	if name == "" || len(name) > MaxIssuerName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%q is not an issuer's name", name)
	}
	return nil
}

// reasonWords are the words for CRLReason by number (RFC 5280 §5.3.1); empty for unused ones.
var reasonWords = []string{"unspecified", "key-compromise", "", "affiliation-changed", "superseded", "cessation", "certificate-hold", "", "", "privilege-withdrawn"}

// ReasonWord is the word for a CRLReason (RFC 5280 §5.3.1): one of RevocationReasons or
// "certificate-hold"; "unspecified" for an unused number.
func ReasonWord(reason int) string {
	if reason < 0 || reason >= len(reasonWords) || reasonWords[reason] == "" {
		return reasonWords[0]
	}
	return reasonWords[reason]
}
