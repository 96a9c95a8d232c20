package native_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/wire"
)

// proxied is a device behind a proxy that ends TLS: no exporter, no client certificate.
type proxied struct{ *unit }

func (p proxied) nonce(t *testing.T) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.pool, ServerName: "localhost"}}}
	defer client.CloseIdleConnections()
	response, err := client.Post(p.url+wire.PathNonce, "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a wire.NonceAnswer
	if err := json.Unmarshal(text, &a); err != nil || len(a.Nonce) == 0 {
		t.Fatalf("%s: %v", text, err)
	}
	return a.Nonce
}

func (p proxied) send(t *testing.T, path string, e wire.Envelope) (*wire.Answer, error) {
	t.Helper()
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := p.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return p.post(c, path, body)
}

func (p proxied) enrolment(t *testing.T, ticket wire.Permission, nonce []byte) wire.Envelope {
	t.Helper()
	e := evidence(p.tpm)
	message, err := json.Marshal(wire.Enrol{Ticket: ticket.ID, Serial: "SN-1", EKCertificates: p.tpm.Certificates, EKPublic: e.EKPublic, AKPublic: e.AKPublic, Key: p.tpm.IDevID.Area})
	if err != nil {
		t.Fatal(err)
	}
	binding := wire.Binding{Label: wire.LabelEnrol, Nonce: nonce, Message: message}.Sum()
	if e, err = p.tpm.Evidence(binding); err != nil {
		t.Fatal(err)
	}
	return wire.Envelope{Message: message, Statement: e.Statement, Signature: e.Signature, TicketMAC: ticket.MAC(binding), Nonce: nonce}
}

func (p proxied) renewal(t *testing.T, with tls.Certificate, nonce []byte) (wire.Envelope, *simtpm.Key) {
	t.Helper()
	key, err := p.tpm.NewLDevID()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := p.tpm.Activate(attestChallenge(p.next))
	if err != nil {
		t.Fatal(err)
	}
	message, err := json.Marshal(wire.Renew{Key: key.Area, Activated: &wire.Activate{Session: p.next.Session, Secret: secret}})
	if err != nil {
		t.Fatal(err)
	}
	binding := wire.Binding{Label: wire.LabelRenew, Nonce: nonce, Client: with.Certificate[0], Message: message}.Sum()
	e, err := p.tpm.Certify(key, binding)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := with.PrivateKey.(crypto.Signer).Sign(rand.Reader, binding[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return wire.Envelope{Message: message, Statement: e.Statement, Signature: e.Signature, Nonce: nonce,
		Client: &wire.ClientProof{Certificates: with.Certificate, Signature: signature}}, key
}

func TestNonceMode(t *testing.T) {
	i := install(t, settings{nonceMode: true})
	p := proxied{i.unit(t, simtpm.Options{})}
	ticket := i.ticket(t, nil)
	if _, err := p.begin(ticket, "SN-1"); code(err) != wire.CodeSession {
		t.Errorf("a message bound to the connection alone: %v", err)
	}
	e := p.enrolment(t, ticket, p.nonce(t))
	foreign := e
	foreign.Nonce = p.nonce(t)
	if _, err := p.send(t, wire.PathEnrol, foreign); err == nil {
		t.Error("evidence over another nonce was accepted")
	}
	a, err := p.send(t, wire.PathEnrol, e)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = p.answer(a.Challenge); err != nil {
		t.Fatal(err)
	}
	p.idevid = tls.Certificate{Certificate: a.Identity.IDevID, PrivateKey: p.tpm.IDevID}
	p.next = a.Identity.Next

	good, _ := p.renewal(t, p.idevid, p.nonce(t))
	for name, spoil := range map[string]func(*wire.Envelope){
		"no client proof": func(e *wire.Envelope) { e.Client = nil },
		"wrong signature": func(e *wire.Envelope) {
			e.Client = &wire.ClientProof{Certificates: e.Client.Certificates, Signature: bytes.Repeat([]byte{1}, 70)}
		},
		"no certificate": func(e *wire.Envelope) { e.Client = &wire.ClientProof{Signature: e.Client.Signature} },
	} {
		bad := good
		spoil(&bad)
		if _, err := p.send(t, wire.PathRenew, bad); err == nil {
			t.Errorf("%s: renewed", name)
		}
	}
	if a, err = p.send(t, wire.PathRenew, good); err != nil || a.Identity == nil {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := p.send(t, wire.PathRenew, good); code(err) != wire.CodeSession {
		t.Errorf("the same message twice: %v", err)
	}
}
