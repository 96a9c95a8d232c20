package relay

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// failing is a device for which the command for each change failed. Its changes wait, in
// their order; those of others go on.
type failing struct {
	wire.RelayFailure
	// Says is what the command said last.
	Says string `json:"says"`
	// Changes are those that it was not run for.
	Changes []wire.Change `json:"changes"`
	next    time.Time
}

// maxHeld bounds how many changes wait for a command that fails.
const maxHeld = 1024

// runEach runs the command for each change. One that fails is tried again later, and holds up
// later ones of its device alone: one device that the command does not like must not keep the
// others from being refused. An error means that nothing newer can be enforced: the command
// fails for more than can be kept, or failures took longer than a command may.
func (r *Relay) runEach(ctx context.Context) error {
	if r.Each == "" {
		return nil
	}
	var wasted time.Duration
	for _, c := range r.pending {
		if c.Number <= r.state.Told {
			continue
		}
		if wasted > r.Timeout {
			return fmt.Errorf("%w; newer changes wait until it is quicker to fail", r.failing())
		}
		began := time.Now()
		failed, err := r.tell(ctx, c)
		if err != nil {
			return err
		}
		if r.state.Told = c.Number; failed {
			wasted += time.Since(began)
		}
	}
	r.state.Told = max(r.state.Told, r.seen)
	return nil
}

// tell runs the command for one change, or keeps it for later.
func (r *Relay) tell(ctx context.Context, c wire.Change) (failed bool, err error) {
	device, held := cmp.Or(c.Device, c.Serial), 0
	for n := range r.state.Failing {
		held += len(r.state.Failing[n].Changes)
	}
	full := held >= maxHeld || len(r.state.Failing) >= wire.MaxRelayFailing
	if n := slices.IndexFunc(r.state.Failing, func(f failing) bool { return f.Device == device }); n >= 0 {
		if held >= maxHeld {
			return true, fmt.Errorf("%d changes wait for a command that fails, and nothing newer is enforced: %w", held, r.failing())
		}
		r.state.Failing[n].Changes = append(r.state.Failing[n].Changes, c)
		return false, nil
	}
	err = r.command(ctx, r.Each, environment(c))
	switch {
	case err == nil:
		return false, nil
	case ctx.Err() != nil:
		return true, ctx.Err()
	case full:
		return true, fmt.Errorf("the command fails for too many devices, and nothing newer is enforced: %w; now for %s (change %d, %s): %w", r.failing(), device, c.Number, c.Status, err)
	}
	f := failing{RelayFailure: wire.RelayFailure{Device: device, Change: c.Number, Since: r.Now()}, Changes: []wire.Change{c}}
	f.failed(err, r.Now())
	r.state.Failing = append(r.state.Failing, f)
	return true, nil
}

// failed notes that the command failed for the first of the changes. It is tried again after a
// second at first, a minute at most, half of it at random.
func (f *failing) failed(err error, now time.Time) {
	f.Says = shorten(err.Error())
	f.Times++
	wait := min(time.Second<<min(f.Times, 10), 2*maxBackoff) / 2
	f.next = now.Add(wait/2 + rand.N(wait/2))
}

// again runs the command for those of whom it is time, until it fails, and says how that
// stands.
func (r *Relay) again(ctx context.Context) error {
	if len(r.state.Failing) == 0 {
		return nil
	}
	told := false
	for len(r.state.Failing) > 0 {
		n := r.soonest()
		if r.Now().Before(r.state.Failing[n].next) || !r.catchUp(ctx, &r.state.Failing[n]) {
			break
		}
		r.state.Failing, told = slices.Delete(r.state.Failing, n, n+1), true
	}
	r.problem(and(r.expire(ctx), r.failing()))
	if !told {
		return ctx.Err()
	}
	return r.report(ctx)
}

// catchUp runs the command for all that waits for a device. Whoever's certificate has ended
// is let in nowhere, and nobody need be told.
func (r *Relay) catchUp(ctx context.Context, f *failing) bool {
	for ; len(f.Changes) > 0; f.Changes = f.Changes[1:] {
		c := f.Changes[0]
		f.Change = c.Number
		if c.Expires.Before(r.Now()) {
			continue
		}
		if err := r.command(ctx, r.Each, environment(c)); err != nil {
			if ctx.Err() == nil {
				f.failed(err, r.Now())
			}
			return false
		}
	}
	return true
}

// soonest is the place of the device whose turn comes first.
func (r *Relay) soonest() (n int) {
	for i, f := range r.state.Failing {
		if f.next.Before(r.state.Failing[n].next) {
			n = i
		}
	}
	return n
}

// due fires when it is time for the first of those for which the command fails.
func (r *Relay) due() <-chan time.Time {
	if len(r.state.Failing) == 0 {
		return nil
	}
	return time.After(r.state.Failing[r.soonest()].next.Sub(r.Now()))
}

// failing says for whom the command fails; nil if for nobody.
func (r *Relay) failing() error {
	if len(r.state.Failing) == 0 {
		return nil
	}
	f, more := r.state.Failing[0], ""
	if n := len(r.state.Failing) - 1; n > 0 {
		more = fmt.Sprintf(", and for %d more", n)
	}
	return fmt.Errorf("the command fails for %s since %s (change %d, %s)%s: %s", f.Device, f.Since.Format(time.RFC3339), f.Change, f.Changes[0].Status, more, f.Says)
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
