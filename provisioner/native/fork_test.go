package native_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// TestHeldBackMessageIsNoFork: what a device proved before its newest certificate was in use does
// not show that its key exists twice, whenever a proxy delivers it, and how often. What is proved
// later does.
func TestHeldBackMessageIsNoFork(t *testing.T) {
	i := install(t, settings{nonceMode: true})
	event := record.Event{Time: time.Now(), Actor: "test", Verb: "x"}
	if err := i.store.CreateModel(t.Context(), record.Model{Name: "lamp", Assurance: record.LevelSoftware, Created: time.Now()}, event); err != nil {
		t.Fatal(err)
	}
	if err := i.store.CreateLot(t.Context(), record.Lot{Name: "lamps", Model: "lamp", Created: time.Now()}, nil, event); err != nil {
		t.Fatal(err)
	}
	p := proxied{i.unit(t, simtpm.Options{})} // for its connections
	birth := newSoftKey(t)
	ticket := i.ticket(t, func(k *record.Ticket) { k.Lot = "lamps" })
	sent := p.softKey(t, wire.LabelEnrol, wire.Enrol{Ticket: ticket.ID, Serial: "SN-1", Kind: wire.KindSoftKey, Key: spki(t, birth)}, tls.Certificate{}, birth, nil, &ticket)
	id := p.identity(t, wire.PathEnrol, sent)
	idevid := tls.Certificate{Certificate: id.IDevID, PrivateKey: birth}
	renewal := func(with tls.Certificate) (wire.Envelope, crypto.Signer) {
		key := newSoftKey(t)
		return p.softKey(t, wire.LabelRenew, wire.Renew{Kind: wire.KindSoftKey, Key: spki(t, key)}, with, birth, key, nil), key
	}
	renew := func(with tls.Certificate) tls.Certificate {
		sent, key := renewal(with)
		return tls.Certificate{Certificate: p.identity(t, wire.PathRenew, sent).LDevID, PrivateKey: key}
	}
	first := renew(idevid)
	seen, held := p.polling(t, first), p.polling(t, first)
	stuck, _ := renewal(first)
	if _, err := p.send(t, wire.PathPoll, seen); err != nil {
		t.Fatal(err)
	}
	second := renew(first)
	if _, err := p.send(t, wire.PathPoll, p.polling(t, second)); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]struct {
		path string
		wire.Envelope
	}{"a poll again": {wire.PathPoll, seen}, "a poll that was held back": {wire.PathPoll, held}, "a renewal that was held back": {wire.PathRenew, stuck}} {
		if _, err := p.send(t, m.path, m.Envelope); code(err) != wire.CodeSuperseded {
			t.Errorf("%s: %v", name, err)
		}
	}
	if d := i.device(t, "SN-1"); d.State != record.StateActive {
		t.Errorf("the device is %s", d.State)
	}
	if _, err := p.send(t, wire.PathPoll, p.polling(t, first)); code(err) != wire.CodeForked {
		t.Errorf("a new poll with the old key: %v", err)
	}
	if d := i.device(t, "SN-1"); d.State != record.StateSuspended {
		t.Errorf("after that the device is %s", d.State)
	}
}

func newSoftKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func spki(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// softKey is a message of a device without a TPM, proved by its IDevID key, its certificate's, and
// a new one.
func (p proxied) softKey(t *testing.T, label string, message any, with tls.Certificate, birth, key crypto.Signer, ticket *wire.Permission) wire.Envelope {
	t.Helper()
	text, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	b := wire.Binding{Label: label, Nonce: p.nonce(t), Message: text}
	if with.Certificate != nil {
		b.Client = with.Certificate[0]
	}
	sum := b.Sum()
	sign := func(by crypto.Signer) []byte {
		signature, err := by.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	e := wire.Envelope{Message: text, Nonce: b.Nonce, Signature: sign(birth)}
	if ticket != nil {
		e.TicketMAC = ticket.MAC(sum)
	}
	if key != nil {
		e.Statement = sign(key)
		e.Client = &wire.ClientProof{Certificates: with.Certificate, Signature: sign(with.PrivateKey.(crypto.Signer))}
	}
	return e
}

func (p proxied) identity(t *testing.T, path string, e wire.Envelope) *wire.Identity {
	t.Helper()
	a, err := p.send(t, path, e)
	if err != nil || a.Identity == nil {
		t.Fatal(a, err)
	}
	return a.Identity
}
