package engine

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/hallmark-pki/hallmark/record"
)

// Conn is one connection with its prepared statements, used by one goroutine at a
// time. It stands on the driver below database/sql: the writer and the readers own
// their connections anyway, and a pool, its locks and its conversions in between
// would cost a third of the time of a statement.
type Conn struct {
	driver     driver.Conn
	statements map[string]statement
	args       []driver.NamedValue
	// noting says that changes are written down in changes, for the journal.
	noting  bool
	changes []byte
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// maxStatements bounds the prepared statements of a connection: only the shapes of
// selectors are without number.
const maxStatements = 256

func connect(ctx context.Context, path, query string) (*Conn, error) {
	connector, err := sqlite.NewConnector(dsn(path, query))
	if err != nil {
		return nil, err
	}
	d, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &Conn{driver: d, statements: map[string]statement{}}, nil
}

func (c *Conn) close() error {
	c.forget()
	return c.driver.Close()
}

func (c *Conn) forget() {
	for _, s := range c.statements {
		s.Close()
	}
	clear(c.statements)
}

func (c *Conn) prepare(sql string) (statement, error) {
	if s, ok := c.statements[sql]; ok {
		return s, nil
	}
	if len(c.statements) >= maxStatements {
		c.forget()
	}
	p, err := c.driver.Prepare(sql)
	if err != nil {
		return nil, err
	}
	s := p.(statement)
	c.statements[sql] = s
	return s, nil
}

// Prepared lists the statements that were run so far, for tests of their plans.
func (c *Conn) Prepared() []string { return slices.Sorted(maps.Keys(c.statements)) }

// Exec runs one statement and returns how many rows it changed. The journal, if there
// is one, repeats it: its outcome must follow from the text, the values and the rows.
func (c *Conn) Exec(sql string, args ...any) (int64, error) {
	n, err := c.ExecLocal(sql, args...)
	if err == nil && n > 0 && c.noting {
		c.changes, err = appendChange(c.changes, sql, c.args, n)
	}
	return n, err
}

// ExecLocal is Exec for what a journal need not repeat, because it is made anew.
func (c *Conn) ExecLocal(sql string, args ...any) (int64, error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(context.Background(), c.bind(args))
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// Query runs one statement and returns what scan makes of each row. ctx interrupts
// it; the driver spends a goroutine on that, so quick look-ups use First.
func Query[T any](ctx context.Context, c *Conn, scan func(Row) T, sql string, args ...any) (_ []T, err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, c.bind(args))
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	r := make(Row, len(rows.Columns()))
	var out []T
	for {
		switch err := rows.Next(r); {
		case err == io.EOF:
			return out, nil
		case err != nil:
			return nil, err
		}
		out = append(out, scan(r))
	}
}

// First is Query for at most one row; nil if there is none.
func First[T any](c *Conn, scan func(Row) T, sql string, args ...any) (*T, error) {
	found, err := Query(context.Background(), c, scan, sql, args...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func (c *Conn) bind(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: value(a)})
	}
	return c.args
}

// value turns what the verbs hold into what SQLite stores.
func value(a any) driver.Value {
	switch a := a.(type) {
	case time.Time:
		if a.IsZero() {
			return nil
		}
		return a.UnixMicro()
	case time.Duration:
		return a.Microseconds()
	case int:
		return int64(a)
	case bool:
		if a {
			return int64(1)
		}
		return int64(0)
	}
	return a
}

// OrNull is for what stands under a constraint or an index, which an empty value
// shall not meet.
func OrNull[T string | []byte](v T) any {
	if len(v) == 0 {
		return nil
	}
	return v
}

// Row is one row of a result. What is NULL reads as the zero value.
type Row []driver.Value

// Int reads column i as an integer.
func (r Row) Int(i int) int64 { v, _ := r[i].(int64); return v }

// Bool reads column i as an integer that is not 0.
func (r Row) Bool(i int) bool { return r.Int(i) != 0 }

// Text reads column i as text.
func (r Row) Text(i int) string { v, _ := r[i].(string); return v }

// Blob reads column i as bytes, the caller's own.
func (r Row) Blob(i int) []byte { v, _ := r[i].([]byte); return v }

// Sum reads column i as a SHA-256.
func (r Row) Sum(i int) (s [32]byte) { copy(s[:], r.Blob(i)); return s }

// Time reads column i as microseconds since 1970, in UTC.
func (r Row) Time(i int) (t time.Time) {
	if v, ok := r[i].(int64); ok {
		t = time.UnixMicro(v).UTC()
	}
	return t
}

// Number scans one integer.
func Number(r Row) int64 { return r.Int(0) }

// Classify turns what SQLite says into the errors of package record; any other
// error passes unchanged.
func Classify(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CONSTRAINT:
		return fmt.Errorf("%w: %w", record.ErrConflict, err)
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED,
		sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL:
		return fmt.Errorf("%w: %w", record.ErrUnavailable, err)
	}
	return err
}

// Taken reports whether err is the violation of a UNIQUE or PRIMARY KEY constraint.
func Taken(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}
