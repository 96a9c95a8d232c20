package native_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func TestPoll(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	s, err := u.Poll(u.IDevID)
	if err != nil || time.Since(s.End) < 0 || s.End.Before(s.Start) {
		t.Fatalf("without a working certificate it is time at once: %+v, %v", s, err)
	}
	id, err := u.Renew(u.IDevID)
	if err != nil {
		t.Fatal(err)
	}
	first := u.LDevID
	for name, s := range map[string]wire.Steering{"answer": *id.Steering, "poll": poll(t, u, first)} {
		if until := time.Until(s.Start); until < 19*24*time.Hour || until > 21*24*time.Hour || s.End.Sub(s.Start) != 36*time.Hour || s.Poll != 6*3600 || s.Trust != 1 {
			t.Errorf("%s: %+v, want a day and a half at two thirds of 30 days, 6 h, bundle 1", name, s)
		}
	}
	if d := i.device(t, "SN-1"); time.Since(d.Seen) > time.Minute {
		t.Errorf("not seen: %v", d.Seen)
	}
	for asked, want := range map[time.Duration]int64{-time.Second: 0, 24 * time.Hour: 24 * 3600} {
		m, err := i.store.Model(t.Context(), record.DefaultModel)
		if err != nil {
			t.Fatal(err)
		}
		m.Poll = asked
		if err := i.store.SetModel(t.Context(), m.Name, func(have *record.Model) (record.Event, error) {
			*have = m
			return record.Event{Time: time.Now(), Actor: "test", Verb: "model.changed"}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if s := poll(t, u, first); s.Poll != want {
			t.Errorf("asked to poll every %d s, want %d", s.Poll, want)
		}
	}
	// A poll with a new certificate retires the one before, as a probe does.
	if _, err := u.Renew(first); err != nil {
		t.Fatal(err)
	}
	poll(t, u, first)
	poll(t, u, u.LDevID)
	if _, err := u.Poll(first); code(err) != wire.CodeSuperseded {
		t.Errorf("an old certificate: %v", err)
	}
	if _, err := i.store.Revoke(t.Context(), i.device(t, "SN-1").ID, time.Now(), 1, "test", record.Event{Time: time.Now(), Verb: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Poll(u.LDevID); code(err) != wire.CodeRevoked {
		t.Errorf("a revoked device: %v", err)
	}
	if _, err := u.raw(wire.PathPoll, []byte(`{"message":{}}`)); code(err) != wire.CodeUnauthorised {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := u.raw(wire.PathPoll, []byte(`{"message":{"x":1}}`)); code(err) != wire.CodeMalformed {
		t.Errorf("an unknown key: %v", err)
	}
}

func poll(t *testing.T, u *unit, with tls.Certificate) wire.Steering {
	t.Helper()
	s, err := u.Poll(with)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (i *installation) device(t *testing.T, serial string) record.Device {
	t.Helper()
	ds, err := i.store.DevicesNamed(t.Context(), "", serial)
	if err != nil || len(ds) != 1 {
		t.Fatal(ds, err)
	}
	return ds[0]
}

// Behind a proxy that ends TLS the certificate is proved in the message.
func TestPollInNonceMode(t *testing.T) {
	i := install(t, settings{nonceMode: true})
	p := proxied{i.unit(t, simtpm.Options{})}
	ticket := i.ticket(t, nil)
	m, err := p.Enrolment(ticket, "SN-1", wire.Binding{Nonce: p.nonce(t)})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.send(t, wire.PathEnrol, m)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = p.answer(a.Challenge); err != nil {
		t.Fatal(err)
	}
	p.IDevID = tls.Certificate{Certificate: a.Identity.IDevID, PrivateKey: p.TPM.IDevID}
	e := p.polling(t, p.IDevID)
	if _, err := p.send(t, wire.PathPoll, e); err != nil {
		t.Fatal(err)
	}
	e.Client.Signature = random(70)
	if _, err := p.send(t, wire.PathPoll, e); code(err) != wire.CodeUnauthorised {
		t.Errorf("a wrong signature: %v", err)
	}
	e = p.renewal(t, p.IDevID, p.nonce(t))
	e.Message, e.Statement, e.Signature = []byte("{}"), nil, nil
	if _, err := p.send(t, wire.PathPoll, e); code(err) != wire.CodeUnauthorised {
		t.Errorf("a renewal's proof on a poll: %v", err)
	}
	c, err := p.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Do(http.MethodPost, wire.PathPoll, []byte(`{"message":{},"nonce":""}`)); code(err) != wire.CodeSession {
		t.Errorf("without a nonce: %v", err)
	}
}

// polling is a poll with the proof that stands in for mutual TLS.
func (p proxied) polling(t *testing.T, with tls.Certificate) wire.Envelope {
	t.Helper()
	e := wire.Envelope{Message: []byte("{}"), Nonce: p.nonce(t)}
	binding := wire.Binding{Label: wire.LabelPoll, Nonce: e.Nonce, Client: with.Certificate[0], Message: e.Message}.Sum()
	signature, err := with.PrivateKey.(crypto.Signer).Sign(rand.Reader, binding[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	e.Client = &wire.ClientProof{Certificates: with.Certificate, Signature: signature}
	return e
}
