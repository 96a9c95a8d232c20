package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// maxEvents bounds one listing of events.
const maxEvents = 10_000

// addEvent writes one line of audit in the transaction of its change.
func addEvent(c *engine.Conn, e record.Event) error {
	if e.Verb == "" || e.Time.IsZero() {
		return fmt.Errorf("an event needs a verb and a time: %+v", e)
	}
	var detail []byte
	if len(e.Detail) > 0 {
		var err error
		if detail, err = json.Marshal(e.Detail); err != nil {
			return err
		}
	}
	_, err := c.Exec("INSERT INTO events (time, actor, verb, object, reason, detail) VALUES (?, ?, ?, ?, ?, ?)",
		e.Time, e.Actor, e.Verb, e.Object, e.Reason, string(detail))
	return err
}

// Note writes all events or none.
func (s *Store) Note(ctx context.Context, es ...record.Event) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		for _, e := range es {
			if err := addEvent(c, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Events lists oldest first.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]record.Event, error) {
	return s.events(ctx, limit, "WHERE seq > ? ORDER BY seq LIMIT ?", after)
}

// LastEvents lists newest first.
func (s *Store) LastEvents(ctx context.Context, limit int) ([]record.Event, error) {
	return s.events(ctx, limit, "ORDER BY seq DESC LIMIT ?")
}

func (s *Store) events(ctx context.Context, limit int, tail string, args ...any) ([]record.Event, error) {
	if limit < 1 || limit > maxEvents {
		return nil, fmt.Errorf("list events: the limit is 1 to %d, not %d", maxEvents, limit)
	}
	var bad error
	scan := func(r engine.Row) record.Event {
		e := record.Event{Sequence: r.Int(0), Time: r.Time(1), Actor: r.Text(2), Verb: r.Text(3), Object: r.Text(4), Reason: r.Text(5)}
		if detail := r.Text(6); detail != "" {
			if err := json.Unmarshal([]byte(detail), &e.Detail); err != nil {
				bad = fmt.Errorf("event %d: %w", e.Sequence, err)
			}
		}
		return e
	}
	found, err := list(ctx, s, scan, "SELECT seq, time, actor, verb, object, reason, detail FROM events "+tail, append(args, limit)...)
	return found, cmp.Or(err, bad)
}
