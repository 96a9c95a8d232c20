// Package inventory lists devices and certificates.
package inventory

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/filter"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

// Inventory is a [record.Inventory].
type Inventory struct {
	db  *engine.DB
	now func() time.Time
}

// New keeps it in db; now decides what has expired.
func New(db *engine.DB, now func() time.Time) Inventory { return Inventory{db, now} }

// Devices pages by the order of enrolment, which no change of a device moves.
func (s Inventory) Devices(ctx context.Context, where *record.Selector, p record.Page) (list []record.Device, next string, err error) {
	after, err := engine.Cursor(p, 0)
	if err != nil {
		return nil, "", err
	}
	condition, args, err := filter.Devices(where)
	if err != nil {
		return nil, "", err
	}
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, rows.ScanDevice, "SELECT "+rows.DeviceColumns+" FROM devices d WHERE d.seq > ? AND "+condition+" ORDER BY d.seq LIMIT ?",
			append(append([]any{after}, args...), p.Limit+1)...)
		found, next = engine.Cut(found, p, func(d rows.Recorded) int64 { return d.Seq })
		list, err = whole(ctx, c, found, err)
		return err
	})
	return list, next, err
}

// whole adds endorsement keys and labels to what a query found.
func whole(ctx context.Context, c *engine.Conn, found []rows.Recorded, err error) (list []record.Device, _ error) {
	for i := range found {
		if err == nil {
			err = rows.WithEKs(ctx, c, &found[i])
		}
		if err == nil {
			err = rows.WithLabels(ctx, c, &found[i])
		}
		list = append(list, found[i].Device)
	}
	return list, err
}

// Device finds by ID.
func (s Inventory) Device(ctx context.Context, id string) (record.Device, error) {
	return engine.Get(ctx, s.db, "device "+id, func(c *engine.Conn) (*record.Device, error) {
		found, err := engine.Query(ctx, c, rows.ScanDevice, "SELECT "+rows.DeviceColumns+" FROM devices d WHERE d.id = ?", id)
		list, err := whole(ctx, c, found, err)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		return &list[0], nil
	})
}

// DevicesNamed lists by model.
func (s Inventory) DevicesNamed(ctx context.Context, model, serial string) (list []record.Device, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, rows.ScanDevice, "SELECT "+rows.DeviceColumns+" FROM devices d WHERE d.serial_folded = ? AND (?2 = '' OR d.model = ?2) ORDER BY d.model LIMIT ?3",
			record.Fold(serial), model, engine.MaxPage)
		list, err = whole(ctx, c, found, err)
		return err
	})
	return list, err
}

// Certificates pages by the order of intent, backwards.
func (s Inventory) Certificates(ctx context.Context, where *record.Selector, p record.Page) (list []record.Certificate, next string, err error) {
	before, err := engine.Cursor(p, math.MaxInt64)
	if err != nil {
		return nil, "", err
	}
	condition, args, err := filter.Certificates(where, s.now())
	if err != nil {
		return nil, "", err
	}
	type numbered struct {
		seq int64
		record.Certificate
	}
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, func(r engine.Row) numbered { return numbered{r.Int(0), rows.ScanCertificate(r)} },
			rows.ListCertificate+" WHERE c.seq < ? AND "+condition+" ORDER BY c.seq DESC LIMIT ?", append(append([]any{before}, args...), p.Limit+1)...)
		found, next = engine.Cut(found, p, func(f numbered) int64 { return f.seq })
		for _, f := range found {
			list = append(list, f.Certificate)
		}
		return err
	})
	return list, next, err
}

// CertificatesNumbered lists by issuer.
func (s Inventory) CertificatesNumbered(ctx context.Context, serial string) ([]record.Certificate, error) {
	return engine.List(ctx, s.db, rows.ScanCertificate, rows.SelectCertificate+" WHERE c.serial = ? ORDER BY c.issuer", serial)
}

// Issuers asks the shards: of them there are few.
func (s Inventory) Issuers(ctx context.Context) ([]string, error) {
	return engine.List(ctx, s.db, func(r engine.Row) string { return r.Text(0) }, "SELECT DISTINCT issuer FROM shards ORDER BY issuer")
}

// outstanding leaves out what a newer one of the same holder has taken the place of.
const outstanding = `SELECT count(*) FILTER (WHERE c.revoked IS NULL), count(*) FILTER (WHERE c.revoked IS NOT NULL), max(c.not_after), max(c.seq)
	FROM certificates c WHERE c.issuer = ? AND c.not_after >= ? AND (c.device IS NOT NULL OR c.operator IS NOT NULL)
	AND (?3 IS NULL OR instr(coalesce(c.der, c.tbs), ?3) = 0)
	AND (c.revoked IS NOT NULL OR c.device IS NOT NULL AND NOT EXISTS (SELECT 1 FROM certificates n
			WHERE n.device = c.device AND n.profile = c.profile AND n.seq > c.seq AND n.issued IS NOT NULL AND n.revoked IS NULL AND n.not_after >= ?2)
		OR c.device IS NULL AND NOT EXISTS (SELECT 1 FROM certificates n
			WHERE n.device IS NULL AND n.operator = c.operator AND n.profile = c.profile AND n.seq > c.seq AND n.issued IS NOT NULL AND n.revoked IS NULL AND n.not_after >= ?2))`

// Outstanding reads a certificate whole only if a key is given, and the index of what has not
// expired leads to all of them.
func (s Inventory) Outstanding(ctx context.Context, issuer string, key []byte, at time.Time) (o record.Outstanding, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		newest := int64(0)
		_, err := engine.Query(ctx, c, func(r engine.Row) struct{} {
			o, newest = record.Outstanding{Good: r.Int(0), Denied: r.Int(1), Until: r.Time(2)}, r.Int(3)
			return struct{}{}
		}, outstanding, issuer, at, key)
		if err != nil || newest == 0 {
			return err
		}
		serial, err := engine.First(c, func(r engine.Row) string { return r.Text(0) }, "SELECT serial FROM certificates WHERE seq = ?", newest)
		if serial != nil {
			o.Newest = *serial
		}
		return err
	})
	return o, err
}

// LabelDevices selects once: a label that it changes may be what selects.
func (s Inventory) LabelDevices(ctx context.Context, of record.Selection, set map[string]string, remove []string, e record.Event) (n int64, err error) {
	chosen, args, err := filter.Selection(of)
	if err != nil {
		return 0, err
	}
	err = audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		if n, err = Count(ctx, c, of, chosen, args); err != nil {
			return err
		}
		devices, err := engine.First(c, engine.Text, "SELECT json_group_array(d.seq) FROM devices d WHERE "+chosen, args...)
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(set)) {
			if _, err := c.Exec(`INSERT INTO labels (device, key, value) SELECT value, ?, ? FROM json_each(?) WHERE TRUE
				ON CONFLICT (device, key) DO UPDATE SET value = excluded.value`, key, set[key], *devices); err != nil {
				return err
			}
		}
		for _, key := range remove {
			if _, err := c.Exec("DELETE FROM labels WHERE key = ? AND device IN (SELECT value FROM json_each(?))", key, *devices); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// Count counts the devices of a selection; ErrNotFound if one that was named is not there.
func Count(ctx context.Context, c *engine.Conn, of record.Selection, chosen string, args []any) (int64, error) {
	n, err := engine.Query(ctx, c, engine.Number, "SELECT count(*) FROM devices d WHERE "+chosen, args...)
	if err != nil {
		return 0, err
	}
	if of.Devices != nil && n[0] != int64(len(of.Devices)) {
		return 0, fmt.Errorf("a device of those named: %w", record.ErrNotFound)
	}
	return n[0], nil
}
