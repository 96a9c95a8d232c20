// Package inventory lists devices and certificates.
package inventory

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/record"
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

// maxPage is record.Page's bound.
const maxPage = 1000

// Devices pages by the order of enrolment, which no change of a device moves.
func (s Inventory) Devices(ctx context.Context, where *record.Selector, p record.Page) (list []record.Device, next string, err error) {
	after, err := cursor(p, 0)
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
		if err == nil && len(found) > p.Limit {
			found = found[:p.Limit]
			next = strconv.FormatInt(found[p.Limit-1].Seq, 10)
		}
		list, err = whole(ctx, c, found, err)
		return err
	})
	return list, next, err
}

// whole adds the endorsement keys to what a query found.
func whole(ctx context.Context, c *engine.Conn, found []rows.Recorded, err error) (list []record.Device, _ error) {
	for i := range found {
		if err == nil {
			err = rows.WithEKs(ctx, c, &found[i])
		}
		list = append(list, found[i].Device)
	}
	return list, err
}

// Device finds by ID.
func (s Inventory) Device(ctx context.Context, id string) (record.Device, error) {
	return engine.Get(ctx, s.db, "device "+id, func(c *engine.Conn) (*record.Device, error) { return rows.Device(c, "id = ?", id) })
}

// DevicesNamed lists by model.
func (s Inventory) DevicesNamed(ctx context.Context, model, serial string) (list []record.Device, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, rows.ScanDevice, "SELECT "+rows.DeviceColumns+" FROM devices d WHERE d.serial_folded = ? AND (?2 = '' OR d.model = ?2) ORDER BY d.model LIMIT ?3",
			record.Fold(serial), model, maxPage)
		list, err = whole(ctx, c, found, err)
		return err
	})
	return list, err
}

// Certificates pages by the order of intent, backwards.
func (s Inventory) Certificates(ctx context.Context, where *record.Selector, p record.Page) (list []record.Certificate, next string, err error) {
	before, err := cursor(p, math.MaxInt64)
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
		if err != nil {
			return err
		}
		if len(found) > p.Limit {
			found = found[:p.Limit]
			next = strconv.FormatInt(found[p.Limit-1].seq, 10)
		}
		for _, f := range found {
			list = append(list, f.Certificate)
		}
		return nil
	})
	return list, next, err
}

// CertificatesNumbered lists by issuer.
func (s Inventory) CertificatesNumbered(ctx context.Context, serial string) ([]record.Certificate, error) {
	return engine.List(ctx, s.db, rows.ScanCertificate, rows.SelectCertificate+" WHERE c.serial = ? ORDER BY c.issuer", serial)
}

// cursor reads where a page begins; start is where the first one does.
func cursor(p record.Page, start int64) (int64, error) {
	if p.Limit < 1 || p.Limit > maxPage {
		return 0, fmt.Errorf("a page has 1 to %d rows, not %d", maxPage, p.Limit)
	}
	if p.After == "" {
		return start, nil
	}
	n, err := strconv.ParseInt(p.After, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%w: %q", record.ErrBadCursor, p.After)
	}
	return n, nil
}
