package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// event is one of the stream: a change, or only how far the stream has come.
type event struct {
	number int64
	change *wire.Change
}

// errCut: the stream ended as soon as it began.
var errCut = errors.New("the feed ends as soon as it begins: does a proxy in between hold it back?")

// follow sends the changes after a number until the stream fails or ctx ends, or it ends in order:
// a server that was told anew may know of other issuers, or say why it ended it.
func (r *Relay) follow(ctx context.Context, after int64, to chan<- event) error {
	began := time.Now()
	err := r.stream(ctx, after, to)
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

// stream reads one answer of server-sent events. Whoever is silent for three heartbeats
// is gone.
func (r *Relay) stream(ctx context.Context, after int64, to chan<- event) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(exchangeTimeout, cancel)
	defer silence.Stop()
	header := http.Header{"Accept": {wire.StreamType}, "Cache-Control": {"no-cache"}}
	resp, err := r.Send(ctx, http.MethodGet, wire.PathChanges+"?after="+strconv.FormatInt(max(0, after), 10), header, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxSmall))
		return refusal(resp, body)
	}
	lines := bufio.NewReaderSize(resp.Body, maxLine)
	for {
		e, err := readEvent(lines, func() { silence.Reset(3 * wire.Heartbeat) })
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("nothing was heard for %v", 3*wire.Heartbeat)
		case err != nil:
			return err
		}
		select {
		case to <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxLine bounds a line of the stream, in bytes.
const maxLine = 8 << 10

// readEvent reads up to the next event that means something to us
// (https://html.spec.whatwg.org/multipage/server-sent-events.html); heard is called for
// every line.
func readEvent(lines *bufio.Reader, heard func()) (event, error) {
	var kind, data string
	for {
		raw, err := lines.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = wire.ErrTooLarge
			}
			return event{}, err
		}
		heard()
		line := strings.TrimRight(string(raw), "\r\n")
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			e, known, err := decode(kind, data)
			if err != nil || known {
				return e, err
			}
			kind, data = "", ""
		case field == "event":
			kind = value
		case field == "data":
			if data += value; len(data) > maxLine {
				return event{}, wire.ErrTooLarge
			}
		}
	}
}

func decode(kind, data string) (e event, known bool, err error) {
	switch kind {
	case wire.EventChange:
		c, err := wire.DecodeChange([]byte(data))
		return event{c.Number, &c}, true, err
	case wire.EventCurrent:
		p, err := wire.DecodePosition([]byte(data))
		return event{p.Number, nil}, true, err
	}
	return event{}, false, nil
}
