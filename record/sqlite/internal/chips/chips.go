// Package chips keeps which endorsement key counts, by make and model of TPM.
package chips

import (
	"context"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Chips is a [record.EKTypes].
type Chips struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) Chips { return Chips{db} }

// EKTypes lists by maker, model and type.
func (s Chips) EKTypes(ctx context.Context) ([]record.EKType, error) {
	return engine.List(ctx, s.db, func(r engine.Row) record.EKType {
		return record.EKType{Maker: r.Text(0), Model: r.Text(1), Type: r.Text(2), Since: r.Time(3), Device: r.Text(4), AllowedBy: r.Text(5)}
	}, `SELECT maker, ek_types.model, type, since, d.id, allowed_by
		FROM ek_types LEFT JOIN devices d ON d.seq = ek_types.device ORDER BY maker, ek_types.model, type`)
}

// AllowEKType refuses one that is there already.
func (s Chips) AllowEKType(ctx context.Context, t record.EKType, e record.Event) error {
	t.Device = ""
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error { return Add(c, t) })
}

// Add records one; ErrExists if it is there.
func Add(c *engine.Conn, t record.EKType) error {
	_, err := c.Exec(`INSERT INTO ek_types (maker, model, type, since, device, allowed_by)
		VALUES (?, ?, ?, ?, (SELECT seq FROM devices WHERE id = ?), ?)`, t.Maker, t.Model, t.Type, t.Since, t.Device, t.AllowedBy)
	return engine.Exists(err, t.Type+" of "+t.Maker+" "+t.Model)
}

// Types are those of a make and model.
func Types(c *engine.Conn, chip record.EKType) ([]string, error) {
	return engine.Query(context.Background(), c, engine.Text,
		"SELECT type FROM ek_types WHERE maker = ? AND model = ? ORDER BY type", chip.Maker, chip.Model)
}
