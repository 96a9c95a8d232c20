package job

import (
	"context"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Planned reads an index of unfinished jobs.
func (s Store) Planned(ctx context.Context) (planned bool, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		one, err := engine.First(c, engine.Number, "SELECT 1 FROM jobs WHERE state IN ('running', 'publishing') AND state = 'running' AND kind = ? LIMIT 1", record.JobRenew)
		planned = one != nil
		return err
	})
	return planned, err
}

// place is a device's in a running plan.
type place struct {
	job                   int64
	created, due          time.Time
	free                  time.Time // zero if nothing was given out yet
	moment                time.Time // the device's; zero if it has none
	total, told, position int64
}

// Moment looks before it writes: a device asks often and is given its moment once.
func (s Store) Moment(ctx context.Context, device string, at time.Time) (moment time.Time, err error) {
	var places []place
	look := func(c *engine.Conn) (err error) {
		places, err = engine.Query(ctx, c, func(r engine.Row) place {
			return place{r.Int(0), r.Time(1), r.Time(2), r.Time(3), r.Time(4), r.Int(5), r.Int(6), r.Int(7)}
		}, `SELECT j.seq, j.created, j.due, j.free, jd.moment, j.total, j.told, jd.position FROM job_devices jd JOIN jobs j ON j.seq = jd.job
			WHERE jd.device = (SELECT seq FROM devices WHERE id = ?) AND jd.outcome = '' AND j.kind = ? AND j.state = 'running'`, device, record.JobRenew)
		return err
	}
	known := func() bool {
		moment = time.Time{}
		for _, p := range places {
			m := p.moment
			switch {
			case m.IsZero() && at.Before(p.due):
				return false
			case m.IsZero():
				m = at
			}
			if moment.IsZero() || m.Before(moment) {
				moment = m
			}
		}
		return true
	}
	if err := s.db.Read(ctx, look); err != nil || known() {
		return moment, err
	}
	err = s.db.Write(ctx, func(c *engine.Conn) error {
		if err := look(c); err != nil {
			return err
		}
		for i := range places {
			if err := places[i].take(c, at); err != nil {
				return err
			}
		}
		known()
		return nil
	})
	return moment, err
}

// take gives the device the next of what is left of the window.
func (p *place) take(c *engine.Conn, at time.Time) error {
	if !p.moment.IsZero() || !at.Before(p.due) {
		return nil
	}
	p.moment = slices.MaxFunc([]time.Time{p.free, p.created, at}, time.Time.Compare)
	next := p.moment.Add(p.due.Sub(p.moment) / time.Duration(max(p.total-p.told, 1)))
	if _, err := c.Exec("UPDATE jobs SET free = ?, told = told + 1 WHERE seq = ?", next, p.job); err != nil {
		return err
	}
	_, err := c.Exec("UPDATE job_devices SET moment = ? WHERE job = ? AND position = ?", p.moment, p.job, p.position)
	return err
}
