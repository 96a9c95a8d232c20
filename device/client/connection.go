package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

const (
	dialTimeout = 15 * time.Second
	// exchangeTimeout bounds one request with its answer, and the handshake, in which a slow TPM
	// may sign.
	exchangeTimeout = time.Minute
	// maxConnection bounds a connection: a stranger could show the way to his trust bundle in a
	// thousand steps, one a minute.
	maxConnection = 10 * time.Minute
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 16 << 10
	// maxServers bounds how many servers are tried for one message.
	maxServers = 32
)

// connection is one TLS 1.3 connection to a server whose chain was verified.
type connection struct {
	*tls.Conn
	// server is the URL, authority its host and port as written, host its host name and address
	// its HOST:PORT.
	server, authority, host, address string
	// limited: the chain was verified at a time of our choice, or not at all yet.
	limited bool
	// awaited: message two will follow on it; over: the server closes it.
	awaited, over bool
	until         time.Time // whatever is under way
	bounded       *io.LimitedReader
	reader        *bufio.Reader
	stop          func() bool
}

// use calls do with an unlimited connection to the first server that answers, showing id if not
// nil. A server that is reached but does not serve, as behind a reverse proxy, is skipped like
// one that is not reached.
func (c *Client) use(ctx context.Context, id *tls.Certificate, do func(*connection) error) error {
	var failed error
	tried := map[string]bool{}
	for {
		// The list may change meanwhile: a newer bundle may name other servers.
		list := c.order()
		i := slices.IndexFunc(list, func(s string) bool { return !tried[s] })
		if i < 0 || len(tried) > maxServers {
			return failed
		}
		server := list[i]
		tried[server] = true
		err := c.useServer(ctx, server, id, do)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || !tryNext(err) {
			c.memory.Server = server
			return err
		}
		if failed == nil {
			failed = err
		}
	}
}

// tryNext reports whether to try another server after err. A refusal by a server of ours is
// final, and one that asks to retry later speaks for all.
func tryNext(err error) bool {
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return p.Code == wire.CodeUnavailable && p.RetryAfter == 0
	}
	return errors.As(err, new(*NetworkError)) || errors.As(err, new(*TrustError))
}

func (c *Client) useServer(ctx context.Context, server string, id *tls.Certificate, do func(*connection) error) error {
	conn := c.takeKept(ctx, server, id)
	if conn == nil {
		var err error
		if conn, err = c.openServer(ctx, server, id); err != nil {
			return err
		}
	}
	err := do(conn)
	if conn.awaited && !conn.over && conn.stop() { // message two may have another context
		c.kept, c.keptFor = conn, id
	} else {
		conn.Close()
	}
	return err
}

// takeKept returns the kept connection if it is for this server and certificate and still open,
// else nil. A handshake is most of the cost of a message.
func (c *Client) takeKept(ctx context.Context, server string, id *tls.Certificate) *connection {
	conn := c.kept
	if c.kept = nil; conn == nil {
		return nil
	}
	if conn.awaited = false; conn.server == server && c.keptFor == id && conn.open() {
		conn.closeWith(ctx)
		return conn
	}
	conn.Close()
	return nil
}

// open reports whether the other end has neither closed the connection nor sent anything unasked.
func (conn *connection) open() bool {
	conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	conn.bounded.N = 1
	_, err := conn.reader.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// openServer opens a connection to one server, first fetching the bundle or the time if missing.
func (c *Client) openServer(ctx context.Context, server string, id *tls.Certificate) (*connection, error) {
	if c.bundle == nil {
		conn, err := c.firstTrust(ctx, server, id)
		if conn != nil || err != nil {
			return conn, err
		}
	}
	conn, err := c.dial(ctx, server, id, true)
	if refused, ok := errors.AsType[*TrustError](err); ok {
		moved, failed := c.reconsider(ctx, refused)
		if !moved {
			return nil, failed
		}
		conn, err = c.dial(ctx, server, id, true)
	}
	if err != nil || !conn.limited {
		return conn, err
	}
	err = c.learnTime(conn)
	conn.Close()
	if err != nil {
		return nil, err
	}
	return c.dial(ctx, server, id, true)
}

// firstTrust fetches the first bundle over an unverified connection, since only a fingerprint is
// known yet. The bundle is trusted because a pinned root has signed it, and contains the root
// with which the server's chain is then verified. If that succeeds, and no certificate is to be
// shown, the connection is as good as any and is returned.
func (c *Client) firstTrust(ctx context.Context, server string, id *tls.Certificate) (*connection, error) {
	conn, err := c.dial(ctx, server, nil, false)
	if err != nil {
		return nil, err
	}
	if err = c.fetchTrust(conn); err == nil && id == nil && !conn.over {
		limited, refused := c.judge(conn.ConnectionState().PeerCertificates, conn.host)
		if conn.limited = limited || refused != nil; !conn.limited {
			c.reached(conn)
			return conn, nil
		}
	}
	conn.Close()
	return nil, err
}

// dial opens one connection. The chain is verified during the handshake, before the client
// certificate is sent; a limited connection never sends it. Without verify the connection is
// limited to fetching trust bundles.
func (c *Client) dial(ctx context.Context, server string, id *tls.Certificate, verify bool) (*connection, error) {
	u, err := wire.ServerURL(server)
	if err != nil {
		return nil, err
	}
	raw, err := c.reach(ctx, server, addressOf(u))
	if err != nil {
		return nil, err
	}
	conn := &connection{server: server, authority: u.Host, host: u.Hostname(), address: addressOf(u), until: time.Now().Add(maxConnection)}
	signer := new(Witness)
	conn.Conn = tls.Client(&counted{raw, &c.sent, &c.got}, c.tlsConfig(conn, id, signer, verify))
	conn.SetDeadline(time.Now().Add(exchangeTimeout))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if signer.Failed != nil {
			return nil, signer.Failed
		}
		if e, ok := errors.AsType[*TrustError](err); ok {
			return nil, e
		}
		return nil, &NetworkError{Server: server, Code: handshakeCode(err), Err: err}
	}
	if verify {
		c.reached(conn)
	}
	conn.bounded = &io.LimitedReader{R: conn.Conn}
	conn.reader = bufio.NewReader(conn.bounded)
	conn.closeWith(ctx)
	return conn, nil
}

// tlsConfig is the client's TLS configuration for conn, with id's key behind signer.
func (c *Client) tlsConfig(conn *connection, id *tls.Certificate, signer *Witness, verify bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Every TLS 1.3 server supports it (RFC 8446 §9.1), and nothing sent here is still secret
		// by the time it could be broken (docs/decisions/0008).
		CurvePreferences: []tls.CurveID{tls.CurveP256},
		ServerName:       conn.host,
		// VerifyConnection verifies instead, not always at the time of the clock.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			conn.limited = true
			if !verify {
				return nil // only signed bundles are trusted, whoever the server is
			}
			limited, err := c.judge(s.PeerCertificates, conn.host)
			if err != nil {
				return &TrustError{Server: conn.server, Code: ChainCode(err), Err: err}
			}
			conn.limited = limited
			return nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if id == nil || conn.limited {
				return new(tls.Certificate), nil
			}
			key, ok := id.PrivateKey.(crypto.Signer)
			if !ok {
				return nil, errors.New("the key cannot sign")
			}
			signer.Signer = key
			return &tls.Certificate{Certificate: id.Certificate, PrivateKey: signer}, nil
		},
	}
}

// closeWith closes the connection when ctx ends.
func (conn *connection) closeWith(ctx context.Context) {
	conn.stop = context.AfterFunc(ctx, func() { conn.NetConn().Close() })
}

// reached remembers the address of a verified server.
func (c *Client) reached(conn *connection) {
	if !c.proxies.uses(conn.address) {
		c.memory.Addresses[conn.address] = conn.RemoteAddr().String()
	}
}

// reach opens a TCP connection to a server's HOST:PORT: through the proxy if there is one, else
// by name, else where it was last reached.
func (c *Client) reach(ctx context.Context, server, address string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	if c.proxies.uses(address) {
		conn, err := c.proxies.connect(ctx, dialer, address)
		if err != nil {
			return nil, &NetworkError{Server: server, Code: proxyCode(err), Err: err}
		}
		return conn, nil
	}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if remembered := c.memory.Addresses[address]; err != nil && remembered != "" && ctx.Err() == nil {
		if again, failed := dialer.DialContext(ctx, "tcp", remembered); failed == nil {
			return again, nil
		}
	}
	if err != nil {
		return nil, &NetworkError{Server: server, Code: dialCode(err), Err: err}
	}
	return conn, nil
}

// addressOf is HOST:PORT of a server's URL.
func addressOf(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// Close closes the connection.
func (conn *connection) Close() error {
	conn.stop()
	return conn.Conn.Close()
}

// exporter is the channel binding of this connection (RFC 9266).
func (conn *connection) exporter() ([]byte, error) {
	s := conn.ConnectionState()
	return s.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength)
}

// call sends one request and decodes the answer into out, ignoring unknown fields of a newer
// server. A refusal is a *wire.Problem, unless the connection is limited: a server that is not
// verified cannot say that a device is revoked.
func (conn *connection) call(method, path string, in, out any) error {
	body, err := encode(in)
	if err != nil {
		return err
	}
	if len(body) > wire.MaxMessage {
		return fmt.Errorf("the message has %d bytes, the server takes %d", len(body), wire.MaxMessage)
	}
	answer, err := conn.exchange(method, path, body)
	if err != nil {
		code := CodeAnswer
		if lost(err) {
			code = CodeLost
		}
		return &NetworkError{Server: conn.server, Code: code, Err: err}
	}
	switch {
	case answer.status == http.StatusOK:
	case !conn.limited:
		p := problem(answer.status, answer.contentType, answer.body)
		p.RetryAfter = answer.retryAfter
		return p
	case answer.status >= 500:
		return &NetworkError{Server: conn.server, Err: fmt.Errorf("the server answered %d to %s", answer.status, path), RetryAfter: min(answer.retryAfter, maxStrangersRetry)}
	case answer.status/100 == 3 || strings.HasPrefix(answer.contentType, "text/html"):
		return &NetworkError{Server: conn.server, Code: CodePortal, Err: fmt.Errorf("a web page answers in its place (%d to %s)", answer.status, path)}
	default:
		return &TrustError{Server: conn.server, Err: fmt.Errorf("it answered %d to %s before it had shown who it is", answer.status, path)}
	}
	if err := json.Unmarshal(answer.body, out); err != nil {
		code := CodeAnswer
		if conn.limited {
			code = CodePortal
		}
		return &NetworkError{Server: conn.server, Code: code, Err: fmt.Errorf("the answer to %s is not of the protocol: %w", path, err)}
	}
	return nil
}

// answer is an HTTP response.
type answer struct {
	status      int
	contentType string
	body        []byte
	retryAfter  time.Duration
}

func (conn *connection) exchange(method, path string, body []byte) (a answer, err error) {
	deadline := time.Now().Add(exchangeTimeout)
	if deadline.After(conn.until) {
		deadline = conn.until
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return a, err
	}
	var request bytes.Buffer
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: hallmark-device\r\nAccept: application/json\r\n",
		method, path, conn.authority)
	if method == http.MethodPost {
		fmt.Fprintf(&request, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	request.WriteString("\r\n")
	request.Write(body)
	if _, err := conn.Write(request.Bytes()); err != nil {
		return a, err
	}
	conn.bounded.N = maxHeader + wire.MaxMessage
	response, err := http.ReadResponse(conn.reader, &http.Request{Method: method})
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	a.body, err = io.ReadAll(io.LimitReader(response.Body, wire.MaxMessage+1))
	if err == nil && len(a.body) > wire.MaxMessage {
		err = wire.ErrTooLarge
	}
	conn.over = response.Close || err != nil
	a.status, a.contentType = response.StatusCode, response.Header.Get("Content-Type")
	a.retryAfter = retryAfter(response.Header)
	return a, err
}

const (
	// maxRetryAfter bounds the delay that a server can ask for.
	maxRetryAfter = 24 * time.Hour
	// maxStrangersRetry is the same for an unverified server: a brief interception must not cost
	// a day.
	maxStrangersRetry = 10 * time.Minute
)

// retryAfter parses Retry-After (RFC 9110 §10.2.3). A date is relative to the answer's Date,
// since our clock may be wrong.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// elsewhereHint is for requests to a listener that does not serve devices, such as the
// operators'.
const elsewhereHint = "is this the address of a Hallmark server's device listener?"

// problem decodes a refusal, and makes one of an answer that is not from a Hallmark server (a
// proxy's error page).
func problem(status int, contentType string, body []byte) *wire.Problem {
	var p wire.Problem
	if strings.HasPrefix(contentType, wire.ProblemType) && json.Unmarshal(body, &p) == nil && p.Code != "" && p.Detail != "" {
		p.Status = status
		if status == http.StatusNotFound && p.Hint == "" {
			p.Hint = elsewhereHint
		}
		return &p
	}
	p = wire.Problem{Status: status, Code: wire.CodeUnavailable, Detail: fmt.Sprintf("the server answered %d %s", status, http.StatusText(status))}
	switch {
	case status == http.StatusNotFound:
		p.Code, p.Hint = wire.CodeNotFound, elsewhereHint
	case status < 500:
		p.Code = wire.CodeForbidden
	}
	return &p
}

// counted counts the bytes of a connection.
type counted struct {
	net.Conn
	sent, got *int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	*c.got += int64(n)
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	*c.sent += int64(n)
	return n, err
}

// Witness is a signer that remembers why a signature in a handshake failed: crypto/tls keeps only
// the error's text, and a failing key must be told from a failing network.
type Witness struct {
	crypto.Signer
	// Failed is the signer's last error; nil if it had none.
	Failed error
}

// Sign returns the error, and keeps it.
func (w *Witness) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := w.Signer.Sign(rand, digest, opts)
	if err != nil {
		w.Failed = err
	}
	return signature, err
}
