package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Send makes one exchange of a relay, whose answers may be long and may last: it has no
// limit of its own but ctx. The path begins with a slash; the caller closes the body.
func (c *Client) Send(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.settings.Server+path, body)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := (&http.Client{Transport: c.http.Transport, CheckRedirect: c.http.CheckRedirect}).Do(req)
	if err != nil {
		return nil, unreachable(ctx, c.settings.Server, err)
	}
	return resp, nil
}

// Keep renews the certificate whenever it is due, and forgets roots that are trusted no more,
// until ctx ends.
func (c *Client) Keep(ctx context.Context) {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		c.renewIfDue(ctx)
		c.forget(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.another: // whose certificates may soon be the only ones to count
		}
	}
}

// Pinned are the SHA-256 of the infrastructure roots that the settings name.
func (c *Client) Pinned() (sums [][32]byte, err error) {
	text, err := readFile(c.settings.Roots)
	if err != nil {
		return nil, err
	}
	if sums = fingerprints(text); len(sums) == 0 {
		return nil, fmt.Errorf("roots: %s holds no PEM certificate", c.settings.Roots)
	}
	return sums, nil
}
