package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"modernc.org/sqlite"
	thin "zombiezen.com/go/sqlite"

	"github.com/hallmark-pki/hallmark/record"
)

// Conn is one connection with its prepared statements, used by one goroutine at a
// time. It stands on zombiezen.com/go/sqlite, which is the same engine as
// modernc.org/sqlite's without database/sql: a pool, its locks, the driver's conversions
// and names of columns would cost a third of the time of a statement.
type Conn struct {
	engine     *thin.Conn
	statements map[string]*thin.Stmt
	args       []any // int64, string, []byte or nil
	// noting says that changes are written down in changes, for the journal.
	noting  bool
	changes []byte
}

// maxStatements bounds the prepared statements of a connection: only the shapes of
// selectors are without number.
const maxStatements = 256

// connect opens a connection with the mode and pragmas of forWriter or forReader.
func connect(ctx context.Context, path, query string) (*Conn, error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	e, err := thin.OpenConn(dsn(path, "mode="+q.Get("mode")), thin.OpenReadWrite|thin.OpenURI)
	if err != nil {
		return nil, err
	}
	c := &Conn{engine: e, statements: map[string]*thin.Stmt{}}
	for _, pragma := range q["_pragma"] {
		if _, err := Query(ctx, c, Number, "PRAGMA "+pragma); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	c.forget()
	return c, nil
}

func (c *Conn) close() error {
	c.forget()
	return c.engine.Close()
}

func (c *Conn) forget() {
	for _, s := range c.statements {
		s.Finalize()
	}
	clear(c.statements)
}

func (c *Conn) prepare(sql string) (*thin.Stmt, error) {
	if s, ok := c.statements[sql]; ok {
		return s, nil
	}
	if len(c.statements) >= maxStatements {
		c.forget()
	}
	s, err := c.engine.Prepare(sql)
	if err != nil {
		return nil, err
	}
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
	err := c.run(sql, args, nil)
	return int64(c.engine.Changes()), err
}

// run does one statement and shows each row of its result.
func (c *Conn) run(sql string, args []any, show func(*thin.Stmt)) (err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Reset(); err == nil {
			err = e
		}
	}()
	if err := c.bind(s, args); err != nil {
		return err
	}
	for {
		if row, err := s.Step(); err != nil || !row {
			return err
		}
		if show != nil {
			show(s)
		}
	}
}

// Query runs one statement and returns what scan makes of each row. ctx interrupts
// it; the engine spends a goroutine on that, so quick look-ups use First.
func Query[T any](ctx context.Context, c *Conn, scan func(Row) T, sql string, args ...any) (out []T, err error) {
	if ctx.Done() != nil {
		c.engine.SetInterrupt(ctx.Done())
		defer c.engine.SetInterrupt(nil)
	}
	err = c.run(sql, args, func(s *thin.Stmt) { out = append(out, scan(Row{s, 0})) })
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return nil, err
}

// First is Query for at most one row; nil if there is none.
func First[T any](c *Conn, scan func(Row) T, sql string, args ...any) (*T, error) {
	found, err := Query(context.Background(), c, scan, sql, args...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// bind gives a statement its values and keeps them for the journal. Each parameter gets one, NULL
// too: earlier values are still bound, since those of a statement that was interrupted cannot be
// cleared. A value that SQLite refuses fails the statement's next step.
func (c *Conn) bind(s *thin.Stmt, args []any) error {
	if len(args) != s.BindParamCount() {
		return fmt.Errorf("%d values for %d parameters", len(args), s.BindParamCount())
	}
	c.args = c.args[:0]
	for i, a := range args {
		a = value(a)
		c.args = append(c.args, a)
		switch a := a.(type) {
		case nil:
			s.BindNull(i + 1)
		case int64:
			s.BindInt64(i+1, a)
		case string:
			s.BindText(i+1, a)
		case []byte:
			if a == nil {
				s.BindNull(i + 1)
			} else {
				s.BindBytes(i+1, a)
			}
		default:
			return fmt.Errorf("a %T cannot be a value", a)
		}
	}
	return nil
}

// value turns what the verbs hold into what SQLite stores.
func value(a any) any {
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

// OrNull makes an empty value NULL, for columns with a constraint or an index that empty values must
// not enter.
func OrNull[T string | []byte](v T) any {
	if len(v) == 0 {
		return nil
	}
	return v
}

// Row is the row of a result that is being scanned. What is NULL reads as the zero value.
type Row struct {
	s    *thin.Stmt
	from int
}

// From is the row without its first n columns.
func (r Row) From(n int) Row { return Row{r.s, r.from + n} }

// Int reads column i as an integer.
func (r Row) Int(i int) int64 { return r.s.ColumnInt64(r.from + i) }

// Bool reads column i as an integer that is not 0.
func (r Row) Bool(i int) bool { return r.Int(i) != 0 }

// Text reads column i as text.
func (r Row) Text(i int) string { return r.s.ColumnText(r.from + i) }

// Blob reads column i as bytes, the caller's own.
func (r Row) Blob(i int) []byte {
	if r.s.ColumnIsNull(r.from + i) {
		return nil
	}
	b := make([]byte, r.s.ColumnLen(r.from+i))
	r.s.ColumnBytes(r.from+i, b)
	return b
}

// Sum reads column i as a SHA-256.
func (r Row) Sum(i int) (s [32]byte) {
	r.s.ColumnBytes(r.from+i, s[:])
	return s
}

// Time reads column i as microseconds since 1970, in UTC.
func (r Row) Time(i int) (t time.Time) {
	if !r.s.ColumnIsNull(r.from + i) {
		t = time.UnixMicro(r.Int(i)).UTC()
	}
	return t
}

// Number scans one integer.
func Number(r Row) int64 { return r.Int(0) }

// Text scans one text.
func Text(r Row) string { return r.Text(0) }

// classify turns what SQLite says into the errors of package record; any other
// error passes unchanged.
func classify(err error) error {
	switch code(err).ToPrimary() {
	case thin.ResultConstraint:
		return fmt.Errorf("%w: %w", record.ErrConflict, err)
	case thin.ResultFull, thin.ResultReadOnly, thin.ResultBusy, thin.ResultLocked, thin.ResultIOErr, thin.ResultCantOpen,
		thin.ResultCorrupt, thin.ResultNotADB, thin.ResultNoMem, thin.ResultPerm, thin.ResultProtocol:
		return fmt.Errorf("%w: %w", record.ErrUnavailable, err)
	}
	return err
}

// code is what SQLite said, to a connection of ours or, when it migrates, of database/sql.
func code(err error) thin.ResultCode {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return thin.ResultCode(e.Code())
	}
	return thin.ErrCode(err)
}

// Taken reports whether err is the violation of a UNIQUE or PRIMARY KEY constraint.
func Taken(err error) bool {
	c := code(err)
	return c == thin.ResultConstraintUnique || c == thin.ResultConstraintPrimaryKey
}
