package ration

import (
	"testing"
	"time"
)

func TestTake(t *testing.T) {
	var r Ration
	begun := time.Date(2026, 11, 22, 9, 0, 59, 0, time.UTC)
	for _, c := range []struct {
		who     string
		after   time.Duration
		dropped int
		pass    bool
	}{
		{"a", 0, 0, true}, {"a", time.Second, 0, true}, {"a", 2 * time.Second, 0, false}, {"a", 59 * time.Second, 0, false},
		{"b", 59 * time.Second, 2, true},
		{"a", time.Minute, 0, true}, {"a", time.Minute, 0, true}, {"a", time.Minute, 0, false},
		{"a", -time.Minute, 1, true}, // the clock was set back
	} {
		if dropped, pass := r.Take(c.who, 2, begun.Add(c.after)); dropped != c.dropped || pass != c.pass {
			t.Errorf("%s after %v: %d, %v; want %d, %v", c.who, c.after, dropped, pass, c.dropped, c.pass)
		}
	}
}
