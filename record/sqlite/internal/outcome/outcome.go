// Package outcome closes the jobs that devices carry out by themselves.
package outcome

import (
	"context"
	"time"

	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Pending lists the jobs of a kind, running or paused, in which a device is pending.
func Pending(c *engine.Conn, kind string, device int64) ([]int64, error) {
	return engine.Query(context.Background(), c, engine.Number, `SELECT p.job FROM job_devices p JOIN jobs j ON j.seq = p.job
		WHERE p.device = ? AND p.outcome = '' AND j.kind = ? AND j.state IN ('running', 'paused')`, device, kind)
}

// Conclude gives a device its outcome in them, and ends those in which nothing is pending then.
func Conclude(c *engine.Conn, kind string, device int64, outcome string, at time.Time) error {
	jobs, err := Pending(c, kind, device)
	if err != nil {
		return err
	}
	for _, seq := range jobs {
		n, err := c.Exec("UPDATE job_devices SET outcome = ?, at = ? WHERE device = ? AND job = ? AND outcome = ''", outcome, at, device, seq)
		if err == nil {
			err = Tally(c, seq, outcome, n)
		}
		if err != nil {
			return err
		}
		if _, err := c.Exec("UPDATE jobs SET state = 'done', ended = ? WHERE seq = ? AND NOT EXISTS (SELECT 1 FROM job_devices WHERE job = ? AND outcome = '')", at, seq, seq); err != nil {
			return err
		}
	}
	return nil
}

// Tally notes that so many devices of a job, pending before, have an outcome.
func Tally(c *engine.Conn, job int64, outcome string, devices int64) error {
	kept, err := c.Exec("UPDATE job_outcomes SET devices = devices - ? WHERE job = ? AND outcome = ''", devices, job)
	if err == nil && kept > 0 {
		_, err = c.Exec("INSERT INTO job_outcomes (job, outcome, devices) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET devices = devices + excluded.devices", job, outcome, devices)
	}
	return err
}
