// Package people keeps who administers and whose TPMs are trusted.
package people

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// People is a [record.Operators] and a [record.Authorities].
type People struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) People { return People{db} }

const selectOperator = "SELECT name, created, disabled, invitation, invited_until, accepted FROM operators"

func scanOperator(r engine.Row) record.Operator {
	return record.Operator{Name: r.Text(0), Created: r.Time(1), Disabled: r.Time(2), Invitation: r.Text(3), InvitedUntil: r.Time(4), Accepted: r.Sum(5)}
}

// isOperator keeps relying parties out, which share the table.
const isOperator = "kind = 'operator'"

// Operator finds by name, or fails with ErrNotFound.
func Operator(c *engine.Conn, name string) (record.Operator, error) {
	o, err := engine.First(c, scanOperator, selectOperator+" WHERE name = ? AND "+isOperator, name)
	if err == nil && o == nil {
		err = fmt.Errorf("operator %s: %w", name, record.ErrNotFound)
	}
	if err != nil {
		return record.Operator{}, err
	}
	return *o, nil
}

// Disabled is when whoever has that name, an operator or a relying party, was disabled:
// zero if never, ErrNotFound if there is nobody.
func Disabled(c *engine.Conn, name string) (time.Time, error) {
	at, err := engine.First(c, func(r engine.Row) time.Time { return r.Time(0) }, "SELECT disabled FROM operators WHERE name = ?", name)
	if err == nil && at == nil {
		err = fmt.Errorf("operator %s: %w", name, record.ErrNotFound)
	}
	if err != nil {
		return time.Time{}, err
	}
	return *at, nil
}

// Invite judges "has a certificate" at o.Created: one that is good and has not expired.
func (s People) Invite(ctx context.Context, o record.Operator, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		held, err := engine.First(c, engine.Number, `SELECT 1 FROM certificates WHERE device IS NULL AND operator = ? AND issued IS NOT NULL AND revoked IS NULL AND not_after > ?
			UNION ALL SELECT 1 FROM operators WHERE name = ? AND NOT `+isOperator+` LIMIT 1`, o.Name, o.Created, o.Name)
		if err != nil {
			return err
		}
		if held != nil {
			return fmt.Errorf("%s has a certificate, or is a relying party: %w", o.Name, record.ErrExists)
		}
		_, err = c.Exec(`INSERT INTO operators (name, created, invitation, invited_until, alerted) VALUES (?, ?, ?, ?, (SELECT coalesce(max(seq), 0) FROM events))
			ON CONFLICT (name) DO UPDATE SET invitation = excluded.invitation, invited_until = excluded.invited_until, accepted = NULL, disabled = NULL`,
			o.Name, o.Created, engine.OrNull(o.Invitation), o.InvitedUntil)
		return engine.Exists(err, "invitation")
	})
}

// AcceptInvitation lets the first key have the invitation.
func (s People) AcceptInvitation(ctx context.Context, id string, key [32]byte, at time.Time, e record.Event) (o record.Operator, err error) {
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		found, err := engine.First(c, scanOperator, selectOperator+" WHERE invitation = ? AND invited_until > ? AND disabled IS NULL AND "+isOperator, id, at)
		if err != nil {
			return err
		}
		if found == nil || found.Accepted != [32]byte{} && found.Accepted != key {
			return fmt.Errorf("invitation: %w", record.ErrNotFound)
		}
		if o = *found; o.Accepted == key {
			return audit.ErrUnchanged
		}
		o.Accepted = key
		_, err = c.Exec("UPDATE operators SET accepted = ? WHERE name = ?", key[:], o.Name)
		return err
	})
	return o, err
}

// DisableOperator also withdraws an invitation.
func (s People) DisableOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		if o, err := Operator(c, name); err != nil {
			return err
		} else if !o.Disabled.IsZero() {
			return audit.ErrUnchanged
		}
		_, err := c.Exec("UPDATE operators SET disabled = ?, invitation = NULL, invited_until = NULL, accepted = NULL WHERE name = ?", at, name)
		return err
	})
}

// RecoverOperator always writes its event, which is no alert to an operator whom it makes.
func (s People) RecoverOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		n, err := c.Exec(`INSERT INTO operators (name, created, alerted) VALUES (?, ?, (SELECT coalesce(max(seq), 0) + 1 FROM events))
			ON CONFLICT (name) DO UPDATE SET disabled = NULL WHERE `+isOperator, name, at)
		return engine.Changed(n, err, name+" is a relying party")
	})
}

// Operator finds by name.
func (s People) Operator(ctx context.Context, name string) (record.Operator, error) {
	return engine.Get(ctx, s.db, "operator "+name, func(c *engine.Conn) (*record.Operator, error) {
		o, err := Operator(c, name)
		return &o, err
	})
}

// Operators lists by name.
func (s People) Operators(ctx context.Context) ([]record.Operator, error) {
	return engine.List(ctx, s.db, scanOperator, selectOperator+" WHERE "+isOperator+" ORDER BY name")
}

// Able lists by name.
func (s People) Able(ctx context.Context, at time.Time) ([]string, error) {
	return engine.List(ctx, s.db, func(r engine.Row) string { return r.Text(0) }, SelectAble, at, at.Add(-record.AbleAfterDisabling))
}

// SelectAble selects the names that Able lists; its parameters are the time, and that
// less record.AbleAfterDisabling.
const SelectAble = "SELECT name FROM operators WHERE " + isOperator + ` AND (disabled IS NULL AND EXISTS (SELECT 1 FROM certificates c
		WHERE c.device IS NULL AND c.operator = operators.name AND c.issued IS NOT NULL AND c.revoked IS NULL AND c.not_after > ?)
	OR disabled > ?) ORDER BY name`

// AddAuthorities writes no event if all are there already.
func (s People) AddAuthorities(ctx context.Context, as []record.Authority, e record.Event) (added int, err error) {
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		for _, a := range as {
			n, err := c.Exec("INSERT INTO authorities (fingerprint, added, added_by, der) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", a.Fingerprint, a.Added, a.AddedBy, a.DER)
			if err != nil {
				return err
			}
			added += int(n)
		}
		if added == 0 {
			return audit.ErrUnchanged
		}
		return nil
	})
	return added, err
}

// RemoveAuthority takes one out.
func (s People) RemoveAuthority(ctx context.Context, fingerprint string, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		n, err := c.Exec("DELETE FROM authorities WHERE fingerprint = ?", fingerprint)
		if err == nil && n == 0 {
			err = fmt.Errorf("authority %s: %w", fingerprint, record.ErrNotFound)
		}
		return err
	})
}

// Authorities lists in the order of import.
func (s People) Authorities(ctx context.Context) ([]record.Authority, error) {
	return engine.List(ctx, s.db, func(r engine.Row) record.Authority {
		return record.Authority{Fingerprint: r.Text(0), Added: r.Time(1), AddedBy: r.Text(2), DER: r.Blob(3)}
	}, "SELECT fingerprint, added, added_by, der FROM authorities ORDER BY rowid")
}
