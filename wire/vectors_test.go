package wire

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// vectors is what docs/vectors.json holds of this package: a client that was written from
// docs/protocol.md made it, in another language.
type vectors struct {
	Messages map[string]struct {
		Label, Exporter, Body, Binding, Ticket string
		Certificate                            []byte
	}
	Time struct {
		Nonce    []byte
		Digest   string
		TimeKeys [][]byte `json:"time_keys"`
		Answer   TimeAnswer
	}
	Trust struct {
		Root    string
		Digests []string
		Bundles []SignedBundle
	}
}

func readVectors(t *testing.T) (v vectors) {
	t.Helper()
	text, err := os.ReadFile("../docs/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectorsOfMessages(t *testing.T) {
	messages := readVectors(t).Messages
	if len(messages) != 5 {
		t.Errorf("%d messages", len(messages))
	}
	for name, m := range messages {
		var e Envelope
		if err := DecodeBytes([]byte(m.Body), &e); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		exporter, err := hex.DecodeString(m.Exporter)
		if err != nil {
			t.Fatal(err)
		}
		sum := Binding{Label: m.Label, Exporter: exporter, Nonce: e.Nonce, Client: m.Certificate, Message: e.Message}.Sum()
		if hex.EncodeToString(sum[:]) != m.Binding {
			t.Errorf("%s: the binding is %x, and the page says %s", name, sum, m.Binding)
		}
		if m.Ticket == "" {
			continue
		}
		ticket, err := ParsePermission(KindTicket, m.Ticket)
		if err != nil || ticket.String() != m.Ticket {
			t.Errorf("%s: %v, %v", name, ticket, err)
			continue
		}
		var enrol Enrol
		if err := DecodeBytes(e.Message, &enrol); err != nil || enrol.Ticket != ticket.ID || string(ticket.MAC(sum)) != string(e.TicketMAC) {
			t.Errorf("%s: ticket %q, MAC %x, %v", name, enrol.Ticket, ticket.MAC(sum), err)
		}
	}
}

func TestVectorsOfTrustAndTime(t *testing.T) {
	v := readVectors(t)
	digest := TimeMessage(v.Time.Nonce, v.Time.Answer.Unix)
	if got, err := v.Time.Answer.Open(v.Time.Nonce, v.Time.TimeKeys); err != nil || hex.EncodeToString(digest[:]) != v.Time.Digest {
		t.Errorf("time %s over %x: %v", got.Format(time.RFC3339), digest, err)
	}
	bundle, err := OpenBundle(v.Trust.Bundles[0], func(sum [32]byte) bool { return hex.EncodeToString(sum[:]) == v.Trust.Root })
	for _, next := range v.Trust.Bundles[1:] {
		if err == nil {
			bundle, err = bundle.Follow(next)
		}
	}
	if err != nil || bundle.Number != 3 || !bundle.NonceMode || bundle.Threshold != 2 {
		t.Errorf("followed to %d: %v", bundle.Number, err)
	}
	var digests []string
	for _, s := range v.Trust.Bundles {
		sum := BundleDigest(s.Bundle)
		digests = append(digests, hex.EncodeToString(sum[:]))
	}
	if strings.Join(digests, " ") != strings.Join(v.Trust.Digests, " ") {
		t.Errorf("digests %v", digests)
	}
}
