// Package client is the operator's half of the operator protocol: it finds the
// server and the operator's certificate through a settings file, asks, and keeps
// that certificate fresh by itself.
//
// Errors of the server are *wire.Problem; a server that cannot be reached, or that is
// not the right one, is *Unreachable.
package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Client speaks to one server as one operator. It is safe for concurrent use.
type Client struct {
	role     role
	settings settings
	warn     func(string)
	http     *http.Client
	patience time.Duration // with a server that is coming up

	mu       sync.Mutex
	identity *tls.Certificate
	roots    *x509.CertPool
	tried    time.Time // to renew, if that was due
	looked   time.Time // for roots that are trusted no more
	issuer   []byte    // authorityKeyIdentifier of the server's certificate, once it was seen

	another chan struct{} // there is another issuer
}

// Unreachable means that no answer of the right server came.
type Unreachable struct {
	Server string
	Err    error
	// Hint is what to do about it.
	Hint string
}

// ErrInterrupted: the caller's context was cancelled.
var ErrInterrupted = errors.New("interrupted before it answered")

func (u *Unreachable) Error() string { return fmt.Sprintf("%s: %v", u.Server, u.Err) }
func (u *Unreachable) Unwrap() error { return u.Err }

// Load reads the settings at path, a file or the folder that holds SettingsFile, and what they name.
// It does not use the network. warn gets what goes wrong without stopping anything.
func Load(path string, warn func(string)) (*Client, error) {
	return load(operatorRole, path, warn)
}

// LoadRelay is Load for the folder of a relay.
func LoadRelay(path string, warn func(string)) (*Client, error) {
	return load(relayRole, path, warn)
}

func load(r role, path string, warn func(string)) (*Client, error) {
	s, err := readSettings(path)
	if err != nil {
		return nil, err
	}
	c := &Client{role: r, settings: s, warn: warn, patience: starting, another: make(chan struct{}, 1)}
	if c.roots, err = readRoots(s.Roots); err != nil {
		return nil, err
	}
	if c.identity, err = readIdentity(s.Identity); err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Timeout:       timeout,
		Transport:     &alerting{RoundTripper: transport(c.dialTLS), warn: warn},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// alerting tells the operator once that there are alerts, unless that is what is asked.
type alerting struct {
	http.RoundTripper
	warn func(string)
	once sync.Once
}

func (a *alerting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(r)
	if err == nil && resp.Header.Get(jobs.HeaderAlerts) != "" && r.URL.Path != jobs.PathAlerts {
		a.once.Do(func() { a.warn("there are alerts that you have not seen: hallmark alert list") })
	}
	return resp, err
}

// Server is the host and port that the settings name.
func (c *Client) Server() string { return host(c.settings.Server) }

// Operator is the name in the operator's or relay's certificate.
func (c *Client) Operator() string { return c.current().Leaf.Subject.CommonName }

// Key is the SHA-256 of the present key (SubjectPublicKeyInfo), in hexadecimal.
func (c *Client) Key() string {
	sum := sha256.Sum256(c.current().Leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func (c *Client) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.identity
}

func (c *Client) tlsConfig() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    c.roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.current(), nil
		},
	}
}

// call makes one exchange, after renewing the certificate if that is due.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	leaf := c.current().Leaf
	if now := time.Now(); now.After(leaf.NotAfter) {
		return fmt.Errorf("the certificate of %s expired on %s: ask another operator for an invitation, or run hallmarkd operator recover on the server",
			c.Operator(), leaf.NotAfter.Format(time.DateOnly))
	}
	if c.mayTry() {
		c.renewIfDue(ctx)
	}
	err := exchange(ctx, c.http, c.settings.Server, method, path, in, out, maxAnswer)
	if err == nil {
		c.forget(ctx)
	}
	if err == nil && c.succeeded() {
		c.renewIfDue(ctx)
	}
	return err
}

// tryAgain is how often a program that runs on, as one that follows the audit, looks whether
// its certificate is due.
const tryAgain = time.Hour

func (c *Client) mayTry() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.tried) < tryAgain {
		return false
	}
	c.tried = time.Now()
	return true
}

// exchange sends in (nil means no body) and decodes the answer, of at most so many bytes, into
// out (nil means that it does not matter).
func exchange(ctx context.Context, via *http.Client, server, method, path string, in, out any, most int) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, server+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := via.Do(req)
	if err != nil {
		return unreachable(ctx, server, err)
	}
	defer resp.Body.Close()
	text, err := read(server, resp, most)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return problem(server, resp, text)
	}
	if out == nil {
		return nil
	}
	// Unknown members are passed over: the server may be newer.
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s: the answer is not of the operator protocol: %w", host(server), err)
	}
	return nil
}

func problem(server string, resp *http.Response, text []byte) error {
	var p wire.Problem
	if resp.Header.Get("Content-Type") == wire.ProblemType && json.Unmarshal(text, &p) == nil && p.Detail != "" {
		p.Status = resp.StatusCode
		return &p
	}
	return fmt.Errorf("%s: unexpected answer: %s: is this the operators' address?", host(server), resp.Status)
}

// unreachable finds the words for what went wrong before an answer came.
func unreachable(ctx context.Context, server string, err error) error {
	u := &Unreachable{Server: host(server), Err: errors.Unwrap(err)} // *url.Error repeats the URL
	if u.Err == nil {
		u.Err = err
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	var invalid x509.CertificateInvalidError
	var dns *net.DNSError
	var cut *net.OpError
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // by whoever typed the command
		u.Err, u.Hint = ErrInterrupted, "it may or may not have done what was asked"
	case errors.As(err, &unknown):
		u.Hint = "this is another server than the one that the settings trust: it got nothing but a request for its trust bundle"
	case errors.As(err, &name):
		u.Hint = "use the name under which the server knows itself (public: operators: in its hallmark.yaml)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		u.Hint = "compare this machine's clock with the server's: the server renews its own certificate"
	case errors.As(err, &record):
		u.Hint = "this port does not speak TLS: operators have a port of their own"
	case errors.As(err, &dns):
		u.Hint = "check the server's name in the settings"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &cut) && (cut.Op == "read" || cut.Op == "write"):
		u.Hint = "the server went away before it answered: it may or may not have done what was asked"
	case errors.Is(err, context.DeadlineExceeded):
		u.Hint = "the server did not answer in time: it may or may not have done what was asked"
	default:
		u.Hint = "check that hallmarkd is running and that this is the operators' address"
	}
	return u
}

func host(server string) string { return strings.TrimPrefix(server, "https://") }
