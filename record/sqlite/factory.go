package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// CreateModel refuses a taken name with ErrExists.
func (s *Store) CreateModel(ctx context.Context, m record.Model, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		if err := createModel(c, m); err != nil {
			return err
		}
		return addEvent(c, e)
	})
}

func createModel(c *conn, m record.Model) error {
	_, err := c.exec("INSERT INTO models (name, assurance, ldevid_lifetime, created) VALUES (?, ?, ?, ?)", m.Name, m.Assurance, m.LDevIDLifetime, m.Created)
	return exists(err, "model "+m.Name)
}

// exists makes ErrExists of a taken key.
func exists(err error, what string) error {
	if taken(err) {
		return fmt.Errorf("%s: %w", what, record.ErrExists)
	}
	return err
}

const selectModel = "SELECT name, assurance, ldevid_lifetime, created FROM models"

func scanModel(r row) record.Model {
	return record.Model{Name: r.text(0), Assurance: r.text(1), LDevIDLifetime: time.Duration(r.int(2)) * time.Microsecond, Created: r.time(3)}
}

func model(c *conn, name string) (*record.Model, error) {
	return first(c, scanModel, selectModel+" WHERE name = ?", name)
}

// Models lists by name.
func (s *Store) Models(ctx context.Context) (list []record.Model, err error) {
	err = s.read(ctx, func(c *conn) error {
		list, err = query(ctx, c, scanModel, selectModel+" ORDER BY name")
		return err
	})
	return list, err
}

// Model finds by name.
func (s *Store) Model(ctx context.Context, name string) (record.Model, error) {
	return get(s, ctx, "model "+name, func(c *conn) (*record.Model, error) { return model(c, name) })
}

// CreateLot opens a lot; Used and Closed are the store's own and not read.
func (s *Store) CreateLot(ctx context.Context, l record.Lot, ekNames [][]byte, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		if err := createLot(c, l, ekNames); err != nil {
			return err
		}
		return addEvent(c, e)
	})
}

func createLot(c *conn, l record.Lot, ekNames [][]byte) error {
	if m, err := model(c, l.Model); err != nil {
		return err
	} else if m == nil {
		return fmt.Errorf("model %s: %w", l.Model, record.ErrNotFound)
	}
	if _, err := c.exec("INSERT INTO lots (name, model, quota, created, listed) VALUES (?, ?, ?, ?, ?)",
		l.Name, l.Model, l.Quota, l.Created, l.Listed || len(ekNames) > 0); err != nil {
		return exists(err, "lot "+l.Name)
	}
	for _, name := range ekNames {
		if _, err := c.exec("INSERT INTO lot_list (lot, ek_name) VALUES (?, ?) ON CONFLICT DO NOTHING", l.Name, name); err != nil {
			return err
		}
	}
	return nil
}

const selectLot = "SELECT name, model, quota, used, created, closed, listed FROM lots"

func scanLot(r row) record.Lot {
	return record.Lot{Name: r.text(0), Model: r.text(1), Quota: r.int(2), Used: r.int(3), Created: r.time(4), Closed: r.time(5), Listed: r.bool(6)}
}

func lot(c *conn, name string) (*record.Lot, error) {
	return first(c, scanLot, selectLot+" WHERE name = ?", name)
}

// Lots lists by name.
func (s *Store) Lots(ctx context.Context) (list []record.Lot, err error) {
	err = s.read(ctx, func(c *conn) error {
		list, err = query(ctx, c, scanLot, selectLot+" ORDER BY name")
		return err
	})
	return list, err
}

// Lot finds by name.
func (s *Store) Lot(ctx context.Context, name string) (record.Lot, error) {
	return get(s, ctx, "lot "+name, func(c *conn) (*record.Lot, error) { return lot(c, name) })
}

// CloseLot keeps the first time of closing.
func (s *Store) CloseLot(ctx context.Context, name string, at time.Time, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		l, err := lot(c, name)
		switch {
		case err != nil:
			return err
		case l == nil:
			return fmt.Errorf("lot %s: %w", name, record.ErrNotFound)
		case !l.Closed.IsZero():
			return nil
		}
		if _, err := c.exec("UPDATE lots SET closed = ? WHERE name = ?", at, name); err != nil {
			return err
		}
		return addEvent(c, e)
	})
}

// CreateTickets records unused tickets; Redeemed and Device are the store's own.
func (s *Store) CreateTickets(ctx context.Context, ts []record.Ticket, e record.Event) error {
	return s.write(ctx, func(c *conn) error {
		for _, t := range ts {
			if err := createTicket(c, t); err != nil {
				return err
			}
		}
		return addEvent(c, e)
	})
}

func createTicket(c *conn, t record.Ticket) error {
	l, err := lot(c, t.Lot)
	switch {
	case err != nil:
		return err
	case l == nil:
		return fmt.Errorf("lot %s: %w", t.Lot, record.ErrNotFound)
	case !l.Closed.IsZero():
		return fmt.Errorf("%w: lot %s is closed", record.ErrConflict, t.Lot)
	}
	_, err = c.exec("INSERT INTO tickets (id, lot, serial, ek_name, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
		t.ID, t.Lot, t.Serial, blobOrNull(t.EKName), t.Created, t.Expires)
	return exists(err, "ticket "+t.ID)
}

// Ticket finds by id.
func (s *Store) Ticket(ctx context.Context, id string) (record.Ticket, error) {
	return get(s, ctx, "ticket "+id, func(c *conn) (*record.Ticket, error) { return ticket(c, id) })
}

func ticket(c *conn, id string) (*record.Ticket, error) {
	return first(c, func(r row) record.Ticket {
		return record.Ticket{ID: r.text(0), Lot: r.text(1), Serial: r.text(2), EKName: r.blob(3), Created: r.time(4), Expires: r.time(5), Redeemed: r.time(6), Device: r.text(7)}
	}, `SELECT t.id, t.lot, t.serial, t.ek_name, t.created, t.expires, t.redeemed, d.id
		FROM tickets t LEFT JOIN devices d ON d.seq = t.device WHERE t.id = ?`, id)
}
