// Package job keeps acts on many devices and takes them step by step.
package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/outcome"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/people"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Store is a [record.Jobs].
type Store struct {
	db *engine.DB
	// CreateJob holds one of them: jobs of a chunk at most are judged and written one at a time, and
	// so, beside them, are great ones, which take seconds.
	small, great *sync.Mutex
}

// New keeps it in db.
func New(db *engine.DB) Store { return Store{db, new(sync.Mutex), new(sync.Mutex)} }

const selectJob = "SELECT seq, kind, operator, expression, reason, why, iif(expired, 'expired', state), created, ended, stages, until, total, due, told, change, changed, issuer FROM (SELECT * FROM jobs WHERE kind <> 'draft') jobs"

type numbered struct {
	seq int64
	record.Job
}

func scan(r engine.Row) numbered {
	j := record.Job{ID: rows.ID("j", r.Int(0)), Kind: r.Text(1), Operator: r.Text(2), Expression: r.Text(3), Reason: int(r.Int(4)), Why: r.Text(5),
		State: r.Text(6), Created: r.Time(7), Ended: r.Time(8), Until: r.Time(10), Total: r.Int(11), Due: r.Time(12), Told: r.Int(13),
		Change: r.Int(14), Changed: r.Time(15), Issuer: r.Text(16)}
	json.Unmarshal([]byte(r.Text(9)), &j.Stages) // begin wrote it, or ''
	return numbered{r.Int(0), j}
}

// find gives a job with its counts, or ErrNotFound.
func find(c *engine.Conn, id string) (record.Job, error) {
	found, err := engine.One(c, "job "+id, scan, selectJob+" WHERE seq = ?", rows.Number("j", id))
	if err == nil {
		err = count(context.Background(), c, &found.Job)
	}
	return found.Job, err
}

func count(ctx context.Context, c *engine.Conn, j *record.Job) error {
	j.Outcomes = map[string]int64{}
	seq := rows.Number("j", j.ID)
	tallies, err := engine.Query(ctx, c, scanTally, "SELECT outcome, devices FROM job_outcomes WHERE job = ? AND devices > 0", seq)
	if err == nil && len(tallies) == 0 { // of before there were any, or of no device
		tallies, err = engine.Query(ctx, c, scanTally, "SELECT "+became+", count(*) FROM jobs j CROSS JOIN job_devices p ON p.job = j.seq WHERE j.seq = ? GROUP BY 1", seq)
	}
	for _, t := range tallies {
		j.Outcomes[t.Name] = t.Count
	}
	return err
}

// Job finds by ID.
func (s Store) Job(ctx context.Context, id string) (record.Job, error) {
	return engine.Get(ctx, s.db, "job "+id, func(c *engine.Conn) (*record.Job, error) {
		j, err := find(c, id)
		return &j, err
	})
}

// Jobs pages by the order of creation, backwards.
func (s Store) Jobs(ctx context.Context, p record.Page) (list []record.Job, next string, err error) {
	before, err := engine.Cursor(p, 1<<62)
	if err != nil {
		return nil, "", err
	}
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, scan, selectJob+" WHERE seq < ? ORDER BY seq DESC LIMIT ?", before, p.Limit+1)
		found, next = engine.Cut(found, p, func(j numbered) int64 { return j.seq })
		list, err = counted(ctx, c, found, err)
		return err
	})
	return list, next, err
}

// counted adds their counts to the jobs that a query found.
func counted(ctx context.Context, c *engine.Conn, found []numbered, err error) (list []record.Job, _ error) {
	for _, f := range found {
		if err == nil {
			err = count(ctx, c, &f.Job)
		}
		list = append(list, f.Job)
	}
	return list, err
}

func (s Store) list(ctx context.Context, where string) (list []record.Job, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, scan, selectJob+" WHERE "+where+" ORDER BY seq")
		list, err = counted(ctx, c, found, err)
		return err
	})
	return list, err
}

// became is the outcome of a device p of a job j: those that a cancelled job did not reach have none
// of their own, since writing it on each would keep others waiting.
const became = "iif(p.outcome = '' AND j.state = 'cancelled', 'cancelled', p.outcome)"

// JobDevices pages by position.
func (s Store) JobDevices(ctx context.Context, id, outcome string, p record.Page) (list []record.JobDevice, next string, err error) {
	after, err := engine.Cursor(p, 0)
	if err != nil {
		return nil, "", err
	}
	type row struct {
		position int64
		record.JobDevice
	}
	sql, args := "", []any{rows.Number("j", id), after}
	if outcome != "" {
		what := "p.outcome" // which there is an index of
		if outcome == record.OutcomeCancelled {
			what = became
		}
		sql, args = " AND "+what+" = ?", append(args, outcome)
	}
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, func(r engine.Row) row {
			return row{r.Int(0), record.JobDevice{Device: r.Text(1), Name: r.Text(2), Outcome: r.Text(3), At: r.Time(4)}}
		}, "SELECT p.position, d.id, d.model || ':' || d.serial, "+became+", coalesce(p.at, j.ended) FROM jobs j CROSS JOIN job_devices p CROSS JOIN devices d WHERE j.seq = ? AND p.job = j.seq AND d.seq = p.device AND p.position > ?"+
			sql+" ORDER BY p.position LIMIT ?", append(args, p.Limit+1)...)
		found, next = engine.Cut(found, p, func(r row) int64 { return r.position })
		for _, f := range found {
			list = append(list, f.JobDevice)
		}
		return err
	})
	return list, next, err
}

// UnfinishedJobs reads an index of them.
func (s Store) UnfinishedJobs(ctx context.Context) ([]record.Job, error) {
	return s.list(ctx, "state IN ('running', 'publishing')")
}

// IssuerRevocations reads an index of them.
func (s Store) IssuerRevocations(ctx context.Context) ([]record.Job, error) {
	return s.list(ctx, `issuer <> '' AND kind = 'revoke-issuer' AND (state <> 'cancelled' OR EXISTS (
		SELECT 1 FROM job_devices WHERE job = jobs.seq AND outcome IN ('done', 'unchanged')))`)
}

// PauseJob keeps what has happened.
func (s Store) PauseJob(ctx context.Context, id string, e record.Event) (record.Job, error) {
	return s.move(ctx, id, record.JobPaused, time.Time{}, e, record.JobRunning)
}

// FinishJob ends what has been published.
func (s Store) FinishJob(ctx context.Context, id string, at time.Time, e record.Event) (record.Job, error) {
	return s.move(ctx, id, record.JobDone, at, e, record.JobPublishing)
}

// move changes the state of a job that is in one of the others.
func (s Store) move(ctx context.Context, id, to string, ended time.Time, e record.Event, from ...string) (j record.Job, err error) {
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		if j, err = find(c, id); err != nil {
			return err
		}
		if !slices.Contains(from, j.State) {
			return fmt.Errorf("%w: job %s is %s", record.ErrConflict, id, j.State)
		}
		j.State, j.Ended = to, ended
		return setState(c, j)
	})
	return j, err
}

func setState(c *engine.Conn, j record.Job) error {
	_, err := c.Exec("UPDATE jobs SET state = ?, ended = ? WHERE seq = ?", j.State, j.Ended, rows.Number("j", j.ID))
	return err
}

// ResumeJob asks what StepJob would pause for at once.
func (s Store) ResumeJob(ctx context.Context, id string, at time.Time, e record.Event) (j record.Job, err error) {
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		if j, err = find(c, id); err != nil {
			return err
		}
		if j.State != record.JobPaused {
			return fmt.Errorf("%w: job %s is %s", record.ErrConflict, id, j.State)
		}
		if why, err := held(c, j, at); err != nil || why != "" {
			return errors.Join(err, fmt.Errorf("%w: %s", record.ErrConflict, why))
		}
		j.State = record.JobRunning
		return setState(c, j)
	})
	return j, err
}

// held says why a job may not go on; empty if it may.
func held(c *engine.Conn, j record.Job, at time.Time) (string, error) {
	o, err := people.Operator(c, j.Operator)
	switch {
	case err != nil:
		return "", err
	case !o.Disabled.IsZero():
		return "the operator who asked for it, " + o.Name + ", is disabled", nil
	case !j.Until.IsZero() && !at.Before(j.Until):
		return "its break-glass has ended and was not reviewed", nil
	}
	return "", nil
}

// CancelJob also counts the devices that it did not come to.
func (s Store) CancelJob(ctx context.Context, id string, at time.Time, e record.Event) (j record.Job, err error) {
	err = s.db.Write(ctx, func(c *engine.Conn) error {
		if j, err = find(c, id); err != nil {
			return err
		}
		if !slices.Contains([]string{record.JobWaiting, record.JobRunning, record.JobPaused}, j.State) {
			return fmt.Errorf("%w: job %s is %s", record.ErrConflict, id, j.State)
		}
		return end(ctx, c, &j, at, e)
	})
	return j, err
}

// end cancels what a job has not come to. A plan that was made with it has an earlier number,
// and no use if nothing was revoked.
func end(ctx context.Context, c *engine.Conn, j *record.Job, at time.Time, e record.Event) error {
	if j.Kind == record.JobRevokeIssuer {
		plan, err := engine.First(c, scan, selectJob+` WHERE issuer <> '' AND issuer = ? AND created = ? AND kind = 'renew' AND state IN ('running', 'paused')
			AND NOT EXISTS (SELECT 1 FROM job_devices WHERE job = ? AND outcome IN ('done', 'unchanged'))`, j.Issuer, j.Created, rows.Number("j", j.ID))
		if err != nil {
			return err
		}
		if plan != nil {
			detail := map[string]string{"plan": plan.ID}
			maps.Copy(detail, e.Detail)
			e.Detail = detail
			if err := drop(ctx, c, &plan.Job, at); err != nil {
				return err
			}
		}
	}
	if err := drop(ctx, c, j, at); err != nil {
		return err
	}
	return audit.Add(c, e)
}

// drop ends a job with what it has come to.
func drop(ctx context.Context, c *engine.Conn, j *record.Job, at time.Time) error {
	if err := count(ctx, c, j); err != nil {
		return err
	}
	if err := outcome.Tally(c, rows.Number("j", j.ID), record.OutcomeCancelled, j.Outcomes[record.OutcomePending]); err != nil {
		return err
	}
	j.State, j.Ended = record.JobCancelled, at
	if err := setState(c, *j); err != nil {
		return err
	}
	return count(ctx, c, j)
}

// ExpireJobs looks at the requests that nobody has approved, which are few.
func (s Store) ExpireJobs(ctx context.Context, at time.Time, event func(record.Job) record.Event) error {
	var overdue []numbered
	look := func(c *engine.Conn) (err error) {
		overdue, err = engine.Query(ctx, c, scan, selectJob+` WHERE state = 'waiting' AND seq IN (
			SELECT CAST(substr(subject, 2) AS INTEGER) FROM approvals WHERE approver IS NULL AND kind = 'job' AND expires <= ?)`, at)
		return err
	}
	if err := s.db.Read(ctx, look); err != nil || len(overdue) == 0 {
		return err
	}
	return s.db.Write(ctx, func(c *engine.Conn) error {
		if err := look(c); err != nil {
			return err
		}
		for _, j := range overdue {
			if err := end(ctx, c, &j.Job, at, event(j.Job)); err != nil {
				return err
			}
			if _, err := c.Exec("UPDATE jobs SET expired = 1 WHERE seq = ?", j.seq); err != nil {
				return err
			}
		}
		return nil
	})
}

// RevokedAlone adds up events and jobs; the events of a job name it. A job counts until a
// day after its end: paused ones could be saved up otherwise, and resumed together.
func (s Store) RevokedAlone(ctx context.Context, operator string, since time.Time) (total int64, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		one, err := engine.First(c, engine.Number, `SELECT count(*) FROM events WHERE verb IN ('device.revoked', 'device.retired', 'device.granted')
			AND actor = ? AND time > ? AND CASE verb WHEN 'device.granted' THEN detail LIKE '%"new_key":"true"%' ELSE detail NOT LIKE '%"job":%' END`, "operator:"+operator, since)
		if err != nil {
			return err
		}
		many, err := engine.First(c, engine.Number, `SELECT coalesce(sum(total), 0) FROM jobs j WHERE operator = ? AND (created > ? OR ended IS NULL OR ended > ?)
			AND kind IN ('retire', 'revoke') AND NOT EXISTS (SELECT 1 FROM approvals WHERE subject = 'j' || j.seq AND kind IN ('job', 'review'))`, operator, since, since)
		if err == nil {
			total = *one + *many
		}
		return err
	})
	return total, err
}

// Conclude looks before it writes: few devices are in a job.
func (s Store) Conclude(ctx context.Context, kind, device, as string, at time.Time) error {
	if as == record.OutcomePending || (record.Job{Kind: kind}).Target() != "" {
		return fmt.Errorf("conclude: outcome %q of a job of kind %q", as, kind)
	}
	var seq *int64
	var pending []int64
	err := s.db.View(ctx, func(c *engine.Conn) (err error) {
		if seq, err = engine.First(c, engine.Number, "SELECT seq FROM devices WHERE id = ?", device); err == nil && seq != nil {
			pending, err = outcome.Pending(c, kind, *seq)
		}
		return err
	})
	if err != nil || len(pending) == 0 {
		return err
	}
	return s.db.Write(ctx, func(c *engine.Conn) error { return outcome.Conclude(c, kind, *seq, as, at) })
}

func scanTally(r engine.Row) record.Tally { return record.Tally{Name: r.Text(0), Count: r.Int(1)} }
