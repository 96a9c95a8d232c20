// Package relying keeps relying parties and how far each is.
package relying

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/principal"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Parties is a [record.RelyingParties].
type Parties struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) Parties { return Parties{db} }

const selectParty = `SELECT name, created, disabled, invitation, invited_until, accepted,
	coalesce(e.number, 0), e.since, e.reported, coalesce(e.formats, ''), coalesce(e.program, ''), coalesce(e.fail, ''), e.until, coalesce(e.problem, ''), coalesce(e.version, ''), coalesce(e.failing, '')
	FROM operators LEFT JOIN enforcements e ON e.party = name WHERE kind = 'relying-party'`

func scanParty(r engine.Row) record.RelyingParty {
	p := record.RelyingParty{
		Name: r.Text(0), Created: r.Time(1), Disabled: r.Time(2), Invitation: r.Text(3), InvitedUntil: r.Time(4), Accepted: r.Sum(5),
		Enforcement: record.Enforcement{Number: r.Int(6), Since: r.Time(7), Reported: r.Time(8), Formats: r.Text(9), Program: r.Text(10),
			Fail: r.Text(11), Until: r.Time(12), Problem: r.Text(13), Version: r.Text(14)},
	}
	json.Unmarshal([]byte(r.Text(15)), &p.Failing) // Report wrote it, or ''
	return p
}

// party finds by name, or fails with ErrNotFound.
func party(c *engine.Conn, name string) (record.RelyingParty, error) {
	return engine.One(c, "relying party "+name, scanParty, selectParty+" AND name = ?", name)
}

// InviteRelyingParty judges "has a certificate" at p.Created.
func (s Parties) InviteRelyingParty(ctx context.Context, p record.RelyingParty, e record.Event) error {
	o := record.Operator{Name: p.Name, Created: p.Created, Invitation: p.Invitation, InvitedUntil: p.InvitedUntil}
	return principal.RelyingParty.Invite(ctx, s.db, o, e)
}

// AcceptRelyingParty lets the first key have the invitation.
func (s Parties) AcceptRelyingParty(ctx context.Context, id string, key [32]byte, at time.Time, e record.Event) (record.RelyingParty, error) {
	return principal.Accept(ctx, s.db, principal.RelyingParty, id, key, at, e, party)
}

// DisableRelyingParty also withdraws an invitation.
func (s Parties) DisableRelyingParty(ctx context.Context, name string, at time.Time, e record.Event) error {
	return principal.RelyingParty.Disable(ctx, s.db, name, at, e, nil)
}

// steps is how many steps of a relying party are kept.
const steps = 1000

// Report notes a step if the number went up. If it went down, a relay has lost its files
// or the record was restored: the steps beyond it say nothing any more.
func (s Parties) Report(ctx context.Context, name string, r record.Enforcement) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		p, err := party(c, name)
		if err != nil {
			return err
		}
		if !p.Disabled.IsZero() {
			return fmt.Errorf("%w: relying party %s is disabled", record.ErrConflict, name)
		}
		since := p.Since
		if p.Reported.IsZero() || r.Number != p.Number {
			since = r.Reported
			if err := step(c, name, r); err != nil {
				return err
			}
		}
		list, err := fail(c, name, r, len(p.Failing) > 0)
		if err != nil {
			return err
		}
		_, err = c.Exec(`INSERT INTO enforcements (party, number, since, reported, formats, program, fail, until, problem, version, failing) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (party) DO UPDATE SET number = excluded.number, since = excluded.since, reported = excluded.reported, formats = excluded.formats,
			program = excluded.program, fail = excluded.fail, until = excluded.until, problem = excluded.problem, version = excluded.version, failing = excluded.failing`,
			name, r.Number, since, r.Reported, r.Formats, r.Program, r.Fail, r.Until, r.Problem, r.Version, list)
		return err
	})
}

// fail notes which failures go on, begin and have ended, and gives their list as text; failed says
// whether there were any before.
func fail(c *engine.Conn, name string, r record.Enforcement, failed bool) (list string, err error) {
	if failed {
		if _, err := c.Exec("UPDATE enforcement_failures SET ended = ? WHERE party = ? AND ended IS NULL", r.Reported, name); err != nil {
			return "", err
		}
	}
	if len(r.Failing) == 0 {
		return "", nil
	}
	for _, f := range r.Failing {
		model, serial, _ := strings.Cut(f.Device, ":")
		if _, err := c.Exec(`INSERT INTO enforcement_failures (party, change, device) SELECT ?, ?, seq FROM devices WHERE model = ? AND serial_folded = ?
			ON CONFLICT DO UPDATE SET ended = NULL`, name, f.Change, model, record.Fold(serial)); err != nil {
			return "", err
		}
	}
	if _, err := c.Exec(`DELETE FROM enforcement_failures WHERE party = ? AND ended IS NOT NULL AND change < (SELECT change FROM enforcement_failures
		WHERE party = ? ORDER BY change DESC LIMIT 1 OFFSET ?)`, name, name, steps); err != nil {
		return "", err
	}
	text, err := json.Marshal(r.Failing)
	return string(text), err
}

func step(c *engine.Conn, name string, r record.Enforcement) error {
	if _, err := c.Exec("DELETE FROM enforcement_steps WHERE party = ? AND number >= ?", name, r.Number); err != nil {
		return err
	}
	if r.Number < 0 {
		return nil
	}
	if _, err := c.Exec("INSERT INTO enforcement_steps (party, number, since) VALUES (?, ?, ?)", name, r.Number, r.Reported); err != nil {
		return err
	}
	_, err := c.Exec(`DELETE FROM enforcement_steps WHERE party = ? AND number <= (SELECT number FROM enforcement_steps
		WHERE party = ? ORDER BY number DESC LIMIT 1 OFFSET ?)`, name, name, steps)
	return err
}

// TakenUp reads the first step that reaches the number, and when the last failure ended that
// held it up. Failures are few, and a job may have a million devices.
func (s Parties) TakenUp(ctx context.Context, number int64, job string) ([]record.Taken, error) {
	const never = 1<<63 - 1
	return engine.List(ctx, s.db, func(r engine.Row) record.Taken {
		t := record.Taken{Name: r.Text(0), At: r.Time(1)}
		switch {
		case r.Int(2) == never:
			t.At = time.Time{}
		case !t.At.IsZero() && r.Time(2).After(t.At):
			t.At = r.Time(2)
		}
		return t
	}, `SELECT name, (SELECT since FROM enforcement_steps t WHERE t.party = name AND t.number >= ?1 ORDER BY t.number LIMIT 1),
		(SELECT max(coalesce(f.ended, ?2)) FROM enforcement_failures f WHERE f.party = name AND f.change <= ?1
			AND EXISTS (SELECT 1 FROM job_devices d INDEXED BY job_devices_done WHERE d.device = f.device AND d.job = ?3 AND d.outcome IN ('done', 'unchanged')))
		FROM operators JOIN enforcements e ON e.party = name WHERE disabled IS NULL AND kind = 'relying-party' ORDER BY name`, number, int64(never), rows.Number("j", job))
}

// RelyingParty finds by name.
func (s Parties) RelyingParty(ctx context.Context, name string) (record.RelyingParty, error) {
	return engine.Get(ctx, s.db, "relying party "+name, func(c *engine.Conn) (*record.RelyingParty, error) {
		p, err := party(c, name)
		return &p, err
	})
}

// RelyingParties lists by name.
func (s Parties) RelyingParties(ctx context.Context) ([]record.RelyingParty, error) {
	return engine.List(ctx, s.db, scanParty, selectParty+" ORDER BY name")
}
