// Package approval keeps what needs a second operator's consent, and the settings that
// need it to change.
package approval

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/people"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Approvals is a [record.Approvals] and a [record.Settings].
type Approvals struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) Approvals { return Approvals{db} }

const selectApproval = "SELECT seq, kind, subject, why, requester, requested, expires, approver, approved FROM approvals"

func scan(r engine.Row) record.Approval {
	return record.Approval{ID: rows.ID("a", r.Int(0)), Kind: r.Text(1), Subject: r.Text(2), Why: r.Text(3), Requester: r.Text(4),
		Requested: r.Time(5), Expires: r.Time(6), Approver: r.Text(7), Approved: r.Time(8)}
}

func find(c *engine.Conn, id string) (*record.Approval, error) {
	return engine.First(c, scan, selectApproval+" WHERE seq = ?", rows.Number("a", id))
}

// Add records a request in the caller's transaction.
func Add(c *engine.Conn, a record.Approval) error {
	_, err := c.Exec("INSERT INTO approvals (kind, subject, why, requester, requested, expires) VALUES (?, ?, ?, ?, ?, ?)",
		a.Kind, a.Subject, a.Why, a.Requester, a.Requested, a.Expires)
	return err
}

// RequestApproval finds an open request by its subject.
func (s Approvals) RequestApproval(ctx context.Context, a record.Approval, e record.Event) (out record.Approval, err error) {
	const newest = selectApproval + " WHERE kind = ? AND subject = ? AND requester = ? AND approver IS NULL AND expires > ? ORDER BY seq DESC LIMIT 1"
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		look := func() (*record.Approval, error) {
			return engine.First(c, scan, newest, a.Kind, a.Subject, a.Requester, a.Requested)
		}
		found, err := look()
		if err != nil {
			return err
		}
		if found != nil {
			out = *found
			return audit.ErrUnchanged
		}
		if err := Add(c, a); err != nil {
			return err
		}
		if found, err = look(); err == nil {
			out = *found
		}
		return err
	})
	return out, err
}

// Approve also starts the job that waits for it, or ends the term of its break-glass.
func (s Approvals) Approve(ctx context.Context, id, operator string, at time.Time, e record.Event) (out record.Approval, err error) {
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		a, err := find(c, id)
		switch {
		case err != nil:
			return err
		case a == nil:
			return fmt.Errorf("request %s: %w", id, record.ErrNotFound)
		case a.Approver != "":
			return fmt.Errorf("%w: %s has approved it", record.ErrConflict, a.Approver)
		case a.Requester == operator:
			return fmt.Errorf("%w: the requester cannot approve", record.ErrConflict)
		case !a.Expires.IsZero() && !a.Expires.After(a.Requested): // audit.EndApprovals
			return fmt.Errorf("%w: the request was ended: another for the same was granted and done, or the record was restored", record.ErrConflict)
		case !a.Expires.IsZero() && !a.Expires.After(at):
			return fmt.Errorf("%w: the request has expired", record.ErrConflict)
		}
		// A review is of what was done, so its requester may be gone.
		judges := []string{operator, a.Requester}
		if a.Kind == record.ReviewJob {
			judges = judges[:1]
		}
		for _, name := range judges {
			if err := enabled(c, name); err != nil {
				return err
			}
		}
		if _, err := c.Exec("UPDATE approvals SET approver = ?, approved = ? WHERE seq = ?", operator, at, rows.Number("a", id)); err != nil {
			return err
		}
		out = *a
		out.Approver, out.Approved = operator, at
		return release(c, *a)
	})
	return out, err
}

// enabled refuses an operator who is disabled.
func enabled(c *engine.Conn, name string) error {
	o, err := people.Operator(c, name)
	if err == nil && !o.Disabled.IsZero() {
		err = fmt.Errorf("%w: operator %s is disabled", record.ErrConflict, name)
	}
	return err
}

// release does to a job what consent to it means.
func release(c *engine.Conn, a record.Approval) error {
	job := rows.Number("j", a.Subject)
	switch a.Kind {
	case record.ApproveJob:
		n, err := c.Exec("UPDATE jobs SET state = ? WHERE seq = ? AND state = ?", record.JobRunning, job, record.JobWaiting)
		return engine.Changed(n, err, "job "+a.Subject+" does not wait for approval any more")
	case record.ReviewJob:
		_, err := c.Exec("UPDATE jobs SET until = NULL WHERE seq = ?", job)
		return err
	}
	return nil
}

// GivenApproval takes the newest that fits.
func (s Approvals) GivenApproval(ctx context.Context, kind, subject, requester string, at time.Time) (record.Approval, error) {
	return engine.Get(ctx, s.db, "approval of "+subject, func(c *engine.Conn) (*record.Approval, error) {
		return engine.First(c, scan, selectApproval+" WHERE kind = ? AND subject = ? AND requester = ? AND "+audit.Spendable+" ORDER BY seq DESC LIMIT 1", kind, subject, requester, at)
	})
}

// EndApprovals ends them as if they had never been, for the clock may be set back. It writes
// no event if there is none.
func (s Approvals) EndApprovals(ctx context.Context, at time.Time, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		return audit.Any(c.Exec(audit.EndApprovals, at))
	})
}

// Approval finds by ID.
func (s Approvals) Approval(ctx context.Context, id string) (record.Approval, error) {
	return engine.Get(ctx, s.db, "request "+id, func(c *engine.Conn) (*record.Approval, error) { return find(c, id) })
}

// ApprovalsOf lists oldest first.
func (s Approvals) ApprovalsOf(ctx context.Context, kind, subject string) ([]record.Approval, error) {
	return engine.List(ctx, s.db, scan, selectApproval+" WHERE subject = ? AND kind = ? ORDER BY seq", subject, kind)
}

// OpenApprovals passes over requests for jobs that wait no more.
func (s Approvals) OpenApprovals(ctx context.Context, at time.Time) ([]record.Approval, error) {
	return engine.List(ctx, s.db, scan, selectApproval+` a WHERE approver IS NULL AND (expires IS NULL OR expires > ?)
		AND (kind <> 'job' OR EXISTS (SELECT 1 FROM jobs j WHERE j.seq = CAST(substr(a.subject, 2) AS INTEGER) AND j.state = 'waiting')) ORDER BY seq`, at)
}

// Setting finds by name.
func (s Approvals) Setting(ctx context.Context, name string) (string, error) {
	return engine.Get(ctx, s.db, "setting "+name, func(c *engine.Conn) (*string, error) {
		return engine.First(c, engine.Text, "SELECT value FROM settings WHERE name = ?", name)
	})
}

// SetSetting writes no event if the value is the same.
func (s Approvals) SetSetting(ctx context.Context, name, value string, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		return audit.Any(c.Exec("INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE value <> excluded.value", name, value))
	})
}
