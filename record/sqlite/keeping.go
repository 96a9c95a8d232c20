package sqlite

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Snapshot writes a compacted copy with mode 0600.
func (s *Store) Snapshot(ctx context.Context, file string) error {
	if err := s.db.Snapshot(ctx, file); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// Writable makes a session that nobody has begun, and forgets it: a commit of nothing succeeds on a
// full disk as well.
func (s *Store) Writable(ctx context.Context) error {
	failures := s.db.Failures()
	if failures == s.forgiven.Load() {
		return nil
	}
	err := s.db.Write(ctx, func(c *engine.Conn) error {
		_, err := c.Exec("INSERT OR REPLACE INTO sessions (id, expires) VALUES ('writable', ?)", s.now())
		if err == nil {
			_, err = c.Exec("DELETE FROM sessions WHERE id = 'writable'")
		}
		return err
	})
	if err == nil {
		s.forgiven.Store(failures)
	}
	return err
}

// invariants are statements that find what must not be: the first column says what.
var invariants = []string{
	"SELECT 'lot ' || name || ' counts ' || used || ' devices' FROM lots l WHERE used <> (SELECT count(*) FROM devices WHERE lot = l.name)",
	"SELECT 'lot ' || name || ' is over its quota' FROM lots WHERE quota > 0 AND used > quota",
	"SELECT 'device ' || d.id || ' has another model than its lot' FROM devices d JOIN lots l ON l.name = d.lot WHERE l.model <> d.model",
	`SELECT 'certificate ' || c.serial || ' of revoked device ' || d.id || ' is not revoked' FROM certificates c JOIN devices d ON d.seq = c.device
		WHERE d.state = 'revoked' AND (c.revoked IS NULL OR c.reason = 6)`,
	`SELECT 'certificate ' || c.serial || ' of suspended device ' || d.id || ' is good' FROM certificates c JOIN devices d ON d.seq = c.device
		WHERE d.state = 'suspended' AND c.revoked IS NULL`,
	`SELECT 'certificate ' || c.serial || ' of active device ' || d.id || ' is on hold' FROM certificates c JOIN devices d ON d.seq = c.device
		WHERE d.state = 'active' AND c.revoked IS NOT NULL AND c.reason = 6`,
	`SELECT 'endorsement key of revoked device ' || d.id || ' is not barred' FROM devices d JOIN eks e ON e.device = d.seq
		WHERE d.state = 'revoked' AND NOT EXISTS (SELECT 1 FROM tombstones WHERE kind = 'ek' AND value = lower(hex(e.fingerprint)))`,
	`SELECT 'serial number of revoked device ' || d.id || ' is not barred' FROM devices d
		WHERE d.state = 'revoked' AND NOT EXISTS (SELECT 1 FROM tombstones WHERE kind = 'serial' AND value = d.model || ':' || d.serial_folded)`,
	"SELECT 'job j' || seq || ' counts ' || total || ' devices' FROM jobs j WHERE kind <> 'draft' AND total <> (SELECT count(*) FROM job_devices WHERE job = j.seq)",
	`SELECT 'job j' || o.job || ' counts ' || o.devices || ' devices ' || iif(o.outcome = '', 'pending', o.outcome) FROM job_outcomes o JOIN jobs j ON j.seq = o.job
		WHERE o.devices <> (SELECT count(*) FROM job_devices p WHERE p.job = o.job AND iif(p.outcome = '' AND j.state = 'cancelled', 'cancelled', p.outcome) = o.outcome)`,
	"SELECT 'job j' || seq || ' is over and has devices without outcome' FROM jobs j WHERE state IN ('publishing', 'done') AND EXISTS (SELECT 1 FROM job_devices WHERE job = j.seq AND outcome = '')",
	`SELECT 'shard ' || s.number || ' of ' || s.issuer || ' holds more certificates than places were given'
		FROM (SELECT issuer, shard, count(*) AS held FROM certificates GROUP BY issuer, shard) c JOIN shards s ON s.issuer = c.issuer AND s.number = c.shard WHERE given < held`,
}

// maxFaults bounds the report of Verify.
const maxFaults = 20

// Verify asks SQLite for its own checks, then holds the invariants of the record.
func (s *Store) Verify(ctx context.Context) error {
	var faults []error
	report := func(what []string) {
		for _, w := range what[:min(len(what), maxFaults)] {
			faults = append(faults, errors.New(w))
		}
	}
	err := s.db.View(ctx, func(c *engine.Conn) error {
		check, err := engine.Query(ctx, c, engine.Text, "PRAGMA integrity_check")
		if err != nil {
			return err
		}
		if len(check) != 1 || check[0] != "ok" {
			report(check)
		}
		orphans, err := engine.Query(ctx, c, func(r engine.Row) string {
			return fmt.Sprintf("row %d of %s points to no %s", r.Int(1), r.Text(0), r.Text(2))
		}, "PRAGMA foreign_key_check")
		if err != nil {
			return err
		}
		report(orphans)
		for _, sql := range invariants {
			found, err := engine.Query(ctx, c, engine.Text, sql+" LIMIT ?", maxFaults)
			if err != nil {
				return err
			}
			report(found)
		}
		found, err := misnumbered(ctx, c)
		report(found)
		return err
	})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return errors.Join(faults...)
}

// batchSize is how many certificates Verify holds at a time.
const batchSize = 1000

// misnumbered reads every certificate and looks for its serial number in it.
func misnumbered(ctx context.Context, c *engine.Conn) (faults []string, err error) {
	for after := int64(0); ; {
		type issued struct {
			seq    int64
			serial string
			der    []byte
		}
		batch, err := engine.Query(ctx, c, func(r engine.Row) issued { return issued{r.Int(0), r.Text(1), r.Blob(2)} },
			"SELECT seq, serial, der FROM certificates WHERE seq > ? AND der IS NOT NULL ORDER BY seq LIMIT ?", after, batchSize)
		if err != nil || len(batch) == 0 || len(faults) >= maxFaults {
			return faults, err
		}
		for _, i := range batch {
			after = i.seq
			if x, err := x509.ParseCertificate(i.der); err != nil {
				faults = append(faults, fmt.Sprintf("certificate %s cannot be read: %v", i.serial, err))
			} else if got := fmt.Sprintf("%032x", x.SerialNumber); got != i.serial {
				faults = append(faults, fmt.Sprintf("certificate %s has the serial number %s", i.serial, got))
			}
		}
	}
}
