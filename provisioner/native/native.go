// Package native serves the native protocol (package wire) for the provisioner: it decodes and
// encodes messages, computes the binding that evidence must be over, and maps errors to problems
// in one place (problem.go).
package native

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/decide"
	"github.com/hallmark-pki/hallmark/wire"
)

// Config is what a handler needs besides the service.
type Config struct {
	// Bundle returns the newest signed trust bundle and its number.
	Bundle func() (wire.SignedBundle, int64)
	// Since returns the bundles that follow a number (ca/trust.Service.Since).
	Since func(after int64) wire.TrustSteps
	// SignTime signs a nonce with the time (ca/trust.Service.SignTime).
	SignTime func(nonce []byte, now time.Time) (wire.TimeAnswer, error)
	// NonceMode: a proxy terminates TLS. Then the exporter binds nothing, the connection's client
	// certificate and forwarded-certificate headers are ignored, and the device proves its
	// certificate inside the message.
	NonceMode bool
	// Places is how many requests are served at once, while others are given turns; 0 means 32.
	Places int
	// Refused is called with the code of each problem sent to a device; may be nil.
	Refused func(code string)
	Now     func() time.Time
	Log     *slog.Logger
}

type handler struct {
	Config
	service   *provisioner.Service
	turnstile *turnstile
}

// Handler serves the native protocol for a device listener that requests, but does
// not verify, client certificates over TLS 1.3 without session tickets.
func Handler(service *provisioner.Service, c Config) http.Handler {
	h := &handler{c, service, newTurnstile(c.Places)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathTrust, h.trust)
	mux.HandleFunc("POST "+wire.PathTime, h.time)
	mux.HandleFunc("POST "+wire.PathEnrol, h.throttled(h.enrol))
	mux.HandleFunc("POST "+wire.PathActivate, h.throttled(h.activate))
	mux.HandleFunc("POST "+wire.PathRenew, h.throttled(h.renew))
	mux.HandleFunc("POST "+wire.PathPoll, h.poll) // cheaper than the handshake of another attempt
	if c.NonceMode {
		mux.HandleFunc("POST "+wire.PathNonce, h.nonce)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, &wire.Problem{Status: http.StatusNotFound, Code: wire.CodeNotFound, Detail: "no such resource: " + r.Method + " " + r.URL.Path,
			Hint: "this address is for devices and relays; operators have one of their own, which the settings that hallmark operator accept makes name"})
	})
	return mux
}

func (h *handler) trust(w http.ResponseWriter, r *http.Request) {
	// A device may test a new certificate here before it relies on it: one that could not renew
	// must fail.
	if c := h.peer(r); c != nil {
		contact, err := h.service.Recognise(c)
		if err == nil {
			_, err = h.service.Poll(r.Context(), contact)
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
	}
	after, given := r.URL.Query()["after"]
	if !given {
		bundle, _ := h.Bundle()
		h.reply(w, bundle)
		return
	}
	n, err := strconv.ParseInt(after[0], 10, 64)
	if err != nil || n < 0 {
		h.fail(w, r, malformed(errors.New("after takes the number of a trust bundle")))
		return
	}
	h.reply(w, h.Since(n))
}

func (h *handler) time(w http.ResponseWriter, r *http.Request) {
	var q wire.TimeRequest
	if err := wire.Decode(r.Body, 1<<10, &q); err != nil {
		h.fail(w, r, malformed(err))
		return
	}
	if n := len(q.Nonce); n < wire.MinNonce || n > wire.MaxNonce {
		h.fail(w, r, malformed(fmt.Errorf("the nonce must have %d to %d bytes", wire.MinNonce, wire.MaxNonce)))
		return
	}
	a, err := h.SignTime(q.Nonce, h.Now())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, a)
}

func (h *handler) nonce(w http.ResponseWriter, r *http.Request) {
	nonce, expires, err := h.service.Nonce()
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, wire.NonceAnswer{Nonce: nonce, Expires: expires})
}

func (h *handler) enrol(w http.ResponseWriter, r *http.Request, body []byte) {
	var m wire.Enrol
	p, err := h.open(r, body, wire.LabelEnrol, &m)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	a, err := h.service.Enrol(r.Context(), provisioner.EnrolRequest{
		Evidence: attest.Evidence{Kind: kind(m.Kind), Certificates: m.EKCertificates, EKPublic: m.EKPublic, AKPublic: m.AKPublic,
			Key: m.Key, Statement: p.Statement, Signature: p.Signature},
		Binding: p.binding, Ticket: m.Ticket, TicketMAC: p.TicketMAC, Serial: m.Serial, Nonce: p.nonceID,
	})
	h.answer(w, r, a, err)
}

func (h *handler) renew(w http.ResponseWriter, r *http.Request, body []byte) {
	var m wire.Renew
	p, err := h.open(r, body, wire.LabelRenew, &m)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if m.Kind == wire.KindSoftKey && m.Activated != nil {
		h.fail(w, r, malformed(errors.New("activated answers a TPM's challenge, and a key without a TPM has none")))
		return
	}
	contact, err := h.contact(p)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	request := provisioner.RenewRequest{Contact: contact, Binding: p.binding, Nonce: p.nonceID,
		Evidence: attest.Evidence{Kind: kind(m.Kind), Key: m.Key, Statement: p.Statement, Signature: p.Signature}}
	if m.Activated != nil {
		request.Session, request.Secret = m.Activated.Session, m.Activated.Secret
	}
	a, err := h.service.Renew(r.Context(), request)
	h.answer(w, r, a, err)
}

// poll tells a device when to renew. It requires no evidence, since nothing is issued.
func (h *handler) poll(w http.ResponseWriter, r *http.Request) {
	body, err := read(r)
	if err != nil {
		h.fail(w, r, malformed(err))
		return
	}
	p, err := h.open(r, body, wire.LabelPoll, new(wire.Poll))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	contact, err := h.contact(p)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	answer, err := h.service.Poll(r.Context(), contact)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.reply(w, h.steering(answer))
}

// steering is when to renew, to the millisecond: the moments of a renewal plan are close
// together.
func (h *handler) steering(s provisioner.Steering) *wire.Steering {
	_, number := h.Bundle()
	return &wire.Steering{Start: s.Start.UTC().Truncate(time.Millisecond), End: s.End.UTC().Truncate(time.Millisecond),
		Poll: int64(s.Poll / time.Second), Trust: number}
}

var noCertificate = &wire.Problem{Status: http.StatusUnauthorized, Code: wire.CodeUnauthorised,
	Detail: "this needs the device's certificate", Hint: "show the LDevID or the IDevID; in nonce mode, in client"}

// kind is the verifier's name for a message's kind; the verifier refuses an unknown one.
func kind(named string) string { return cmp.Or(named, attest.KindTPM2) }

func (h *handler) activate(w http.ResponseWriter, r *http.Request, body []byte) {
	var m wire.Activate
	if err := wire.DecodeBytes(body, &m); err != nil {
		h.fail(w, r, malformed(err))
		return
	}
	a, err := h.service.Activate(r.Context(), m.Session, m.Secret)
	h.answer(w, r, a, err)
}

// proof is an opened envelope: the message's proof, the binding that it must be over, and the
// client.
type proof struct {
	wire.Envelope
	binding [32]byte
	// client is the certificate whose key the client has proved to hold; nil if none.
	client *x509.Certificate
	// nonceID is the nonce's, proved when it was made; both are zero outside nonce mode.
	nonceID string
	proved  time.Time
}

// contact is the device that a message comes from, by its certificate.
func (h *handler) contact(p *proof) (provisioner.Contact, error) {
	if p.client == nil {
		return provisioner.Contact{}, noCertificate
	}
	contact, err := h.service.Recognise(p.client)
	contact.Proved = p.proved
	return contact, err
}

// open reads an envelope and its message and computes the binding (design decision 7).
func (h *handler) open(r *http.Request, body []byte, label string, message any) (*proof, error) {
	p := &proof{}
	if err := wire.DecodeBytes(body, &p.Envelope); err != nil {
		return nil, malformed(err)
	}
	if p.Message == nil {
		return nil, malformed(errors.New("the envelope has no message"))
	}
	if err := wire.DecodeBytes(p.Message, message); err != nil {
		return nil, malformed(err)
	}
	if m, ok := message.(*wire.Enrol); (p.TicketMAC != nil) != (ok && m.Ticket != "") {
		return nil, malformed(errors.New("ticket_mac belongs to an enrolment with a ticket, and to no other message"))
	}
	if label == wire.LabelPoll && (p.Statement != nil || p.Signature != nil) {
		return nil, malformed(errors.New("statement and signature prove a key, and a poll has none"))
	}
	b := wire.Binding{Label: label, Message: p.Message}
	if h.NonceMode {
		return p, h.openNonceMode(p, b)
	}
	if p.Nonce != nil || p.Client != nil {
		return nil, malformed(errors.New("nonce and client belong to nonce mode, which is off here"))
	}
	exporter, err := r.TLS.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength)
	if err != nil {
		return nil, err
	}
	b.Exporter = exporter
	if p.client = h.peer(r); p.client != nil {
		b.Client = p.client.Raw
	}
	p.binding = b.Sum()
	return p, nil
}

func (h *handler) openNonceMode(p *proof, b wire.Binding) (err error) {
	if p.Nonce == nil {
		return &decide.Refusal{Code: wire.CodeSession, Detail: "this server works in nonce mode, and the message brings no nonce",
			Hint: "the newest trust bundle says so; POST " + wire.PathNonce + " gives a nonce"}
	}
	if p.nonceID, p.proved, err = h.service.CheckNonce(p.Nonce); err != nil {
		return err
	}
	b.Nonce = p.Nonce
	if p.Client == nil {
		p.binding = b.Sum()
		return nil
	}
	if len(p.Client.Certificates) == 0 {
		return malformed(errors.New("client proof without certificate"))
	}
	leaf, err := x509.ParseCertificate(p.Client.Certificates[0])
	if err != nil {
		return malformed(err)
	}
	// Recognise comes before the signature: TLS would limit the size of a stranger's RSA key, and
	// nothing here does.
	if _, err := h.service.Recognise(leaf); err != nil {
		return err
	}
	b.Client = leaf.Raw
	p.binding = b.Sum()
	if !signed(leaf.PublicKey, p.binding[:], p.Client.Signature) {
		return &decide.Refusal{Code: wire.CodeUnauthorised, Detail: "the signature in client does not hold",
			Hint: "the key of the certificate in it signs the binding, not hashed again: ECDSA in ASN.1, or RSA-PSS with SHA-256"}
	}
	p.client = leaf
	return nil
}

// signed checks a client proof: ECDSA, or RSA-PSS, over the SHA-256 binding.
func signed(key crypto.PublicKey, digest, signature []byte) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPSS(k, crypto.SHA256, digest, signature, nil) == nil
	}
	return false
}

// peer is the client certificate of the connection: TLS has verified possession of its key.
func (h *handler) peer(r *http.Request) *x509.Certificate {
	if h.NonceMode || r.TLS == nil || r.TLS.Version < tls.VersionTLS13 || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

func (h *handler) answer(w http.ResponseWriter, r *http.Request, a provisioner.Answer, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := wire.Answer{Challenge: challenge(a.Challenge)}
	if made := a.Certificates; made != nil {
		_, number := h.Bundle()
		out.Identity = &wire.Identity{Device: made.Device.Name(), Model: made.Device.Model, Serial: made.Device.Serial,
			IDevID: made.IDevID, AK: made.AK, LDevID: made.LDevID, Server: made.Server, Next: challenge(made.Next), Trust: number}
		if made.Steering != nil {
			out.Identity.Steering = h.steering(*made.Steering)
			out.Identity.RenewAfter = out.Identity.Steering.Start
		}
	}
	h.reply(w, out)
}

func challenge(c *provisioner.Challenge) *wire.Challenge {
	if c == nil {
		return nil
	}
	return &wire.Challenge{Session: c.Session, Credential: c.Credential, Secret: c.Challenge.Secret, Expires: c.Expires}
}

func (h *handler) reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		h.Log.Debug("answer not delivered", "err", err)
	}
}
