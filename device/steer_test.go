package device

import (
	"fmt"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// A fleet that is given one window is spread evenly over it, and each device keeps to its
// moment however often it is told.
func TestMoment(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	window := wire.Steering{Start: start, End: start.Add(time.Hour)}
	var tenths [10]int
	for n := range 1000 {
		name := fmt.Sprintf("d:%d", n)
		at := moment(name, window)
		if again := moment(name, wire.Steering{Start: start.In(time.FixedZone("", 3600)), End: window.End}); !again.Equal(at) || at.Before(start) || at.After(window.End) {
			t.Fatalf("%s: %v, then %v", name, at, again)
		}
		tenths[min(int(at.Sub(start)/(6*time.Minute)), 9)]++
	}
	for _, n := range tenths {
		if n < 60 || n > 140 {
			t.Fatalf("not even: %v", tenths)
		}
	}
	a := &action{}
	a.steer(wire.Steering{Start: start, End: start.Add(-time.Hour)}, nil)
	if !a.set.RenewAfter.Equal(start) {
		t.Fatalf("a window that ends before it begins: %v", a.set.RenewAfter)
	}
}
