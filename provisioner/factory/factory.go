// Package factory makes single-use permissions (tickets and invitations) and verifies possession
// of one. It also makes the ids of devices.
package factory

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"strings"

	"github.com/hallmark-pki/hallmark/wire"
)

// Permissions makes the ids and secrets of tickets and invitations. A secret is
// derived from its id, so that the record, and every backup of it, holds none.
type Permissions struct{ key []byte }

// NewPermissions derives the key from the installation's server secret (at least 32 bytes).
func NewPermissions(serverSecret []byte) (*Permissions, error) {
	if len(serverSecret) < 32 {
		return nil, errors.New("the server secret must have at least 32 bytes")
	}
	key, err := hkdf.Key(sha256.New, serverSecret, nil, "hallmark permission", 32)
	if err != nil {
		return nil, err
	}
	return &Permissions{key}, nil
}

// NewID returns a fresh id: 16 characters of lower-case base32, 80 random bits.
func (p *Permissions) NewID() string {
	var id [10]byte
	rand.Read(id[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(id[:]))
}

// NewDeviceID returns a fresh record ID of a device: 26 characters of lower-case
// base32, 128 random bits.
func (p *Permissions) NewDeviceID() string {
	var id [16]byte
	rand.Read(id[:])
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]))
}

// Secret is the 32-byte secret of the permission with this kind (wire.KindTicket, …) and id.
func (p *Permissions) Secret(kind, id string) []byte {
	m := hmac.New(sha256.New, p.key)
	m.Write([]byte(kind + "." + id))
	return m.Sum(nil)
}

// Verify reports, in constant time, whether mac is HMAC-SHA-256 of the binding under the secret
// of this permission: the sender holds the secret and made this very message.
func (p *Permissions) Verify(kind, id string, binding [32]byte, mac []byte) bool {
	return hmac.Equal(wire.PermissionMAC(p.Secret(kind, id), binding), mac)
}

// VerifyTicket is Verify for a ticket.
func (p *Permissions) VerifyTicket(id string, binding [32]byte, mac []byte) bool {
	return p.Verify(wire.KindTicket, id, binding, mac)
}
