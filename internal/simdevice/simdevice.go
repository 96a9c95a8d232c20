// Package simdevice is a device without hardware: it speaks the native protocol with
// a TPM made in software (attest/tpm2/simtpm), for tests that attack a server and for
// load. It keeps nothing on disk and checks less than package device does.
package simdevice

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/wire"
)

// Server is where devices find theirs.
type Server struct {
	// Address is HOST:PORT, Name the name in its certificate.
	Address, Name string
	Roots         *x509.CertPool
	// From is the address that connections come from; nil leaves it to the system.
	From *net.TCPAddr
	// Known, if set, is the server's certificate as it was verified last, for all devices that
	// share it: they verify another only. A load of thousands takes the processor from the
	// server that it measures. Nil: each connection verifies.
	Known *atomic.Pointer[x509.Certificate]
}

// Conn is one connection: bindings are made for it.
type Conn struct {
	tls      *tls.Conn
	r        *bufio.Reader
	exporter []byte
	// Sent and Received count body bytes.
	Sent, Received int
}

// Dial opens a connection and shows a certificate, or none if cert is nil.
func (s Server) Dial(cert *tls.Certificate) (*Conn, error) {
	config := &tls.Config{RootCAs: s.Roots, ServerName: s.Name, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.CurveP256}} // as device/client
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	if s.Known != nil {
		config.InsecureSkipVerify, config.VerifyConnection = true, s.verify
	}
	dialer := new(net.Dialer)
	if s.From != nil {
		dialer.LocalAddr = s.From
	}
	c, err := tls.DialWithDialer(dialer, "tcp", s.Address, config)
	if err != nil {
		return nil, err
	}
	state := c.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Conn{tls: c, r: bufio.NewReader(c), exporter: exporter}, nil
}

// verify does what crypto/tls would, unless the certificate is known.
func (s Server) verify(c tls.ConnectionState) error {
	leaf := c.PeerCertificates[0]
	if leaf.Equal(s.Known.Load()) {
		return nil
	}
	o := x509.VerifyOptions{Roots: s.Roots, DNSName: s.Name, Intermediates: x509.NewCertPool()}
	for _, issuer := range c.PeerCertificates[1:] {
		o.Intermediates.AddCert(issuer)
	}
	if _, err := leaf.Verify(o); err != nil {
		return err
	}
	s.Known.Store(leaf)
	return nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.tls.Close() }

// Post sends one body. A refusal is a *wire.Problem.
func (c *Conn) Post(path string, body []byte) (*wire.Answer, error) {
	text, err := c.Do(http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	a := &wire.Answer{}
	return a, json.Unmarshal(text, a)
}

// Do sends any request and gives the body of the answer.
func (c *Conn) Do(method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequest(method, "https://"+c.tls.ConnectionState().ServerName+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	c.Sent += len(body)
	if err := request.Write(c.tls); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.r, request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	c.Received += len(text)
	if response.StatusCode == http.StatusOK {
		return text, nil
	}
	p := &wire.Problem{}
	if err := json.Unmarshal(text, p); err != nil || p.Status != response.StatusCode || p.Code == "" || p.Detail == "" {
		return nil, fmt.Errorf("%s, and not a proper problem: %s", response.Status, text)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	return nil, p
}

// Device is one device.
type Device struct {
	Server
	TPM *simtpm.Device
	// IDevID, LDevID and Page, of the device's own web page, are its certificates with
	// their keys, Next the challenge that came with the last answer.
	IDevID, LDevID, Page tls.Certificate
	Next                 *wire.Challenge
	// Tamper, if set, changes each body before it is sent.
	Tamper func(path string, body []byte) []byte
	// ahead is what Prepare has done; nil if nothing.
	ahead *preparation
}

type preparation struct {
	key    *simtpm.Key
	opened *wire.Activate
}

// Prepare does ahead what the next renewal needs of the chip, but for the signature over
// the connection, so that a load takes less of the processor that it shares with the server.
func (d *Device) Prepare() error {
	p := new(preparation)
	var err error
	if p.key, err = d.TPM.NewLDevID(); err != nil {
		return err
	}
	if d.Next != nil {
		opened, err := d.Open(d.Next)
		if err != nil {
			return err
		}
		p.opened = &opened
	}
	d.ahead = p
	return nil
}

func (d *Device) post(c *Conn, path string, body any) (*wire.Answer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if d.Tamper != nil {
		text = d.Tamper(path, text)
	}
	return c.Post(path, text)
}

// Begin sends message one of an enrolment. A zero ticket is sent as none.
func (d *Device) Begin(c *Conn, ticket wire.Permission, serial string) (*wire.Answer, error) {
	e, err := d.Enrolment(ticket, serial, wire.Binding{Exporter: c.exporter})
	if err != nil {
		return nil, err
	}
	return d.post(c, wire.PathEnrol, e)
}

// Enrolment makes message one; b says what it is bound to.
func (d *Device) Enrolment(ticket wire.Permission, serial string, b wire.Binding) (wire.Envelope, error) {
	message, err := json.Marshal(wire.Enrol{Ticket: ticket.ID, Serial: serial, EKCertificates: d.TPM.Certificates,
		EKPublic: d.TPM.EK.Area, AKPublic: d.TPM.AK.Area, Key: d.TPM.IDevID.Area})
	if err != nil {
		return wire.Envelope{}, err
	}
	b.Label, b.Message = wire.LabelEnrol, message
	proof, err := d.TPM.Certify(d.TPM.IDevID, b.Sum())
	if err != nil {
		return wire.Envelope{}, err
	}
	e := wire.Envelope{Message: message, Statement: proof.Statement, Signature: proof.Signature, Nonce: b.Nonce}
	if ticket.ID != "" {
		e.TicketMAC = ticket.MAC(b.Sum())
	}
	return e, nil
}

// Open opens a challenge with the TPM.
func (d *Device) Open(ch *wire.Challenge) (wire.Activate, error) {
	secret, err := d.TPM.Activate(attest.Challenge{Credential: ch.Credential, Secret: ch.Secret})
	return wire.Activate{Session: ch.Session, Secret: secret}, err
}

// Answer opens a challenge and sends message two.
func (d *Device) Answer(c *Conn, ch *wire.Challenge) (*wire.Answer, error) {
	m, err := d.Open(ch)
	if err != nil {
		return nil, err
	}
	return d.post(c, wire.PathActivate, m)
}

// EnrolOver does both messages over one connection and keeps what comes back.
func (d *Device) EnrolOver(c *Conn, ticket wire.Permission, serial string) (*wire.Identity, error) {
	a, err := d.Begin(c, ticket, serial)
	if err != nil {
		return nil, err
	}
	if a.Identity != nil || a.Challenge == nil {
		return nil, errors.New("message one was not answered with a challenge alone")
	}
	if a, err = d.Answer(c, a.Challenge); err != nil {
		return nil, err
	}
	if a.Identity == nil || len(a.Identity.IDevID) == 0 {
		return nil, errors.New("message two was not answered with an identity")
	}
	d.IDevID, d.Next = tls.Certificate{Certificate: a.Identity.IDevID, PrivateKey: d.TPM.IDevID}, a.Identity.Next
	return a.Identity, nil
}

// Enrol is EnrolOver with a connection of its own.
func (d *Device) Enrol(ticket wire.Permission, serial string) (*wire.Identity, error) {
	c, err := d.Dial(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return d.EnrolOver(c, ticket, serial)
}

// Renewal makes a renewal of with for a fresh key; b says what it is bound to.
func (d *Device) Renewal(with tls.Certificate, key *simtpm.Key, b wire.Binding) (wire.Envelope, error) {
	m := wire.Renew{Key: key.Area}
	if d.ahead != nil && d.ahead.key == key {
		m.Activated = d.ahead.opened
	} else if d.Next != nil {
		opened, err := d.Open(d.Next)
		if err != nil {
			return wire.Envelope{}, err
		}
		m.Activated = &opened
	}
	message, err := json.Marshal(m)
	if err != nil {
		return wire.Envelope{}, err
	}
	b.Label, b.Client, b.Message = wire.LabelRenew, with.Certificate[0], message
	proof, err := d.TPM.Certify(key, b.Sum())
	return wire.Envelope{Message: message, Statement: proof.Statement, Signature: proof.Signature, Nonce: b.Nonce}, err
}

// Renew renews with a certificate over a connection of its own, in one message or, if
// the server asks, in two.
func (d *Device) Renew(with tls.Certificate) (*wire.Identity, error) {
	c, err := d.Dial(&with)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var key *simtpm.Key
	if d.ahead != nil {
		key = d.ahead.key
	} else if key, err = d.TPM.NewLDevID(); err != nil {
		return nil, err
	}
	e, err := d.Renewal(with, key, wire.Binding{Exporter: c.exporter})
	if err != nil {
		return nil, err
	}
	a, err := d.post(c, wire.PathRenew, e)
	if err != nil {
		return nil, err
	}
	if a.Challenge != nil {
		if a, err = d.Answer(c, a.Challenge); err != nil {
			return nil, err
		}
	}
	if a.Identity == nil || len(a.Identity.LDevID) == 0 {
		return nil, errors.New("the renewal was not answered with a working certificate")
	}
	d.LDevID, d.Next = tls.Certificate{Certificate: a.Identity.LDevID, PrivateKey: key}, a.Identity.Next
	d.ahead = nil
	d.Page = tls.Certificate{Certificate: a.Identity.Server, PrivateKey: key}
	return a.Identity, nil
}

// Poll asks when to renew, showing a certificate.
func (d *Device) Poll(with tls.Certificate) (steering wire.Steering, err error) {
	c, err := d.Dial(&with)
	if err != nil {
		return steering, err
	}
	defer c.Close()
	body, err := json.Marshal(wire.Envelope{Message: []byte("{}")})
	if err != nil {
		return steering, err
	}
	text, err := c.Do(http.MethodPost, wire.PathPoll, body)
	if err != nil {
		return steering, err
	}
	return steering, json.Unmarshal(text, &steering)
}
