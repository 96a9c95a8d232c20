package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Codes of a [NetworkError]: why there was no answer.
const (
	CodeDNS         = "dns-failed"          // the server's name has no address, and none is remembered
	CodeUnreachable = "server-unreachable"  // refused, no route, or no answer in time
	CodeLost        = "connection-lost"     // it broke, or the answer was incomplete
	CodePortal      = "captive-portal"      // a web page answers in the server's place
	CodeTLS         = "tls-failed"          // no TLS 1.3 could be agreed on
	CodeProxy       = "proxy-failed"        // the proxy was not reached, or refused to connect
	CodeProxyAuth   = "proxy-auth"          // the proxy wants another name or password
	CodeAnswer      = "answer-not-hallmark" // what came back is not of the protocol
)

// Codes of a [TrustError]: why what answered is not believed.
const (
	CodeUnknownCA     = "unknown-ca"                 // its chain ends in no root that is trusted
	CodeIntercepted   = "tls-intercepted"            // our server is there, but TLS is terminated in between
	CodeServerName    = "server-name-wrong"          // a certificate of ours, for another name
	CodeServerExpired = "server-certificate-expired" // a certificate of ours, not valid now
	CodeBundle        = "trust-bundle-refused"       // its trust bundle does not follow ours
	CodeRollback      = "trust-rollback"             // its trust bundle is older than ours
	CodeTime          = "time-refused"               // the time that it gave is not signed as it must be
)

// hints says what to do about each.
var hints = map[string]string{
	CodeDNS:           "check the name and this network's DNS, then run the same command again: nothing is lost",
	CodeUnreachable:   "check the network and the address, then run the same command again: nothing is lost",
	CodeLost:          "run the same command again: nothing is lost",
	CodePortal:        "log in to this network, or have it let the server pass; else check the port",
	CodeTLS:           "a firewall or proxy that breaks TLS 1.3 must let the server pass untouched",
	CodeProxy:         "check the proxy's address (--proxy or HTTPS_PROXY) and that it permits the server's host and port",
	CodeProxyAuth:     "put name and password into the proxy's URL: http://NAME:PASSWORD@HOST:PORT",
	CodeAnswer:        "check that the address is that of a Hallmark server's device listener",
	CodeUnknownCA:     "this is another server than the one that the ticket or the roots (infrastructure.pem) are from, or something in between answers for it; check the address",
	CodeIntercepted:   "have the proxy or firewall that inspects TLS let this server pass untouched: a device cannot work through it",
	CodeServerName:    "name the server as its certificate does: public.devices in its hallmark.yaml",
	CodeServerExpired: "check the clocks of server and device; the server renews its own certificate",
	CodeBundle:        "the server's trust bundle must be signed by the keys of the one before: hallmarkd trust show",
	CodeRollback:      "the server was set back: bring its trust folder up to the newest bundle",
	CodeTime:          "the server's time key must be in its trust bundle: hallmarkd check",
}

// NetworkError: the server could not be reached, or the connection broke.
type NetworkError struct {
	Server string
	Err    error
	// Code is stable and meant for programs; empty means CodeUnreachable.
	Code string
	// RetryAfter is how long the server asked to wait; zero if it did not say.
	RetryAfter time.Duration
}

func (e *NetworkError) Error() string { return fmt.Sprintf("%s: %v [%s]", e.Server, e.Err, e.code()) }
func (e *NetworkError) Unwrap() error { return e.Err }

// Hint says what to do next.
func (e *NetworkError) Hint() string { return hints[e.code()] }

func (e *NetworkError) code() string {
	if e.Code == "" {
		return CodeUnreachable
	}
	return e.Code
}

// TrustError: whatever answered is not a server that this device trusts.
type TrustError struct {
	Server string
	Err    error
	// Code is stable and meant for programs; empty means CodeUnknownCA.
	Code string
}

func (e *TrustError) Error() string {
	return fmt.Sprintf("%s is not to be trusted: %v [%s]", e.Server, e.Err, e.code())
}
func (e *TrustError) Unwrap() error { return e.Err }

// Hint says what to do next.
func (e *TrustError) Hint() string { return hints[e.code()] }

func (e *TrustError) code() string {
	if e.Code == "" {
		return CodeUnknownCA
	}
	return e.Code
}

// RetryAfter is how long the answer behind err asked to wait before the next attempt; zero if it
// did not say.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*NetworkError](err); ok {
		return e.RetryAfter
	}
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return p.RetryAfter
	}
	return 0
}

// handshakeCode is the code for a failed handshake other than for lack of trust.
func handshakeCode(err error) string {
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok && e.Conn != nil {
		return CodePortal // the first record was not TLS: usually an HTTP server's "400 Bad Request"
	}
	if lost(err) {
		return CodeLost
	}
	return CodeTLS
}

// lost reports whether a connection was lost or timed out.
func lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// dialCode is the code for a failure to connect.
func dialCode(err error) string {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return CodeDNS
	}
	return CodeUnreachable
}

// ChainCode is the code for an error in verifying a chain.
func ChainCode(err error) string {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return CodeServerExpired
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return CodeServerName
	}
	return CodeUnknownCA
}
