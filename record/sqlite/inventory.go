package sqlite

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/filter"
)

// maxPage is record.Page's bound.
const maxPage = 1000

// Devices pages by the order of enrolment, which no change of a device moves.
func (s *Store) Devices(ctx context.Context, where *record.Selector, p record.Page) (list []record.Device, next string, err error) {
	after, err := cursor(p, 0)
	if err != nil {
		return nil, "", err
	}
	condition, args, err := filter.Devices(where)
	if err != nil {
		return nil, "", err
	}
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, scanDevice, "SELECT "+deviceColumns+" FROM devices d WHERE d.seq > ? AND "+condition+" ORDER BY d.seq LIMIT ?",
			append(append([]any{after}, args...), p.Limit+1)...)
		if err == nil && len(found) > p.Limit {
			found = found[:p.Limit]
			next = strconv.FormatInt(found[p.Limit-1].seq, 10)
		}
		list, err = whole(ctx, c, found, err)
		return err
	})
	return list, next, err
}

// whole adds the endorsement keys to what a query found.
func whole(ctx context.Context, c *engine.Conn, found []recorded, err error) (list []record.Device, _ error) {
	for i := range found {
		if err == nil {
			err = withEKs(ctx, c, &found[i])
		}
		list = append(list, found[i].Device)
	}
	return list, err
}

// Device finds by ID.
func (s *Store) Device(ctx context.Context, id string) (record.Device, error) {
	return get(ctx, s, "device "+id, func(c *engine.Conn) (*record.Device, error) { return device(c, "id = ?", id) })
}

// DevicesNamed lists by model.
func (s *Store) DevicesNamed(ctx context.Context, model, serial string) (list []record.Device, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		found, err := engine.Query(ctx, c, scanDevice, "SELECT "+deviceColumns+" FROM devices d WHERE d.serial_folded = ? AND (?2 = '' OR d.model = ?2) ORDER BY d.model LIMIT ?3",
			record.Fold(serial), model, maxPage)
		list, err = whole(ctx, c, found, err)
		return err
	})
	return list, err
}

// Certificates pages by the order of intent, backwards.
func (s *Store) Certificates(ctx context.Context, where *record.Selector, p record.Page) (list []record.Certificate, next string, err error) {
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
		found, err := engine.Query(ctx, c, func(r engine.Row) numbered { return numbered{r.Int(0), scanCertificate(r)} },
			listCertificate+" WHERE c.seq < ? AND "+condition+" ORDER BY c.seq DESC LIMIT ?", append(append([]any{before}, args...), p.Limit+1)...)
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
func (s *Store) CertificatesNumbered(ctx context.Context, serial string) ([]record.Certificate, error) {
	return list(ctx, s, scanCertificate, selectCertificate+" WHERE c.serial = ? ORDER BY c.issuer", serial)
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
