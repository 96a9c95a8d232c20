package sqlite

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/hallmark-pki/hallmark/record"
)

// maxGroup bounds how many verbs share one COMMIT, and so how long the first of them
// waits.
const maxGroup = 64

var errClosed = fmt.Errorf("%w: the store is closed", record.ErrUnavailable)

// write is one verb on its way through the writer.
type write struct {
	do func(*conn) error
	// taken is set by whoever comes first: the writer, which then does it, or the
	// caller that gave up, after which it is surely not done.
	taken atomic.Bool
	err   error
	panic any
	done  chan struct{}
}

// write runs do in a transaction and returns when it is on disk. An error of do
// undoes all that do did and comes back. If ctx ends before the writer has begun,
// nothing was done and ctx's error comes back; later the outcome is waited for. A
// panic in do undoes it and goes on in the caller.
func (s *Store) write(ctx context.Context, do func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &write{do: do, done: make(chan struct{})}
	select {
	case s.queue <- w:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
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

// run is the writer. Verbs that arrive while it commits form the next group.
func (s *Store) run(c *conn) {
	defer close(s.written)
	defer c.close()
	var group []*write
	for {
		select {
		case w := <-s.queue:
			group = append(group[:0], w)
		case <-s.closing:
			return
		}
	gather:
		for len(group) < maxGroup {
			select {
			case w := <-s.queue:
				group = append(group, w)
			default:
				break gather
			}
		}
		s.commit(c, group)
		for _, w := range group {
			close(w.done)
		}
	}
}

// commit runs the verbs of a group in one transaction. If the transaction is lost
// every verb in it is answered with the reason.
func (s *Store) commit(c *conn, group []*write) {
	err := func() error {
		// IMMEDIATE: a second process is waited for here, not met half-way.
		if _, err := c.exec("BEGIN IMMEDIATE"); err != nil {
			return err
		}
		for _, w := range group {
			if !w.taken.CompareAndSwap(false, true) {
				continue
			}
			if err := s.try(c, w); err != nil {
				return err
			}
		}
		_, err := c.exec("COMMIT")
		return err
	}()
	if err == nil {
		return
	}
	c.exec("ROLLBACK") // fails if SQLite has rolled back by itself, as it does when the disk is full
	for _, w := range group {
		if w.err == nil && w.panic == nil {
			w.err = unavailable(err)
		}
	}
}

// try runs one verb in a savepoint. It returns an error if the transaction as a whole
// is lost; the verb's own goes into w.
func (s *Store) try(c *conn, w *write) error {
	if _, err := c.exec("SAVEPOINT verb"); err != nil {
		return err
	}
	func() {
		defer func() {
			if p := recover(); p != nil {
				w.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
		}()
		w.err = classify(w.do(c))
	}()
	if w.err != nil || w.panic != nil {
		if _, err := c.exec("ROLLBACK TO verb"); err != nil {
			if w.err != nil {
				err = w.err // why SQLite had rolled back everything
			}
			return err
		}
	}
	_, err := c.exec("RELEASE verb")
	return err
}

func unavailable(err error) error {
	if err = classify(err); errors.Is(err, record.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", record.ErrUnavailable, err)
}

// read runs do on a reader's connection.
func (s *Store) read(ctx context.Context, do func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select { // Close takes all readers and gives none back
	case <-s.closing:
		return errClosed
	default:
	}
	select {
	case c := <-s.readers:
		defer func() { s.readers <- c }()
		return classify(do(c))
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	}
}

// view is read for several statements that must see the same commit.
func (s *Store) view(ctx context.Context, do func(*conn) error) error {
	return s.read(ctx, func(c *conn) error {
		if _, err := c.exec("BEGIN"); err != nil {
			return err
		}
		defer c.exec("ROLLBACK") // nothing was written
		return do(c)
	})
}
