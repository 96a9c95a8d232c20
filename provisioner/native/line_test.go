package native_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/wire"
)

// unit is a simulated device as it stands on a line: a TPM and what the server gave it.
type unit struct {
	*installation
	tpm    *simtpm.Device
	idevid tls.Certificate
	ldevid tls.Certificate
	next   *wire.Challenge
	// tamper, if set, changes each body before it is sent.
	tamper func(path string, body []byte) []byte
}

func (i *installation) unit(t testing.TB, o simtpm.Options) *unit {
	t.Helper()
	d, err := simtpm.NewDevice(i.maker, o)
	if err != nil {
		t.Fatal(err)
	}
	return &unit{installation: i, tpm: d}
}

// dial opens a connection, since a binding must know it before a body is made.
func (u *unit) dial(cert *tls.Certificate) (*tls.Conn, []byte, error) {
	config := &tls.Config{RootCAs: u.pool, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	c, err := tls.Dial("tcp", strings.TrimPrefix(u.url, "https://"), config)
	if err != nil {
		return nil, nil, err
	}
	state := c.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength)
	return c, exporter, err
}

// post sends a body over a connection whose next request it is.
func (u *unit) post(c net.Conn, path string, body []byte) (*wire.Answer, error) {
	if u.tamper != nil {
		body = u.tamper(path, body)
	}
	client := &http.Client{Transport: &http.Transport{DialTLSContext: nil, Dial: func(string, string) (net.Conn, error) { return c, nil }}}
	defer client.CloseIdleConnections()
	// The connection is TLS already; the client must not begin another.
	response, err := client.Post("http://localhost"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		p := &wire.Problem{}
		if err := json.Unmarshal(text, p); err != nil {
			return nil, err
		}
		if p.Status != response.StatusCode || p.Code == "" || p.Detail == "" {
			return nil, errors.New("not a proper problem: " + string(text))
		}
		return nil, p
	}
	a := &wire.Answer{}
	return a, json.Unmarshal(text, a)
}

// begin sends message one. A zero ticket means that the device comes back without one.
func (u *unit) begin(ticket wire.Permission, serial string) (*wire.Answer, error) {
	c, exporter, err := u.dial(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	body, err := u.messageOne(ticket, serial, exporter)
	if err != nil {
		return nil, err
	}
	return u.post(c, wire.PathEnrol, body)
}

func (u *unit) messageOne(ticket wire.Permission, serial string, exporter []byte) ([]byte, error) {
	message, err := json.Marshal(wire.Enrol{Ticket: ticket.ID, Serial: serial, EKCertificates: u.tpm.Certificates,
		EKPublic: evidence(u.tpm).EKPublic, AKPublic: evidence(u.tpm).AKPublic, Key: u.tpm.IDevID.Area})
	if err != nil {
		return nil, err
	}
	binding := wire.Binding{Label: wire.LabelEnrol, Exporter: exporter, Message: message}.Sum()
	e, err := u.tpm.Evidence(binding)
	if err != nil {
		return nil, err
	}
	envelope := wire.Envelope{Message: message, Statement: e.Statement, Signature: e.Signature}
	if ticket.ID != "" {
		envelope.TicketMAC = ticket.MAC(binding)
	}
	return json.Marshal(envelope)
}

// evidence is the part that does not depend on a binding.
func evidence(d *simtpm.Device) attest.Evidence {
	e, err := d.Evidence([32]byte{})
	if err != nil {
		panic(err)
	}
	return e
}

// answer opens a challenge with the TPM and sends message two.
func (u *unit) answer(ch *wire.Challenge) (*wire.Answer, error) {
	secret, err := u.tpm.Activate(attest.Challenge{Credential: ch.Credential, Secret: ch.Secret})
	if err != nil {
		return nil, err
	}
	return u.activate(wire.Activate{Session: ch.Session, Secret: secret})
}

func (u *unit) activate(m wire.Activate) (*wire.Answer, error) {
	c, _, err := u.dial(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return u.post(c, wire.PathActivate, body)
}

// enrol does both messages and keeps what comes back.
func (u *unit) enrol(ticket wire.Permission, serial string) (*wire.Identity, error) {
	a, err := u.begin(ticket, serial)
	if err != nil {
		return nil, err
	}
	if a.Identity != nil || a.Challenge == nil {
		return nil, errors.New("message one was not answered with a challenge alone")
	}
	if a, err = u.answer(a.Challenge); err != nil {
		return nil, err
	}
	id := a.Identity
	if id == nil {
		return nil, errors.New("message two was not answered with an identity")
	}
	u.idevid, u.next = tls.Certificate{Certificate: id.IDevID, PrivateKey: u.tpm.IDevID}, id.Next
	return id, nil
}

// renew renews with a certificate in one message, or two if the server asks.
func (u *unit) renew(with tls.Certificate) (*wire.Identity, error) {
	key, err := u.tpm.NewLDevID()
	if err != nil {
		return nil, err
	}
	return u.renewFor(with, key)
}

func (u *unit) renewFor(with tls.Certificate, key *simtpm.Key) (*wire.Identity, error) {
	c, exporter, err := u.dial(&with)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	body, err := u.renewal(with, key, exporter)
	if err != nil {
		return nil, err
	}
	a, err := u.post(c, wire.PathRenew, body)
	if err != nil {
		return nil, err
	}
	if a.Challenge != nil {
		if a, err = u.answer(a.Challenge); err != nil {
			return nil, err
		}
	}
	u.ldevid, u.next = tls.Certificate{Certificate: a.Identity.LDevID, PrivateKey: key}, a.Identity.Next
	return a.Identity, nil
}

func (u *unit) renewal(with tls.Certificate, key *simtpm.Key, exporter []byte) ([]byte, error) {
	m := wire.Renew{Key: key.Area}
	if u.next != nil {
		secret, err := u.tpm.Activate(attest.Challenge{Credential: u.next.Credential, Secret: u.next.Secret})
		if err != nil {
			return nil, err
		}
		m.Activated = &wire.Activate{Session: u.next.Session, Secret: secret}
	}
	message, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	e, err := u.tpm.Certify(key, wire.Binding{Label: wire.LabelRenew, Exporter: exporter, Client: with.Certificate[0], Message: message}.Sum())
	if err != nil {
		return nil, err
	}
	return json.Marshal(wire.Envelope{Message: message, Statement: e.Statement, Signature: e.Signature})
}

// code is the problem code of an error, "" if there is none.
func code(err error) string {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
