package consent

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// Whoever ends a device keeps jobs waiting, and is counted, until it is recorded.
func TestRevokeOne(t *testing.T) {
	store, err := sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "store"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	w := New(store)
	call := &gate.Call{Now: time.Now(), Caller: gate.Caller{Name: "anna"}}
	failed := errors.New("not recorded")
	err = w.RevokeOne(t.Context(), call, record.Device{ID: "one"}, func() error {
		if w.one.TryLock() || len(w.ending) != 1 {
			t.Errorf("a job does not wait for what is being ended: %v", w.ending)
		}
		return failed
	})
	if err != failed {
		t.Errorf("%v", err)
	}
	if !w.one.TryLock() || len(w.ending) != 0 {
		t.Errorf("still being ended: %v", w.ending)
	}
}
