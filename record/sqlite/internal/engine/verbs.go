package engine

import (
	"context"
	"fmt"
	"strconv"

	"github.com/hallmark-pki/hallmark/record"
)

// Get reads one thing; ErrNotFound, naming it, if there is none.
func Get[T any](ctx context.Context, db *DB, name string, find func(*Conn) (*T, error)) (found T, err error) {
	err = db.View(ctx, func(c *Conn) error {
		p, err := find(c)
		if err == nil && p == nil {
			err = fmt.Errorf("%s: %w", name, record.ErrNotFound)
		}
		if err != nil {
			return err
		}
		found = *p
		return nil
	})
	return found, err
}

// One is First, or ErrNotFound, naming what there is none of.
func One[T any](c *Conn, what string, scan func(Row) T, sql string, args ...any) (one T, err error) {
	found, err := First(c, scan, sql, args...)
	if err == nil && found == nil {
		err = fmt.Errorf("%s: %w", what, record.ErrNotFound)
	}
	if err != nil {
		return one, err
	}
	return *found, nil
}

// List reads all rows of one statement.
func List[T any](ctx context.Context, db *DB, scan func(Row) T, sql string, args ...any) (found []T, err error) {
	err = db.Read(ctx, func(c *Conn) error {
		found, err = Query(ctx, c, scan, sql, args...)
		return err
	})
	return found, err
}

// Changed is err, or ErrConflict with the reason if a statement changed no row.
func Changed(n int64, err error, otherwise string) error {
	if err == nil && n == 0 {
		return fmt.Errorf("%w: %s", record.ErrConflict, otherwise)
	}
	return err
}

// Exists makes ErrExists of a taken key.
func Exists(err error, what string) error {
	if Taken(err) {
		return fmt.Errorf("%s: %w", what, record.ErrExists)
	}
	return err
}

// MaxPage is record.Page's bound.
const MaxPage = 1000

// Cursor reads where a page begins; start is where the first one does.
func Cursor(p record.Page, start int64) (int64, error) {
	if p.Limit < 1 || p.Limit > MaxPage {
		return 0, fmt.Errorf("a page has 1 to %d rows, not %d", MaxPage, p.Limit)
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

// Cut ends a page of which one row more was read, if there was one, and gives the cursor of
// the next.
func Cut[T any](found []T, p record.Page, number func(T) int64) (page []T, next string) {
	if len(found) <= p.Limit {
		return found, ""
	}
	return found[:p.Limit], strconv.FormatInt(number(found[p.Limit-1]), 10)
}
