// Package factory keeps models, lots and tickets.
package factory

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Factory is a [record.Factory].
type Factory struct{ db *engine.DB }

// New keeps it in db.
func New(db *engine.DB) Factory { return Factory{db} }

// CreateModel refuses a taken name.
func (s Factory) CreateModel(ctx context.Context, m record.Model, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error { return AddModel(c, m) })
}

// AddModel refuses a taken name with ErrExists.
func AddModel(c *engine.Conn, m record.Model) error {
	if err := checkTemplates(c, record.Model{}, m); err != nil {
		return err
	}
	_, err := c.Exec("INSERT INTO models (name, assurance, ldevid_lifetime, created, poll, subject, grace, serve_names) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		m.Name, m.Assurance, m.LDevIDLifetime, m.Created, m.Poll, m.Subject, m.Grace, m.ServeNames)
	return engine.Exists(err, "model "+m.Name)
}

// SetModel changes a model's rules, but for those that its devices were made by.
func (s Factory) SetModel(ctx context.Context, name string, change func(*record.Model) (record.Event, error)) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		have, err := model(c, name)
		switch {
		case err != nil:
			return err
		case have == nil:
			return fmt.Errorf("model %s: %w", name, record.ErrNotFound)
		}
		m := *have
		e, err := change(&m)
		switch {
		case err != nil:
			return err
		case have.Name != m.Name || have.Assurance != m.Assurance || have.Created.UnixMicro() != m.Created.UnixMicro() || have.Subject != "" && have.Subject != m.Subject:
			return fmt.Errorf("%w: devices of model %s were made by its rules", record.ErrConflict, name)
		case have.LDevIDLifetime == m.LDevIDLifetime && have.Poll == m.Poll && have.Subject == m.Subject && have.Grace == m.Grace && have.ServeNames == m.ServeNames:
			return nil
		}
		if err := checkTemplates(c, *have, m); err != nil {
			return err
		}
		if _, err := c.Exec("UPDATE models SET ldevid_lifetime = ?, poll = ?, subject = ?, grace = ?, serve_names = ? WHERE name = ?", m.LDevIDLifetime, m.Poll, m.Subject, m.Grace, m.ServeNames, name); err != nil {
			return err
		}
		return audit.Add(c, e)
	})
}

// checkTemplates refuses templates that could give a device another device's name. A template that
// the model had before is not judged by rules that came later: it stays, and the others may change.
func checkTemplates(c *engine.Conn, before, m record.Model) error {
	if m.Subject == "" && m.ServeNames == "" {
		return nil
	}
	if m.Subject != before.Subject {
		if err := record.CheckSubject(m.Subject); err != nil {
			return err
		}
	}
	if m.ServeNames != "" {
		if err := record.CheckServeNames(m.ServeNames); err != nil {
			return err
		}
	}
	others, err := engine.Query(context.Background(), c, ScanModel, selectModel+" WHERE (subject <> '' OR serve_names <> '') AND name <> ?", m.Name)
	for _, o := range others {
		if o.Subject != "" && m.Subject != "" && record.SubjectsCollide(o.Subject, m.Subject) {
			return fmt.Errorf("%w: with subject %s a device could bear the name of one of model %s (%s)", record.ErrConflict, m.Subject, o.Name, o.Subject)
		}
		if record.ServeNamesCollide(o.ServeNames, m.ServeNames) {
			return fmt.Errorf("%w: with the names %s a device could serve under the name of one of model %s (%s)", record.ErrConflict, m.ServeNames, o.Name, o.ServeNames)
		}
	}
	return err
}

// ModelColumns are what ScanModel reads, of the table models.
const ModelColumns = "models.name, models.assurance, models.ldevid_lifetime, models.created, models.poll, models.subject, models.grace, models.serve_names"

const selectModel = "SELECT " + ModelColumns + " FROM models"

// ScanModel reads ModelColumns.
func ScanModel(r engine.Row) record.Model {
	micro := func(i int) time.Duration { return time.Duration(r.Int(i)) * time.Microsecond }
	return record.Model{Name: r.Text(0), Assurance: r.Text(1), LDevIDLifetime: micro(2), Created: r.Time(3), Poll: micro(4), Subject: r.Text(5), Grace: micro(6), ServeNames: r.Text(7)}
}

func model(c *engine.Conn, name string) (*record.Model, error) {
	return engine.First(c, ScanModel, selectModel+" WHERE name = ?", name)
}

// Models lists by name.
func (s Factory) Models(ctx context.Context) ([]record.Model, error) {
	return engine.List(ctx, s.db, ScanModel, selectModel+" ORDER BY name")
}

// Model finds by name.
func (s Factory) Model(ctx context.Context, name string) (record.Model, error) {
	return engine.Get(ctx, s.db, "model "+name, func(c *engine.Conn) (*record.Model, error) { return model(c, name) })
}

// CreateLot opens a lot; Used and Closed are the store's own and not read.
func (s Factory) CreateLot(ctx context.Context, l record.Lot, ekNames [][]byte, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error { return AddLot(c, l, ekNames) })
}

// AddLot opens a lot of a model that exists.
func AddLot(c *engine.Conn, l record.Lot, ekNames [][]byte) error {
	if m, err := model(c, l.Model); err != nil {
		return err
	} else if m == nil {
		return fmt.Errorf("model %s: %w", l.Model, record.ErrNotFound)
	}
	if _, err := c.Exec("INSERT INTO lots (name, model, quota, created, listed) VALUES (?, ?, ?, ?, ?)",
		l.Name, l.Model, l.Quota, l.Created, l.Listed || len(ekNames) > 0); err != nil {
		return engine.Exists(err, "lot "+l.Name)
	}
	for _, name := range ekNames {
		if _, err := c.Exec("INSERT INTO lot_list (lot, ek_name) VALUES (?, ?) ON CONFLICT DO NOTHING", l.Name, name); err != nil {
			return err
		}
	}
	return nil
}

const selectLot = "SELECT name, model, quota, used, created, closed, listed FROM lots"

// ScanLot reads name, model, quota, used, created, closed and listed.
func ScanLot(r engine.Row) record.Lot {
	return record.Lot{Name: r.Text(0), Model: r.Text(1), Quota: r.Int(2), Used: r.Int(3), Created: r.Time(4), Closed: r.Time(5), Listed: r.Bool(6)}
}

func lot(c *engine.Conn, name string) (*record.Lot, error) {
	return engine.First(c, ScanLot, selectLot+" WHERE name = ?", name)
}

// Lots lists by name.
func (s Factory) Lots(ctx context.Context) ([]record.Lot, error) {
	return engine.List(ctx, s.db, ScanLot, selectLot+" ORDER BY name")
}

// Lot finds by name.
func (s Factory) Lot(ctx context.Context, name string) (record.Lot, error) {
	return engine.Get(ctx, s.db, "lot "+name, func(c *engine.Conn) (*record.Lot, error) { return lot(c, name) })
}

// CloseLot keeps the first time of closing.
func (s Factory) CloseLot(ctx context.Context, name string, at time.Time, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		l, err := lot(c, name)
		switch {
		case err != nil:
			return err
		case l == nil:
			return fmt.Errorf("lot %s: %w", name, record.ErrNotFound)
		case !l.Closed.IsZero():
			return audit.ErrUnchanged
		}
		_, err = c.Exec("UPDATE lots SET closed = ? WHERE name = ?", at, name)
		return err
	})
}

// CreateTickets records unused tickets; Redeemed and Device are the store's own.
func (s Factory) CreateTickets(ctx context.Context, ts []record.Ticket, e record.Event) error {
	return audit.Change(ctx, s.db, e, func(c *engine.Conn) error {
		for _, t := range ts {
			if err := createTicket(c, t, e.By); err != nil {
				return err
			}
		}
		return nil
	})
}

func createTicket(c *engine.Conn, t record.Ticket, operator string) error {
	l, err := lot(c, t.Lot)
	switch {
	case err != nil:
		return err
	case l == nil:
		return fmt.Errorf("lot %s: %w", t.Lot, record.ErrNotFound)
	case !l.Closed.IsZero():
		return fmt.Errorf("%w: lot %s is closed", record.ErrConflict, t.Lot)
	}
	_, err = c.Exec("INSERT INTO tickets (id, lot, serial, ek_name, created, expires, operator) VALUES (?, ?, ?, ?, ?, ?, ?)",
		t.ID, t.Lot, t.Serial, engine.OrNull(t.EKName), t.Created, t.Expires, engine.OrNull(operator))
	return engine.Exists(err, "ticket "+t.ID)
}

// Ticket finds by id.
func (s Factory) Ticket(ctx context.Context, id string) (record.Ticket, error) {
	return engine.Get(ctx, s.db, "ticket "+id, func(c *engine.Conn) (*record.Ticket, error) { return Ticket(c, id) })
}

// Ticket finds by id; nil if there is none.
func Ticket(c *engine.Conn, id string) (*record.Ticket, error) {
	return engine.First(c, func(r engine.Row) record.Ticket {
		return record.Ticket{ID: r.Text(0), Lot: r.Text(1), Serial: r.Text(2), EKName: r.Blob(3), Created: r.Time(4), Expires: r.Time(5), Redeemed: r.Time(6), Device: r.Text(7)}
	}, `SELECT t.id, t.lot, t.serial, t.ek_name, t.created, t.expires, t.redeemed, d.id
		FROM tickets t LEFT JOIN devices d ON d.seq = t.device WHERE t.id = ?`, id)
}
