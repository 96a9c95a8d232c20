package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/recordtest"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/journal"
)

// TestStoreWithJournal takes the whole exam, races and crashes included, with a
// journal, and after each part replays it onto the store's beginning: what comes out
// must be the store, row by row.
func TestStoreWithJournal(t *testing.T) {
	with := func(name string) Options {
		o := options
		o.Journal = name + ".journal"
		return o
	}
	recordtest.Run(t, recordtest.Place{
		Create: func(ctx context.Context, name string) (record.Store, error) {
			s, err := Create(ctx, name, with(name))
			if err != nil {
				return nil, err
			}
			if err := s.Snapshot(ctx, name+".base"); err != nil {
				return nil, err
			}
			return &replayed{Store: s, t: t, name: name}, nil
		},
		Open: func(ctx context.Context, name string) (record.Store, error) {
			s, err := Open(ctx, name, with(name))
			if err != nil {
				return nil, err
			}
			return &replayed{Store: s, t: t, name: name}, nil
		},
	})
}

// TestRestoreOverAnUpgrade: the backup is of the program before, and its journal goes on
// under this one's schema.
func TestRestoreOverAnUpgrade(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	path, backup, folder := dir+"/db", dir+"/backup", dir+"/journal"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first, err := os.ReadFile("internal/migrations/0016_schema.sql")
	must(err)
	must(os.WriteFile(path, nil, 0o600))
	must(engine.Migrate(ctx, path, fstest.MapFS{"0016_schema.sql": {Data: first}}, func(_, _, _ int64) error { return nil }))
	before, err := engine.Open(ctx, path, folder)
	must(err)
	run := func(sql string, args ...any) {
		t.Helper()
		must(before.Write(ctx, func(c *engine.Conn) error {
			n, err := c.Exec(sql, args...)
			if err == nil && n != 1 {
				err = fmt.Errorf("%d rows", n)
			}
			return err
		}))
	}
	run("INSERT INTO operators (name, kind, created) VALUES ('broker', 'relying-party', 1)")
	must(before.Snapshot(ctx, backup))
	run(`INSERT INTO enforcements (party, number, since, reported, formats, program, fail, until, problem, version)
		VALUES ('broker', 1, 1, 1, 'crl', 'mosquitto', 'open', 2, '', '1')`)
	before.Close()

	o := options
	o.Journal = folder
	if s, err := Open(ctx, path, o); err == nil || !strings.Contains(err.Error(), "its schema is version 16") {
		t.Fatalf("whoever only looks brings it to another schema: %v, %v", s, err)
	}
	before, err = engine.Open(ctx, path, folder)
	must(err)
	run("INSERT INTO operators (name, kind, created) VALUES ('anna', 'operator', 1)") // the older program goes on
	before.Close()
	o.Upgrade = true
	after, err := Open(ctx, path, o)
	must(err)
	must(after.Report(ctx, "broker", record.Enforcement{Number: 2, Reported: recordtest.Now, Fail: "open", Failing: []record.Failure{{Device: "lamp:SN-1", Change: 2, Times: 1}}}))
	must(after.Close())

	_, err = journal.Recover(ctx, backup, folder)
	must(err)
	if got, want := dump(t, backup), dump(t, path); got != want {
		t.Errorf("the replay is not the store:\n%s", difference(got, want))
	}
}

// replayed compares when it is closed.
type replayed struct {
	*Store
	t    *testing.T
	name string
	once sync.Once
}

func (r *replayed) Close() error {
	first := false
	r.once.Do(func() { first = true })
	if !first {
		return r.Store.Close()
	}
	// A killed writer may have left a group in the journal that it did not commit. The
	// next group takes its place.
	if err := r.db.Write(context.Background(), func(c *engine.Conn) error {
		_, err := c.Exec("INSERT OR REPLACE INTO sessions VALUES ('closing', ?)", recordtest.Now)
		return err
	}); err != nil {
		r.t.Error(err)
	}
	err := r.Store.Close()
	r.compare()
	return err
}

func (r *replayed) compare() {
	text, err := os.ReadFile(r.name + ".base")
	if err != nil {
		r.t.Error(err)
		return
	}
	again := r.name + ".again"
	if err := os.WriteFile(again, text, 0o600); err != nil {
		r.t.Error(err)
		return
	}
	defer os.Remove(again)
	if _, err := journal.Recover(context.Background(), again, r.name+".journal"); err != nil {
		r.t.Errorf("replaying %s: %v", r.name, err)
		return
	}
	if got, want := dump(r.t, again), dump(r.t, r.name); got != want {
		r.t.Errorf("the replay of %s is not the store:\n%s", r.name, difference(got, want))
	}
}

// dump writes out every row but those of a journal's own and of what is made anew.
func dump(t *testing.T, path string) string {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	copied := dir + "/copy"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if wal, err := os.ReadFile(path + "-wal"); err == nil {
		os.WriteFile(copied+"-wal", wal, 0o600)
	}
	if err := os.WriteFile(copied, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := engine.Restart(context.Background(), copied); err != nil {
		t.Fatal(err)
	}
	db, err := engine.Open(context.Background(), copied, dir+"/journal")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var out strings.Builder
	err = db.View(context.Background(), func(c *engine.Conn) error {
		tables, err := engine.Query(context.Background(), c, func(r engine.Row) string { return r.Text(0) },
			"SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('journal', 'crls', 'goose_db_version') AND name NOT LIKE 'sqlite_%' ORDER BY name")
		if err != nil {
			return err
		}
		if len(tables) < 10 {
			return errors.New("where are the tables?")
		}
		for _, table := range tables {
			columns, err := engine.Query(context.Background(), c, func(r engine.Row) string { return "quote(" + r.Text(0) + ")" },
				"SELECT name FROM pragma_table_info(?)", table)
			if err != nil {
				return err
			}
			rows, err := engine.Query(context.Background(), c, func(r engine.Row) string { return r.Text(0) },
				"SELECT "+strings.Join(columns, " || ',' || ")+" FROM "+table+" ORDER BY 1")
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "%s:\n%s\n", table, strings.Join(rows, "\n"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func difference(a, b string) string {
	in := func(text string) map[string]bool {
		lines := map[string]bool{}
		for line := range strings.Lines(text) {
			lines[line] = true
		}
		return lines
	}
	var out strings.Builder
	inA, inB := in(a), in(b)
	for line := range inA {
		if !inB[line] {
			out.WriteString("only in the replay: " + line)
		}
	}
	for line := range inB {
		if !inA[line] {
			out.WriteString("only in the store: " + line)
		}
	}
	return out.String()
}
