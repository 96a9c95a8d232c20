// Package ration lets so many a minute of each through and counts the others: neither
// strangers nor one who is known may fill the record (design decision 19).
package ration

import (
	"sync"
	"time"
)

// Ration is what each has of a minute, which begins with the first who comes after the
// last minute's end. It remembers nobody for longer. The zero value is ready for use.
type Ration struct {
	mu      sync.Mutex
	begun   time.Time
	let     map[string]int
	dropped int
}

// Take reports whether one more of whoever it is may pass at now, at the most limit in a
// minute, and how many of all were turned away since the last that passed.
func (r *Ration) Take(who string, limit int, now time.Time) (dropped int, pass bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.begun).Abs() >= time.Minute {
		r.begun, r.let = now, map[string]int{}
	}
	if r.let[who] >= limit {
		r.dropped++
		return 0, false
	}
	r.let[who]++
	dropped, r.dropped = r.dropped, 0
	return dropped, true
}
