// Package engine runs one SQLite file for a program that must not lose what it has
// answered: many readers, and one writer whose every unit of work is durable when
// Write returns.
//
// It knows connections, statements, transactions and schema versions, and nothing of
// what the tables mean.
package engine

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// Parameters of the connections. FULL makes COMMIT wait for the fsync of the log; a savepoint's undo
// log stays in memory; a checkpoint comes every 16 MiB, so that the hot pages of random indices are
// copied back once instead of many times.
const (
	forWriter = "mode=rw&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(1)&_pragma=temp_store(MEMORY)&_pragma=cache_size(-32768)" +
		"&_pragma=wal_autocheckpoint(4096)&_pragma=journal_size_limit(67108864)&_pragma=trusted_schema(0)"
	forReader = "mode=ro&_pragma=busy_timeout(5000)&_pragma=temp_store(MEMORY)&_pragma=cache_size(-8192)" +
		"&_pragma=query_only(1)&_pragma=trusted_schema(0)"
)

// DB is an open file. Its methods may be called from any number of goroutines.
type DB struct {
	path              string
	journal           *journal // nil: none is kept
	queue             chan *write
	readers           chan *Conn
	closing           chan struct{}
	alone             chan struct{} // closed when the readers have gone
	written           chan struct{} // closed when the writer has gone
	commits, failures atomic.Int64
	once              sync.Once
}

// Open opens an existing file that keeps its journal in a folder, made if missing; with
// an empty name it keeps none, which is refused for a file that ever has.
func Open(ctx context.Context, path, journalDir string) (*DB, error) {
	db := &DB{
		path:    path,
		queue:   make(chan *write),
		readers: make(chan *Conn, max(4, runtime.NumCPU())),
		closing: make(chan struct{}),
		alone:   make(chan struct{}),
		written: make(chan struct{}),
	}
	writer, err := connect(ctx, path, forWriter)
	if err != nil {
		return nil, classify(err)
	}
	if err := db.openJournal(writer, journalDir); err != nil {
		writer.close()
		return nil, classify(err)
	}
	for range cap(db.readers) {
		c, err := connect(ctx, path, forReader)
		if err != nil {
			db.closeReaders(len(db.readers))
			writer.close()
			return nil, classify(err)
		}
		db.readers <- c
	}
	go db.run(writer)
	return db, nil
}

func (db *DB) openJournal(c *Conn, dir string) error {
	if dir != "" {
		db.journal = &journal{dir: dir, limit: segmentLimit}
		return db.journal.start(c)
	}
	kept, err := keepsJournal(c)
	if err == nil && kept {
		err = errors.New("it keeps a journal, whose folder must be named: without it a restore would lose what is written now")
	}
	return err
}

// Commits counts the groups that were committed: one wait for the disk each.
func (db *DB) Commits() int64 { return db.commits.Load() }

// Failures counts the writes that were answered with record.ErrUnavailable.
func (db *DB) Failures() int64 { return db.failures.Load() }

// Closed reports whether Close was called.
func (db *DB) Closed() bool {
	select {
	case <-db.closing:
		return true
	default:
		return false
	}
}

// Close waits for work under way, refuses later work and releases the file.
func (db *DB) Close() {
	db.once.Do(func() {
		close(db.closing)
		db.closeReaders(cap(db.readers))
		close(db.alone)
		<-db.written // last: the last connection to go copies the log back, which no reader can
	})
}

func (db *DB) closeReaders(n int) {
	for range n {
		c := <-db.readers
		c.close()
	}
}

// Migrate takes the steps of a schema that a file lacks, if may, told the file's version and those of
// the first step and the last, does not refuse.
func Migrate(ctx context.Context, path string, steps fs.FS, may func(current, first, last int64) error) error {
	connector, err := sqlite.NewConnector(dsn(path, forWriter))
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, steps, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	current, last, err := p.GetVersions(ctx)
	if err != nil {
		return classify(err)
	}
	if err := may(current, p.ListSources()[0].Version, last); err != nil || current == last {
		return err
	}
	_, err = p.Up(ctx)
	return classify(err)
}

// Mark is whose a file says that it is (PRAGMA application_id). It is asked on a reader's connection: a
// writer's would already change the file.
func Mark(ctx context.Context, path string) (int64, error) {
	c, err := connect(ctx, path, forReader)
	if err != nil {
		return 0, classify(err)
	}
	defer c.close()
	id, err := First(c, Number, "PRAGMA application_id")
	if err != nil {
		return 0, classify(err)
	}
	return *id, nil
}

// Snapshot writes the last commit, compacted, into a new file (mode 0600). It works
// on a connection of its own: neither the writer nor the readers wait for it.
func (db *DB) Snapshot(ctx context.Context, file string) error {
	if db.Closed() {
		return errClosed
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := db.vacuum(ctx, file); err != nil {
		os.Remove(file)
		return classify(err)
	}
	// SQLite does not sync what VACUUM INTO writes.
	return errors.Join(f.Sync(), durable.Sync(filepath.Dir(file)))
}

func (db *DB) vacuum(ctx context.Context, file string) error {
	c, err := connect(ctx, db.path, "mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer c.close()
	_, err = Query(ctx, c, Number, "VACUUM INTO ?", file) // not Exec, because ctx can interrupt it
	return err
}

func dsn(path, query string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query}).String()
}
