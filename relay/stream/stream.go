// Package stream reads the feed of changes, which is server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html), from a server that may
// say anything.
package stream

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"github.com/hallmark-pki/hallmark/wire"
)

// Event is one event of the stream: a change, or only the position.
type Event struct {
	Number int64
	Change *wire.Change
}

// MaxLine bounds a line of the stream, and the data of an event, in bytes.
const MaxLine = 8 << 10

// Reader reads events.
type Reader struct {
	lines *bufio.Reader
	heard func()
}

// NewReader calls heard for every line that comes, an event or not.
func NewReader(from io.Reader, heard func()) *Reader {
	return &Reader{bufio.NewReaderSize(from, MaxLine), heard}
}

// Next reads up to the next event that means something to us.
func (r *Reader) Next() (Event, error) {
	var kind, data string
	for {
		raw, err := r.lines.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = wire.ErrTooLarge
			}
			return Event{}, err
		}
		r.heard()
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
			if data += value; len(data) > MaxLine {
				return Event{}, wire.ErrTooLarge
			}
		}
	}
}

func decode(kind, data string) (e Event, known bool, err error) {
	switch kind {
	case wire.EventChange:
		c, err := wire.DecodeChange([]byte(data))
		return Event{c.Number, &c}, true, err
	case wire.EventCurrent:
		p, err := wire.DecodePosition([]byte(data))
		return Event{p.Number, nil}, true, err
	}
	return Event{}, false, nil
}

// Add puts an event behind others that are to be looked at. Of positions without a change
// between them the last says it all: they alone, sent as fast as the network carries them,
// would be kept without end.
func Add(later []Event, e Event) []Event {
	if n := len(later); n > 0 && e.Change == nil && later[n-1].Change == nil {
		later[n-1].Number = max(later[n-1].Number, e.Number)
		return later
	}
	return append(later, e)
}
