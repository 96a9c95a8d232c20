package sqlite

import (
	"context"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/recordtest"
)

var options = Options{Now: func() time.Time { return recordtest.Now }}

func TestStore(t *testing.T) {
	recordtest.Run(t, recordtest.Place{
		Create: func(ctx context.Context, name string) (record.Store, error) { return Create(ctx, name, options) },
		Open:   func(ctx context.Context, name string) (record.Store, error) { return Open(ctx, name, options) },
	})
}
