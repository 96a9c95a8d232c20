// Package each runs a command for each change, in order, and retries those for which it fails: a
// device for which it fails does not keep others from being refused.
package each

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// State is what survives a restart.
type State struct {
	// Told is the newest change that the command was run for, with all before it but those
	// that wait in Failing.
	Told    int64     `json:"told,omitempty"`
	Failing []Failing `json:"failing,omitempty"`
	// Passed is the first change that the command is never run for, because of its name, and that
	// Failing has no place for; 0 if there is none. It counts until PassedUntil, when the last such
	// certificate expires.
	Passed      int64     `json:"passed,omitempty"`
	PassedUntil time.Time `json:"passed_until,omitzero"`
}

// Failing is a device for which the command failed. Its changes wait, in their order; those of
// others go on.
type Failing struct {
	wire.RelayFailure
	// Says is what the command said last.
	Says string `json:"says"`
	// Changes are those that it was not run for; there is one at least.
	Changes []wire.Change `json:"changes"`
	next    time.Time
}

// Bounds of what waits.
const (
	maxHeld = 1024 // changes
	// maxWait is how long a device waits at most for the next try.
	maxWait = time.Minute
	// brief is how long the command may take at first while something newer waits.
	brief = 2 * time.Second
)

// Teller runs a command for changes; every field is needed.
type Teller struct {
	*State
	// Run runs the command with an environment, and ends it, with ctx at the latest.
	Run func(ctx context.Context, environment []string) error
	Now func() time.Time
}

// Tell runs the command for the changes newer than Told, which are in order and complete up to upTo.
// It stops early when quiet ends: something newer waits. An error means that nothing newer can be
// enforced now, for the command fails for more than can be kept.
func (t Teller) Tell(ctx, quiet context.Context, changes []wire.Change, upTo int64) error {
	if t.PassedUntil.Before(t.Now()) {
		t.Passed = 0
	}
	busy, end := context.WithCancel(quiet)
	end()
	began := time.Now()
	for n, c := range changes {
		if c.Number <= t.Told {
			continue
		}
		if quiet.Err() != nil && time.Since(began) >= brief {
			return ctx.Err()
		}
		after := busy
		if n == len(changes)-1 {
			after = quiet
		}
		if err := t.tell(ctx, after, c); err != nil {
			return err
		}
		t.Told = c.Number
	}
	t.Told = max(t.Told, upTo)
	return nil
}

// ResetTo sets the newest change that the command was run for. If the feed went back to it, newer
// changes that wait are forgotten: the feed repeats them, or they have not happened.
func (s *State) ResetTo(number int64) {
	s.Told = number
	newer := func(c wire.Change) bool { return c.Number > number }
	for n := range s.Failing {
		s.Failing[n].Changes = slices.DeleteFunc(s.Failing[n].Changes, newer)
	}
	s.Failing = slices.DeleteFunc(s.Failing, func(f Failing) bool { return len(f.Changes) == 0 })
	if s.Passed > number {
		s.Passed = 0
	}
}

// Enforced is the newest change up to which all are, but for what Failing says.
func (s *State) Enforced() int64 {
	if s.Passed > 0 {
		return min(s.Told, s.Passed-1)
	}
	return s.Told
}

// tell runs the command for one change, or keeps it for later.
func (t Teller) tell(ctx, quiet context.Context, c wire.Change) error {
	device, held := cmp.Or(c.Device, c.Serial), t.held()
	if isOption(c.Name) && t.manyOptions() {
		t.pass(c) // the other places are for those whom the next try may help
		return nil
	}
	if n := slices.IndexFunc(t.Failing, func(f Failing) bool { return f.Device == device }); n >= 0 {
		switch {
		case held < maxHeld:
			t.Failing[n].Changes = append(t.Failing[n].Changes, c)
			return nil
		case t.Again(ctx): // there is room
			return t.tell(ctx, quiet, c)
		default:
			return fmt.Errorf("%d changes wait, and nothing newer is enforced: %w", held, t.Problem())
		}
	}
	began := time.Now()
	err := t.first(ctx, quiet, c)
	slow := time.Since(began) >= brief
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case t.Full() && !t.Again(ctx):
		return fmt.Errorf("the command fails for too many, and nothing newer is enforced: for %s (change %d, %s): %w", device, c.Number, c.Status, err)
	}
	f := Failing{RelayFailure: wire.RelayFailure{Device: device, Change: c.Number, Since: t.Now()}, Changes: []wire.Change{c}}
	f.failed(err, t.Now())
	if slow {
		f.next = time.Time{} // before all that failed more often: more time may be all that it needs
	}
	t.Failing = append(t.Failing, f)
	return nil
}

// first runs the command for a change, and ends it after brief if quiet has ended.
func (t Teller) first(ctx, quiet context.Context, c wire.Change) error {
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(quiet, func() {
		time.AfterFunc(time.Until(began.Add(brief)), func() { cancel(errSlow) })
	})
	defer stop()
	return t.run(ctx, c)
}

// run runs the command for a change. One whose name it could take for an option waits as one that
// it dislikes: no model is given such names any more.
func (t Teller) run(ctx context.Context, c wire.Change) error {
	if isOption(c.Name) {
		return fmt.Errorf("it is not run for a name that begins with a hyphen: %q", c.Name)
	}
	return t.Run(ctx, environment(c))
}

// isOption reports whether a command could take a name, or a part of it if it splits names at blanks,
// for an option.
func isOption(name string) bool { return strings.HasPrefix(name, "-") || strings.Contains(name, " -") }

// manyOptions reports whether half of the places are taken by changes with such names.
func (s *State) manyOptions() bool {
	devices, changes := 0, 0
	for _, f := range s.Failing {
		if slices.ContainsFunc(f.Changes, func(c wire.Change) bool { return isOption(c.Name) }) {
			devices, changes = devices+1, changes+len(f.Changes)
		}
	}
	return devices >= wire.MaxRelayFailing/2 || changes >= maxHeld/2
}

// pass notes a change that the command is never run for.
func (s *State) pass(c wire.Change) {
	if s.Passed == 0 {
		s.Passed, s.PassedUntil = c.Number, c.Expires
	} else if c.Expires.After(s.PassedUntil) {
		s.PassedUntil = c.Expires
	}
}

var errSlow = fmt.Errorf("it took more than %v while others waited", brief)

// Full reports whether no more failures can be kept: if the command fails for one more device,
// nothing newer is enforced.
func (s *State) Full() bool {
	return len(s.Failing) >= wire.MaxRelayFailing || s.held() >= maxHeld
}

// held is how many changes wait.
func (s *State) held() (n int) {
	for _, f := range s.Failing {
		n += len(f.Changes)
	}
	return n
}

// failed schedules the next try: after a second at first, half of it random.
func (f *Failing) failed(err error, now time.Time) {
	f.Says = err.Error()
	f.Times++
	wait := min(time.Second<<min(f.Times-1, 10), maxWait)
	f.next = now.Add(wait/2 + rand.N(wait/2))
}

// Again retries the devices that are due, until the command fails or ctx ends, which counts as no
// failure; done reports whether it succeeded for one of them.
func (t Teller) Again(ctx context.Context) (done bool) {
	for len(t.Failing) > 0 {
		n := t.soonest()
		if t.Now().Before(t.Failing[n].next) || !t.catchUp(ctx, &t.Failing[n]) {
			break
		}
		t.Failing, done = slices.Delete(t.Failing, n, n+1), true
	}
	return done
}

// catchUp runs the command for all that waits for a device, but for certificates that have expired:
// nobody accepts those.
func (t Teller) catchUp(ctx context.Context, f *Failing) bool {
	for {
		c := f.Changes[0]
		f.Change = c.Number
		if !c.Expires.Before(t.Now()) {
			if err := t.run(ctx, c); err != nil {
				if ctx.Err() == nil {
					f.failed(err, t.Now())
				}
				return false
			}
		}
		if len(f.Changes) == 1 {
			return true
		}
		f.Changes = f.Changes[1:]
	}
}

// soonest is the place of the device whose turn comes first.
func (s *State) soonest() (n int) {
	for i, f := range s.Failing {
		if f.next.Before(s.Failing[n].next) {
			n = i
		}
	}
	return n
}

// Due fires when it is time for Again; nil if nothing waits.
func (t Teller) Due() <-chan time.Time {
	if len(t.Failing) == 0 {
		return nil
	}
	return time.After(t.Failing[t.soonest()].next.Sub(t.Now()))
}

// Problem says for whom the command fails; nil if for nobody.
func (s *State) Problem() error {
	var problems []string
	if s.Passed > 0 {
		problems = append(problems, fmt.Sprintf("too many names begin with a hyphen: from change %d on nothing is reported as enforced until %s", s.Passed, s.PassedUntil.Format(time.RFC3339)))
	}
	if len(s.Failing) > 0 {
		f, more := s.Failing[0], ""
		if n := len(s.Failing) - 1; n > 0 {
			more = fmt.Sprintf(", and for %d more", n)
		}
		problems = append(problems, fmt.Sprintf("the command fails for %s since %s (change %d, %s)%s: %s", f.Device, f.Since.Format(time.RFC3339), f.Change, f.Changes[0].Status, more, f.Says))
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}

// Check says what cannot be in a state that was read.
func (s *State) Check() error {
	for _, f := range s.Failing {
		if f.Device == "" || len(f.Changes) == 0 {
			return fmt.Errorf("nothing waits for device %q", f.Device)
		}
	}
	return nil
}

// environment is a change as commands read it.
func environment(c wire.Change) []string {
	serial := strings.ToUpper(c.Serial)
	return []string{
		fmt.Sprintf("HALLMARK_CHANGE=%d", c.Number), "HALLMARK_STATUS=" + c.Status, "HALLMARK_REASON=" + c.Reason,
		"HALLMARK_DEVICE=" + c.Device, "HALLMARK_NAME=" + cmp.Or(c.Name, c.Device), "HALLMARK_ISSUER=" + c.Issuer, "HALLMARK_SERIAL=" + serial,
		"HALLMARK_FINGERPRINT=" + c.Fingerprint, "HALLMARK_SUCCESSOR=" + strings.ToUpper(c.Successor),
	}
}
