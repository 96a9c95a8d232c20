package job

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/grants"
)

// LotsEnded asks in one view.
func (s Store) LotsEnded(ctx context.Context, devices []string, at time.Time) (lots []string, err error) {
	ids, err := json.Marshal(devices)
	if err != nil {
		return nil, err
	}
	err = s.db.View(ctx, func(c *engine.Conn) error {
		lots, err = lotsEnded(ctx, c, "SELECT seq AS device FROM devices WHERE id IN (SELECT value FROM json_each(?1))", string(ids), at)
		return err
	})
	return lots, err
}

// keyless is true of a device d without a key, whose certificates ended by a grant k.
const keyless = "SELECT 1 FROM grants k WHERE k.device = d.seq AND " + grants.Lost

// inForce is true of a device d as record.Jobs.LotsEnded says.
const inForce = `(d.state <> 'revoked' AND NOT EXISTS (` + keyless + `) AND NOT EXISTS (
	SELECT 1 FROM job_devices p JOIN jobs j ON j.seq = p.job WHERE p.device = d.seq AND p.outcome = ''
		AND j.kind IN ('retire', 'revoke') AND j.state IN ('running', 'paused', 'publishing')))`

// recently is true of a device d that was in force at ?2 or has been since. A tombstone
// says when it was revoked: its certificates may have been on hold before.
const recently = `(CASE d.state WHEN 'revoked' THEN EXISTS (SELECT 1 FROM tombstones t WHERE t.device = d.seq AND t.since > ?2)
	ELSE NOT EXISTS (` + keyless + ` AND k.created <= ?2) END)`

// lotsEnded judges the devices that a statement selects by its parameter ?1. The search
// for a device that is left ends with the first, the newest, since old ones are retired;
// that for several with the second.
func lotsEnded(ctx context.Context, c *engine.Conn, ends string, which any, at time.Time) ([]string, error) {
	return engine.Query(ctx, c, engine.Text,
		"SELECT g.lot FROM (SELECT DISTINCT d.lot FROM ("+ends+") e CROSS JOIN devices d ON d.seq = e.device WHERE "+inForce+`) g
		WHERE (SELECT 1 FROM devices d WHERE d.lot = g.lot AND `+inForce+" AND d.seq NOT IN ("+ends+`) ORDER BY d.seq DESC LIMIT 1) IS NULL
		AND (SELECT 1 FROM devices d WHERE d.lot = g.lot AND `+recently+" LIMIT 1 OFFSET 1) IS NOT NULL", which, at.Add(-record.LotMemory))
}
