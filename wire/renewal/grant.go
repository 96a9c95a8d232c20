// Package renewal holds the messages with which operators decide when devices renew and which may
// return.
package renewal

import "time"

// Bounds of how long a grant lasts.
const (
	MinGrant     = time.Minute
	MaxGrant     = 90 * 24 * time.Hour
	DefaultGrant = 7 * 24 * time.Hour
)

// NewGrant lets a device return that cannot prove enough by itself (Grant).
type NewGrant struct {
	// For is for how long, in seconds; 0 means DefaultGrant.
	For int64 `json:"for,omitempty"`
	// NewKey: the device's key, which is not in a TPM, is lost. Its certificates are revoked, and
	// the holder of the ticket may bring one new key.
	NewKey bool `json:"new_key,omitempty"`
	// Why is free text for the audit, at most 1,000 bytes.
	Why string `json:"why,omitempty"`
}

// Grant is an administrator's permission to return.
type Grant struct {
	Device  string    `json:"device"`
	NewKey  bool      `json:"new_key,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Redeemed is when it was first used.
	Redeemed time.Time `json:"redeemed,omitzero"`
	// Ticket is the text form of a Permission, set only in the answer to a NewGrant with NewKey.
	Ticket string `json:"ticket,omitempty"`
	// State is the device's state, since a grant does not admit a suspended device.
	State string `json:"state,omitempty"`
	// Unsigned is as in wire.StatusChange, of the certificates that a NewKey ended.
	Unsigned map[string]string `json:"unsigned,omitempty"`
}
