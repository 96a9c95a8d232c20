// Package fetch asks a server that may be slow, or in other hands, for one answer: it is bounded in
// size, and in time by what has come of it.
package fetch

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

const (
	// Patience is how long an answer may take to begin, or stop for.
	Patience = 60 * time.Second
	// slowestLine is the rate, in bytes a second, at which an answer must come after Patience: half of
	// 1 Mbit/s.
	slowestLine = 62_500
	// MaxSmall bounds an answer that is not a list, in bytes.
	MaxSmall = 1 << 20
)

// Send makes one exchange with the server.
type Send func(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error)

// Get makes one GET and reads at most limit bytes. If what has the tag known (empty: nothing is known)
// has not changed it gives that tag and no body.
func Get(ctx context.Context, send Send, path, known string, limit int64) (body []byte, tag string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	comes := steady{began: time.Now(), end: time.AfterFunc(Patience, func() { cancel(errSlow) })}
	defer comes.end.Stop()
	header := http.Header{"Cache-Control": {"no-cache"}}
	if known != "" {
		header.Set("If-None-Match", known)
	}
	resp, err := send(ctx, http.MethodGet, path, header, nil)
	if err != nil {
		return nil, "", cmp.Or(context.Cause(ctx), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && known != "" {
		return nil, known, nil
	}
	if resp.StatusCode != http.StatusOK {
		limit = MaxSmall
	}
	comes.Reader = resp.Body
	body, err = io.ReadAll(io.LimitReader(&comes, limit+1))
	switch {
	case err != nil:
		return nil, "", cmp.Or(context.Cause(ctx), err)
	case resp.StatusCode != http.StatusOK:
		return nil, "", Refusal(resp, body)
	case int64(len(body)) > limit:
		return nil, "", fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return body, resp.Header.Get("ETag"), nil
}

// steady reads an answer for as long as it comes, until end fires: nothing has come for Patience, or in
// all less than slowestLine after it.
type steady struct {
	io.Reader
	began time.Time
	got   int64
	end   *time.Timer
}

func (s *steady) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.got += int64(n)
	allowed := Patience + time.Duration(s.got)*time.Second/slowestLine
	s.end.Reset(min(Patience, allowed-time.Since(s.began)))
	return n, err
}

var errSlow = fmt.Errorf("the answer stops, or comes at less than %d bytes a second", slowestLine)

// Refusal is the server's problem (RFC 9457), or the status for want of one.
func Refusal(resp *http.Response, body []byte) error {
	var p wire.Problem
	if resp.Header.Get("Content-Type") == wire.ProblemType && json.Unmarshal(body, &p) == nil && p.Detail != "" {
		p.Status = resp.StatusCode
		return &p
	}
	return fmt.Errorf("the server answers %s", resp.Status)
}
