// Package sqlite is a [record.Store] in one SQLite file: what a verb has answered is
// on disk, in full or not at all, whoever pulls the plug.
//
// One goroutine owns the one connection that writes. It takes the verbs that wait,
// runs each in a savepoint of one transaction, and answers them after the COMMIT, so
// that thirty-two callers pay for one fsync and a verb that fails undoes only itself
// (internal/engine). Readers have connections of their own and see the last commit. What
// must hold is also said in the schema (internal/migrations), so that a second process
// working on the same file is held to it as well.
//
// A new capability of the record is a package under internal/, which keeps its rows (New),
// is embedded in Store and writes through audit.Change; here are the verbs that need several.
//
// SQLite is modernc.org/sqlite: no C compiler, static binaries. It is spoken to through
// zombiezen.com/go/sqlite, and for migrations through database/sql.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/approval"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/audit"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/changes"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/chips"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/factory"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/grants"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/inventory"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/job"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/migrations"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/people"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/relying"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/revocation"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// Options is what a store is given from outside.
type Options struct {
	// Now tells the time; nil means time.Now. It decides what "expired" means in a
	// selector and when redeemed sessions are forgotten; every time that is recorded
	// comes with the verb.
	Now func() time.Time
	// Journal is a folder, made if missing, that holds every change since the last backup
	// (package journal), best on another disk. Empty keeps none; a record that keeps one cannot
	// be opened without.
	Journal string
	// Upgrade brings a file of an older program to this one's schema, which that program
	// refuses then; without, such a file is refused.
	Upgrade bool
}

// Store is a [record.Store]; make one with Open or Create. Its methods may be called
// from any number of goroutines.
type Store struct {
	approval.Approvals
	audit.Audit
	changes.Numbers
	chips.Chips
	factory.Factory
	grants.Grants
	inventory.Inventory
	job.Store
	people.People
	relying.Parties
	revocation.Revocations

	db  *engine.DB
	now func() time.Time
	// redeemed counts redemptions; the writer's own.
	redeemed int
	// forgiven are those of the writer's failures after which it could write again.
	forgiven atomic.Int64
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
	s, err := open(ctx, path, o, migrations.Create)
	if err != nil {
		return nil, err
	}
	now := s.now()
	err = audit.Change(ctx, s.db, record.Event{Time: now, Actor: "host", Verb: "record.created"}, func(c *engine.Conn) error {
		if err := factory.AddModel(c, record.Model{Name: record.DefaultModel, Assurance: record.LevelFirstUse, Created: now}); err != nil {
			return err
		}
		return factory.AddLot(c, record.Lot{Name: record.DefaultLot, Model: record.DefaultModel, Created: now}, nil)
	})
	if err == nil {
		err = durable.Sync(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Open opens a database that Create has made. A missing file, a file of something else and
// a schema that is not this program's are refused.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open database: %w; a new one is made by init, a lost one comes back by restore", err)
	}
	migrate := migrations.Current
	if o.Upgrade {
		migrate = migrations.Up
	}
	s, err := open(ctx, path, o, migrate)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string, o Options, migrate func(context.Context, string) error) (*Store, error) {
	if err := migrate(ctx, path); err != nil {
		return nil, err
	}
	db, err := engine.Open(ctx, path, o.Journal)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{
		Approvals: approval.New(db), Audit: audit.New(db), Numbers: changes.New(db), Chips: chips.New(db), Factory: factory.New(db), Grants: grants.New(db),
		Inventory: inventory.New(db, o.Now), Store: job.New(db), People: people.New(db), Parties: relying.New(db), Revocations: revocation.New(db),
		db: db, now: o.Now,
	}, nil
}

// Close waits for verbs under way, refuses later ones and releases the file.
func (s *Store) Close() error {
	s.db.Close()
	return nil
}
