package sqlite

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	p := filepath.Join(t.TempDir(), "x y?%.db")
	s, err := Create(ctx, p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ev := record.Event{Time: now, Verb: "x"}
	if err := s.CreateTickets(ctx, []record.Ticket{{ID: "t1", Lot: "default", Created: now, Expires: now}}, ev); err != nil {
		t.Fatal(err)
	}
	d, err := s.Admit(ctx, record.Query{Ticket: "t1", Session: "s1", Serial: "SN-1", EK: [32]byte{1}}, func(v record.View) (record.Admission, error) {
		t.Logf("%+v", v)
		return record.Admission{Device: record.Device{ID: "d1", Model: "default", Lot: "default", Serial: "SN-1", State: "active", Enrolled: now, Seen: now, EKs: []record.EK{{Fingerprint: [32]byte{1}}}},
			Session: "s1", Expires: now, Ticket: "t1", Event: ev}, nil
	})
	t.Logf("%+v %v", d, err)
	v, err := s.Look(ctx, record.Query{Ticket: "t1", Session: "s1", Serial: "SN-1", EK: [32]byte{1}})
	t.Logf("%+v %v", v, err)
	sh, given, err := s.ReserveShard(ctx, "op", 5, 10)
	t.Log(sh, given, err)
	if err := s.Verify(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(ctx, p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
