package client

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// clock is what is known about the time (design decision 10). The system clock is trusted once a
// server's chain has verified at it; otherwise the server's signed time is used, advanced from
// when it was learned.
type clock struct {
	known bool
	// learned is the server's time and at the system's at that moment; zero if the system clock
	// is trusted.
	learned, at time.Time
}

// Now is the best estimate of the time: verified once the server was reached, and never before
// the floor.
func (c *Client) Now() time.Time {
	now := c.system()
	if !c.clock.learned.IsZero() {
		// Sub uses the monotonic clock, which setting the system clock does not affect.
		now = c.clock.learned.Add(now.Sub(c.clock.at))
	}
	return latest(now, c.floor)
}

// Learned is the server's time if the system clock was wrong; zero if it was right, or nothing is
// known yet.
func (c *Client) Learned() time.Time {
	if c.clock.learned.IsZero() {
		return time.Time{}
	}
	return c.Now()
}

// judge verifies a server's chain. limited means that it is valid, but at a time of our choice:
// then only the time and the trust bundle may be exchanged.
func (c *Client) judge(chain []*x509.Certificate, host string) (limited bool, err error) {
	verify := func(at time.Time) error { return c.verifyChain(chain, host, at) }
	if c.clock.known {
		return false, verify(c.Now())
	}
	if now := c.system(); !now.Before(c.floor) {
		if err = verify(now); err == nil {
			c.clock = clock{known: true}
			return false, nil
		}
	}
	return true, verify(latest(c.floor, newestStart(chain)))
}

// newestStart is the latest notBefore of a chain: the earliest moment at which all of it is
// valid, which has passed if the chain is genuine.
func newestStart(chain []*x509.Certificate) time.Time {
	var t time.Time
	for _, certificate := range chain {
		t = latest(t, certificate.NotBefore)
	}
	return t
}

func (c *Client) verifyChain(chain []*x509.Certificate, host string, at time.Time) error {
	if len(chain) == 0 {
		return errors.New("it shows no certificate")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range c.bundle.Infrastructure {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		roots.AddCert(root)
	}
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	// The name is checked last, so that only a certificate that is otherwise ours yields an error
	// about the name.
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return err
	}
	return chain[0].VerifyHostname(host)
}

// learnTime exchanges a nonce for the signed time over a limited connection, at which the next
// connection's chain is verified. The bundle is fetched first, since the server may have new time
// keys.
func (c *Client) learnTime(conn *connection) error {
	if err := c.fetchTrust(conn); err != nil {
		return err
	}
	nonce := make([]byte, 32)
	rand.Read(nonce) // never fails since Go 1.24
	var answer wire.TimeAnswer
	if err := conn.call(http.MethodPost, wire.PathTime, wire.TimeRequest{Nonce: nonce}, &answer); err != nil {
		return err
	}
	now, err := answer.Open(nonce, c.bundle.TimeKeys)
	if err != nil {
		return &TrustError{Server: conn.server, Code: CodeTime, Err: err}
	}
	c.clock = clock{known: true, learned: now, at: c.system()}
	return nil
}
