package job

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/approval"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/filter"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/outcome"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/people"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// chunk is how many devices of a job are written in one transaction, and so how long others
// who want to write wait for it: 7 µs each, and more with what the transaction has changed.
const chunk = 1000

// CreateJob reads and judges on a reader's view, which keeps nobody waiting, and then writes the
// devices a chunk at a time. The last chunk makes it a job; before, it is a draft: a waiting job of
// the kind 'draft', which selectJob leaves out. A job of one chunk is written at once and waits for
// no draft.
func (s Store) CreateJob(ctx context.Context, of record.Selection, at time.Time, judge record.JobJudge) (j record.Job, err error) {
	var devices []int64
	err = s.db.View(ctx, func(c *engine.Conn) error {
		devices, err = choose(ctx, c, of)
		return err
	})
	if err != nil {
		return j, err
	}
	making, great := s.small, len(devices) > chunk
	if great {
		making = s.great
	}
	making.Lock()
	defer making.Unlock()
	if great {
		if err := s.sweep(ctx); err != nil {
			return j, err
		}
	}
	plan, j, err := s.judged(ctx, devices, at, judge)
	if err != nil {
		return j, err
	}
	for from := 0; from == 0 || from < len(devices); from += chunk {
		to := min(from+chunk, len(devices))
		err := s.db.Write(ctx, func(c *engine.Conn) error {
			if from == 0 {
				if err := begin(c, &plan.Job); err != nil {
					return err
				}
			}
			if err := add(c, plan.Job.ID, from, devices[from:to]); err != nil || to < len(devices) {
				return err
			}
			j, err = finish(c, plan)
			return err
		})
		if err != nil {
			return j, err
		}
	}
	return j, nil
}

// judged has the judge decide on a job about devices. A job that waits for the same already is
// returned with ErrExists.
func (s Store) judged(ctx context.Context, devices []int64, at time.Time, judge record.JobJudge) (plan record.JobPlan, waits record.Job, err error) {
	list, err := json.Marshal(devices)
	if err != nil {
		return plan, waits, err
	}
	err = s.db.View(ctx, func(c *engine.Conn) error {
		v, err := view(ctx, c, string(list), int64(len(devices)), at)
		if err != nil {
			return err
		}
		if plan, err = judge(v); err != nil {
			return err
		}
		plan.Job.Total = v.Total
		earlier, err := alike(ctx, c, string(list), plan.Job, at)
		if err == nil && earlier != nil {
			waits, err = *earlier, fmt.Errorf("job %s waits for the same: %w", earlier.ID, record.ErrExists)
		}
		if err == nil && plan.Job.Kind == record.JobRenew {
			err = crowded(c, string(list))
		}
		return err
	})
	return plan, waits, err
}

// sweep removes what is left of a job whose making was cut off. Its caller holds great: nobody has
// begun another.
func (s Store) sweep(ctx context.Context) error {
	for {
		var draft *int64
		err := s.db.Read(ctx, func(c *engine.Conn) (err error) {
			draft, err = engine.First(c, engine.Number, "SELECT seq FROM jobs WHERE kind = 'draft' LIMIT 1")
			return err
		})
		if err != nil || draft == nil {
			return err
		}
		err = s.db.Write(ctx, func(c *engine.Conn) error {
			n, err := c.Exec("DELETE FROM job_devices WHERE job = ? AND position > (SELECT max(position) FROM job_devices WHERE job = ?) - ?", *draft, *draft, chunk)
			if err == nil && n == 0 {
				_, err = c.Exec("DELETE FROM jobs WHERE seq = ? AND kind = 'draft'", *draft)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
}

// choose lists the devices of a selection in the order of their IDs.
func choose(ctx context.Context, c *engine.Conn, of record.Selection) ([]int64, error) {
	chosen, args, err := filter.Selection(of)
	if err != nil {
		return nil, err
	}
	devices, err := engine.Query(ctx, c, engine.Number, "SELECT d.seq FROM devices d WHERE "+chosen+" ORDER BY d.id", args...)
	if err == nil && of.Devices != nil && len(devices) != len(of.Devices) {
		err = fmt.Errorf("a device of those named: %w", record.ErrNotFound)
	}
	return append([]int64{}, devices...), err // never nil: JSON would have it null
}

func view(ctx context.Context, c *engine.Conn, devices string, total int64, at time.Time) (v record.JobView, err error) {
	v.Total = total
	left, err := engine.Query(ctx, c, engine.Number,
		"SELECT 1 FROM devices d WHERE d.state <> 'revoked' AND d.seq NOT IN (SELECT value FROM json_each(?1)) LIMIT 1"+filter.Chosen, devices)
	if err != nil {
		return v, err
	}
	v.Everything = len(left) == 0
	if v.WholeLots, err = lotsEnded(ctx, c, "SELECT value AS device FROM json_each(?1)", devices, at); err != nil {
		return v, err
	}
	v.Able, err = engine.Query(ctx, c, engine.Text, people.SelectAble, at, at.Add(-record.AbleAfterDisabling))
	return v, err
}

// alike finds a waiting job that asks for the same as j, if j would wait; nil if there is none. Two
// jobs about the same devices have each in the same position.
func alike(ctx context.Context, c *engine.Conn, devices string, j record.Job, at time.Time) (*record.Job, error) {
	if j.State != record.JobWaiting {
		return nil, nil
	}
	waiting, err := engine.Query(ctx, c, scan, selectJob+` WHERE state = 'waiting' AND operator = ? AND kind = ? AND expression = ? AND issuer = ? AND reason = ? AND why = ? AND total = ?
		AND EXISTS (SELECT 1 FROM approvals WHERE subject = 'j' || jobs.seq AND kind = 'job' AND expires > ?)
		AND NOT EXISTS (SELECT 1 FROM json_each(?) o CROSS JOIN job_devices b WHERE b.job = jobs.seq AND b.position = o.key + 1 AND b.device <> o.value)`,
		j.Operator, j.Kind, j.Expression, j.Issuer, j.Reason, j.Why, j.Total, at, devices)
	for _, w := range waiting {
		if err == nil && slices.Equal(w.Stages, j.Stages) {
			return &w.Job, count(ctx, c, &w.Job)
		}
	}
	return nil, err
}

// crowded refuses a renewal plan of a device that is in record.MaxPlans others.
func crowded(c *engine.Conn, devices string) error {
	full, err := engine.First(c, engine.Text, `SELECT d.model || ':' || d.serial
		FROM json_each(?) o CROSS JOIN job_devices p CROSS JOIN jobs j CROSS JOIN devices d
		WHERE p.device = o.value AND p.outcome = '' AND j.seq = p.job AND j.kind = ? AND j.state <> 'cancelled' AND d.seq = o.value
		GROUP BY o.key HAVING count(*) >= ? LIMIT 1`, devices, record.JobRenew, record.MaxPlans)
	if err == nil && full != nil {
		err = fmt.Errorf("%w: %s is in %d renewal plans that are not over", record.ErrConflict, *full, record.MaxPlans)
	}
	return err
}

// begin writes a draft, and gives the job its ID.
func begin(c *engine.Conn, j *record.Job) error {
	if j.State != record.JobWaiting && j.State != record.JobRunning {
		return fmt.Errorf("%w: a new job is waiting or running, not %q", record.ErrConflict, j.State)
	}
	seq, err := engine.First(c, engine.Number, "SELECT coalesce(max(seq), 0) + 1 FROM jobs")
	if err != nil {
		return err
	}
	stages := ""
	if len(j.Stages) > 0 {
		text, err := json.Marshal(j.Stages)
		if err != nil {
			return err
		}
		stages = string(text)
	}
	j.ID = rows.ID("j", *seq)
	_, err = c.Exec(`INSERT INTO jobs (seq, kind, operator, expression, reason, why, state, created, stages, until, total, due, issuer)
		VALUES (?, 'draft', ?, ?, ?, ?, 'waiting', ?, ?, ?, ?, ?, ?)`, *seq, j.Operator, j.Expression, j.Reason, j.Why, j.Created, stages, j.Until, j.Total, j.Due, j.Issuer)
	return err
}

// add writes devices behind those that a draft has.
func add(c *engine.Conn, id string, has int, devices []int64) error {
	list, err := json.Marshal(devices)
	if err != nil {
		return err
	}
	_, err = c.Exec("INSERT INTO job_devices (job, position, device) SELECT ?, ? + key + 1, value FROM json_each(?)", rows.Number("j", id), has, string(list))
	return err
}

// finish makes a job of a draft.
func finish(c *engine.Conn, plan record.JobPlan) (j record.Job, err error) {
	id := plan.Job.ID
	seq := rows.Number("j", id)
	if _, err := c.Exec("UPDATE jobs SET kind = ?, state = ? WHERE seq = ?", plan.Job.Kind, plan.Job.State, seq); err != nil {
		return j, err
	}
	if _, err := c.Exec("INSERT INTO job_outcomes (job, outcome, devices) VALUES (?, '', ?)", seq, plan.Job.Total); err != nil {
		return j, err
	}
	if err := onlyOne(c, seq, plan.Job); err != nil {
		return j, err
	}
	if a := plan.Approval; a != nil {
		a.Subject = id
		if err := approval.Add(c, *a); err != nil {
			return j, err
		}
	}
	plan.Event.Object = id
	if err := audit.Add(c, plan.Event); err != nil {
		return j, err
	}
	if plan.Job.Kind == record.JobRenew {
		if err := concludeRevoked(c, seq, plan.Job.Created); err != nil {
			return j, err
		}
	}
	return find(c, id)
}

// onlyOne refuses a second revocation of an issuer, but for one that was cancelled.
func onlyOne(c *engine.Conn, seq int64, j record.Job) error {
	if j.Kind != record.JobRevokeIssuer {
		return nil
	}
	other, err := engine.First(c, scan, selectJob+" WHERE issuer <> '' AND issuer = ? AND kind = 'revoke-issuer' AND state <> 'cancelled' AND seq <> ?", j.Issuer, seq)
	if err == nil && other != nil {
		err = fmt.Errorf("%w: job %s revokes %s already", record.ErrConflict, other.ID, j.Issuer)
	}
	return err
}

// concludeRevoked is for devices that were revoked while the plan was written down: they renew
// no more, and their revocation did not find a plan to take them out of. The first condition
// is that of the index devices_ended.
func concludeRevoked(c *engine.Conn, plan int64, at time.Time) error {
	revoked, err := engine.Query(context.Background(), c, engine.Number, `SELECT d.seq FROM devices d CROSS JOIN job_devices p
		WHERE d.state <> 'active' AND d.state = 'revoked' AND p.device = d.seq AND p.outcome = '' AND p.job = ?`, plan)
	for _, device := range revoked {
		if err == nil {
			err = outcome.Conclude(c, record.JobRenew, device, record.OutcomeRevoked, at)
		}
	}
	return err
}
