// Package principal invites and disables those who have a name of their own: operators and relying
// parties, which share a table.
package principal

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Kind is what a name stands for, as in the table; it never changes.
type Kind string

// The kinds that there are: who administers, and who accepts devices.
const (
	Operator     Kind = "operator"
	RelyingParty Kind = "relying-party"
)

func (k Kind) only() string { return "kind = '" + string(k) + "'" }

// Invite judges "has a certificate" at o.Created: one that is good, or is being signed, and has
// not expired. Of o it reads the name and the invitation.
func (k Kind) Invite(ctx context.Context, db *engine.DB, o record.Operator, e record.Event) error {
	return audit.Change(ctx, db, e, func(c *engine.Conn) error {
		held, err := engine.First(c, engine.Number, `SELECT 1 FROM certificates WHERE device IS NULL AND operator = ? AND revoked IS NULL AND not_after > ?
			UNION ALL SELECT 1 FROM operators WHERE name = ? AND NOT `+k.only()+` LIMIT 1`, o.Name, o.Created, o.Name)
		if err != nil {
			return err
		}
		if held != nil {
			return fmt.Errorf("%s has a certificate, or is no %s: %w", o.Name, k, record.ErrExists)
		}
		_, err = c.Exec(`INSERT INTO operators (name, kind, created, invitation, invited_until, invited_by, alerted) VALUES (?, ?, ?, ?, ?, ?, (SELECT coalesce(max(seq), 0) FROM events))
			ON CONFLICT (name) DO UPDATE SET invitation = excluded.invitation, invited_until = excluded.invited_until, invited_by = excluded.invited_by, accepted = NULL, disabled = NULL`,
			o.Name, string(k), o.Created, engine.OrNull(o.Invitation), o.InvitedUntil, engine.OrNull(e.By))
		return engine.Exists(err, "invitation")
	})
}

// Accept lets the first key have the invitation, reads whose it is, and names them in the event.
func Accept[T any](ctx context.Context, db *engine.DB, k Kind, id string, key [32]byte, at time.Time, e record.Event, read func(*engine.Conn, string) (T, error)) (found T, err error) {
	err = db.Write(ctx, func(c *engine.Conn) error {
		name, err := engine.One(c, "invitation", engine.Text, `SELECT name FROM operators
			WHERE invitation = ? AND invited_until > ? AND disabled IS NULL AND coalesce(accepted, ?) = ? AND `+k.only(), id, at, key[:], key[:])
		if err != nil {
			return err
		}
		n, err := c.Exec("UPDATE operators SET accepted = ? WHERE name = ? AND accepted IS NULL", key[:], name)
		if err != nil {
			return err
		}
		if found, err = read(c, name); err != nil || n == 0 {
			return err
		}
		e.Object = name
		return audit.Add(c, e)
	})
	return found, err
}

// Bar disables a name as of a time, and withdraws its invitation.
const Bar = "UPDATE operators SET disabled = ?, invitation = NULL, invited_until = NULL, accepted = NULL WHERE name = ?"

// Disable also withdraws an invitation. A may that is given can still refuse, in the same
// transaction, of which it is part.
func (k Kind) Disable(ctx context.Context, db *engine.DB, name string, at time.Time, e record.Event, may func(*engine.Conn) error) error {
	return audit.Change(ctx, db, e, func(c *engine.Conn) error {
		if before, err := disabled(c, string(k), name, k.only()); err != nil {
			return err
		} else if !before.IsZero() {
			return audit.ErrUnchanged
		}
		if may != nil {
			if err := may(c); err != nil {
				return err
			}
		}
		_, err := c.Exec(Bar, at, name)
		return err
	})
}

// Entitled refuses a certificate for a key to who is disabled, or was invited anew since the key
// was let in: who has no good certificate comes in by the invitation that stands, if there is one.
func Entitled(c *engine.Conn, name string, key [32]byte, at time.Time) error {
	why, err := engine.One(c, "operator "+name, func(r engine.Row) string { return r.Text(0) }, `SELECT CASE WHEN disabled IS NOT NULL THEN 'is disabled'
		WHEN invitation IS NOT NULL AND accepted IS NOT ?2 AND NOT EXISTS (SELECT 1 FROM certificates c
			WHERE c.device IS NULL AND c.operator = name AND c.issued IS NOT NULL AND c.revoked IS NULL AND c.not_after > ?3) THEN 'was invited anew'
		ELSE '' END FROM operators WHERE name = ?1`, name, key[:], at)
	switch {
	case err != nil || why == "":
		return err
	case why == "is disabled":
		return fmt.Errorf("%s: %w", name, record.ErrDisabled)
	}
	return fmt.Errorf("%w: %s %s", record.ErrConflict, name, why)
}

// Disabled is when whoever has that name was disabled: zero if never, ErrNotFound if there
// is nobody.
func Disabled(c *engine.Conn, name string) (time.Time, error) {
	return disabled(c, "operator", name, "TRUE")
}

func disabled(c *engine.Conn, what, name, only string) (time.Time, error) {
	return engine.One(c, what+" "+name, func(r engine.Row) time.Time { return r.Time(0) }, "SELECT disabled FROM operators WHERE name = ? AND "+only, name)
}
