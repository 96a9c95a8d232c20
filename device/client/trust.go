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

// adopt makes a bundle that was held against the one before it, or against a pin, the
// one to trust.
func (c *Client) adopt(s wire.SignedBundle, b wire.Bundle) {
	c.signed, c.bundle, c.floor = s, &b, latest(c.floor, b.Created)
}

// fetchTrust follows the server's bundles from the one on file to the newest. It may be
// called over a connection to anybody: bundles are signed in themselves.
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

// UpdateTrust follows the server's trust bundles to the newest, so that what it issues
// now can be held against its roots.
func (c *Client) UpdateTrust(ctx context.Context) error {
	return c.use(ctx, nil, c.fetchTrust)
}

// firstBundle believes the newest bundle if a pinned root has signed it. If that root is
// not among its signers any more, the first of the older ones that it signed is where
// the way to the newest begins.
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

// steps asks for the bundles that follow number after.
func (conn *connection) steps(after int64) (steps wire.TrustSteps, err error) {
	err = conn.call(http.MethodGet, wire.PathTrust+"?after="+strconv.FormatInt(after, 10), nil, &steps)
	return steps, err
}

// reconsider looks for a reason why a server was not believed. Either the installation
// has moved on while this device slept: then its newer bundles, which need no trust in
// whoever brings them, say so, and moved is true. Or refused is made to say more exactly
// what stands in the server's place.
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
