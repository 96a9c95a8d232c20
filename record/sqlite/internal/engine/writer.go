package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/hallmark-pki/hallmark/record"
)

// maxGroup bounds how much work shares one COMMIT, and so how long the first of them
// waits.
const maxGroup = 64

var errClosed = fmt.Errorf("%w: the store is closed", record.ErrUnavailable)

// write is one unit of work on its way through the writer.
type write struct {
	do func(*Conn) error
	// taken is set by whoever comes first: the writer, which then does it, or the
	// caller that gave up, after which it is surely not done.
	taken atomic.Bool
	err   error
	panic any
	done  chan struct{}
}

// Write runs do in a transaction and returns when it is on disk. An error of do
// undoes all that do did and comes back. If ctx ends before the writer has begun,
// nothing was done and ctx's error comes back; later the outcome is waited for. A
// panic in do undoes it and goes on in the caller.
func (db *DB) Write(ctx context.Context, do func(*Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &write{do: do, done: make(chan struct{})}
	select {
	case db.queue <- w:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closing:
		return errClosed
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-w.done
	}
	if w.panic != nil {
		panic(w.panic)
	}
	return w.err
}

// run is the writer. Work that arrives while it commits forms the next group.
func (db *DB) run(c *Conn) {
	defer close(db.written)
	defer c.close()
	if db.journal != nil {
		defer db.journal.close()
	}
	var group []*write
	for {
		select {
		case w := <-db.queue:
			group = append(group[:0], w)
		case <-db.alone:
			return
		}
		// Goroutines that are ready run first: the work that they bring shares this group's syncs.
		runtime.Gosched()
	gather:
		for len(group) < maxGroup {
			select {
			case w := <-db.queue:
				group = append(group, w)
			default:
				break gather
			}
		}
		db.commit(c, group)
		for _, w := range group {
			if errors.Is(w.err, record.ErrUnavailable) {
				db.failures.Add(1)
			}
			close(w.done)
		}
	}
}

// commit does a group in one transaction; what it changed is in the journal before it
// is committed. If the transaction is lost, everybody in it is answered with the reason.
func (db *DB) commit(c *Conn, group []*write) {
	c.changes = c.changes[:0]
	err := func() error {
		// IMMEDIATE: a second process is waited for here, not in the middle of the work.
		if _, err := c.Exec("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		for _, w := range group {
			if !w.taken.CompareAndSwap(false, true) {
				continue
			}
			if err := db.try(c, w); err != nil {
				return err
			}
		}
		if len(c.changes) > 0 {
			if err := db.journal.append(c, c.changes); err != nil {
				return err
			}
		}
		_, err := c.Exec("COMMIT")
		return err
	}()
	if err == nil {
		db.commits.Add(1)
		return
	}
	c.Exec("ROLLBACK") // fails if SQLite has rolled back by itself, as it does when the disk is full
	if err = classify(err); !errors.Is(err, record.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", record.ErrUnavailable, err)
	}
	for _, w := range group {
		if w.err == nil && w.panic == nil {
			w.err = err
		}
	}
}

// try does one work in a savepoint. It returns an error if the transaction as a whole
// is lost; the work's own goes into w.
func (db *DB) try(c *Conn, w *write) error {
	if _, err := c.Exec("SAVEPOINT work"); err != nil {
		return err
	}
	before := len(c.changes)
	func() {
		c.noting = db.journal != nil
		defer func() {
			c.noting = false
			if p := recover(); p != nil {
				w.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
		}()
		w.err = classify(w.do(c))
	}()
	if w.err != nil || w.panic != nil {
		c.changes = c.changes[:before]
		if _, err := c.Exec("ROLLBACK TO work"); err != nil {
			if w.err != nil {
				err = w.err // why SQLite had rolled back everything
			}
			return err
		}
	}
	_, err := c.Exec("RELEASE work")
	return err
}

// Read runs do on a reader's connection.
func (db *DB) Read(ctx context.Context, do func(*Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if db.Closed() { // it takes all readers and gives none back
		return errClosed
	}
	select {
	case c := <-db.readers:
		defer func() { db.readers <- c }()
		return classify(do(c))
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closing:
		return errClosed
	}
}

// View is Read for several statements that must see the same commit.
func (db *DB) View(ctx context.Context, do func(*Conn) error) error {
	return db.Read(ctx, func(c *Conn) error {
		if _, err := c.Exec("BEGIN"); err != nil {
			return err
		}
		defer c.Exec("ROLLBACK") // nothing was written
		return do(c)
	})
}
