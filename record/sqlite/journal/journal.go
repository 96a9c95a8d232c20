// Package journal brings a snapshot of a SQLite record to the present, from the journal
// that the record kept beside itself (docs/decisions/0002-restore.md).
package journal

import (
	"context"

	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/migrations"
)

// ErrUnfit means that a journal does not continue a snapshot: it is another's, or lacks
// a part. Nothing was changed.
var ErrUnfit = engine.ErrJournal

// Recovered says what Recover brought back.
type Recovered = engine.Replayed

// Recover brings a snapshot, which nobody has open, to where its journal ends: every
// verb that was ever answered is in it then. All or nothing of that; ErrUnfit if the journal
// is another's or lacks a part. The record goes on in a new segment, under this program's
// schema: the backup may be of the program before.
func Recover(ctx context.Context, path, journal string) (Recovered, error) {
	if err := migrations.Up(ctx, path); err != nil {
		return Recovered{}, err
	}
	return engine.Replay(ctx, path, journal)
}

// Idle refuses a journal that a server writes.
func Idle(journal string) error { return engine.Idle(journal) }

// Restart gives up what lies between a snapshot, which nobody has open, and the
// present: the record goes on in a new journal.
func Restart(ctx context.Context, path string) error {
	return engine.Restart(ctx, path)
}

// Check says why a record, which may be in use, could not go on writing the journal in a
// folder, or nil: until it can, nothing is recorded.
func Check(ctx context.Context, path, journal string) error {
	return engine.Continues(ctx, path, journal)
}

// Needless names the files of a journal that Recover of this snapshot would not read.
func Needless(ctx context.Context, snapshot, journal string) ([]string, error) {
	return engine.Needless(ctx, snapshot, journal)
}
