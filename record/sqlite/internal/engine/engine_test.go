package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// newDB is a fresh file with a table of numbers.
func newDB(t *testing.T) *DB {
	path := filepath.Join(t.TempDir(), "a %?#'&.db") // what a URI could misread
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	exec(t, db, "CREATE TABLE numbers (n INTEGER PRIMARY KEY, text TEXT)")
	return db
}

func exec(t *testing.T, db *DB, sql string, args ...any) {
	t.Helper()
	if err := try(db, sql, args...); err != nil {
		t.Fatal(err)
	}
}

func try(db *DB, sql string, args ...any) error {
	return db.Write(context.Background(), func(c *Conn) error {
		_, err := c.Exec(sql, args...)
		return err
	})
}

func numbers(t *testing.T, db *DB) (found []int64) {
	t.Helper()
	err := db.Read(t.Context(), func(c *Conn) (err error) {
		found, err = Query(t.Context(), c, Number, "SELECT n FROM numbers ORDER BY n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// pragma asks the writer, or on a reader's connection.
func pragma(t *testing.T, on func(context.Context, func(*Conn) error) error, name string) (value string) {
	t.Helper()
	err := on(t.Context(), func(c *Conn) error {
		v, err := First(c, func(r Row) string { return r.Text(0) }, "PRAGMA "+name)
		if err == nil {
			value = *v
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// What durability rests on is really in force, and readers cannot write.
func TestPragmas(t *testing.T) {
	db := newDB(t)
	for name, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "trusted_schema": "0", "busy_timeout": "5000"} {
		if got := pragma(t, db.Write, name); got != want {
			t.Errorf("writer: %s is %s, want %s", name, got, want)
		}
	}
	err := db.Read(t.Context(), func(c *Conn) error {
		_, err := c.Exec("INSERT INTO numbers (n) VALUES (1)")
		return err
	})
	if !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("a reader wrote: %v", err)
	}
}

// queueUp blocks the writer, starts the works and lets it go on once all of them wait, which only
// synctest tells.
func queueUp(t *testing.T, db *DB, works ...func(*Conn) error) []any {
	t.Helper()
	running, goOn := make(chan bool), make(chan bool)
	go db.Write(context.Background(), func(*Conn) error { close(running); <-goOn; return nil })
	<-running
	outcomes := make([]chan any, len(works))
	for i, do := range works {
		outcomes[i] = make(chan any, 1)
		go func() {
			defer func() {
				if p := recover(); p != nil {
					outcomes[i] <- p
				}
			}()
			outcomes[i] <- db.Write(context.Background(), do)
		}()
	}
	synctest.Wait() // until all wait
	close(goOn)
	var all []any
	for _, o := range outcomes {
		all = append(all, <-o)
	}
	return all
}

// Who waits together is committed together, and who fails fails alone.
func TestGroup(t *testing.T) { synctest.Test(t, testGroup) }

func testGroup(t *testing.T) {
	db := newDB(t)
	insert := func(n int, then error) func(*Conn) error {
		return func(c *Conn) error {
			if _, err := c.Exec("INSERT INTO numbers (n) VALUES (?)", n); err != nil {
				return err
			}
			return then
		}
	}
	mine := errors.New("mine")
	before := db.Commits()
	outcomes := queueUp(t, db, insert(1, nil), insert(2, mine), insert(3, nil), insert(3, nil), insert(4, nil),
		func(c *Conn) error { c.Exec("INSERT INTO numbers (n) VALUES (5)"); panic("lost") })
	if got := db.Commits() - before; got != 2 { // the one that blocked, and the group
		t.Errorf("%d commits", got)
	}
	conflicts := 0
	for i, o := range outcomes {
		err, _ := o.(error)
		switch {
		case i == 1 && err != mine:
			t.Errorf("the error of one came back as %v", o)
		case i == 5 && !strings.Contains(fmt.Sprint(o), "lost"):
			t.Errorf("the panic of one came back as %v", o)
		case errors.Is(err, record.ErrConflict):
			conflicts++
		case i != 1 && i != 5 && o != nil:
			t.Errorf("%d: %v", i, o)
		}
	}
	if got := fmt.Sprint(numbers(t, db)); got != "[1 3 4]" || conflicts != 1 {
		t.Errorf("numbers %s, conflicts %d", got, conflicts)
	}
}

// A disk that is full, an engine that refuses to write and a file that another process
// holds: the caller is told, nothing is half done, and it passes.
func TestUnavailable(t *testing.T) {
	db := newDB(t)
	exec(t, db, "INSERT INTO numbers (n) VALUES (1)")
	other, err := connect(t.Context(), db.path, forWriter)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	var writer *Conn // idle between the writes of this test
	if err := db.Write(t.Context(), func(c *Conn) error { writer = c; return nil }); err != nil {
		t.Fatal(err)
	}
	set := func(pragma string) func() {
		return func() {
			if _, err := First(writer, Number, "PRAGMA "+pragma); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := func(c *Conn, sql string) func() {
		return func() {
			if _, err := c.Exec(sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("busy_timeout = 20")()
	long := strings.Repeat("x", 1<<20)
	for _, trouble := range []struct {
		name       string
		begin, end func()
	}{ // full first, while there are no free pages
		{"full", set("max_page_count = 1"), set("max_page_count = 1000000")},
		{"read-only", set("query_only = 1"), set("query_only = 0")},
		{"locked", run(other, "BEGIN IMMEDIATE"), run(other, "ROLLBACK")},
	} {
		trouble.begin()
		for n := range 2 {
			if err := try(db, "INSERT INTO numbers (n, text) VALUES (?, ?)", 10+n, long); !errors.Is(err, record.ErrUnavailable) {
				t.Errorf("%s: %v", trouble.name, err)
			}
		}
		trouble.end()
		if got := fmt.Sprint(numbers(t, db)); got != "[1]" {
			t.Errorf("%s: numbers %s", trouble.name, got)
		}
		exec(t, db, "INSERT INTO numbers (n, text) VALUES (2, ?)", long)
		exec(t, db, "DELETE FROM numbers WHERE n = 2")
	}
}

// Who gives up while it waits is answered at once, and nothing is done for it.
func TestGivenUpWhileWaiting(t *testing.T) {
	db := newDB(t)
	running, goOn := make(chan bool), make(chan bool)
	go db.Write(context.Background(), func(*Conn) error { close(running); <-goOn; return nil })
	<-running
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() {
		answered <- db.Write(ctx, func(c *Conn) error {
			_, err := c.Exec("INSERT INTO numbers (n) VALUES (1)")
			return err
		})
	}()
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) { // while the writer is still blocked
		t.Error(err)
	}
	close(goOn)

	// Once it is being done, the outcome is waited for.
	ctx, cancel = context.WithCancel(t.Context())
	err := db.Write(ctx, func(c *Conn) error {
		cancel()
		_, err := c.Exec("INSERT INTO numbers (n) VALUES (2)")
		return err
	})
	if got := fmt.Sprint(numbers(t, db)); got != "[2]" || err != nil {
		t.Errorf("numbers %s, error %v", got, err)
	}
}

// A long query ends with its caller.
func TestQueryIsInterrupted(t *testing.T) {
	db := newDB(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := db.Read(ctx, func(c *Conn) error {
		_, err := Query(ctx, c, Number, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	exec(t, db, "INSERT INTO numbers (n) VALUES (1)")
	for range cap(db.readers) { // the interrupted one is among them
		numbers(t, db)
	}
}

// What a query was asked that its caller gave up does not answer for the next, and what is no
// value, or too few, is an error.
func TestValues(t *testing.T) {
	db := newDB(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	err := db.Read(t.Context(), func(c *Conn) error {
		const isNull = "SELECT ?1 IS NULL"
		for _, none := range []any{nil, []byte(nil), time.Time{}} {
			if n, err := First(c, Number, isNull, "text"); err != nil || *n != 0 {
				t.Errorf("%v, %v", n, err)
			}
			if _, err := Query(over, c, Number, isNull, "text"); !errors.Is(err, context.Canceled) {
				t.Errorf("its caller gave up: %v", err)
			}
			if n, err := First(c, Number, isNull, none); err != nil || *n != 1 {
				t.Errorf("%T: %v, %v", none, n, err)
			}
		}
		if n, err := First(c, Number, isNull, []byte{}); err != nil || *n != 0 {
			t.Errorf("empty: %v, %v", n, err)
		}
		for name, args := range map[string][]any{"none": {}, "too many": {1, 2}, "no value": {1.5}} {
			if n, err := First(c, Number, isNull, args...); err == nil {
				t.Errorf("%s: %v", name, *n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestClosedFileIsWhole: once closed the file has all that was answered, and nothing stands
// beside it that whoever copies or moves it would have to know of.
func TestClosedFileIsWhole(t *testing.T) {
	first := newDB(t)
	first.Close()
	for n := range 30 {
		db, err := Open(t.Context(), first.path, "")
		if err != nil {
			t.Fatal(err)
		}
		exec(t, db, "INSERT INTO numbers (n) VALUES (?)", n)
		db.Close()
		if _, err := os.Stat(first.path + "-wal"); err == nil {
			t.Fatalf("closed %d times: the log is left", n+1)
		}
	}
}

// A connection keeps no more statements than it may, and those that it dropped work again.
func TestStatementsAreBounded(t *testing.T) {
	db := newDB(t)
	for i := range 2*maxStatements + 1 {
		exec(t, db, fmt.Sprintf("INSERT INTO numbers (n) VALUES (%d)", i))
	}
	err := db.Write(t.Context(), func(c *Conn) error {
		if n := len(c.Prepared()); n > maxStatements {
			t.Errorf("%d statements are kept", n)
		}
		return nil
	})
	if err != nil || len(numbers(t, db)) != 2*maxStatements+1 {
		t.Error(err, len(numbers(t, db)))
	}
}
