package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/grants"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/principal"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// ReserveShard gives places in the newest shard while it has any, else opens the next.
func (s *Store) ReserveShard(ctx context.Context, issuer string, want, capacity int64) (shard, given int64, err error) {
	if issuer == "" || want < 1 || capacity < 1 {
		return 0, 0, fmt.Errorf("reserve shard: issuer %q, want %d, capacity %d", issuer, want, capacity)
	}
	err = s.db.Write(ctx, func(c *engine.Conn) error {
		type place struct{ number, given int64 }
		last, err := engine.First(c, func(r engine.Row) place { return place{r.Int(0), r.Int(1)} },
			"SELECT number, given FROM shards WHERE issuer = ? ORDER BY number DESC LIMIT 1", issuer)
		if err != nil {
			return err
		}
		if last == nil {
			last = &place{0, capacity}
		}
		if left := capacity - last.given; left > 0 {
			shard, given = last.number, min(want, left)
			_, err = c.Exec("UPDATE shards SET given = given + ? WHERE issuer = ? AND number = ?", given, issuer, shard)
			return err
		}
		shard, given = last.number+1, min(want, capacity)
		_, err = c.Exec("INSERT INTO shards (issuer, number, given) VALUES (?, ?, ?)", issuer, shard, given)
		return err
	})
	return shard, given, err
}

// Intend records intents for active devices and enabled operators.
func (s *Store) Intend(ctx context.Context, intents []record.Certificate, stands func([]*record.Certificate) []bool) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		devices, err := holders(c, intents)
		if err != nil {
			return err
		}
		given := make([]bool, len(intents))
		if stands != nil {
			earlier := make([]*record.Certificate, len(intents))
			for n, i := range intents {
				if earlier[n], err = issued(c, i, devices[n]); err != nil {
					return err
				}
			}
			given = stands(earlier)
		}
		var last *record.Certificate // the last one recorded
		for n, i := range intents {
			if given[n] {
				continue
			}
			err := intend(c, i, devices[n])
			if err == nil && (last == nil || i.Issuer != last.Issuer || i.Shard != last.Shard || i.NotAfter.After(last.NotAfter)) {
				err = prolong(c, i)
			}
			if err != nil {
				return fmt.Errorf("intend certificate %s of %s: %w", i.Serial, i.Issuer, err)
			}
			last = &intents[n]
		}
		return nil
	})
}

// holders checks that whom certificates are for may have them, and returns the devices'
// numbers, nil where one is for no device.
func holders(c *engine.Conn, intents []record.Certificate) ([]any, error) {
	devices := make([]any, len(intents))
	for n, i := range intents {
		if n > 0 && i.Principal == "" && i.Device == intents[n-1].Device && intents[n-1].Principal == "" && i.Predecessor == intents[n-1].Predecessor {
			devices[n] = devices[n-1]
			continue
		}
		var err error
		if devices[n], err = holder(c, i); err != nil {
			return nil, fmt.Errorf("intend certificate %s of %s: %w", i.Serial, i.Issuer, err)
		}
	}
	return devices, nil
}

// issued finds what an intent's holder has been given for its profile and key; nil if
// there is nothing good. It finds before it reads: who asks the first time has none.
func issued(c *engine.Conn, i record.Certificate, device any) (*record.Certificate, error) {
	if device == nil && i.Principal == "" {
		return nil, nil
	}
	whose, name := "device = ?", device
	if device == nil {
		whose, name = "device IS NULL AND operator = ?", any(i.Principal)
	}
	seq, err := engine.First(c, engine.Number, "SELECT seq FROM certificates WHERE "+whose+
		" AND profile = ? AND key = ? AND issued IS NOT NULL AND revoked IS NULL ORDER BY seq DESC LIMIT 1", name, i.Profile, i.Key[:])
	if err != nil || seq == nil {
		return nil, err
	}
	return engine.First(c, rows.ScanCertificate, rows.SelectCertificate+" WHERE c.seq = ?", *seq)
}

// prolong lets a shard live as long as its certificates. Ends are rounded up to a day,
// so that most certificates change nothing.
func prolong(c *engine.Conn, i record.Certificate) error {
	ends := i.NotAfter.Truncate(24 * time.Hour).Add(24 * time.Hour)
	_, err := c.Exec("UPDATE shards SET ends = ? WHERE issuer = ? AND number = ? AND (ends IS NULL OR ends < ?)", ends, i.Issuer, i.Shard, ends)
	return err
}

func intend(c *engine.Conn, i record.Certificate, device any) error {
	_, err := c.Exec(`INSERT INTO certificates (issuer, serial, profile, device, operator, subject, shard, key, not_before, not_after, intended, predecessor, key_algorithm, tbs)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		i.Issuer, i.Serial, i.Profile, device, engine.OrNull(i.Principal), i.Subject, i.Shard, i.Key[:], i.NotBefore, i.NotAfter, i.Intended, i.Predecessor, i.KeyAlgorithm, i.TBS)
	if engine.Taken(err) {
		return fmt.Errorf("%w: the serial number is taken", record.ErrExists)
	}
	return err
}

// holder checks that whom the certificate is for may have one, and returns the
// device's number or nil.
func holder(c *engine.Conn, i record.Certificate) (any, error) {
	if i.Principal != "" {
		if err := principal.Entitled(c, i.Principal, i.Key, i.Intended); err != nil {
			return nil, err
		}
	}
	if i.Device == "" {
		return nil, nil
	}
	type state struct {
		seq  int64
		name string
		lost bool // its key, and no other has taken its place (record.Grant.NewKey)
		late bool // another has, since the request was admitted
	}
	d, err := engine.First(c, func(r engine.Row) state { return state{r.Int(0), r.Text(1), r.Bool(2), r.Bool(3)} }, `SELECT seq, state,
			EXISTS (SELECT 1 FROM grants k WHERE k.device = d.seq AND `+grants.Lost+`),
			EXISTS (SELECT 1 FROM grants k WHERE k.device = d.seq AND k.new_key) AND (?2 = 'idevid' AND idevid_key <> ?3
				OR EXISTS (SELECT 1 FROM certificates WHERE serial = ?4 AND device = d.seq AND revoked IS NOT NULL))
		FROM devices d WHERE id = ?1`, i.Device, i.Profile, i.Key[:], i.Predecessor)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("device %s: %w", i.Device, record.ErrNotFound)
	}
	if d.name != record.StateActive {
		return nil, fmt.Errorf("%w: the device is %s", record.ErrConflict, d.name)
	}
	if d.lost || d.late {
		return nil, fmt.Errorf("%w: the device's key was declared lost", record.ErrConflict)
	}
	return d.seq, nil
}

// errEnded is returned in spite of a commit: see record.Issuance.Complete.
var errEnded = fmt.Errorf("%w: a certificate was revoked or held between its intent and its record; it is recorded and must not be handed out", record.ErrConflict)

// Complete records the certificates. What was ended meanwhile stays so: no statement
// touches revoked and reason.
func (s *Store) Complete(ctx context.Context, signed []record.Certificate, e record.Event) error {
	ended := false
	err := audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		for _, w := range signed {
			if len(w.DER) == 0 || w.Issued.IsZero() {
				return fmt.Errorf("complete certificate %s of %s: without certificate or time", w.Serial, w.Issuer)
			}
			const sql = "UPDATE certificates SET der = ?, issued = ?, tbs = NULL WHERE serial = ? AND issuer = ? AND issued IS NULL"
			n, err := c.Exec(sql+" AND revoked IS NULL", w.DER, w.Issued, w.Serial, w.Issuer)
			if err == nil && n == 0 {
				ended = true
				n, err = c.Exec(sql, w.DER, w.Issued, w.Serial, w.Issuer)
			}
			if err := engine.Changed(n, err, "there is no such intent"); err != nil {
				return fmt.Errorf("complete certificate %s of %s: %w", w.Serial, w.Issuer, err)
			}
			if w.Profile != record.ProfileLDevID {
				continue
			}
			if _, err := c.Exec(`UPDATE devices SET expires = c.not_after, key_algorithm = c.key_algorithm FROM certificates c
				WHERE c.serial = ? AND c.issuer = ? AND c.profile = ? AND devices.seq = c.device`, w.Serial, w.Issuer, w.Profile); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && ended {
		return errEnded
	}
	return err
}

// Void revokes an intent, one on hold included.
func (s *Store) Void(ctx context.Context, issuer, serial string, at time.Time, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		n, err := c.Exec(`UPDATE certificates SET revoked = coalesce(revoked, ?), reason = ?
			WHERE serial = ? AND issuer = ? AND issued IS NULL AND (revoked IS NULL OR reason = ?)`,
			at, record.ReasonUnspecified, serial, issuer, record.ReasonHold)
		return engine.Changed(n, err, "certificate "+serial+" of "+issuer+" is not an open intent")
	})
}

// OpenIntents lists oldest first.
func (s *Store) OpenIntents(ctx context.Context) ([]record.Certificate, error) {
	return engine.List(ctx, s.db, rows.ScanCertificate, rows.SelectCertificate+" WHERE c.issued IS NULL AND (c.revoked IS NULL OR c.reason = ?) ORDER BY c.seq", record.ReasonHold)
}
