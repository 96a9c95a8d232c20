package native_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/wire"
)

// proxied is a device behind a proxy that ends TLS: no exporter, no client certificate.
type proxied struct{ *unit }

func (p proxied) nonce(t *testing.T) []byte {
	t.Helper()
	c, err := p.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text, err := c.Do(http.MethodPost, wire.PathNonce, nil)
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
	return p.raw(path, body)
}

func (p proxied) renewal(t *testing.T, with tls.Certificate, nonce []byte) wire.Envelope {
	t.Helper()
	key, err := p.TPM.NewLDevID()
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Renewal(with, key, wire.Binding{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	binding := wire.Binding{Label: wire.LabelRenew, Nonce: nonce, Client: with.Certificate[0], Message: e.Message}.Sum()
	signature, err := with.PrivateKey.(crypto.Signer).Sign(rand.Reader, binding[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	e.Client = &wire.ClientProof{Certificates: with.Certificate, Signature: signature}
	return e
}

func TestNonceMode(t *testing.T) {
	i := install(t, settings{nonceMode: true})
	p := proxied{i.unit(t, simtpm.Options{})}
	ticket := i.ticket(t, nil)
	if _, err := p.begin(ticket, "SN-1"); code(err) != wire.CodeSession {
		t.Errorf("a message bound to the connection alone: %v", err)
	}
	e, err := p.Enrolment(ticket, "SN-1", wire.Binding{Nonce: p.nonce(t)})
	if err != nil {
		t.Fatal(err)
	}
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
	p.IDevID = tls.Certificate{Certificate: a.Identity.IDevID, PrivateKey: p.TPM.IDevID}
	p.Next = a.Identity.Next

	good := p.renewal(t, p.IDevID, p.nonce(t))
	for says, proof := range map[string]*wire.ClientProof{
		"in nonce mode, in client":  nil,
		"the signature in client":   {Certificates: good.Client.Certificates, Signature: random(70)},
		"not hashed again":          {Certificates: good.Client.Certificates, Signature: random(70)},
		"proof without certificate": {Signature: good.Client.Signature},
	} {
		bad := good
		bad.Client = proof
		if _, err := p.send(t, wire.PathRenew, bad); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want: %s", err, says)
		}
	}
	if a, err = p.send(t, wire.PathRenew, good); err != nil || a.Identity == nil {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := p.send(t, wire.PathRenew, good); code(err) != wire.CodeSession {
		t.Errorf("the same message twice: %v", err)
	}
}

// The secret that another chip has opened shows nothing of this one: a second message must.
func TestSecretOfAnotherDevice(t *testing.T) {
	i := install(t, settings{nonceMode: true})
	a, b := proxied{i.unit(t, simtpm.Options{})}, proxied{i.unit(t, simtpm.Options{})}
	for serial, p := range map[string]proxied{"SN-1": a, "SN-2": b} {
		e, err := p.Enrolment(i.ticket(t, nil), serial, wire.Binding{Nonce: p.nonce(t)})
		if err != nil {
			t.Fatal(err)
		}
		first, err := p.send(t, wire.PathEnrol, e)
		if err != nil {
			t.Fatal(err)
		}
		second, err := p.answer(first.Challenge)
		if err != nil {
			t.Fatal(err)
		}
		p.IDevID = tls.Certificate{Certificate: second.Identity.IDevID, PrivateKey: p.TPM.IDevID}
		p.Next = second.Identity.Next
	}
	for name, c := range map[string]struct {
		opener proxied
		once   bool
	}{"its own": {a, true}, "another's": {b, false}} {
		opened, err := c.opener.Open(c.opener.Next)
		if err != nil {
			t.Fatal(err)
		}
		key, err := a.TPM.NewLDevID()
		if err != nil {
			t.Fatal(err)
		}
		message, err := json.Marshal(wire.Renew{Key: key.Area, Activated: &opened})
		if err != nil {
			t.Fatal(err)
		}
		bound := wire.Binding{Label: wire.LabelRenew, Nonce: a.nonce(t), Client: a.IDevID.Certificate[0], Message: message}
		sum := bound.Sum()
		evidence, err := a.TPM.Certify(key, sum)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := a.TPM.IDevID.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := a.send(t, wire.PathRenew, wire.Envelope{Message: message, Statement: evidence.Statement, Signature: evidence.Signature, Nonce: bound.Nonce,
			Client: &wire.ClientProof{Certificates: a.IDevID.Certificate, Signature: signature}})
		if err != nil || (answer.Identity != nil) != c.once || (answer.Challenge != nil) == c.once {
			t.Errorf("%s secret: %+v, %v", name, answer, err)
		}
	}
}
