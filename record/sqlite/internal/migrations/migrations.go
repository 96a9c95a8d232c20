// Package migrations brings a record's file to the schema of this program: one that is in
// use, and a backup, before its journal is run on it. The journal holds statements of both
// sides of an upgrade, and all must do to this schema what they did. So a step adds tables,
// indexes, and columns with a default, and leaves rows as they are.
package migrations

import (
	"context"
	"embed"

	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

//go:embed *.sql
var files embed.FS

// applicationID marks the file as ours (PRAGMA application_id): "HALM".
const applicationID = 0x48414C4D

// Up takes the steps that a file lacks; fresh says that it is empty. What is no record, or of
// a newer program, is refused.
func Up(ctx context.Context, path string, fresh bool) error {
	return engine.Migrate(ctx, path, files, applicationID, fresh, true)
}

// Current refuses a file that lacks a step as well.
func Current(ctx context.Context, path string) error {
	return engine.Migrate(ctx, path, files, applicationID, false, false)
}
