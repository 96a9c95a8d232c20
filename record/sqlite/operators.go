package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

const selectOperator = "SELECT name, created, disabled, invitation, invited_until FROM operators"

func scanOperator(r row) record.Operator {
	return record.Operator{Name: r.text(0), Created: r.time(1), Disabled: r.time(2), Invitation: r.text(3), InvitedUntil: r.time(4)}
}

// operator finds by name, or fails with ErrNotFound.
func operator(c *conn, name string) (record.Operator, error) {
	o, err := first(c, scanOperator, selectOperator+" WHERE name = ?", name)
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
	return s.write(ctx, func(c *conn) error {
		held, err := first(c, number, "SELECT 1 FROM certificates WHERE device IS NULL AND operator = ? AND issued IS NOT NULL AND revoked IS NULL AND not_after > ? LIMIT 1", o.Name, o.Created)
		if err != nil {
			return err
		}
		if held != nil {
			return fmt.Errorf("operator %s has a certificate: %w", o.Name, record.ErrExists)
		}
		n, err := c.exec(`INSERT INTO operators (name, created, invitation, invited_until) VALUES (?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET invitation = excluded.invitation, invited_until = excluded.invited_until WHERE disabled IS NULL`,
			o.Name, o.Created, orNull(o.Invitation), o.InvitedUntil)
		if err := changed(n, err, "operator "+o.Name+" is disabled"); err != nil {
			return exists(err, "invitation")
		}
		return addEvent(c, e)
	})
}

// AcceptInvitation clears the invitation that it uses.
func (s *Store) AcceptInvitation(ctx context.Context, id string, at time.Time, e record.Event) (o record.Operator, err error) {
	err = s.write(ctx, func(c *conn) error {
		found, err := first(c, scanOperator, selectOperator+" WHERE invitation = ? AND invited_until > ? AND disabled IS NULL", id, at)
		if err != nil {
			return err
		}
		if found == nil {
			return fmt.Errorf("invitation: %w", record.ErrNotFound)
		}
		if _, err := c.exec("UPDATE operators SET invitation = NULL, invited_until = NULL WHERE name = ?", found.Name); err != nil {
			return err
		}
		o = *found
		o.Invitation, o.InvitedUntil = "", time.Time{}
		return addEvent(c, e)
	})
	return o, err
}

// DisableOperator also withdraws an invitation.
func (s *Store) DisableOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		if o, err := operator(c, name); err != nil || !o.Disabled.IsZero() {
			return err
		}
		if _, err := c.exec("UPDATE operators SET disabled = ?, invitation = NULL, invited_until = NULL WHERE name = ?", at, name); err != nil {
			return err
		}
		return addEvent(c, e)
	})
}

// RecoverOperator always writes its event.
func (s *Store) RecoverOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		if _, err := c.exec("INSERT INTO operators (name, created) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET disabled = NULL", name, at); err != nil {
			return err
		}
		return addEvent(c, e)
	})
}

// Operator finds by name.
func (s *Store) Operator(ctx context.Context, name string) (record.Operator, error) {
	return get(s, ctx, "operator "+name, func(c *conn) (*record.Operator, error) {
		o, err := operator(c, name)
		return &o, err
	})
}

// Operators lists by name.
func (s *Store) Operators(ctx context.Context) (list []record.Operator, err error) {
	err = s.read(ctx, func(c *conn) error {
		list, err = query(ctx, c, scanOperator, selectOperator+" ORDER BY name")
		return err
	})
	return list, err
}

// AddAuthorities writes no event if all are there already.
func (s *Store) AddAuthorities(ctx context.Context, as []record.Authority, e record.Event) (added int, err error) {
	err = s.write(ctx, func(c *conn) error {
		for _, a := range as {
			n, err := c.exec("INSERT INTO authorities (fingerprint, added, added_by, der) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", a.Fingerprint, a.Added, a.AddedBy, a.DER)
			if err != nil {
				return err
			}
			added += int(n)
		}
		if added == 0 {
			return nil
		}
		return addEvent(c, e)
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

// RemoveAuthority takes one out.
func (s *Store) RemoveAuthority(ctx context.Context, fingerprint string, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		n, err := c.exec("DELETE FROM authorities WHERE fingerprint = ?", fingerprint)
		if err == nil && n == 0 {
			err = fmt.Errorf("authority %s: %w", fingerprint, record.ErrNotFound)
		}
		if err != nil {
			return err
		}
		return addEvent(c, e)
	})
}

// Authorities lists in the order of import.
func (s *Store) Authorities(ctx context.Context) (list []record.Authority, err error) {
	err = s.read(ctx, func(c *conn) error {
		list, err = query(ctx, c, func(r row) record.Authority {
			return record.Authority{Fingerprint: r.text(0), Added: r.time(1), AddedBy: r.text(2), DER: r.blob(3)}
		}, "SELECT fingerprint, added, added_by, der FROM authorities ORDER BY rowid")
		return err
	})
	return list, err
}
