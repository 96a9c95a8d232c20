// Package changes tells what happened to the status of certificates. The numbers are
// given by the schema's triggers.
package changes

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// Numbers is a [record.Changes].
type Numbers struct {
	db   *engine.DB
	last *atomic.Pointer[last]
}

// last is a LastChange, good until this process commits anything, and for lastAge: then
// another process on this host may have. It is asked for with every OCSP answer.
type last struct {
	number, commits int64
	at              time.Time
}

const lastAge = 100 * time.Millisecond

// New reads from db.
func New(db *engine.DB) Numbers { return Numbers{db, new(atomic.Pointer[last])} }

const maxChanges = 10_000

// Changes joins to each change its certificate, the device and the successor.
func (s Numbers) Changes(ctx context.Context, after int64, limit int) ([]record.Change, error) {
	if limit < 1 || limit > maxChanges {
		return nil, fmt.Errorf("a limit of %d changes: want 1 to %d", limit, maxChanges)
	}
	return engine.List(ctx, s.db, scan, `SELECT h.number, c.issuer, c.serial, c.shard, d.model || ':' || d.serial, c.not_after, c.revoked, c.reason, c.der,
			(SELECT n.serial FROM certificates n WHERE n.device = c.device AND n.predecessor = c.serial AND n.issuer = c.issuer AND n.profile = c.profile ORDER BY n.seq DESC LIMIT 1), c.subject
		FROM changes h JOIN certificates c ON c.seq = h.certificate LEFT JOIN devices d ON d.seq = c.device
		WHERE h.number > ? ORDER BY h.number LIMIT ?`, after, limit)
}

func scan(r engine.Row) record.Change {
	c := record.Change{Number: r.Int(0), Issuer: r.Text(1), Serial: r.Text(2), Shard: r.Int(3), Device: r.Text(4),
		NotAfter: r.Time(5), Revoked: r.Time(6), Reason: int(r.Int(7)), Successor: r.Text(9), Subject: r.Text(10)}
	if der := r.Blob(8); der != nil {
		c.Fingerprint = sha256.Sum256(der)
	}
	return c
}

// LastChange asks SQLite's own count, which a deleted change does not take back.
func (s Numbers) LastChange(ctx context.Context) (int64, error) {
	now := last{commits: s.db.Commits(), at: time.Now()} // before it is read
	if known := s.last.Load(); known != nil && known.commits == now.commits && now.at.Sub(known.at) < lastAge && !s.db.Closed() {
		return known.number, ctx.Err()
	}
	err := s.db.Read(ctx, func(c *engine.Conn) (err error) {
		now.number, err = Last(c)
		return err
	})
	if err == nil {
		s.last.Store(&now)
	}
	return now.number, err
}

// Last is LastChange within a transaction.
func Last(c *engine.Conn) (int64, error) {
	n, err := engine.First(c, engine.Number, "SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
	if err != nil || n == nil {
		return 0, err
	}
	return *n, nil
}

// SkipChanges raises SQLite's count.
func (s Numbers) SkipChanges(ctx context.Context, past int64) error {
	return s.db.Write(ctx, func(c *engine.Conn) error {
		n, err := c.Exec("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'changes'", past)
		if err == nil && n == 0 {
			_, err = c.Exec("INSERT INTO sqlite_sequence (name, seq) VALUES ('changes', ?)", past)
		}
		return err
	})
}

// Denied reads an index alone, of what is denied: SQLite by itself would choose the one of
// everything that stands.
func (s Numbers) Denied(ctx context.Context, issuer string, now time.Time, each func(record.Revoked)) (int64, error) {
	return s.walk(ctx, func(r engine.Row) struct{} {
		each(record.Revoked{Serial: r.Text(0), Since: r.Time(1), Reason: int(r.Int(2))})
		return struct{}{}
	}, "SELECT serial, revoked, reason FROM certificates INDEXED BY certificates_revoked WHERE issuer = ? AND revoked IS NOT NULL AND not_after >= ?", issuer, now)
}

// Standing reads an index alone.
func (s Numbers) Standing(ctx context.Context, issuer string, now time.Time, each func(serial string, denied bool)) (int64, error) {
	return s.walk(ctx, func(r engine.Row) struct{} {
		each(r.Text(0), !r.Time(1).IsZero())
		return struct{}{}
	}, "SELECT serial, revoked FROM certificates WHERE issuer = ? AND not_after >= ?", issuer, now)
}

// walk reads rows of one commit and the number that it shows, and keeps nothing.
func (s Numbers) walk(ctx context.Context, row func(engine.Row) struct{}, sql string, args ...any) (n int64, err error) {
	err = s.db.View(ctx, func(c *engine.Conn) error {
		if n, err = Last(c); err != nil {
			return err
		}
		_, err = engine.Query(ctx, c, row, sql, args...)
		return err
	})
	return n, err
}
