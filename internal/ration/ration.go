// Package ration lets each caller through so many times a minute, and counts how often callers
// were turned away: neither strangers nor one who is known may fill the record (design
// decision 19).
package ration

import (
	"sync"
	"time"
)

// Ration counts what each caller has had of the present minute, which begins with the first who
// comes after the end of the one before, and remembers nobody for longer. The zero value is
// ready for use.
type Ration struct {
	mu      sync.Mutex
	begun   time.Time
	let     map[string]int
	dropped int
}

// Take reports whether who may pass at now, as one of at most limit times in a minute; and, if
// so, how often anybody was turned away since somebody last passed.
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
