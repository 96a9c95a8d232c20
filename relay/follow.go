package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/relay/fetch"
	"github.com/hallmark-pki/hallmark/relay/stream"
	"github.com/hallmark-pki/hallmark/wire"
)

// errCut: the stream ended as soon as it began.
var errCut = errors.New("the feed ends as soon as it begins: does a proxy in between hold it back?")

// follow sends the changes after a number until the stream fails or ctx ends, or it ends in order
// (nil): a server that has reloaded may follow other issuers, or say when asked again why it ended
// the stream.
func (r *Relay) follow(ctx context.Context, after int64, to chan<- stream.Event) error {
	began := time.Now()
	err := r.read(ctx, after, to)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("the feed: %w", err)
	case time.Since(began) < time.Second:
		return errCut
	}
	return nil
}

// read reads one response of server-sent events. A server that is silent for three heartbeats is
// gone.
func (r *Relay) read(ctx context.Context, after int64, to chan<- stream.Event) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(fetch.Patience, func() { cancel(errSilent) })
	defer silence.Stop()
	header := http.Header{"Accept": {wire.StreamType}, "Cache-Control": {"no-cache"}}
	resp, err := r.Send(ctx, http.MethodGet, wire.PathChanges+"?after="+strconv.FormatInt(max(0, after), 10), header, nil)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, fetch.MaxSmall))
		return fetch.Refusal(resp, body)
	}
	events := stream.NewReader(resp.Body, func() { silence.Reset(3 * wire.Heartbeat) })
	for {
		e, err := events.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return cmp.Or(context.Cause(ctx), err)
		}
		select {
		case to <- e:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var errSilent = fmt.Errorf("nothing was heard for %v", 3*wire.Heartbeat)
