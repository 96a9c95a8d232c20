// Package session makes sessions for credential challenges, bound to their purpose and of limited
// life. Redeeming one is recorded with its id and so happens once, except for Next, which is good
// until it expires, since the answer that brings its successor may be lost.
//
// The device carries its session, so that any replica can finish it: the facts verified so far
// are sealed inside, everything is authenticated, and nothing is stored until it is redeemed. The
// challenge's secret is not inside: it is derived again from the session's id and transcript.
package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
)

// Purpose says what a session may be redeemed for.
type Purpose string

// Purposes of sessions.
const (
	// Enrol finishes an enrolment or a return.
	Enrol Purpose = "enrol"
	// Renew finishes a renewal that came without an activated secret, or with a stale one.
	Renew Purpose = "renew"
	// Next comes with every answer; the next renewal returns its secret.
	Next Purpose = "next"
	// Nonce is a server nonce for one message in nonce mode.
	Nonce Purpose = "nonce"
)

// maxBlob bounds a session that comes back, in bytes: sealed facts with the largest EK
// certificate.
const maxBlob = 16 << 10

// ErrInvalid means that a session or nonce is not ours, was altered or used, is for another
// purpose, or has expired: the device must start again.
var ErrInvalid = errors.New("the session or nonce has expired, was used, or is not of this server")

// Context is what a session is bound to.
type Context struct {
	Purpose Purpose   `json:"purpose"`
	Expires time.Time `json:"expires"`
	// Ticket and Serial are those of an enrolment's message one, Makers the set of TPM makers
	// that it was judged by.
	Ticket string `json:"ticket,omitempty"`
	Serial string `json:"serial,omitempty"`
	Makers string `json:"makers,omitempty"`
	// Device is the ID of the device that a renewal is for; Issuer and Certificate name
	// the certificate that authenticated it.
	Device      string `json:"device,omitempty"`
	Issuer      string `json:"issuer,omitempty"`
	Certificate string `json:"certificate,omitempty"`
}

// Session is a session as the server sees it.
type Session struct {
	Context
	// ID is 32 hex digits.
	ID string
	// Secret is what the challenge hides: 32 bytes.
	Secret []byte
	// Pending is what message one established; the zero value if the session carries none.
	Pending attest.Pending
}

// Keeper makes and opens sessions. Replicas that share the server secret open each
// other's.
type Keeper struct{ sealing, secrets, tags []byte }

// New derives a Keeper's keys from the installation's server secret (at least 32 bytes).
func New(serverSecret []byte) (*Keeper, error) {
	if len(serverSecret) < 32 {
		return nil, errors.New("the server secret must have at least 32 bytes")
	}
	var k Keeper
	for label, to := range map[string]*[]byte{"session-seal": &k.sealing, "session-secret": &k.secrets, "session-tag": &k.tags} {
		key, err := hkdf.Key(sha256.New, serverSecret, nil, "hallmark "+label, 32)
		if err != nil {
			return nil, err
		}
		*to = key
	}
	return &k, nil
}

// Start makes a session that carries pending evidence, and the blob that the device must bring
// back.
func (k *Keeper) Start(p attest.Pending, c Context) (Session, []byte, error) {
	id := newID()
	head, err := header(id, c)
	if err != nil {
		return Session{}, nil, err
	}
	aead, err := k.aead(id)
	if err != nil {
		return Session{}, nil, err
	}
	sealed, err := p.Seal(aead, head)
	if err != nil {
		return Session{}, nil, err
	}
	facts, err := p.Facts()
	if err != nil {
		return Session{}, nil, err
	}
	s := Session{Context: c, ID: hex.EncodeToString(id), Secret: k.secret(id, facts.Binding), Pending: p}
	return s, k.tag(append(head, sealed...)), nil
}

// Promise makes a session that carries no evidence (Next, Nonce): it is small, for
// devices that pay by the byte.
func (k *Keeper) Promise(c Context) (Session, []byte, error) {
	id := newID()
	head, err := header(id, c)
	if err != nil {
		return Session{}, nil, err
	}
	return Session{Context: c, ID: hex.EncodeToString(id), Secret: k.secret(id, [32]byte{})}, k.tag(head), nil
}

// Resume opens a session that came back, for one of the wanted purposes; every
// failure is ErrInvalid.
func (k *Keeper) Resume(blob []byte, now time.Time, want ...Purpose) (Session, error) {
	if len(blob) > maxBlob || len(blob) < 16+4+sha256.Size {
		return Session{}, ErrInvalid
	}
	body, tag := blob[:len(blob)-sha256.Size], blob[len(blob)-sha256.Size:]
	if !hmac.Equal(k.mac(body), tag) {
		return Session{}, ErrInvalid
	}
	// From here on the bytes are our own; further checks guard against our own mistakes.
	id, size := body[:16], binary.BigEndian.Uint32(body[16:20])
	if uint64(size) > uint64(len(body)-20) {
		return Session{}, ErrInvalid
	}
	head, sealed := body[:20+size], body[20+size:]
	s := Session{ID: hex.EncodeToString(id)}
	if err := json.Unmarshal(head[20:], &s.Context); err != nil {
		return Session{}, ErrInvalid
	}
	if !now.Before(s.Expires) || !slices.Contains(want, s.Purpose) {
		return Session{}, ErrInvalid
	}
	var transcript [32]byte
	if len(sealed) > 0 {
		aead, err := k.aead(id)
		if err != nil {
			return Session{}, err
		}
		if s.Pending, err = attest.OpenPending(aead, sealed, head); err != nil {
			return Session{}, ErrInvalid
		}
		facts, err := s.Pending.Facts()
		if err != nil {
			return Session{}, ErrInvalid
		}
		transcript = facts.Binding
	}
	s.Secret = k.secret(id, transcript)
	return s, nil
}

func newID() []byte {
	id := make([]byte, 16)
	rand.Read(id)
	return id
}

func header(id []byte, c Context) ([]byte, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	head := binary.BigEndian.AppendUint32(append([]byte{}, id...), uint32(len(text)))
	return append(head, text...), nil
}

// aead derives a key for each session, so that random GCM nonces do not limit their number.
func (k *Keeper) aead(id []byte) (cipher.AEAD, error) {
	m := hmac.New(sha256.New, k.sealing)
	m.Write(id)
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (k *Keeper) secret(id []byte, transcript [32]byte) []byte {
	m := hmac.New(sha256.New, k.secrets)
	m.Write(id)
	m.Write(transcript[:])
	return m.Sum(nil)
}

func (k *Keeper) mac(body []byte) []byte {
	m := hmac.New(sha256.New, k.tags)
	m.Write(body)
	return m.Sum(nil)
}

func (k *Keeper) tag(body []byte) []byte { return append(body, k.mac(body)...) }
