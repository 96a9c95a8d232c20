package device

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/device/keys"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// ErrNoLDevID: the device is enrolled but has no working certificate yet.
var ErrNoLDevID = errors.New("the device has no working certificate yet")

// Credential is one working certificate with its key, for any program that speaks TLS; Identity
// follows renewals. What holds the key is needed only for handshakes; an idle key uses no TPM
// resources.
type Credential struct {
	// Certificate is ready for tls.Config.Certificates; its PrivateKey is a crypto.Signer.
	Certificate tls.Certificate
	// Page is the chain of the device's own web page, for the same key; nil if there is none.
	Page [][]byte
	// Trust is the device's trust bundle.
	Trust wire.Bundle
	keys  keys.Holder
}

// OpenCredential loads the working certificate and its key. tpm is empty for the TPM
// enrolled with.
func OpenCredential(folder, tpm string) (*Credential, error) {
	dir := state.At(folder)
	set, _, err := dir.Load()
	if err != nil {
		return nil, err
	}
	if len(set.LDevID) == 0 {
		return nil, ErrNoLDevID
	}
	c := &Credential{Page: set.Page}
	if c.Trust, err = set.Bundle(); err != nil {
		return nil, fmt.Errorf("the trust bundle on file: %w", err)
	}
	if c.keys, _, err = open(Options{TPM: tpm}, set, dir, false); err != nil {
		return nil, err
	}
	key, err := c.keys.LoadWorking(set.LDevIDKey)
	if err != nil {
		c.keys.Close()
		return nil, err
	}
	c.Certificate = tls.Certificate{Certificate: set.LDevID, PrivateKey: key}
	return c, nil
}

// Signer is the certificate's key: an ECDSA key that signs in the TPM, or wherever it is kept.
func (c *Credential) Signer() crypto.Signer { return c.Certificate.PrivateKey.(crypto.Signer) }

// Close closes what holds the key; the key cannot sign afterwards.
func (c *Credential) Close() error { return c.keys.Close() }

const (
	// dialTimeout bounds connecting, handshakeTimeout the handshake, in which a slow TPM may sign
	// after another program's turn.
	dialTimeout      = 15 * time.Second
	handshakeTimeout = 30 * time.Second
)

// Connection describes a mutual-TLS connection.
type Connection struct {
	// To is HOST:PORT.
	To string
	// Name is the name in the server's certificate; empty means To's host.
	Name string
	// Roots are the roots that the server's chain must end in, as for Identity.Roots.
	Roots string
	// ALPN lists application protocols (RFC 7301), best first; empty for none.
	ALPN []string
}

// Dial makes a connection with the working certificate. The error is a *client.NetworkError if
// the server was not reached or has the wrong certificate. With TLS 1.3 a server that refuses the
// client certificate says so only on the first read.
func (i *Identity) Dial(ctx context.Context, c Connection) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(c.To)
	if err != nil {
		return nil, fmt.Errorf("where to connect: %w", err)
	}
	roots, err := i.Roots(c.Roots)
	if err != nil {
		return nil, err
	}
	config := i.TLSConfig(roots)
	config.ServerName, config.NextProtos = cmp.Or(c.Name, host), c.ALPN
	signer := new(client.Witness)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		newest, err := i.Credential()
		if err != nil {
			signer.Failed = err
			return nil, err
		}
		signer.Signer = newest.Signer()
		return &tls.Certificate{Certificate: newest.Certificate.Certificate, PrivateKey: signer}, nil
	}
	conn, err := DialTLS(ctx, c.To, config)
	if signer.Failed != nil {
		return nil, signer.Failed
	}
	return conn, err
}

// DialTLS connects to HOST:PORT within time limits that suit a slow TPM. Unlike with tls.Dial,
// reading from the connection tells a cut-off from an orderly end. The error is a
// *client.NetworkError.
func DialTLS(ctx context.Context, address string, config *tls.Config) (*tls.Conn, error) {
	raw, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &client.NetworkError{Server: address, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(Whole(raw), config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		failure := &client.NetworkError{Server: address, Err: err}
		if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			failure.Code = client.ChainCode(e.Err)
		}
		return nil, failure
	}
	return conn, nil
}

// ErrCutOff: the connection ended without close_notify (RFC 8446 §6.1).
var ErrCutOff = errors.New("the connection was cut off")

// whole makes TLS notice every cut-off connection: crypto/tls accepts an end between two records,
// so that whoever can cut the wire could truncate a file.
type whole struct{ net.Conn }

// Whole wraps a connection below TLS so that TLS can tell a cut-off from an orderly end.
func Whole(c net.Conn) net.Conn { return whole{c} }

func (w whole) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err == io.EOF {
		err = ErrCutOff
	}
	return n, err
}

// NetConn is the connection itself.
func (w whole) NetConn() net.Conn { return w.Conn }

// Connect makes a connection and copies in to it and from it to out until both have ended.
func Connect(ctx context.Context, o Options, c Connection, in io.Reader, out io.Writer) error {
	identity, err := OpenIdentity(o)
	if err != nil {
		return err
	}
	conn, err := identity.Dial(ctx, c)
	identity.Close() // others may need the TPM while the connection lasts
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.NetConn().Close() })()
	if err := pipe(conn, in, out); err != nil {
		return &client.NetworkError{Server: c.To, Err: err}
	}
	return nil
}

// pipe copies both ways. The end of in is passed on; the end of the connection ends pipe.
func pipe(conn *tls.Conn, in io.Reader, out io.Writer) error {
	go func() {
		if _, err := io.Copy(conn, in); err == nil {
			conn.CloseWrite()
		}
	}()
	_, err := io.Copy(out, conn)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
