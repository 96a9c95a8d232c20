// Package client speaks the native protocol to a Hallmark server from a device: a server is
// trusted only if its certificate chains to an infrastructure root of the trust bundle, which
// changes only as its own keys allow; evidence is bound to the connection that carries it; and a
// wrong clock neither locks the device out nor lets anybody in.
//
// Of net/http it uses only the parsing of responses. The transport is not used because the
// connection's TLS exporter must be known before the request is written, and because it would be
// a quarter of the binary.
package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Config is what a device knows before it connects.
type Config struct {
	// Servers are https URLs, tried in this order after those of the trust bundle.
	Servers []string
	// Pins are the SHA-256 of infrastructure roots (DER) that are trusted initially.
	Pins [][32]byte
	// Trust is the bundle on file; zero if there is none yet.
	Trust wire.SignedBundle
	// Floor is a time that has certainly passed, by the program's build and the device's
	// certificates. The client adds the bundle's time.
	Floor time.Time
	// Now is the system clock, which may be wrong; nil means time.Now.
	Now func() time.Time
	// Proxy is the URL of an HTTP proxy, http://[NAME:PASSWORD@]HOST:PORT; empty means what
	// HTTPS_PROXY and NO_PROXY say, Direct means none.
	Proxy string
	// Memory is the Memory of an earlier client.
	Memory Memory
}

// Memory is what a client learned about the network, for the next one to start with. It only
// saves time: the server must authenticate as always.
type Memory struct {
	// Server is the URL that answered last; it is tried first.
	Server string `json:"server,omitempty"`
	// Addresses are where servers (HOST:PORT) were last reached, to be tried if the name cannot
	// be resolved or reached.
	Addresses map[string]string `json:"addresses,omitempty"`
}

// Client is one device's view of its server. It is not safe for concurrent use.
type Client struct {
	servers []string
	pins    map[[32]byte]bool
	signed  wire.SignedBundle
	bundle  *wire.Bundle
	floor   time.Time
	system  func() time.Time
	clock   clock
	proxies proxies
	memory  Memory
	// kept is the connection on which a message one was answered with a challenge, for message
	// two; keptFor the certificate shown on it. Nil if there is none.
	kept    *connection
	keptFor *tls.Certificate
	sent    int64
	got     int64
}

// Prover makes evidence for a binding (TPM2_Certify): TPMS_ATTEST and TPMT_SIGNATURE.
type Prover func(binding [32]byte) (statement, signature []byte, err error)

// New checks the configuration; the network is not used yet.
func New(c Config) (n *Client, err error) {
	n = &Client{servers: c.Servers, pins: make(map[[32]byte]bool), floor: c.Floor, system: c.Now,
		memory: Memory{Server: c.Memory.Server, Addresses: make(map[string]string)}}
	if n.system == nil {
		n.system = time.Now
	}
	for _, p := range c.Pins {
		n.pins[p] = true
	}
	for _, s := range c.Servers {
		if _, err := wire.ServerURL(s); err != nil {
			return nil, fmt.Errorf("server %q: %w", s, err)
		}
	}
	if len(c.Trust.Bundle) > 0 {
		// It was verified with its predecessor, or a pin, before it was stored.
		b, err := wire.ReadBundle(c.Trust)
		if err != nil {
			return nil, fmt.Errorf("the trust bundle on file: %w", err)
		}
		n.adopt(c.Trust, b)
	}
	if n.bundle == nil && len(n.pins) == 0 || len(n.order()) == 0 {
		return nil, errors.New("a server and a root to trust are needed")
	}
	if n.proxies, err = newProxies(c.Proxy, os.Getenv); err != nil {
		return nil, err
	}
	for _, s := range n.order() {
		if u, err := wire.ServerURL(s); err == nil {
			if _, err := netip.ParseAddrPort(c.Memory.Addresses[addressOf(u)]); err == nil {
				n.memory.Addresses[addressOf(u)] = c.Memory.Addresses[addressOf(u)]
			}
		}
	}
	return n, nil
}

// Memory is what the next client should start with.
func (c *Client) Memory() Memory { return c.memory }

// Trust is the newest bundle seen, signed and parsed; nil before the first.
func (c *Client) Trust() (wire.SignedBundle, *wire.Bundle) { return c.signed, c.bundle }

// Bytes is how many bytes were sent and received, TLS included.
func (c *Client) Bytes() (sent, received int64) { return c.sent, c.got }

// Close closes the connection that waits for message two, if there is one.
func (c *Client) Close() {
	if c.kept != nil {
		c.kept.Close()
		c.kept = nil
	}
}

// order is the list of servers to try: first the one that answered last, then the bundle's, then
// those configured.
func (c *Client) order() []string {
	var list []string
	if c.bundle != nil {
		list = append(list, c.bundle.Servers...)
	}
	for _, s := range c.servers {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	if i := slices.Index(list, c.memory.Server); i > 0 {
		list = slices.Insert(slices.Delete(list, i, i+1), 0, c.memory.Server)
	}
	return list
}

// Connect makes sure that the server is genuine and the time known. The other methods do so
// themselves; call it to use Now or Trust before them.
func (c *Client) Connect(ctx context.Context) error {
	return c.use(ctx, nil, func(*connection) error { return nil })
}

// Enrol sends message one of an enrolment. ticket is nil for a device that returns.
func (c *Client) Enrol(ctx context.Context, m wire.Enrol, prove Prover, ticket *wire.Permission) (*wire.Answer, error) {
	if ticket != nil {
		m.Ticket = ticket.ID
	}
	answer := new(wire.Answer)
	return answer, c.send(ctx, message{path: wire.PathEnrol, label: wire.LabelEnrol, body: m, prove: prove, ticket: ticket}, answer)
}

// Renew asks for a working certificate, authenticated by id: the LDevID or the IDevID.
func (c *Client) Renew(ctx context.Context, m wire.Renew, prove Prover, id *tls.Certificate) (*wire.Answer, error) {
	answer := new(wire.Answer)
	return answer, c.send(ctx, message{path: wire.PathRenew, label: wire.LabelRenew, body: m, prove: prove, id: id}, answer)
}

// Activate sends message two: the answer to a challenge. id is the certificate shown
// with message one, nil in an enrolment.
func (c *Client) Activate(ctx context.Context, m wire.Activate, id *tls.Certificate) (*wire.Answer, error) {
	var answer wire.Answer
	return &answer, c.use(ctx, id, func(conn *connection) error { return conn.call(http.MethodPost, wire.PathActivate, m, &answer) })
}

// Poll asks the server when to renew and fetches a newer trust bundle if there is one. It fails
// if the server does not accept the certificate.
func (c *Client) Poll(ctx context.Context, id *tls.Certificate) (wire.Steering, error) {
	var answer wire.Steering
	err := c.send(ctx, message{path: wire.PathPoll, label: wire.LabelPoll, body: wire.Poll{}, id: id}, &answer)
	if err == nil && answer.Trust > c.bundle.Number {
		err = c.UpdateTrust(ctx)
	}
	return answer, err
}

// message is a message that travels in an envelope, and what the envelope proves with it.
type message struct {
	path, label string
	body        any
	prove       Prover           // nil: without evidence
	ticket      *wire.Permission // nil: without a ticket
	id          *tls.Certificate // the certificate shown; nil: none
}

// send sends a message, bound to the one connection that carries it, and decodes the answer.
func (c *Client) send(ctx context.Context, m message, answer any) error {
	raw, err := json.Marshal(m.body)
	if err != nil {
		return err
	}
	return c.use(ctx, m.id, func(conn *connection) error {
		envelope, err := c.envelope(conn, m, raw)
		if err != nil {
			return err
		}
		err = conn.call(http.MethodPost, m.path, envelope, answer)
		if a, ok := answer.(*wire.Answer); ok {
			conn.awaited = a.Challenge != nil
		}
		return err
	})
}

// envelope binds a message, whose bytes are raw, to a connection.
func (c *Client) envelope(conn *connection, m message, raw []byte) (envelope wire.Envelope, err error) {
	binding := wire.Binding{Label: m.label, Message: raw}
	if m.id != nil {
		binding.Client = m.id.Certificate[0]
	}
	envelope.Message = raw
	if c.bundle.NonceMode {
		var nonce wire.NonceAnswer
		if err := conn.call(http.MethodPost, wire.PathNonce, nil, &nonce); err != nil {
			return envelope, err
		}
		binding.Nonce, envelope.Nonce = nonce.Nonce, nonce.Nonce
	} else if binding.Exporter, err = conn.exporter(); err != nil {
		return envelope, err
	}
	sum := binding.Sum()
	if m.prove != nil {
		if envelope.Statement, envelope.Signature, err = m.prove(sum); err != nil {
			return envelope, err
		}
	}
	if m.ticket != nil {
		envelope.TicketMAC = m.ticket.MAC(sum)
	}
	if c.bundle.NonceMode && m.id != nil {
		envelope.Client, err = proveClient(m.id, sum)
	}
	return envelope, err
}

// proveClient replaces mutual TLS where a proxy terminates TLS.
func proveClient(id *tls.Certificate, binding [32]byte) (*wire.ClientProof, error) {
	signer, ok := id.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the certificate's key cannot sign")
	}
	signature, err := signer.Sign(rand.Reader, binding[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return &wire.ClientProof{Certificates: id.Certificate, Signature: signature}, nil
}

// ParsePin parses the hex SHA-256 of a root.
func ParsePin(text string) ([32]byte, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 32 {
		return [32]byte{}, errors.New("a root's fingerprint is 64 hexadecimal digits")
	}
	return [32]byte(raw), nil
}

func latest(times ...time.Time) time.Time {
	var t time.Time
	for _, u := range times {
		if u.After(t) {
			t = u
		}
	}
	return t
}

func encode(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}
