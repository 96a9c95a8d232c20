package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/hallmark-pki/hallmark/wire"
)

// adopt makes a bundle, verified with the one before it or a pin, the one to trust.
func (c *Client) adopt(s wire.SignedBundle, b wire.Bundle) {
	c.signed, c.bundle, c.floor = s, &b, latest(c.floor, b.Created)
}

// fetchTrust follows the server's bundles from the one on file to the newest. The connection may
// be unverified, since bundles are signed.
func (c *Client) fetchTrust(conn *connection) error {
	if c.bundle == nil {
		return c.firstBundle(conn)
	}
	for {
		held := c.bundle.Number
		steps, err := conn.steps(held)
		if err != nil {
			return err
		}
		for _, s := range steps.Bundles {
			b, err := c.bundle.Follow(s)
			if err != nil {
				return &TrustError{Server: conn.server, Code: CodeBundle, Err: err}
			}
			c.adopt(s, b)
		}
		switch n := c.bundle.Number; {
		case steps.Newest < n:
			return &TrustError{Server: conn.server, Code: CodeRollback, Err: fmt.Errorf("its trust bundle %d is older than %d, which is on file", steps.Newest, n)}
		case steps.Newest == n:
			return nil
		case n == held || n > wire.MaxSteps:
			return &TrustError{Server: conn.server, Code: CodeBundle, Err: fmt.Errorf("it does not show the way from trust bundle %d to %d", n, steps.Newest)}
		}
	}
}

// UpdateTrust follows the server's trust bundles to the newest, so that what it now issues can be
// verified with its roots.
func (c *Client) UpdateTrust(ctx context.Context) error {
	return c.use(ctx, nil, c.fetchTrust)
}

// firstBundle trusts the newest bundle if a pinned root has signed it. If that root is no longer
// among its signers, the first older bundle that it signed is trusted and followed to the newest.
func (c *Client) firstBundle(conn *connection) error {
	pinned := func(root [32]byte) bool { return c.pins[root] }
	var newest wire.SignedBundle
	if err := conn.call(http.MethodGet, wire.PathTrust, nil, &newest); err != nil {
		return err
	}
	b, refused := wire.OpenBundle(newest, pinned)
	if refused == nil {
		c.adopt(newest, b)
		return nil
	}
	for after := int64(0); after < wire.MaxSteps; {
		steps, err := conn.steps(after)
		if err != nil {
			return err
		}
		if len(steps.Bundles) == 0 {
			break
		}
		for _, s := range steps.Bundles {
			if b, err := wire.OpenBundle(s, pinned); err == nil {
				c.adopt(s, b)
				return c.fetchTrust(conn)
			}
		}
		after += int64(len(steps.Bundles))
	}
	return &TrustError{Server: conn.server, Err: refused}
}

// steps fetches the bundles that follow number after.
func (conn *connection) steps(after int64) (steps wire.TrustSteps, err error) {
	err = conn.call(http.MethodGet, wire.PathTrust+"?after="+strconv.FormatInt(after, 10), nil, &steps)
	return steps, err
}

// reconsider finds out why a server was not trusted. If the installation has moved on while this
// device was offline, newer bundles, which may come over an untrusted connection, say so, and
// moved is true. Otherwise refused gets a more exact code for what answers in the server's place.
func (c *Client) reconsider(ctx context.Context, refused *TrustError) (moved bool, err error) {
	conn, err := c.dial(ctx, refused.Server, nil, false)
	if err != nil {
		return false, refused
	}
	defer conn.Close()
	before := c.bundle.Number
	if err := c.fetchTrust(conn); c.bundle.Number > before {
		return true, nil
	} else if e, ok := errors.AsType[*NetworkError](err); ok && e.Code == CodePortal {
		refused.Code = CodePortal
		return false, refused
	} else if err != nil || refused.Code != CodeUnknownCA {
		return false, refused
	}
	var newest wire.SignedBundle
	if conn.call(http.MethodGet, wire.PathTrust, nil, &newest) == nil && slices.Equal(newest.Bundle, c.signed.Bundle) {
		refused.Code = CodeIntercepted
	}
	return false, refused
}
