package job

import (
	"context"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/filter"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/inventory"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/revocation"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Bounds of a survey.
const (
	maxTallies = 20
	sampleSize = 10
)

// Survey reads what CreateJob would fix, in one view.
func (s Store) Survey(ctx context.Context, of record.Selection, at time.Time) (v record.Survey, err error) {
	chosen, args, err := filter.Selection(of)
	if err != nil {
		return v, err
	}
	err = s.db.View(ctx, func(c *engine.Conn) error {
		if v.Devices, err = inventory.Count(ctx, c, of, chosen, args); err != nil {
			return err
		}
		fleet, err := engine.First(c, engine.Number, "SELECT coalesce(sum(used), 0) FROM lots")
		if err != nil {
			return err
		}
		v.Fleet = *fleet
		for column, to := range map[string]*[]record.Tally{"d.state": &v.States, "d.model": &v.Models, "d.lot": &v.Lots} {
			if *to, err = engine.Query(ctx, c, scanTally, "SELECT "+column+", count(*) FROM devices d WHERE "+chosen+" GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?",
				append(append([]any{}, args...), maxTallies)...); err != nil {
				return err
			}
		}
		if v.Contact, err = contact(ctx, c, chosen, args, at); err != nil {
			return err
		}
		if v.Sample, err = sample(ctx, c, chosen, args); err != nil {
			return err
		}
		return certificates(ctx, c, chosen, args, at, &v)
	})
	return v, err
}

// contact counts by the age of the last contact.
func contact(ctx context.Context, c *engine.Conn, chosen string, args []any, at time.Time) ([]record.Tally, error) {
	const day = 24 * time.Hour
	return engine.Query(ctx, c, scanTally, `SELECT CASE WHEN d.seen > ? THEN 'in the last hour' WHEN d.seen > ? THEN 'in the last day'
			WHEN d.seen > ? THEN 'in the last 30 days' ELSE 'longer ago' END AS age, count(*) FROM devices d WHERE `+chosen+` GROUP BY age ORDER BY max(d.seen) DESC`,
		append([]any{at.Add(-time.Hour), at.Add(-day), at.Add(-30 * day)}, args...)...)
}

// sample is the first that a job would come to.
func sample(ctx context.Context, c *engine.Conn, chosen string, args []any) (list []record.Device, err error) {
	found, err := engine.Query(ctx, c, rows.ScanDevice, "SELECT "+rows.DeviceColumns+" FROM devices d WHERE "+chosen+" ORDER BY d.id LIMIT ?",
		append(append([]any{}, args...), sampleSize)...)
	for _, f := range found {
		list = append(list, f.Device)
	}
	return list, err
}

func certificates(ctx context.Context, c *engine.Conn, chosen string, args []any, at time.Time, v *record.Survey) error {
	working := "profile = 'ldevid' AND issued IS NOT NULL AND (revoked IS NULL OR reason = 6) AND device IN (SELECT d.seq FROM devices d WHERE " + chosen + ")"
	n, err := engine.Query(ctx, c, engine.Number, "SELECT count(*) FROM certificates WHERE "+working+" AND not_after >= ?", append(append([]any{}, args...), at)...)
	if err != nil {
		return err
	}
	v.Certificates = n[0]
	v.Shards, err = revocation.Shards(c, at, working, args...)
	return err
}
