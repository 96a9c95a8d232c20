package sqlite

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Revoke ends a device and all that it has.
func (s *Store) Revoke(ctx context.Context, id string, at time.Time, reason int, why string, e record.Event) ([]record.Shard, error) {
	if err := final(reason); err != nil {
		return nil, err
	}
	return s.end(ctx, id, record.StateRevoked, at, e, func(c *engine.Conn, d *recorded) ([]record.Shard, error) {
		if err := bury(c, d, at, why); err != nil {
			return nil, err
		}
		const mine = "device = ? AND (revoked IS NULL OR reason = 6)"
		changed, err := shards(c, at, mine, d.seq)
		if err != nil {
			return nil, err
		}
		_, err = c.Exec("UPDATE certificates SET revoked = coalesce(revoked, ?), reason = ? WHERE "+mine, at, reason, d.seq)
		return changed, err
	})
}

// Suspend holds the device's certificates, open intents too.
func (s *Store) Suspend(ctx context.Context, id string, at time.Time, e record.Event) ([]record.Shard, error) {
	return s.end(ctx, id, record.StateSuspended, at, e, func(c *engine.Conn, d *recorded) ([]record.Shard, error) {
		changed, err := shards(c, at, "device = ? AND revoked IS NULL", d.seq)
		if err != nil {
			return nil, err
		}
		_, err = c.Exec("UPDATE certificates SET revoked = ?, reason = 6 WHERE device = ? AND revoked IS NULL", at, d.seq)
		return changed, err
	})
}

// Restore makes what is held good again.
func (s *Store) Restore(ctx context.Context, id string, at time.Time, e record.Event) ([]record.Shard, error) {
	return s.end(ctx, id, record.StateActive, at, e, func(c *engine.Conn, d *recorded) ([]record.Shard, error) {
		const held = "device = ? AND revoked IS NOT NULL AND reason = 6"
		changed, err := shards(c, at, held, d.seq)
		if err != nil {
			return nil, err
		}
		_, err = c.Exec("UPDATE certificates SET revoked = NULL, reason = 0 WHERE "+held, d.seq)
		return changed, err
	})
}

// end moves a device to a state and its certificates with it. Nothing happens to a
// device that is in the state, but its shards are named; nothing but ErrConflict to a
// revoked one.
func (s *Store) end(ctx context.Context, id, state string, at time.Time, e record.Event, certificates func(*engine.Conn, *recorded) ([]record.Shard, error)) (changed []record.Shard, err error) {
	err = s.change(ctx, e, func(c *engine.Conn) error {
		d, err := engine.First(c, scanDevice, "SELECT "+deviceColumns+" FROM devices d WHERE d.id = ?", id)
		switch {
		case err != nil:
			return err
		case d == nil:
			return fmt.Errorf("device %s: %w", id, record.ErrNotFound)
		case d.State == state:
			changed, err = shards(c, at, "device = ?", d.seq)
			return cmp.Or(err, errUnchanged)
		case d.State == record.StateRevoked:
			return fmt.Errorf("%w: device %s is revoked, and that is final", record.ErrConflict, d.Name())
		}
		if err := withEKs(context.Background(), c, d); err != nil {
			return err
		}
		if _, err := c.Exec("UPDATE devices SET state = ? WHERE seq = ?", state, d.seq); err != nil {
			return err
		}
		changed, err = certificates(c, d)
		return err
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// bury bars all identities of a device.
func bury(c *engine.Conn, d *recorded, at time.Time, why string) error {
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
			i.kind, i.value, d.seq, at, why); err != nil {
			return err
		}
	}
	return nil
}

// RevokeOperator ends all certificates of an operator's name.
func (s *Store) RevokeOperator(ctx context.Context, name string, at time.Time, reason int, e record.Event) (changed []record.Shard, err error) {
	if err := final(reason); err != nil {
		return nil, err
	}
	err = s.change(ctx, e, func(c *engine.Conn) error {
		if _, err := operator(c, name); err != nil {
			return err
		}
		const theirs = "device IS NULL AND operator = ?"
		if changed, err = shards(c, at, theirs, name); err != nil {
			return err
		}
		n, err := c.Exec("UPDATE certificates SET revoked = ?, reason = ? WHERE revoked IS NULL AND "+theirs, at, reason, name)
		if err == nil && n == 0 {
			return errUnchanged
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// shards lists the shards of certificates that have not expired: no list needs to
// show the others (RFC 5280 §3.3).
func shards(c *engine.Conn, at time.Time, where string, args ...any) ([]record.Shard, error) {
	return engine.Query(context.Background(), c, scanShard,
		"SELECT DISTINCT issuer, shard FROM certificates WHERE "+where+" AND not_after >= ? ORDER BY issuer, shard", append(args, at)...)
}

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
func (s *Store) Status(ctx context.Context, issuer, serial string) (record.Certificate, error) {
	return get(ctx, s, "certificate "+serial+" of "+issuer, func(c *engine.Conn) (*record.Certificate, error) { return certificate(c, issuer, serial) })
}

// RevokedIn reads an index alone, not the certificates.
func (s *Store) RevokedIn(ctx context.Context, sh record.Shard, now time.Time, keep time.Duration) ([]record.Revoked, error) {
	return list(ctx, s, func(r engine.Row) record.Revoked {
		return record.Revoked{Serial: r.Text(0), Since: r.Time(1), Reason: int(r.Int(2))}
	}, "SELECT serial, revoked, reason FROM certificates WHERE issuer = ? AND shard = ? AND revoked IS NOT NULL AND not_after >= ? ORDER BY serial",
		sh.Issuer, sh.Number, now.Add(-keep))
}

// Shards lists what ReserveShard has opened and time has not closed.
func (s *Store) Shards(ctx context.Context, issuer string, endedBy time.Time) ([]record.Shard, error) {
	return list(ctx, s, scanShard, "SELECT issuer, number FROM shards WHERE issuer = ? AND (ends IS NULL OR ends > ?) ORDER BY number", issuer, endedBy)
}

// PublishCRL replaces the stored list by one with a greater number.
func (s *Store) PublishCRL(ctx context.Context, crl record.CRL) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		// Not for the journal: a restored server signs every CRL anew.
		n, err := c.ExecLocal(`INSERT INTO crls (issuer, shard, sequence, this_update, next_update, der) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (issuer, shard) DO UPDATE SET sequence = excluded.sequence, this_update = excluded.this_update,
				next_update = excluded.next_update, der = excluded.der WHERE excluded.sequence > sequence`,
			crl.Issuer, crl.Number, crl.Sequence, crl.ThisUpdate, crl.NextUpdate, crl.DER)
		return changed(n, err, fmt.Sprintf("list %d of shard %d of %s is not newer than the stored one", crl.Sequence, crl.Number, crl.Issuer))
	})
}

// NewestCRL finds the stored list.
func (s *Store) NewestCRL(ctx context.Context, sh record.Shard) (record.CRL, error) {
	return get(ctx, s, fmt.Sprintf("list of shard %d of %s", sh.Number, sh.Issuer), func(c *engine.Conn) (*record.CRL, error) {
		return engine.First(c, func(r engine.Row) record.CRL {
			return record.CRL{Shard: sh, Sequence: r.Int(0), ThisUpdate: r.Time(1), NextUpdate: r.Time(2), DER: r.Blob(3)}
		}, "SELECT sequence, this_update, next_update, der FROM crls WHERE issuer = ? AND shard = ?", sh.Issuer, sh.Number)
	})
}
