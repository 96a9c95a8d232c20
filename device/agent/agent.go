// Package agent looks after a device's identity for as long as it runs: each thing that
// is due is done at its moment, and what fails is tried again later and later.
//
// It keeps no plan of its own. What is due follows from the state folder, so that it can
// be killed, run from a timer or helped by hand at any moment.
package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/sdnotify"
	"github.com/hallmark-pki/hallmark/wire"
)

// Agent looks after one state folder. It is not for concurrent use.
type Agent struct {
	// Options are those of every step; their Report is told what had to be worked around.
	Options device.Options
	// Version is that of the program; it is remembered which one the server has accepted.
	Version string
	// Ticket, Servers, Roots and Serial serve a board that has no identity yet, as in a
	// device.Enrolment. Without them, and without an image that names them, it waits.
	Ticket  *wire.Permission
	Servers []string
	Roots   [][]byte
	// Serial reads the product's serial number; nil if ticket or record fix it.
	Serial func(context.Context) (string, error)
	// Hooks are run after a swap.
	Hooks Hooks
	// SetClock sets the system clock once a server has proved it wrong; nil leaves it alone.
	SetClock func(time.Time) error
	// HealthFile and MetricsFile are kept up to date; empty for none.
	HealthFile, MetricsFile string
	// Log is told what the agent does; nil means nobody.
	Log func(Priority, string)
	// Systemd is told how it goes; nil if nobody waits for that.
	Systemd *sdnotify.Notifier
	// Wake ends a rest early; nil for never.
	Wake <-chan struct{}
	// Beside is what else is done while Run has the folder, until its context ends; nil
	// for nothing.
	Beside func(context.Context)

	clock clock
	known atomic.Pointer[clock]
	// unsaved is an outcome that could not be written down, contact one that need not be.
	unsaved *state.Outcome
	contact time.Time
	// hookAgain is when hooks that failed are tried again, hookPause how long after the
	// last time.
	hookAgain time.Time
	hookPause time.Duration
	// tried: the chip was looked at, and foreign is what was found.
	tried, foreign bool
	// last and unwritten are the last complaints.
	last, unwritten string
}

const (
	// lookAgain is the longest rest. A clock that is set, a device that was suspended and
	// what people do by hand are noticed after it.
	lookAgain = 15 * time.Minute
	// lookSoon is the rest of a board that waits to be enrolled, heldAgain that while
	// somebody else is at work in the state folder.
	lookSoon  = time.Minute
	heldAgain = 10 * time.Second
	// maxActs bounds what is done between two rests: an enrolment, a question, a renewal.
	maxActs = 4
)

// Run looks after the device until ctx ends. The error is *state.HeldError if another
// agent does already.
func (a *Agent) Run(ctx context.Context) error {
	release, err := a.dir().LockAgent()
	if err != nil {
		return err
	}
	defer release()
	if why := a.dir().Volatile(); why != "" {
		a.log(Warning, "what is in the state folder will not survive: %s", why)
	}
	defer a.accompanied(ctx)()
	a.Systemd.Ready()
	defer a.Systemd.Stopping()
	for {
		wait, err := a.Turn(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.complain(err)
		a.publish()
		debug.FreeOSMemory() // a rest may last for days
		select {
		case <-ctx.Done():
			return nil
		case <-a.Wake:
		case <-time.After(min(wait, lookAgain, a.Systemd.Rest())):
		}
	}
}

// accompanied starts what is done beside; end ends it.
func (a *Agent) accompanied(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	if a.Beside != nil {
		beside.Go(func() { a.Beside(ctx) })
	}
	return func() { cancel(); beside.Wait() }
}

// Once does what is due now, for a device that sleeps or has a timer, and says when there
// is more to do. What is due and has to wait is an error, as is a refusal for good: *WaitError.
func (a *Agent) Once(ctx context.Context) (next time.Time, err error) {
	release, err := a.dir().LockAgent()
	if err != nil {
		return time.Time{}, err
	}
	defer release()
	before := a.outcome()
	wait, err := a.Turn(ctx)
	a.publish()
	now := a.now()
	if o := a.outcome(); err == nil && o.Failure != nil && o.Attempt.Equal(before.Attempt) && (o.Final != nil || a.due()) {
		err = &WaitError{Failure: *o.Failure, Until: now.Add(wait)}
	}
	return now.Add(wait), err
}

// due reports whether there is something to do that waits for nothing but a failure to be
// far enough back.
func (a *Agent) due() bool {
	s, now, err := a.read()
	o := a.outcome()
	o.NotBefore = time.Time{}
	return !plan(s, err, o, now, a.doubts(s, o)).at.After(now)
}

// WaitError: what is due has failed before, and it is too early to try again.
type WaitError struct {
	Failure state.Failure
	Until   time.Time
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("not before %s: %s", e.Until.Format(time.RFC3339), e.Failure.Detail)
}

// Turn does what is due. wait is how long there is nothing to do; the error is that of
// what was tried last, nil if that went well or nothing was due.
func (a *Agent) Turn(ctx context.Context) (wait time.Duration, err error) {
	for range maxActs {
		a.now()
		a.clock.look()
		s, now, readErr := a.read()
		o := a.outcome()
		next := plan(s, readErr, o, now, a.doubts(s, o))
		if next.act == enrol && !a.canEnrol() && readErr == nil {
			return lookSoon, state.ErrEmpty
		}
		a.runHooks(ctx, s, o)
		if next.at.After(now) {
			return next.at.Sub(now), err
		}
		if err = a.do(ctx, next.act); ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if errors.As(err, new(*state.HeldError)) {
			return heldAgain, err
		}
	}
	return heldAgain, err
}

// doubts looks at the clock and, once, at the chip: the state may have come from another
// board while the power was off.
func (a *Agent) doubts(s device.Status, o state.Outcome) doubts {
	if !a.tried && s.LDevID != nil && o.Boot != boot() {
		c, err := device.OpenCredential(a.Options.State, a.Options.TPM)
		if err == nil {
			c.Close()
		}
		a.foreign = errors.Is(err, collect.ErrOtherTPM)
	}
	a.tried = true
	return doubts{!a.clock.sure, a.clock.impossible(), a.foreign}
}

// do does one thing and remembers what came of it.
func (a *Agent) do(ctx context.Context, what act) error {
	a.Systemd.Status("at work: " + string(what))
	var r device.Result
	var err error
	switch what {
	case enrol:
		r, err = a.enrol(ctx)
	case ask:
		r, err = device.Poll(ctx, a.Options)
		if errors.Is(err, device.ErrUseless) {
			a.log(Notice, "%v", err)
			what = renew
			r, err = device.Renew(ctx, a.Options)
		}
	case renew:
		r, err = device.Renew(ctx, a.Options)
	}
	if errors.As(err, new(*device.OtherBoardError)) {
		what = enrol
		r, err = a.enrol(ctx)
	}
	if ctx.Err() != nil || errors.As(err, new(*state.HeldError)) {
		return err
	}
	a.note(r, err)
	if err == nil {
		a.say(what, r)
	}
	return err
}

// note remembers what came of something, and reads what is on file since.
func (a *Agent) note(r device.Result, err error) device.Status {
	a.now()
	a.learn(r)
	s, now, _ := a.read()
	o := a.outcome()
	if err != nil {
		fail(&o, err, now, life(s), rand.Float64)
	} else {
		a.clock.sure, a.foreign = true, false
		succeed(&o, now, a.Version)
	}
	a.remember(o)
	return s
}

// say tells what was done.
func (a *Agent) say(what act, r device.Result) {
	switch {
	case what == enrol:
		a.log(Notice, "enrolled as %s", r.Device)
	case what == renew:
		a.log(Notice, "%s: working certificate valid until %s, renew after %s", r.Device, r.NotAfter.Format(time.RFC3339), r.RenewAfter.Format(time.RFC3339))
	default:
		a.log(Info, "%s: the server says to renew after %s", r.Device, r.RenewAfter.Format(time.RFC3339))
	}
}

func (a *Agent) canEnrol() bool {
	return a.Ticket != nil || len(a.Servers) > 0 && len(a.Roots) > 0
}

// enrol gets the board an identity of its own.
func (a *Agent) enrol(ctx context.Context) (device.Result, error) {
	e := device.Enrolment{Options: a.Options, Ticket: a.Ticket, Servers: a.Servers, Roots: a.Roots}
	if a.Serial != nil {
		var err error
		if e.Serial, err = a.Serial(ctx); err != nil {
			return device.Result{}, fmt.Errorf("reading the serial number: %w", err)
		}
	}
	return device.Enrol(ctx, e)
}

// Renew renews now, due or not, for the person who types it. A refusal for good that is
// less than a day old stands, unless forced; then the error is a *WaitError.
func (a *Agent) Renew(ctx context.Context, force bool) (device.Result, error) {
	if err := a.refused(); err != nil && !force {
		return device.Result{}, err
	}
	r, err := device.Renew(ctx, a.Options)
	return r, a.came(ctx, r, err)
}

// refused is the refusal for good that still stands, as a *WaitError.
func (a *Agent) refused() error {
	o, now := a.outcome(), a.now()
	if o.Final == nil || !o.NotBefore.After(now) || o.NotBefore.Sub(now) > maxWait {
		return nil
	}
	return &WaitError{*o.Final, o.NotBefore}
}

// NeedsRenewal reads from what is on file whether it is time for a new working certificate
// and, if not, from when on it is.
func (a *Agent) NeedsRenewal() (needed bool, from time.Time, err error) {
	s, now, err := a.read()
	if err == nil && s.Condition == device.NotEnrolled {
		err = state.ErrEmpty
	}
	if err != nil {
		return false, time.Time{}, err
	}
	s.Poll = 0
	next := plan(s, nil, a.outcome(), now, a.doubts(s, a.outcome()))
	return !next.at.After(now), next.at, nil
}

// Check makes sure that the server accepts the identity from this program on this board
// since it was started, asking it unless it has: the gate for a new firmware. What only a
// renewal helps is renewed.
func (a *Agent) Check(ctx context.Context) error {
	s := a.Status()
	if s.Healthy && s.Outcome.Version == a.Version && s.Outcome.Boot == boot() {
		return nil
	}
	if err := a.refused(); err != nil {
		return err
	}
	r, err := device.Poll(ctx, a.Options)
	if errors.Is(err, device.ErrUseless) {
		r, err = device.Renew(ctx, a.Options)
	}
	if err := a.came(ctx, r, err); err != nil {
		return err
	}
	if s := a.Status(); !s.Healthy {
		return errors.New(s.Unhealthy)
	}
	return nil
}

// came remembers what came of something that was done outside a turn.
func (a *Agent) came(ctx context.Context, r device.Result, err error) error {
	if ctx.Err() != nil || errors.As(err, new(*state.HeldError)) || errors.Is(err, state.ErrEmpty) {
		return err
	}
	s := a.note(r, err)
	if err == nil {
		a.runHooks(ctx, s, a.outcome())
	}
	a.publish()
	return err
}

func (a *Agent) dir() *state.Dir { return state.At(a.Options.State) }

// outcome is what came of the work so far, of this process or another.
func (a *Agent) outcome() state.Outcome {
	if a.unsaved != nil {
		return *a.unsaved
	}
	o := a.dir().Outcome()
	if !a.contact.IsZero() {
		o.Contact = a.contact
	}
	return o
}

// contactKept is by how much a contact must be later than the one on file to be written
// down when nothing else has changed: flash wears out.
const contactKept = time.Hour

// remember keeps what came of the work.
func (a *Agent) remember(o state.Outcome) {
	have := a.dir().Outcome()
	if onlyContact(have, o) && o.Contact.Sub(have.Contact).Abs() < contactKept {
		a.contact, a.unsaved = o.Contact, nil
		return
	}
	a.contact, a.unsaved = time.Time{}, nil
	if err := a.dir().SaveOutcome(o); err != nil {
		a.unsaved = &o
		a.log(Error, "%v", err)
	}
}

// complain reports what went wrong, the same thing once until it changes.
func (a *Agent) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == "" || text == a.last {
		a.last = text
		return
	}
	a.last = text
	switch {
	case errors.Is(err, state.ErrEmpty):
		a.log(Warning, "%v: waiting for hallmark-device enrol", err)
	case errors.As(err, new(*state.HeldError)) || code(err) == wire.CodeTurn:
		a.log(Info, "waiting: %v", err)
	default:
		a.log(Error, "%s", text)
	}
}

func (a *Agent) log(p Priority, format string, args ...any) {
	if a.Log != nil {
		a.Log(p, fmt.Sprintf(format, args...))
	}
}
