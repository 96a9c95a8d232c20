// Package sqlite is a [record.Store] in one SQLite file: what a verb has answered is
// on disk, in full or not at all, whoever pulls the plug.
//
// One goroutine owns the one connection that writes. It takes the verbs that wait,
// runs each in a savepoint of one transaction, and answers them after the COMMIT, so
// that thirty-two callers pay for one fsync and a verb that fails undoes only itself
// (writer.go). Readers have connections of their own and see the last commit. What
// must hold is also said in the schema (migrations/), so that a second process
// working on the same file is held to it as well.
//
// The engine is modernc.org/sqlite: no C compiler, static binaries.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"

	"github.com/hallmark-pki/hallmark/record"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the file as ours (PRAGMA application_id): "HALM".
const applicationID = 0x48414C4D

// Pragmas of the connections. FULL makes COMMIT wait for the fsync of the log; a
// savepoint's undo log stays in memory; the log is copied back every 16 MiB, for the
// hot pages of random indices are then copied once instead of many times.
const (
	forWriter = "mode=rw&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(1)&_pragma=temp_store(MEMORY)&_pragma=cache_size(-32768)" +
		"&_pragma=wal_autocheckpoint(4096)&_pragma=journal_size_limit(67108864)&_pragma=trusted_schema(0)"
	forReader = "mode=ro&_pragma=busy_timeout(5000)&_pragma=temp_store(MEMORY)&_pragma=cache_size(-8192)" +
		"&_pragma=query_only(1)&_pragma=trusted_schema(0)"
)

// Options is what a store is given from outside.
type Options struct {
	// Now tells the time; nil means time.Now. It decides what "expired" means in a
	// selector and when redeemed sessions are forgotten; every time that is recorded
	// comes with the verb.
	Now func() time.Time
}

// Store is a [record.Store]; make one with Open or Create. Its methods may be called
// from any number of goroutines.
type Store struct {
	path    string
	now     func() time.Time
	queue   chan *write
	readers chan *conn
	closing chan struct{}
	written chan struct{} // closed when the writer has gone
	// redeemed counts redemptions; the writer's own.
	redeemed int
	close   sync.Once
}

var _ record.Store = (*Store)(nil)

// Create makes the database file (mode 0600) with the default model and lot, and
// opens it. It fails if the file exists: a store is made once, deliberately.
func Create(ctx context.Context, path string, o Options) (*Store, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("there is a database at %s already: %w", path, record.ErrExists)
	}
	if err != nil {
		return nil, fmt.Errorf("create database: %w", err)
	}
	f.Close()
	s, err := create(ctx, path, o)
	if err != nil {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			os.Remove(path + suffix)
		}
		return nil, fmt.Errorf("create database %s: %w", path, err)
	}
	return s, nil
}

func create(ctx context.Context, path string, o Options) (*Store, error) {
	if err := migrate(ctx, path, true); err != nil {
		return nil, err
	}
	s, err := open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	err = s.write(ctx, func(c *conn) error {
		now := s.now()
		if err := createModel(c, record.Model{Name: record.DefaultModel, Assurance: record.LevelFirstUse, Created: now}); err != nil {
			return err
		}
		if err := createLot(c, record.Lot{Name: record.DefaultLot, Model: record.DefaultModel, Created: now}, nil); err != nil {
			return err
		}
		return addEvent(c, record.Event{Time: now, Actor: "host", Verb: "record.created"})
	})
	if err == nil {
		err = syncDir(path)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Open opens a database that Create has made and brings its schema up to date. A
// missing file, a file of something else and a schema newer than this program are
// refused.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open database: %w; a new one is made by init, a lost one comes back by restore", err)
	}
	if err := migrate(ctx, path, false); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, classify(err))
	}
	s, err := open(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, classify(err))
	}
	return s, nil
}

func open(ctx context.Context, path string, o Options) (_ *Store, err error) {
	s := &Store{
		path:    path,
		now:     o.Now,
		queue:   make(chan *write),
		closing: make(chan struct{}),
		written: make(chan struct{}),
	}
	if s.now == nil {
		s.now = time.Now
	}
	writer, err := connect(ctx, path, forWriter)
	if err != nil {
		return nil, err
	}
	n := max(4, runtime.NumCPU())
	s.readers = make(chan *conn, n)
	for range n {
		c, err := connect(ctx, path, forReader)
		if err != nil {
			s.closeReaders(len(s.readers))
			writer.close()
			return nil, err
		}
		s.readers <- c
	}
	go s.run(writer)
	return s, nil
}

// Close waits for writes under way, refuses later ones and releases the file.
func (s *Store) Close() error {
	s.close.Do(func() {
		close(s.closing)
		s.closeReaders(cap(s.readers))
		<-s.written // last: the last connection to go copies the log back
	})
	return nil
}

func (s *Store) closeReaders(n int) {
	for range n {
		c := <-s.readers
		c.close()
	}
}

// migrate brings the schema up to date. A fresh file is empty; any other must carry
// our mark.
func migrate(ctx context.Context, path string, fresh bool) error {
	connector, err := sqlite.NewConnector(dsn(path, forWriter))
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	if !fresh {
		var id int64
		if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
			return err
		}
		if id != applicationID {
			return errors.New("this is not a Hallmark database")
		}
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > target {
		return fmt.Errorf("its schema is version %d and this program knows %d: use the newer program that wrote it", current, target)
	}
	if current == target {
		return nil
	}
	_, err = p.Up(ctx)
	return err
}

func dsn(path, query string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query}).String()
}

// syncDir makes a new file's name durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
