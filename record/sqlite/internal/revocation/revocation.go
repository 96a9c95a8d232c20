// Package revocation ends identities and keeps what CRL and OCSP tell of it.
package revocation

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/changes"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/outcome"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/principal"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Revocations is a [record.Revocations] and a [record.Tombstones].
type Revocations struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) Revocations { return Revocations{db} }

// Revoke ends a device and all that it has.
func (s Revocations) Revoke(ctx context.Context, id string, at time.Time, reason int, why string, e record.Event) ([]record.Shard, error) {
	if err := final(reason); err != nil {
		return nil, err
	}
	return s.end(ctx, id, Act{record.StateRevoked, at, reason, why}, e)
}

// Suspend holds the device's certificates, open intents too.
func (s Revocations) Suspend(ctx context.Context, id string, at time.Time, e record.Event) ([]record.Shard, error) {
	return s.end(ctx, id, Act{State: record.StateSuspended, At: at}, e)
}

// Restore makes what is held good again.
func (s Revocations) Restore(ctx context.Context, id string, at time.Time, e record.Event) ([]record.Shard, error) {
	return s.end(ctx, id, Act{State: record.StateActive, At: at}, e)
}

func (s Revocations) end(ctx context.Context, id string, act Act, e record.Event) (changed []record.Shard, err error) {
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		d, err := engine.One(c, "device "+id, rows.ScanDevice, "SELECT "+rows.DeviceColumns+" FROM devices d WHERE d.id = ?", id)
		if err == nil {
			changed, err = End(c, &d, act)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// Act is what becomes of a device: its state and, of a revocation, reason and why.
type Act struct {
	State  string
	At     time.Time
	Reason int
	Why    string
}

// End moves a device to a state and its certificates with it, and returns the shards to
// publish. A device that is in the state stays as it is, with ErrUnchanged and its shards;
// a revoked one, with ErrConflict.
func End(c *engine.Conn, d *rows.Recorded, act Act) ([]record.Shard, error) {
	switch {
	case d.State == act.State:
		changed, err := Shards(c, act.At, "device = ?", d.Seq)
		return changed, cmp.Or(err, audit.ErrUnchanged)
	case d.State == record.StateRevoked:
		return nil, fmt.Errorf("%w: device %s is revoked, and that is final", record.ErrConflict, d.Name())
	}
	if _, err := c.Exec("UPDATE devices SET state = ? WHERE seq = ?", act.State, d.Seq); err != nil {
		return nil, err
	}
	if act.State == record.StateRevoked {
		if err := bury(c, d, act.At, act.Why); err != nil {
			return nil, err
		}
		if err := outcome.Conclude(c, record.JobRenew, d.Seq, record.OutcomeRevoked, act.At); err != nil {
			return nil, err
		}
	}
	return endCertificates(c, d.Seq, act)
}

// endCertificates ends, holds or frees the certificates of a device, open intents too.
func endCertificates(c *engine.Conn, device int64, act Act) ([]record.Shard, error) {
	touched, update, args := "device = ? AND revoked IS NULL", "revoked = ?, reason = 6", []any{act.At}
	switch act.State {
	case record.StateRevoked: // what was held keeps its date
		touched, update, args = "device = ? AND (revoked IS NULL OR reason = 6)", "revoked = coalesce(revoked, ?), reason = ?", []any{act.At, act.Reason}
	case record.StateActive:
		touched, update, args = "device = ? AND revoked IS NOT NULL AND reason = 6", "revoked = NULL, reason = 0", nil
	}
	changed, err := Shards(c, act.At, touched, device)
	if err != nil {
		return nil, err
	}
	_, err = c.Exec("UPDATE certificates SET "+update+" WHERE "+touched, append(args, device)...)
	return changed, err
}

// bury bars all identities of a device.
func bury(c *engine.Conn, d *rows.Recorded, at time.Time, why string) error {
	if err := rows.WithEKs(context.Background(), c, d); err != nil {
		return err
	}
	type identity struct{ kind, value string }
	all := []identity{{"serial", d.Model + ":" + record.Fold(d.Serial)}}
	if len(d.AKName) != 0 {
		all = append(all, identity{"ak", hex.EncodeToString(d.AKName)})
	}
	for _, ek := range d.EKs {
		all = append(all, identity{"ek", hex.EncodeToString(ek.Fingerprint[:])})
	}
	for _, i := range all {
		if _, err := c.Exec("INSERT INTO tombstones (kind, value, device, since, reason) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
			i.kind, i.value, d.Seq, at, why); err != nil {
			return err
		}
	}
	return nil
}

// Lift removes the tombstones that bury wrote, and makes the device active.
func (s Revocations) Lift(ctx context.Context, id string, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		if _, err := c.Exec("DELETE FROM tombstones WHERE device = (SELECT seq FROM devices WHERE id = ? AND state = 'revoked')", id); err != nil {
			return err
		}
		n, err := c.Exec("UPDATE devices SET state = 'active' WHERE id = ? AND state = 'revoked'", id)
		return engine.Changed(n, err, "device "+id+" is not revoked")
	})
}

// Supersede revokes a device's certificates, those on hold too, and leaves the device as it is.
func Supersede(c *engine.Conn, device int64, at time.Time) ([]record.Shard, error) {
	changed, _, err := endWhere(c, at, record.ReasonSuperseded, "device = ? AND (revoked IS NULL OR reason = 6)", device)
	return changed, err
}

// EndHeld revokes what a device holds of an issuer, and leaves the device as it is;
// ErrUnchanged if that is nothing.
func EndHeld(c *engine.Conn, device int64, issuer string, at time.Time, reason int) ([]record.Shard, error) {
	changed, n, err := endWhere(c, at, reason, "device = ? AND issuer = ? AND (revoked IS NULL OR reason = 6)", device, issuer)
	return changed, audit.Any(n, err)
}

// EndIssued revokes all that an issuer has issued and that has not expired, but for OCSP
// responders' certificates.
func EndIssued(c *engine.Conn, issuer string, at time.Time, reason int) ([]record.Shard, error) {
	left, err := engine.First(c, engine.Text, "SELECT json_group_array(seq) FROM ("+unended+") o", issuer, at, issuer, at)
	if err != nil {
		return nil, err
	}
	changed, _, err := endWhere(c, at, reason, "seq IN (SELECT value FROM json_each(?)) AND profile <> 'ocsp'", *left)
	return changed, err
}

// unended finds what an issuer has signed that is good or on hold and has not expired by indexes alone:
// when it is asked for, nearly all has ended.
const unended = `SELECT seq FROM certificates WHERE issuer = ? AND not_after >= ? AND revoked IS NULL UNION ALL
	SELECT seq FROM certificates INDEXED BY certificates_revoked WHERE issuer = ? AND not_after >= ? AND revoked IS NOT NULL AND reason = 6`

// endWhere revokes certificates and counts them; those on hold keep their date.
func endWhere(c *engine.Conn, at time.Time, reason int, where string, args ...any) (changed []record.Shard, n int64, err error) {
	if changed, err = Shards(c, at, where, args...); err != nil {
		return nil, 0, err
	}
	n, err = c.Exec("UPDATE certificates SET revoked = coalesce(revoked, ?), reason = ? WHERE "+where, append([]any{at, reason}, args...)...)
	return changed, n, err
}

// RevokePrincipal ends all certificates of an operator's or relying party's name.
func (s Revocations) RevokePrincipal(ctx context.Context, name string, at time.Time, reason int, e record.Event) (changed []record.Shard, err error) {
	if err := final(reason); err != nil {
		return nil, err
	}
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		if _, err := principal.Disabled(c, name); err != nil {
			return err
		}
		const theirs = "device IS NULL AND operator = ?"
		if changed, err = Shards(c, at, theirs, name); err != nil {
			return err
		}
		return audit.Any(c.Exec("UPDATE certificates SET revoked = ?, reason = ? WHERE revoked IS NULL AND "+theirs, at, reason, name))
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// Shards lists the shards of certificates that have not expired: no list needs to
// show the others (RFC 5280 §3.3).
func Shards(c *engine.Conn, at time.Time, where string, args ...any) ([]record.Shard, error) {
	return engine.Query(context.Background(), c, scanShard,
		"SELECT DISTINCT issuer, shard FROM certificates WHERE "+where+" AND not_after >= ? ORDER BY issuer, shard", append(args, at)...)
}

// scanShard reads issuer and number.
func scanShard(r engine.Row) record.Shard { return record.Shard{Issuer: r.Text(0), Number: r.Int(1)} }

// final refuses a reason that is none for an end: a hold is Suspend's, and
// removeFromCRL belongs to delta lists (RFC 5280 §5.3.1).
func final(reason int) error {
	switch {
	case reason < 0, reason == record.ReasonHold, reason == 7, reason == 8, reason > 10:
		return fmt.Errorf("%d is no reason to revoke", reason)
	}
	return nil
}

// Status finds by the primary key.
func (s Revocations) Status(ctx context.Context, issuer, serial string) (record.Certificate, error) {
	return engine.Get(ctx, s.db, "certificate "+serial+" of "+issuer, func(c *engine.Conn) (*record.Certificate, error) { return rows.Certificate(c, issuer, serial) })
}

// RevokedIn reads an index alone, not the certificates.
func (s Revocations) RevokedIn(ctx context.Context, sh record.Shard, now time.Time, keep time.Duration) (found []record.Revoked, shows int64, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		if shows, err = changes.Last(c); err != nil {
			return err
		}
		found, err = engine.Query(ctx, c, func(r engine.Row) record.Revoked {
			return record.Revoked{Serial: r.Text(0), Since: r.Time(1), Reason: int(r.Int(2))}
		}, "SELECT serial, revoked, reason FROM certificates WHERE issuer = ? AND shard = ? AND revoked IS NOT NULL AND not_after >= ? ORDER BY serial",
			sh.Issuer, sh.Number, now.Add(-keep))
		return err
	})
	return found, shows, err
}

// Shards lists what ReserveShard has opened and time has not closed. The newest may be given places still.
func (s Revocations) Shards(ctx context.Context, issuer string, endedBy time.Time) ([]record.Shard, error) {
	return engine.List(ctx, s.db, scanShard, "SELECT issuer, number FROM shards WHERE issuer = ?1 AND (ends IS NULL OR ends > ?2 OR number = (SELECT max(number) FROM shards WHERE issuer = ?1)) ORDER BY number", issuer, endedBy)
}

// PublishCRL replaces the stored list by one with a greater number.
func (s Revocations) PublishCRL(ctx context.Context, crl record.CRL) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		// Not for the journal: a restored server signs every CRL anew.
		n, err := c.ExecLocal(`INSERT INTO crls (issuer, shard, sequence, shows, this_update, next_update, der) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (issuer, shard) DO UPDATE SET sequence = excluded.sequence, shows = excluded.shows, this_update = excluded.this_update,
				next_update = excluded.next_update, der = excluded.der WHERE excluded.sequence > sequence AND excluded.shows >= shows`,
			crl.Issuer, crl.Number, crl.Sequence, crl.Shows, crl.ThisUpdate, crl.NextUpdate, crl.DER)
		return engine.Changed(n, err, fmt.Sprintf("list %d of shard %d of %s is not newer than the stored one", crl.Sequence, crl.Number, crl.Issuer))
	})
}

// NewestCRL finds the stored list.
func (s Revocations) NewestCRL(ctx context.Context, sh record.Shard) (record.CRL, error) {
	return engine.Get(ctx, s.db, fmt.Sprintf("list of shard %d of %s", sh.Number, sh.Issuer), func(c *engine.Conn) (*record.CRL, error) {
		return engine.First(c, func(r engine.Row) record.CRL {
			return record.CRL{Shard: sh, Sequence: r.Int(0), Shows: r.Int(1), ThisUpdate: r.Time(2), NextUpdate: r.Time(3), DER: r.Blob(4)}
		}, "SELECT sequence, shows, this_update, next_update, der FROM crls WHERE issuer = ? AND shard = ?", sh.Issuer, sh.Number)
	})
}
