package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// ReserveShard gives places in the newest shard while it has any, else opens the next.
func (s *Store) ReserveShard(ctx context.Context, issuer string, want, capacity int64) (shard, given int64, err error) {
	if issuer == "" || want < 1 || capacity < 1 {
		return 0, 0, fmt.Errorf("reserve shard: issuer %q, want %d, capacity %d", issuer, want, capacity)
	}
	err = s.write(ctx, func(c *conn) error {
		type place struct{ number, given int64 }
		last, err := first(c, func(r row) place { return place{r.int(0), r.int(1)} },
			"SELECT number, given FROM shards WHERE issuer = ? ORDER BY number DESC LIMIT 1", issuer)
		if err != nil {
			return err
		}
		if last == nil {
			last = &place{0, capacity}
		}
		if left := capacity - last.given; left > 0 {
			shard, given = last.number, min(want, left)
			_, err = c.exec("UPDATE shards SET given = given + ? WHERE issuer = ? AND number = ?", given, issuer, shard)
			return err
		}
		shard, given = last.number+1, min(want, capacity)
		_, err = c.exec("INSERT INTO shards (issuer, number, given) VALUES (?, ?, ?)", issuer, shard, given)
		return err
	})
	return shard, given, err
}

// Intend records intents for active devices and enabled operators.
func (s *Store) Intend(ctx context.Context, intents []record.Certificate) error {
	return s.write(ctx, func(c *conn) error {
		for _, i := range intents {
			if err := intend(c, i); err != nil {
				return fmt.Errorf("intend certificate %s of %s: %w", i.Serial, i.Issuer, err)
			}
		}
		return nil
	})
}

func intend(c *conn, i record.Certificate) error {
	device, err := holder(c, i)
	if err != nil {
		return err
	}
	_, err = c.exec(`INSERT INTO certificates (issuer, serial, profile, device, operator, subject, shard, key, not_before, not_after, intended, predecessor, tbs)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		i.Issuer, i.Serial, i.Profile, device, orNull(i.Operator), i.Subject, i.Shard, i.Key[:], i.NotBefore, i.NotAfter, i.Intended, i.Predecessor, i.TBS)
	if taken(err) {
		return fmt.Errorf("%w: the serial number is taken", record.ErrExists)
	}
	return err
}

// holder checks that whom the certificate is for may have one, and returns the
// device's number or nil.
func holder(c *conn, i record.Certificate) (any, error) {
	if i.Operator != "" {
		o, err := operator(c, i.Operator)
		if err != nil {
			return nil, err
		}
		if !o.Disabled.IsZero() {
			return nil, fmt.Errorf("%w: operator %s is disabled", record.ErrConflict, i.Operator)
		}
	}
	if i.Device == "" {
		return nil, nil
	}
	type state struct {
		seq  int64
		name string
	}
	d, err := first(c, func(r row) state { return state{r.int(0), r.text(1)} }, "SELECT seq, state FROM devices WHERE id = ?", i.Device)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("device %s: %w", i.Device, record.ErrNotFound)
	}
	if d.name != record.StateActive {
		return nil, fmt.Errorf("%w: the device is %s", record.ErrConflict, d.name)
	}
	return d.seq, nil
}

// errEnded is returned in spite of a commit: see record.Issuance.Complete.
var errEnded = fmt.Errorf("%w: a certificate was revoked or held between its intent and its record; it is recorded and must not be handed out", record.ErrConflict)

// Complete records the certificates. The statement leaves revoked and reason as
// they are, so what was ended meanwhile is born ended.
func (s *Store) Complete(ctx context.Context, signed []record.Certificate, e record.Event) error {
	ended := false
	err := s.write(ctx, func(c *conn) error {
		for _, w := range signed {
			if len(w.DER) == 0 || w.Issued.IsZero() {
				return fmt.Errorf("complete certificate %s of %s: without certificate or time", w.Serial, w.Issuer)
			}
			revoked, err := first(c, func(r row) bool { return r.bool(0) },
				"SELECT revoked IS NOT NULL FROM certificates WHERE serial = ? AND issuer = ? AND issued IS NULL", w.Serial, w.Issuer)
			if err != nil {
				return err
			}
			if revoked == nil {
				return fmt.Errorf("complete certificate %s of %s: %w: there is no such intent", w.Serial, w.Issuer, record.ErrConflict)
			}
			ended = ended || *revoked
			if _, err := c.exec("UPDATE certificates SET der = ?, issued = ?, tbs = NULL WHERE serial = ? AND issuer = ?", w.DER, w.Issued, w.Serial, w.Issuer); err != nil {
				return err
			}
		}
		return addEvent(c, e)
	})
	if err == nil && ended {
		return errEnded
	}
	return err
}

// Void revokes an intent, one on hold included.
func (s *Store) Void(ctx context.Context, issuer, serial string, at time.Time, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec(`UPDATE certificates SET revoked = coalesce(revoked, ?), reason = ?
			WHERE serial = ? AND issuer = ? AND issued IS NULL AND (revoked IS NULL OR reason = ?)`,
			at, record.ReasonUnspecified, serial, issuer, record.ReasonHold)
		if err := changed(n, err, "certificate "+serial+" of "+issuer+" is not an open intent"); err != nil {
			return err
		}
		return addEvent(c, e)
	})
}

// OpenIntents lists oldest first.
func (s *Store) OpenIntents(ctx context.Context) (open []record.Certificate, err error) {
	err = s.read(ctx, func(c *conn) error {
		open, err = query(ctx, c, scanCertificate, selectCertificate+" WHERE c.issued IS NULL AND (c.revoked IS NULL OR c.reason = ?) ORDER BY c.seq", record.ReasonHold)
		return err
	})
	return open, err
}

// IssuedFor looks among the device's, or else the operator's or the installation's own.
func (s *Store) IssuedFor(ctx context.Context, device, operator, profile string, key [32]byte) (record.Certificate, error) {
	const good = " AND c.profile = ? AND c.key = ? AND c.issued IS NOT NULL AND c.revoked IS NULL ORDER BY c.seq DESC LIMIT 1"
	return get(s, ctx, "certificate", func(c *conn) (*record.Certificate, error) {
		if device != "" {
			return first(c, scanCertificate, selectCertificate+" WHERE c.device = (SELECT seq FROM devices WHERE id = ?)"+good, device, profile, key[:])
		}
		return first(c, scanCertificate, selectCertificate+" WHERE c.device IS NULL AND c.operator IS ?"+good, orNull(operator), profile, key[:])
	})
}

// get is read for one thing; ErrNotFound, naming it, if there is none.
func get[T any](s *Store, ctx context.Context, name string, find func(*conn) (*T, error)) (found T, err error) {
	err = s.read(ctx, func(c *conn) error {
		p, err := find(c)
		switch {
		case err != nil:
			return err
		case p == nil:
			return fmt.Errorf("%s: %w", name, record.ErrNotFound)
		}
		found = *p
		return nil
	})
	return found, err
}

const (
	selectCertificate = "SELECT " + certificateColumns + ", c.der" + fromCertificates
	// listCertificate reads NULL for the DER.
	listCertificate    = "SELECT " + certificateColumns + ", NULL" + fromCertificates
	certificateColumns = `c.seq, c.issuer, c.serial, c.profile, d.id, c.operator, c.subject, c.shard, c.key, c.not_before, c.not_after,
		c.intended, c.issued, c.predecessor, c.used, c.revoked, c.reason, c.tbs`
	fromCertificates = " FROM certificates c LEFT JOIN devices d ON d.seq = c.device"
)

func scanCertificate(r row) record.Certificate {
	return record.Certificate{
		Issuer: r.text(1), Serial: r.text(2), Profile: r.text(3), Device: r.text(4), Operator: r.text(5), Subject: r.text(6),
		Shard: r.int(7), Key: r.sum(8), NotBefore: r.time(9), NotAfter: r.time(10),
		Intended: r.time(11), Issued: r.time(12), Predecessor: r.text(13), Used: r.time(14),
		Revoked: r.time(15), Reason: int(r.int(16)), TBS: r.blob(17), DER: r.blob(18),
	}
}

// certificate finds one; nil if there is none.
func certificate(c *conn, issuer, serial string) (*record.Certificate, error) {
	return first(c, scanCertificate, selectCertificate+" WHERE c.serial = ? AND c.issuer = ?", serial, issuer)
}
