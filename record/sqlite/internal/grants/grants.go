// Package grants keeps the grants by which devices come back.
package grants

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/revocation"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Grants is a [record.Grants].
type Grants struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) Grants { return Grants{db} }

// Grant adds one and ends those before it.
func (s Grants) Grant(ctx context.Context, g record.Grant, e record.Event) (changed []record.Shard, err error) {
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		d, err := engine.First(c, rows.ScanDevice, "SELECT "+rows.DeviceColumns+" FROM devices d WHERE d.id = ?", g.Device)
		switch {
		case err != nil:
			return err
		case d == nil:
			return fmt.Errorf("device %s: %w", g.Device, record.ErrNotFound)
		case d.State == record.StateRevoked:
			return fmt.Errorf("%w: device %s is revoked, and that is final", record.ErrConflict, d.Name())
		case g.NewKey && d.Assurance.Hardware:
			return fmt.Errorf("%w: device %s has a TPM, and keeps its keys", record.ErrConflict, d.Name())
		}
		if _, err := c.Exec(end+" AND device = ?2", g.Created, d.Seq); err != nil {
			return err
		}
		if _, err := c.Exec("INSERT INTO grants (id, device, new_key, created, expires, operator) VALUES (?, ?, ?, ?, ?, ?)",
			g.ID, d.Seq, g.NewKey, g.Created, g.Expires, engine.OrNull(e.By)); err != nil {
			return engine.Exists(err, "grant "+g.ID)
		}
		if g.NewKey {
			changed, err = revocation.Supersede(c, d.Seq, g.Created)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// end ends grants at ?1, and as if they had never been: one that had merely come to its end
// would be good again on a clock that is behind, or was set back.
const end = "UPDATE grants SET expires = min(created, ?1) WHERE expires > min(created, ?1)"

// EndGrants writes no event if there is none.
func (s Grants) EndGrants(ctx context.Context, at time.Time, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		return audit.Any(c.Exec(end+" AND redeemed IS NULL", at))
	})
}

const selectGrant = "SELECT k.id, d.id, k.new_key, k.created, k.expires, k.redeemed FROM grants k JOIN devices d ON d.seq = k.device"

// Lost is true of a grant k by which its device lost its key, and has none until it or a later
// one is made use of: one that merely ends gives nobody the key back.
const Lost = `k.new_key AND k.redeemed IS NULL
	AND NOT EXISTS (SELECT 1 FROM grants later WHERE later.device = k.device AND later.seq > k.seq AND later.redeemed IS NOT NULL)`

func scan(r engine.Row) record.Grant {
	return record.Grant{ID: r.Text(0), Device: r.Text(1), NewKey: r.Bool(2), Created: r.Time(3), Expires: r.Time(4), Redeemed: r.Time(5)}
}

// GrantsOf lists the newest first.
func (s Grants) GrantsOf(ctx context.Context, device string) ([]record.Grant, error) {
	return engine.List(ctx, s.db, scan, selectGrant+" WHERE d.id = ? ORDER BY k.seq DESC", device)
}

// Named finds by id; nil if there is none.
func Named(c *engine.Conn, id string) (*record.Grant, error) {
	return engine.First(c, scan, selectGrant+" WHERE k.id = ?", id)
}

// Newest finds the newest of a device; nil if it has none.
func Newest(c *engine.Conn, device string) (*record.Grant, error) {
	return engine.First(c, scan, selectGrant+" WHERE d.id = ? ORDER BY k.seq DESC LIMIT 1", device)
}

// OfLost finds the newest by which a device has lost its key; nil if it has it.
func OfLost(c *engine.Conn, device string) (*record.Grant, error) {
	return engine.First(c, scan, selectGrant+" WHERE d.id = ? AND "+Lost+" ORDER BY k.seq DESC LIMIT 1", device)
}
