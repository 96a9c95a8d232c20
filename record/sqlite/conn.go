package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/hallmark-pki/hallmark/record"
)

// conn is one connection with its prepared statements, used by one goroutine at a
// time. It stands on the driver below database/sql: the writer and the readers own
// their connections anyway, and a pool, its locks and its conversions in between
// would cost a third of the time of a statement.
type conn struct {
	driver     driver.Conn
	statements map[string]statement
	args       []driver.NamedValue
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// maxStatements bounds the prepared statements of a connection: only the shapes of
// selectors are without number.
const maxStatements = 256

func connect(ctx context.Context, path, query string) (*conn, error) {
	connector, err := sqlite.NewConnector(dsn(path, query))
	if err != nil {
		return nil, err
	}
	d, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{driver: d, statements: map[string]statement{}}, nil
}

func (c *conn) close() error {
	c.forget()
	return c.driver.Close()
}

func (c *conn) forget() {
	for _, s := range c.statements {
		s.Close()
	}
	clear(c.statements)
}

func (c *conn) prepare(sql string) (statement, error) {
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

// exec runs one statement and returns how many rows it changed.
func (c *conn) exec(sql string, args ...any) (int64, error) {
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

// query runs one statement and returns what scan makes of each row. ctx interrupts
// it; the driver spends a goroutine on that, so quick look-ups use first.
func query[T any](ctx context.Context, c *conn, scan func(row) T, sql string, args ...any) (_ []T, err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, c.bind(args))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	r := make(row, len(rows.Columns()))
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

// first is query for at most one row; nil if there is none.
func first[T any](c *conn, scan func(row) T, sql string, args ...any) (*T, error) {
	found, err := query(context.Background(), c, scan, sql, args...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

func (c *conn) bind(args []any) []driver.NamedValue {
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

// orNull is for text that stands under a constraint or an index.
func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// row is one row of a result. What is NULL reads as the zero value.
type row []driver.Value

func (r row) int(i int) int64    { v, _ := r[i].(int64); return v }
func (r row) bool(i int) bool    { return r.int(i) != 0 }
func (r row) text(i int) string  { v, _ := r[i].(string); return v }
func (r row) blob(i int) []byte  { v, _ := r[i].([]byte); return v }
func (r row) sum(i int) [32]byte { var s [32]byte; copy(s[:], r.blob(i)); return s }
func (r row) time(i int) (t time.Time) {
	if v, ok := r[i].(int64); ok {
		t = time.UnixMicro(v).UTC()
	}
	return t
}

func number(r row) int64 { return r.int(0) }

// classify turns what SQLite says into the errors of package record; any other
// error passes unchanged.
func classify(err error) error {
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

// taken reports whether err is the violation of a UNIQUE or PRIMARY KEY constraint.
func taken(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}
