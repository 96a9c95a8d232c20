// Package renewal is the words in which operators steer devices: when they renew, and
// which may come back.
package renewal

import "time"

// Bounds of how long a grant lasts.
const (
	MinGrant     = time.Minute
	MaxGrant     = 90 * 24 * time.Hour
	DefaultGrant = 7 * 24 * time.Hour
)

// NewGrant lets one device come back that cannot prove enough by itself (Grant).
type NewGrant struct {
	// For is how long it may, in seconds; 0 means DefaultGrant.
	For int64 `json:"for,omitempty"`
	// NewKey: the device's key, which is in no TPM, is lost. Its certificates are revoked,
	// and who shows the ticket may bring one new key.
	NewKey bool `json:"new_key,omitempty"`
	// Why is free text for the audit, at most 1,000 bytes.
	Why string `json:"why,omitempty"`
}

// Grant is an administrator's leave to come back.
type Grant struct {
	Device  string    `json:"device"`
	NewKey  bool      `json:"new_key,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Redeemed is when it was first made use of.
	Redeemed time.Time `json:"redeemed,omitzero"`
	// Ticket comes once, in the answer to a NewGrant with NewKey: the text form of a
	// Permission.
	Ticket string `json:"ticket,omitempty"`
	// State is the device's, for a grant lets no suspended device in.
	State string `json:"state,omitempty"`
}
