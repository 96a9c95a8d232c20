package agent

import (
	"time"

	"github.com/hallmark-pki/hallmark/device"
)

// clock is what the agent knows about the time between two answers of the server (design decision
// 10). The system clock is trusted unless the server has shown it to be wrong, or it is before
// floor.
type clock struct {
	system func() time.Time
	floor  time.Time
	// start is the system clock at the first look, seen at the last.
	start, seen time.Time
	// learned is the server's time and at the system's at that moment; zero if the system clock
	// is trusted.
	learned, at time.Time
	// sure: a server was reached since the start, or since the clock was set.
	sure bool
}

// stepped is the difference between system and monotonic clock from which on the former was set,
// or the device was suspended.
const stepped = 2 * time.Second

// look notices steps of the clock since the last look.
func (c *clock) look() {
	now := c.system()
	if c.start.IsZero() {
		c.start, c.seen = now, now
	}
	c.passed(now.Round(0).Sub(c.seen.Round(0)), now.Sub(c.seen))
	c.seen = now
}

// passed compares the time passed by the wall clock and by the monotonic one.
func (c *clock) passed(wall, monotonic time.Duration) {
	if (wall - monotonic).Abs() > stepped {
		c.learned, c.start, c.sure = time.Time{}, c.system(), false
	}
}

// now is the best estimate of the time.
func (c *clock) now() time.Time {
	now := c.system()
	switch {
	case !c.learned.IsZero():
		return c.learned.Add(now.Sub(c.at))
	case now.Before(c.floor):
		return c.floor.Add(now.Sub(c.start)) // at least it does not stand still
	}
	return now
}

// impossible reports whether the system clock is certainly wrong.
func (c *clock) impossible() bool { return c.system().Before(c.floor) }

// now is the best knowledge of the time.
func (a *Agent) now() time.Time {
	if a.clock.system == nil {
		a.clock.system, a.clock.floor = a.system(), a.Options.Built
		a.clock.look()
	}
	known := a.clock
	a.known.Store(&known)
	return known.now()
}

// Now is the agent's latest estimate of the time, so that Beside can connect whenever the agent
// can renew. Unlike the agent's other methods it is safe for concurrent use.
func (a *Agent) Now() time.Time {
	if known := a.known.Load(); known != nil {
		return known.now()
	}
	return a.system()()
}

func (a *Agent) system() func() time.Time {
	if a.Options.Now != nil {
		return a.Options.Now
	}
	return time.Now
}

// read reads the state folder, as of now.
func (a *Agent) read() (s device.Status, now time.Time, err error) {
	s, err = device.ReadStatus(a.Options.State, a.now())
	raised := false
	for _, c := range []*device.Certificate{s.IDevID, s.LDevID} {
		if c != nil && c.NotBefore.After(a.clock.floor) {
			a.clock.floor, raised = c.NotBefore, true
		}
	}
	if raised {
		s, err = device.ReadStatus(a.Options.State, a.now())
	}
	return s, a.now(), err
}

// learn takes the time from an answer, and sets the system clock if configured.
func (a *Agent) learn(r device.Result) {
	if r.Time.IsZero() {
		return
	}
	a.clock.learned, a.clock.at, a.clock.sure = r.Time, a.clock.system(), true
	if a.SetClock == nil {
		return
	}
	off := r.Time.Sub(a.clock.at)
	if err := a.SetClock(r.Time); err != nil {
		a.log(Warning, "the clock is wrong by %v and cannot be set: %v", off.Round(time.Second), err)
		return
	}
	a.log(Notice, "the clock was wrong by %v and is set", off.Round(time.Second))
	// From here on it is trusted again.
	a.clock.learned, a.clock.start, a.clock.seen = time.Time{}, a.clock.system(), a.clock.system()
}
