package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/changes"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/outcome"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/revocation"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// StepJob takes the devices in the order of their positions.
func (s Store) StepJob(ctx context.Context, id string, limit int, at time.Time, event func(record.Device) record.Event) (out record.JobStep, err error) {
	err = s.db.Write(ctx, func(c *engine.Conn) error {
		out = record.JobStep{}
		j, err := engine.First(c, scan, selectJob+" WHERE seq = ?", rows.Number("j", id))
		switch {
		case err != nil:
			return err
		case j == nil:
			return fmt.Errorf("job %s: %w", id, record.ErrNotFound)
		case j.State != record.JobRunning || j.Target() == "" && j.Kind != record.JobRevokeIssuer:
			return fmt.Errorf("%w: job %s, %s, is %s", record.ErrConflict, id, j.Kind, j.State)
		}
		if why, err := held(c, j.Job, at); err != nil || why != "" {
			return errors.Join(err, pause(c, &j.Job, at, why, &out))
		}
		first, err := engine.First(c, engine.Number, "SELECT position FROM job_devices WHERE job = ? AND outcome = '' ORDER BY position LIMIT 1", j.seq)
		if err != nil {
			return err
		}
		if first != nil {
			end := stageEnd(j.Job, *first)
			last := min(end, *first+int64(limit)-1)
			if out.Shards, err = stepDevices(c, j, last, at, event); err != nil {
				return err
			}
			if err := noteChange(c, j, at); err != nil {
				return err
			}
			if last < end {
				out.Job = j.Job
				return nil
			}
			if end < j.Total {
				return pause(c, &j.Job, at, fmt.Sprintf("the stage of %d devices is done", end), &out)
			}
		}
		if j.Kind == record.JobRevokeIssuer {
			rest, err := revocation.EndIssued(c, j.Issuer, at, j.Reason)
			if err != nil {
				return err
			}
			out.Shards = append(out.Shards, rest...)
			if err := noteChange(c, j, at); err != nil {
				return err
			}
		}
		j.State = record.JobPublishing
		out.Job = j.Job
		return setState(c, j.Job)
	})
	return out, err
}

// noteChange keeps what the job changed last, if this step changed anything.
func noteChange(c *engine.Conn, j *numbered, at time.Time) error {
	number, err := changes.Last(c)
	if err != nil || number == j.Change {
		return err
	}
	j.Change, j.Changed = number, at
	_, err = c.Exec("UPDATE jobs SET change = ?, changed = ? WHERE seq = ?", number, at, j.seq)
	return err
}

// stageEnd is the position at which the stage of another one ends.
func stageEnd(j record.Job, position int64) int64 {
	for _, end := range j.Stages {
		if position <= end {
			return min(end, j.Total)
		}
	}
	return j.Total
}

func pause(c *engine.Conn, j *record.Job, at time.Time, why string, out *record.JobStep) error {
	j.State = record.JobPaused
	out.Job = *j
	if err := setState(c, *j); err != nil {
		return err
	}
	return audit.Add(c, record.Event{Time: at, Actor: "server", Verb: "job.paused", Object: j.ID, Reason: why})
}

// stepDevices brings the pending devices up to a position to the job's target.
func stepDevices(c *engine.Conn, j *numbered, last int64, at time.Time, event func(record.Device) record.Event) ([]record.Shard, error) {
	type pending struct {
		position int64
		device   rows.Recorded
	}
	found, err := engine.Query(context.Background(), c, func(r engine.Row) pending { return pending{r.Int(0), rows.ScanDevice(r.From(1))} },
		"SELECT j.position, "+rows.DeviceColumns+" FROM job_devices j CROSS JOIN devices d ON d.seq = j.device WHERE j.job = ? AND j.outcome = '' AND j.position <= ? ORDER BY j.position",
		j.seq, last)
	if err != nil {
		return nil, err
	}
	touched, tally := map[record.Shard]bool{}, map[string]int64{}
	act := revocation.Act{State: j.Target(), At: at, Reason: j.Reason, Why: j.Why}
	for _, p := range found {
		became := record.OutcomeDone
		var shards []record.Shard
		if j.Kind == record.JobRevokeIssuer {
			shards, err = revocation.EndHeld(c, p.device.Seq, j.Issuer, at, j.Reason)
		} else {
			shards, err = revocation.End(c, &p.device, act)
		}
		switch {
		case errors.Is(err, audit.ErrUnchanged):
			became = record.OutcomeUnchanged
		case errors.Is(err, record.ErrConflict):
			became = record.OutcomeRefused
		case err != nil:
			return nil, err
		default:
			if err := audit.Add(c, event(p.device.Device)); err != nil {
				return nil, err
			}
		}
		for _, shard := range shards {
			touched[shard] = true
		}
		if _, err := c.Exec("UPDATE job_devices SET outcome = ?, at = ? WHERE job = ? AND position = ?", became, at, j.seq, p.position); err != nil {
			return nil, err
		}
		tally[became]++
	}
	for _, became := range slices.Sorted(maps.Keys(tally)) {
		if err := outcome.Tally(c, j.seq, became, tally[became]); err != nil {
			return nil, err
		}
	}
	return slices.SortedFunc(maps.Keys(touched), func(a, b record.Shard) int {
		return cmp.Or(cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Number, b.Number))
	}), nil
}

// JobShards reads the certificates of the devices that have an outcome.
func (s Store) JobShards(ctx context.Context, id string, at time.Time) (shards []record.Shard, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		j, err := engine.First(c, scan, selectJob+" WHERE seq = ?", rows.Number("j", id))
		if err != nil {
			return err
		}
		if j != nil && j.Issuer != "" {
			shards, err = revocation.Shards(c, at, "issuer = ? AND revoked IS NOT NULL", j.Issuer)
			return err
		}
		shards, err = revocation.Shards(c, at, "device IN (SELECT device FROM job_devices WHERE job = ? AND outcome IN ('done', 'unchanged'))", rows.Number("j", id))
		return err
	})
	return shards, err
}
