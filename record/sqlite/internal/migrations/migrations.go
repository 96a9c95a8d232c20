// Package migrations brings a record's file to the schema of this program: one that is in
// use, and a backup, before its journal is run on it. The journal holds statements of both
// sides of an upgrade, and all must do to this schema what they did. So a step adds tables,
// indexes, and columns with a default, and leaves rows as they are.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"

	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

//go:embed *.sql
var files embed.FS

// applicationID marks the file as ours (PRAGMA application_id): "HALM".
const applicationID = 0x48414C4D

// Create makes the schema in an empty file.
func Create(ctx context.Context, path string) error {
	return engine.Migrate(ctx, path, files, func(_, _, _ int64) error { return nil })
}

// Up takes the steps that a file lacks. What is no record, or of a newer program, is refused.
func Up(ctx context.Context, path string) error { return migrate(ctx, path, known) }

// Current refuses a file that lacks a step as well.
func Current(ctx context.Context, path string) error {
	return migrate(ctx, path, func(current, first, last int64) error {
		err := known(current, first, last)
		if err == nil && current < last {
			err = fmt.Errorf("its schema is version %d and this program's is %d: this program's server brings it there when it starts, and from then on an older program refuses it", current, last)
		}
		return err
	})
}

func migrate(ctx context.Context, path string, may func(current, first, last int64) error) error {
	mark, err := engine.Mark(ctx, path)
	if err == nil && mark != applicationID {
		err = errors.New("this is another program's database")
	}
	if err != nil {
		return err
	}
	return engine.Migrate(ctx, path, files, may)
}

// known refuses versions from which no step leads to the last.
func known(current, first, last int64) error {
	switch {
	case current > 0 && current < first:
		return fmt.Errorf("its schema is version %d, of before the first release, and cannot be brought to %d", current, last)
	case current > last:
		return fmt.Errorf("its schema is version %d and this program knows %d: use the newer program that wrote it", current, last)
	}
	return nil
}
