package recordtest

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// beginning: a maker who needs no models and lots meets none.
func beginning(t *testing.T, b *bench) {
	m, err := b.Model(b.ctx, record.DefaultModel)
	b.must(err)
	b.equal("default model", m, record.Model{Name: "default", Assurance: record.LevelFirstUse, Created: Now})
	l, err := b.Lot(b.ctx, record.DefaultLot)
	b.must(err)
	b.equal("default lot", l, record.Lot{Name: "default", Model: "default", Created: Now})
	devices, next, err := b.Devices(b.ctx, nil, record.Page{Limit: 10})
	if err != nil || len(devices) != 0 || next != "" {
		t.Errorf("a new store has devices %v, next %q, error %v", devices, next, err)
	}
}

// deliberate: a wrong path is an error, never a fresh and silently different CA.
func deliberate(t *testing.T, p Place) {
	name := filepath.Join(t.TempDir(), "store")
	if s, err := p.Open(t.Context(), name); err == nil {
		s.Close()
		t.Fatal("Open opened what was never created")
	}
	s, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err := p.Create(t.Context(), name); err == nil {
		s.Close()
		t.Fatal("Create created what exists")
	}
	if s, err = p.Open(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func modelsAndLots(t *testing.T, b *bench) {
	m := record.Model{Name: "lamp", Assurance: record.LevelCertified, LDevIDLifetime: 90 * time.Hour, Poll: -time.Second, Grace: 48 * time.Hour, Subject: "lamp-{serial}", ServeNames: "{serial}.local,lamp-{serial}.example.com", Created: Now}
	b.must(b.CreateModel(b.ctx, m, event("model.created")))
	b.recorded("model.created")
	got, err := b.Model(b.ctx, "lamp")
	b.must(err)
	b.equal("model", got, m)
	models, err := b.Models(b.ctx)
	b.must(err)
	if len(models) != 2 {
		t.Errorf("models: %v", models)
	}
	b.refused("a name that could be a lamp's", record.ErrConflict, func() error {
		return b.CreateModel(b.ctx, record.Model{Name: "torch", Assurance: record.LevelCertified, Subject: "LAMP-2-{serial}", Created: Now}, event("x"))
	})
	b.refused("a page's name that could be a lamp's", record.ErrConflict, func() error {
		return b.CreateModel(b.ctx, record.Model{Name: "torch", Assurance: record.LevelCertified, ServeNames: "t-{serial}.local", Created: Now}, event("x"))
	})
	b.refused("a page's name that is all devices'", nil, func() error {
		return b.CreateModel(b.ctx, record.Model{Name: "torch", Assurance: record.LevelCertified, ServeNames: "torch.local", Created: Now}, event("x"))
	})
	renamed := m
	renamed.Subject = "bulb-{serial}"
	b.refused("another subject than its devices have", record.ErrConflict, func() error { return b.rules(renamed, "x") })
	b.refused("model twice", record.ErrExists, func() error { return b.CreateModel(b.ctx, m, event("x")) })
	b.refused("model with an unknown level", nil, func() error {
		return b.CreateModel(b.ctx, record.Model{Name: "x", Assurance: "high", Created: Now}, event("x"))
	})
	b.refused("a subject that is an option", nil, func() error {
		return b.CreateModel(b.ctx, record.Model{Name: "x", Assurance: record.LevelCertified, Subject: "-x{serial}", Created: Now}, event("x"))
	})
	_, err = b.Model(b.ctx, "nil")
	b.isErr("unknown model", err, record.ErrNotFound)
	m.LDevIDLifetime, m.Poll, m.Grace, m.ServeNames = time.Hour, 6*time.Hour, 0, ""
	b.must(b.rules(m, "model.changed"))
	b.recorded("model.changed")
	got, err = b.Model(b.ctx, "lamp")
	b.must(err)
	b.equal("changed model", got, m)
	b.unchanged("the same rules again", func() error { return b.rules(m, "x") })
	weaker := m
	weaker.Assurance = record.LevelSoftware
	b.refused("weaker model", record.ErrConflict, func() error { return b.rules(weaker, "x") })
	weaker.Name = "nil"
	b.refused("rules of no model", record.ErrNotFound, func() error { return b.rules(weaker, "x") })

	l := record.Lot{Name: "L1", Model: "lamp", Quota: 10, Created: Now, Listed: true}
	b.must(b.CreateLot(b.ctx, l, [][]byte{[]byte("ek 1"), []byte("ek 2"), []byte("ek 1")}, event("lot.created")))
	b.recorded("lot.created")
	b.equalLot(l)
	b.refused("lot twice", record.ErrExists, func() error { return b.CreateLot(b.ctx, l, nil, event("x")) })
	b.refused("lot of an unknown model", record.ErrNotFound, func() error {
		return b.CreateLot(b.ctx, record.Lot{Name: "x", Model: "nil", Created: Now}, nil, event("x"))
	})
	_, err = b.Lot(b.ctx, "nil")
	b.isErr("unknown lot", err, record.ErrNotFound)

	b.must(b.CloseLot(b.ctx, "L1", Now.Add(time.Hour), event("lot.closed")))
	b.recorded("lot.closed")
	l.Closed = Now.Add(time.Hour)
	b.equalLot(l)
	b.unchanged("close a closed lot", func() error { return b.CloseLot(b.ctx, "L1", Now.Add(2*time.Hour), event("x")) })
	b.refused("close an unknown lot", record.ErrNotFound, func() error { return b.CloseLot(b.ctx, "nil", Now, event("x")) })
	lots, err := b.Lots(b.ctx)
	b.must(err)
	if len(lots) != 2 {
		t.Errorf("lots: %v", lots)
	}
}

// rules makes a model's rules those of m.
func (b *bench) rules(m record.Model, verb string) error {
	return b.SetModel(b.ctx, m.Name, func(have *record.Model) (record.Event, error) {
		*have = m
		return event(verb), nil
	})
}

// rulesRace: of two who change different rules at once, neither undoes what the other did.
func rulesRace(t *testing.T, b *bench) {
	changes := []func(*record.Model){
		func(m *record.Model) { m.LDevIDLifetime = time.Hour },
		func(m *record.Model) { m.Poll = 2 * time.Hour },
		func(m *record.Model) { m.Grace = 3 * time.Hour },
		func(m *record.Model) { m.ServeNames = "{serial}.local" },
	}
	b.equal("changes", b.parallel(len(changes), func(i int) error {
		return b.SetModel(b.ctx, record.DefaultModel, func(m *record.Model) (record.Event, error) {
			changes[i](m)
			return event("model.changed"), nil
		})
	}), len(changes))
	got, err := b.Model(b.ctx, record.DefaultModel)
	b.must(err)
	want := got
	for _, change := range changes {
		change(&want)
	}
	b.equal("model", got, want)
	refusal := errors.New("no")
	b.refused("what the caller does not want", refusal, func() error {
		return b.SetModel(b.ctx, record.DefaultModel, func(m *record.Model) (record.Event, error) {
			m.Poll = time.Hour
			return event("x"), refusal
		})
	})
}

func (b *bench) equalLot(want record.Lot) {
	b.Helper()
	got, err := b.Lot(b.ctx, want.Name)
	b.must(err)
	b.equal("lot", got, want)
}

func (b *bench) isErr(what string, err, want error) {
	b.Helper()
	if !errors.Is(err, want) {
		b.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func tickets(t *testing.T, b *bench) {
	one := record.Ticket{ID: id("ticket"), Lot: "default", Serial: "SN-9", EKName: []byte("ek"), Created: Now, Expires: Now.Add(time.Minute)}
	two := record.Ticket{ID: id("ticket"), Lot: "default", Created: Now, Expires: Now.Add(time.Minute)}
	b.must(b.CreateTickets(b.ctx, []record.Ticket{one, two}, event("tickets.created")))
	b.recorded("tickets.created")
	for _, want := range []record.Ticket{one, two} {
		got, err := b.Ticket(b.ctx, want.ID)
		b.must(err)
		b.equal("ticket", got, want)
	}
	_, err := b.Ticket(b.ctx, "nil")
	b.isErr("unknown ticket", err, record.ErrNotFound)

	fresh := record.Ticket{ID: id("ticket"), Lot: "default", Created: Now, Expires: Now}
	lost := record.Ticket{ID: id("ticket"), Lot: "nil", Created: Now, Expires: Now}
	b.refused("ticket twice", record.ErrExists, func() error { return b.CreateTickets(b.ctx, []record.Ticket{fresh, one}, event("x")) })
	b.refused("ticket for no lot", record.ErrNotFound, func() error { return b.CreateTickets(b.ctx, []record.Ticket{fresh, lost}, event("x")) })
	b.must(b.CreateLot(b.ctx, record.Lot{Name: "shut", Model: "default", Created: Now}, nil, event("lot.created")))
	b.must(b.CloseLot(b.ctx, "shut", Now, event("lot.closed")))
	lost.Lot = "shut"
	b.refused("ticket for a closed lot", record.ErrConflict, func() error { return b.CreateTickets(b.ctx, []record.Ticket{fresh, lost}, event("x")) })
	_, err = b.Ticket(b.ctx, fresh.ID)
	b.isErr("a ticket refused with its neighbour", err, record.ErrNotFound)
}
