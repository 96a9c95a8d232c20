package consent

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// Whoever ends a device keeps jobs waiting until it is recorded, and no longer than his request
// lasts, whatever becomes of the lists meanwhile.
func TestRevokingWaitsForNobodyForEver(t *testing.T) {
	store, err := sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "store"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	w, now := New(store), time.Now()
	call := &gate.Call{Now: now, Caller: gate.Caller{Name: "anna"}}
	begun, over := context.WithCancel(t.Context())
	defer over()
	done, err := w.RevokeOne(begun, call, record.Device{ID: "one"})
	if err != nil {
		t.Fatal(err)
	}
	judged := make(chan error)
	go func() { judged <- w.Revoking(t.Context(), "anna", now, func(int64) error { return nil }) }()
	over() // and done is not called
	select {
	case err := <-judged:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a job waits for a request that is over")
	}
	done()
	if _, err := w.RevokeOne(begun, call, record.Device{ID: "two"}); err == nil {
		t.Error("what nobody waits for is counted")
	}
	done, err = w.RevokeOne(t.Context(), call, record.Device{ID: "three"})
	if err != nil {
		t.Fatal(err)
	}
	if w.one.TryLock() {
		t.Error("a job does not wait for what is being ended")
	}
	done()
	if !w.one.TryLock() || len(w.ending) != 0 {
		t.Errorf("still being ended: %v", w.ending)
	}
}
