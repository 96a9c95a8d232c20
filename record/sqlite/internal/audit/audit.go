// Package audit writes and reads the audit log: every change with its event, in one transaction.
package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Audit is a [record.Audit] and a [record.Alerts].
type Audit struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) Audit { return Audit{db} }

// maxEvents bounds one listing of events.
const maxEvents = 10_000

// ErrUnchanged is how a verb says that there was nothing to do.
var ErrUnchanged = errors.New("unchanged")

// Any is err, or ErrUnchanged if a statement changed no row.
func Any(n int64, err error) error {
	if err == nil && n == 0 {
		return ErrUnchanged
	}
	return err
}

// Change is a write with its event; no event is written if do returns ErrUnchanged.
func Change(ctx context.Context, db *engine.DB, e record.Event, do func(*engine.Conn) error) error {
	return db.Write(ctx, func(c *engine.Conn) error {
		if err := mayAct(c, e.By); err != nil {
			return err
		}
		switch err := do(c); err {
		case nil:
			e.By = "" // it was judged before the change, which may be that they leave
			return Add(c, e)
		case ErrUnchanged:
			return nil
		default:
			return err
		}
	})
}

// Spendable are the approvals that an act may spend at a time.
const Spendable = "approved IS NOT NULL AND spent IS NULL AND expires > ? AND (SELECT disabled FROM operators WHERE name = approver) IS NULL"

// mayAct refuses whoever was disabled (record.Event.By).
func mayAct(c *engine.Conn, by string) error {
	if by == "" {
		return nil
	}
	barred, err := engine.First(c, engine.Number, "SELECT 1 FROM operators WHERE name = ? AND disabled IS NOT NULL", by)
	if err != nil || barred == nil {
		return err
	}
	return fmt.Errorf("%s: %w", by, record.ErrDisabled)
}

// Add writes one line of audit in the transaction of its change, and spends the approval that
// this needed. It fails if the change is the act of somebody who may not act any more.
func Add(c *engine.Conn, e record.Event) error {
	if e.Verb == "" || e.Time.IsZero() {
		return fmt.Errorf("an event needs a verb and a time: %+v", e)
	}
	if err := mayAct(c, e.By); err != nil {
		return err
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
	if err == nil && e.Spends != "" {
		err = spend(c, rows.Number("a", e.Spends), e)
	}
	if err == nil && e.Alert {
		_, err = c.Exec("INSERT INTO alerts (event) SELECT max(seq) FROM events")
	}
	return err
}

// EndApprovals begins a statement that ends requests and approvals at ?1, and as if they had
// never been, for the clock may be set back; what follows may narrow it.
const EndApprovals = "UPDATE approvals SET expires = min(requested, ?1) WHERE spent IS NULL AND expires > min(requested, ?1)"

// spend also ends what others have asked for, or been given, to do the same: it is done.
func spend(c *engine.Conn, approval int64, e record.Event) error {
	n, err := c.Exec("UPDATE approvals SET spent = ? WHERE seq = ? AND "+Spendable, e.Time, approval, e.Time)
	if err == nil && n == 0 {
		err = fmt.Errorf("approval %s: %w", e.Spends, record.ErrSpent)
	}
	if err != nil {
		return err
	}
	_, err = c.Exec(EndApprovals+" AND subject = (SELECT subject FROM approvals WHERE seq = ?2) AND kind = (SELECT kind FROM approvals WHERE seq = ?2)", e.Time, approval)
	return err
}

// Note writes all events or none.
func (s Audit) Note(ctx context.Context, es ...record.Event) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		for _, e := range es {
			if err := Add(c, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Events lists oldest first.
func (s Audit) Events(ctx context.Context, after int64, limit int) ([]record.Event, error) {
	return s.events(ctx, limit, "WHERE e.seq > ? ORDER BY e.seq LIMIT ?", after)
}

// LastEvents lists newest first.
func (s Audit) LastEvents(ctx context.Context, limit int) ([]record.Event, error) {
	return s.events(ctx, limit, "ORDER BY e.seq DESC LIMIT ?")
}

// TrustEvents reads an index of them alone, whose condition this repeats.
func (s Audit) TrustEvents(ctx context.Context, limit int) ([]record.Event, error) {
	return s.events(ctx, limit, "WHERE e.verb IN ('trust.published', 'issuer.activated', 'issuer.listed', 'list.imported') ORDER BY e.seq DESC LIMIT ?")
}

// Alerts lists oldest first.
func (s Audit) Alerts(ctx context.Context, operator string, limit int) ([]record.Event, error) {
	return s.events(ctx, limit, `JOIN alerts a ON a.event = e.seq
		WHERE a.event > (SELECT alerted FROM operators WHERE name = ?) AND e.actor <> ? ORDER BY a.event LIMIT ?`, operator, "operator:"+operator)
}

// SeeAlerts never goes back.
func (s Audit) SeeAlerts(ctx context.Context, operator string, upTo int64) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		_, err := c.Exec("UPDATE operators SET alerted = ? WHERE name = ? AND alerted < ?", upTo, operator, upTo)
		return err
	})
}

func (s Audit) events(ctx context.Context, limit int, tail string, args ...any) ([]record.Event, error) {
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
	found, err := engine.List(ctx, s.db, scan, "SELECT e.seq, e.time, e.actor, e.verb, e.object, e.reason, e.detail FROM events e "+tail, append(args, limit)...)
	return found, cmp.Or(err, bad)
}
