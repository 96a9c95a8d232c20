package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Kinds of permission.
const (
	KindTicket     = "hmt1" // enrols one device
	KindInvitation = "hmi1" // makes one operator's certificate
	KindRelay      = "hmr1" // makes one certificate of a relying party's relay
)

// Permission is a single-use permission with everything that its holder needs to reach the right
// server and no other: a ticket for a device, or an invitation for an operator or a relay. ID is
// sent; Secret never is.
type Permission struct {
	// Kind is KindTicket, KindInvitation or KindRelay.
	Kind string
	// ID is 16 characters of lower-case base32.
	ID string
	// Secret keys MAC.
	Secret []byte
	// Server is the https URL to speak to.
	Server string
	// Root is the SHA-256 of the infrastructure root certificate (DER).
	Root [32]byte
}

// String is the one-line text form: KIND.ID.SECRET.ROOT.SERVER, in unpadded base64url except for
// the kind and the id. All its characters are safe in a shell and a QR code.
func (p Permission) String() string {
	b64 := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{p.Kind, p.ID, b64(p.Secret), b64(p.Root[:]), b64([]byte(p.Server))}, ".")
}

// MAC is what the holder sends instead of the secret: HMAC-SHA-256 over the binding.
func (p Permission) MAC(binding [32]byte) []byte {
	return PermissionMAC(p.Secret, binding)
}

// PermissionMAC is Permission.MAC for the server, which derives the secret from the id.
func PermissionMAC(secret []byte, binding [32]byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write(binding[:])
	return m.Sum(nil)
}

// ParsePermission parses the text form of a permission of this kind. Its errors never repeat the
// text, which holds a secret.
func ParsePermission(kind, text string) (Permission, error) {
	name := map[string]string{KindTicket: "ticket", KindInvitation: "invitation", KindRelay: "relying party's invitation"}[kind]
	taker := map[string]string{KindTicket: "hallmark-device enrol", KindInvitation: "hallmark operator accept", KindRelay: "hallmark relay join"}
	parts := strings.Split(strings.TrimSpace(text), ".")
	if other := taker[parts[0]]; parts[0] != kind && other != "" {
		return Permission{}, fmt.Errorf("this is not a Hallmark %s, but what %s takes", name, other)
	}
	if len(parts) != 5 || parts[0] != kind {
		return Permission{}, fmt.Errorf("this is not a Hallmark %s: it should begin with %q and have five parts separated by dots; copy the whole line", name, kind+".")
	}
	damaged := fmt.Errorf("this %s is damaged: copy the whole line again", name)
	p := Permission{Kind: kind, ID: parts[1]}
	var raw [3][]byte
	for i := range raw {
		var err error
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(parts[2+i]); err != nil {
			return Permission{}, damaged
		}
	}
	if !validID(p.ID) || len(raw[0]) != 32 || len(raw[1]) != 32 {
		return Permission{}, damaged
	}
	p.Secret, p.Root, p.Server = raw[0], [32]byte(raw[1]), string(raw[2])
	if _, err := ServerURL(p.Server); err != nil {
		return Permission{}, damaged
	}
	return p, nil
}

func validID(id string) bool {
	if len(id) != 16 {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// ServerURL parses an https URL with a host, an optional port, and nothing else.
func ServerURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.ForceQuery || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("a server address looks like https://HOST:PORT")
	}
	u.Path = ""
	return u, nil
}
