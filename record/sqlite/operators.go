package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

const selectOperator = "SELECT name, created, disabled, invitation, invited_until, accepted FROM operators"

func scanOperator(r engine.Row) record.Operator {
	return record.Operator{Name: r.Text(0), Created: r.Time(1), Disabled: r.Time(2), Invitation: r.Text(3), InvitedUntil: r.Time(4), Accepted: r.Sum(5)}
}

// operator finds by name, or fails with ErrNotFound.
func operator(c *engine.Conn, name string) (record.Operator, error) {
	o, err := engine.First(c, scanOperator, selectOperator+" WHERE name = ?", name)
	if err == nil && o == nil {
		err = fmt.Errorf("operator %s: %w", name, record.ErrNotFound)
	}
	if err != nil {
		return record.Operator{}, err
	}
	return *o, nil
}

// Invite judges "has a certificate" at o.Created: one that is good and has not expired.
func (s *Store) Invite(ctx context.Context, o record.Operator, e record.Event) error {
	return s.change(ctx, e, func(c *engine.Conn) error {
		held, err := engine.First(c, engine.Number, "SELECT 1 FROM certificates WHERE device IS NULL AND operator = ? AND issued IS NOT NULL AND revoked IS NULL AND not_after > ? LIMIT 1", o.Name, o.Created)
		if err != nil {
			return err
		}
		if held != nil {
			return fmt.Errorf("operator %s has a certificate: %w", o.Name, record.ErrExists)
		}
		n, err := c.Exec(`INSERT INTO operators (name, created, invitation, invited_until) VALUES (?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET invitation = excluded.invitation, invited_until = excluded.invited_until, accepted = NULL WHERE disabled IS NULL`,
			o.Name, o.Created, engine.OrNull(o.Invitation), o.InvitedUntil)
		return changed(n, exists(err, "invitation"), "operator "+o.Name+" is disabled")
	})
}

// AcceptInvitation lets the first key have the invitation.
func (s *Store) AcceptInvitation(ctx context.Context, id string, key [32]byte, at time.Time, e record.Event) (o record.Operator, err error) {
	err = s.change(ctx, e, func(c *engine.Conn) error {
		found, err := engine.First(c, scanOperator, selectOperator+" WHERE invitation = ? AND invited_until > ? AND disabled IS NULL", id, at)
		if err != nil {
			return err
		}
		if found == nil || found.Accepted != [32]byte{} && found.Accepted != key {
			return fmt.Errorf("invitation: %w", record.ErrNotFound)
		}
		if o = *found; o.Accepted == key {
			return errUnchanged
		}
		o.Accepted = key
		_, err = c.Exec("UPDATE operators SET accepted = ? WHERE name = ?", key[:], o.Name)
		return err
	})
	return o, err
}

// DisableOperator also withdraws an invitation.
func (s *Store) DisableOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	return s.change(ctx, e, func(c *engine.Conn) error {
		if o, err := operator(c, name); err != nil {
			return err
		} else if !o.Disabled.IsZero() {
			return errUnchanged
		}
		_, err := c.Exec("UPDATE operators SET disabled = ?, invitation = NULL, invited_until = NULL, accepted = NULL WHERE name = ?", at, name)
		return err
	})
}

// RecoverOperator always writes its event.
func (s *Store) RecoverOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	return s.change(ctx, e, func(c *engine.Conn) error {
		_, err := c.Exec("INSERT INTO operators (name, created) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET disabled = NULL", name, at)
		return err
	})
}

// Operator finds by name.
func (s *Store) Operator(ctx context.Context, name string) (record.Operator, error) {
	return get(ctx, s, "operator "+name, func(c *engine.Conn) (*record.Operator, error) {
		o, err := operator(c, name)
		return &o, err
	})
}

// Operators lists by name.
func (s *Store) Operators(ctx context.Context) ([]record.Operator, error) {
	return list(ctx, s, scanOperator, selectOperator+" ORDER BY name")
}

// AddAuthorities writes no event if all are there already.
func (s *Store) AddAuthorities(ctx context.Context, as []record.Authority, e record.Event) (added int, err error) {
	err = s.change(ctx, e, func(c *engine.Conn) error {
		for _, a := range as {
			n, err := c.Exec("INSERT INTO authorities (fingerprint, added, added_by, der) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", a.Fingerprint, a.Added, a.AddedBy, a.DER)
			if err != nil {
				return err
			}
			added += int(n)
		}
		if added == 0 {
			return errUnchanged
		}
		return nil
	})
	return added, err
}

// RemoveAuthority takes one out.
func (s *Store) RemoveAuthority(ctx context.Context, fingerprint string, e record.Event) error {
	return s.change(ctx, e, func(c *engine.Conn) error {
		n, err := c.Exec("DELETE FROM authorities WHERE fingerprint = ?", fingerprint)
		if err == nil && n == 0 {
			err = fmt.Errorf("authority %s: %w", fingerprint, record.ErrNotFound)
		}
		return err
	})
}

// Authorities lists in the order of import.
func (s *Store) Authorities(ctx context.Context) ([]record.Authority, error) {
	return list(ctx, s, func(r engine.Row) record.Authority {
		return record.Authority{Fingerprint: r.Text(0), Added: r.Time(1), AddedBy: r.Text(2), DER: r.Blob(3)}
	}, "SELECT fingerprint, added, added_by, der FROM authorities ORDER BY rowid")
}
