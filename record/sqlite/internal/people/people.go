// Package people keeps who administers and whose TPMs are trusted.
package people

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/principal"
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
	return engine.One(c, "operator "+name, scanOperator, selectOperator+" WHERE name = ? AND "+isOperator, name)
}

// Invite judges "has a certificate" at o.Created.
func (s People) Invite(ctx context.Context, o record.Operator, e record.Event) error {
	return principal.Operator.Invite(ctx, s.db, o, e)
}

// AcceptInvitation lets the first key have the invitation.
func (s People) AcceptInvitation(ctx context.Context, id string, key [32]byte, at time.Time, e record.Event) (record.Operator, error) {
	return principal.Accept(ctx, s.db, principal.Operator, id, key, at, e, Operator)
}

// DisableOperator also withdraws an invitation. Who can act is read in its transaction and as of now:
// of two operators who disable each other, the one whose act is later may have been written first.
func (s People) DisableOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	if e.Detail = maps.Clone(e.Detail); e.Detail == nil {
		e.Detail = map[string]string{}
	}
	return principal.Operator.Disable(ctx, s.db, name, at, e, func(c *engine.Conn) error {
		able, err := engine.Query(ctx, c, engine.Text, SelectAble, at, nil)
		if err == nil && slices.Equal(able, []string{name}) {
			err = fmt.Errorf("%s is the only operator who can act: %w", name, record.ErrConflict)
		}
		if err != nil {
			return err
		}
		return withdraw(ctx, c, name, at, e.Detail)
	})
}

// unused selects whom ?1 has invited and who has made no use of it by ?2.
const unused = `SELECT name FROM operators WHERE invited_by = ?1 AND disabled IS NULL AND invitation IS NOT NULL AND (accepted IS NULL OR invited_until > ?2)
	AND NOT EXISTS (SELECT 1 FROM certificates c WHERE c.device IS NULL AND c.operator = operators.name AND c.revoked IS NULL AND c.not_after > ?2) ORDER BY name`

// withdraw ends what an operator has given out and nobody has used: whoever stole the operator's key
// may hold it, for months. It ends on any clock, as in package grants, and is noted in detail.
func withdraw(ctx context.Context, c *engine.Conn, name string, at time.Time, detail map[string]string) error {
	for _, table := range []string{"tickets", "grants"} {
		n, err := c.Exec("UPDATE "+table+" SET expires = min(created, ?1) WHERE operator = ?2 AND redeemed IS NULL AND expires > min(created, ?1)", at, name)
		if err != nil {
			return err
		}
		if n > 0 {
			detail["withdrawn_"+table] = strconv.FormatInt(n, 10)
		}
	}
	invited, err := engine.Query(ctx, c, engine.Text, unused, name, at)
	if err != nil || len(invited) == 0 {
		return err
	}
	detail["withdrawn_invitations"] = strings.Join(invited, ", ")
	for _, name := range invited {
		if _, err := c.Exec(principal.Bar, at, name); err != nil {
			return err
		}
	}
	return nil
}

// RecoverOperator also withdraws an invitation, and always writes its event, which is no alert
// to an operator whom it makes.
func (s People) RecoverOperator(ctx context.Context, name string, at time.Time, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		n, err := c.Exec(`INSERT INTO operators (name, created, alerted) VALUES (?, ?, (SELECT coalesce(max(seq), 0) + 1 FROM events))
			ON CONFLICT (name) DO UPDATE SET disabled = NULL, invitation = NULL, invited_until = NULL, accepted = NULL WHERE `+isOperator, name, at)
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
func (s People) Able(ctx context.Context, at time.Time, lost time.Duration) ([]string, error) {
	return engine.List(ctx, s.db, engine.Text, SelectAble, at, at.Add(-lost))
}

// SelectAble selects the names that Able lists; its parameters are the time, and since when
// who has lost the ability is one of them, or NULL: never.
const SelectAble = "SELECT name FROM operators WHERE " + isOperator + ` AND (disabled IS NULL OR disabled > ?2) AND EXISTS (SELECT 1 FROM certificates c
	WHERE c.device IS NULL AND c.operator = operators.name AND c.issued IS NOT NULL AND c.not_after > ?1 AND (c.revoked IS NULL OR c.revoked > ?2)) ORDER BY name`

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
