// Package agent maintains a device's identity for as long as it runs: it does each thing when it
// is due, and retries failures with increasing delays.
//
// It stores no plan. What is due follows from the state folder, so that it can be killed, run
// from a timer or assisted by hand at any moment.
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

// Agent maintains one state folder. It is not safe for concurrent use.
type Agent struct {
	// Options are the options of every step.
	Options device.Options
	// Version is the program's version; the one that the server has accepted is remembered.
	Version string
	// Ticket, Servers, Roots and Serial are for enrolling a board that has no identity yet, as in
	// device.Enrolment. Without them, and without an image that names them, the agent waits.
	Ticket  *wire.Permission
	Servers []string
	Roots   [][]byte
	// Serial reads the product's serial number; nil if ticket or record fix it.
	Serial func(context.Context) (string, error)
	// Hooks run after the working certificate was replaced.
	Hooks Hooks
	// SetClock sets the system clock if a server proves it wrong; nil leaves it alone.
	SetClock func(time.Time) error
	// HealthFile and MetricsFile are files for monitoring; empty for none.
	HealthFile, MetricsFile string
	// Log receives what the agent does; may be nil.
	Log func(Priority, string)
	// Systemd is notified of the agent's state; may be nil.
	Systemd *sdnotify.Notifier
	// Wake ends a rest early; may be nil.
	Wake <-chan struct{}
	// Beside runs concurrently with Run until its context ends; may be nil.
	Beside func(context.Context)

	clock clock
	known atomic.Pointer[clock]
	// unsaved is an outcome that could not be saved, contact a time of contact that need not be.
	unsaved *state.Outcome
	contact time.Time
	// hookAgain is when failed hooks are retried, hookPause the current delay.
	hookAgain time.Time
	hookPause time.Duration
	// tried: the chip was checked; foreign is the result. doubts are of whoever used the key.
	tried, foreign bool
	doubts         chan struct{}
	// renewals are when this process last renewed, the oldest first; zero if it has not.
	renewals [maxRenewals]time.Time
	// last and unwritten are the last complaints, which are not repeated.
	last, unwritten string
}

const (
	// lookAgain is the longest rest, after which a changed clock, a resumed machine and manual
	// actions are noticed.
	lookAgain = 15 * time.Minute
	// lookSoon is the rest of a board that waits to be enrolled, heldAgain the rest while another
	// process works in the state folder.
	lookSoon  = time.Minute
	heldAgain = 10 * time.Second
	// maxActs bounds what is done between two rests: enrolling, asking, renewing.
	maxActs = 4
)

// Run maintains the identity until ctx ends. The error is *state.HeldError if another agent does
// so already.
func (a *Agent) Run(ctx context.Context) error {
	release, err := a.dir().LockAgent()
	if err != nil {
		return err
	}
	defer release()
	if why := a.dir().Volatile(); why != "" {
		a.log(Warning, "what is in the state folder will not survive: %s", why)
	}
	a.doubts = make(chan struct{}, 1)
	defer a.startBeside(ctx)()
	a.Systemd.Ready()
	defer a.Systemd.Stopping()
	for {
		wait, err := a.Turn(ctx)
		if ctx.Err() != nil {
			return nil
		}
		a.complain(err)
		a.publish()
		debug.FreeOSMemory() // a rest may be long
		select {
		case <-ctx.Done():
			return nil
		case <-a.Wake:
		case <-a.doubts:
			a.foreign = true
		case <-time.After(min(wait, lookAgain, a.Systemd.Rest())):
		}
	}
}

// Failed tells a running agent of an error of whoever uses the working key (device.Identity). If the
// chip no longer knows the key, as after TPM2_Clear, the agent gets another at once; until then
// nobody could use the identity.
func (a *Agent) Failed(err error) {
	if errors.Is(err, collect.ErrOtherTPM) {
		select {
		case a.doubts <- struct{}{}:
		default:
		}
	}
}

// startBeside starts Beside; end stops it.
func (a *Agent) startBeside(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	if a.Beside != nil {
		beside.Go(func() { a.Beside(ctx) })
	}
	return func() { cancel(); beside.Wait() }
}

// Once does what is due now, for a device that sleeps or has a timer, and returns when there is
// more to do. The error is *WaitError if something due has to wait after a failure, or was
// refused for good.
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

// due reports whether something is due that only the delay after a failure holds back.
func (a *Agent) due() bool {
	s, now, err := a.read()
	o := a.outcome()
	o.NotBefore = time.Time{}
	return !a.next(s, err, o, now).at.After(now)
}

// WaitError: what is due has failed before, and it is too early to retry.
type WaitError struct {
	Failure state.Failure
	Until   time.Time
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("%s; the server is asked again after %s", e.Failure.Detail, e.Until.Format(time.RFC3339))
}

// Turn does what is due. wait is for how long nothing is due then; the error is that of the last
// act, nil if it succeeded or nothing was due.
func (a *Agent) Turn(ctx context.Context) (wait time.Duration, err error) {
	for range maxActs {
		a.now()
		a.clock.look()
		s, now, readErr := a.read()
		o := a.outcome()
		a.recognise(s, o)
		next := a.next(s, readErr, o, now)
		if next.act == enrol && !a.canEnrol() && readErr == nil {
			return lookSoon, a.missing()
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

// recognise checks once whether the working key is this chip's: the state may have been moved to
// another board while the power was off.
func (a *Agent) recognise(s device.Status, o state.Outcome) {
	if !a.tried && s.LDevID != nil && o.Boot != boot() {
		c, err := device.OpenCredential(a.Options.State, a.Options.TPM)
		if err == nil {
			c.Close()
		}
		a.foreign = errors.Is(err, collect.ErrOtherTPM)
	}
	a.tried = true
}

// do does one act and records its outcome.
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
		a.logDone(what, r)
	}
	if err == nil && what == renew {
		a.renewals = [maxRenewals]time.Time(append(a.renewals[1:], a.now()))
	}
	return err
}

// note records the outcome of an act, and reads the new status.
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

// logDone logs what was done.
func (a *Agent) logDone(what act, r device.Result) {
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

// missing says why the board cannot enrol.
func (a *Agent) missing() error {
	switch {
	case len(a.Servers) > 0:
		return fmt.Errorf("%w, and the settings name a server but no roots to verify it with (infrastructure.pem)", state.ErrEmpty)
	case len(a.Roots) > 0:
		return fmt.Errorf("%w, and the settings name no server", state.ErrEmpty)
	}
	return state.ErrEmpty
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

// Renew renews now, due or not, on behalf of a person. Unless forced, a refusal for good that is
// less than a day old is repeated as a *WaitError without asking.
func (a *Agent) Renew(ctx context.Context, force bool) (device.Result, error) {
	if err := a.refused(); err != nil && !force {
		return device.Result{}, err
	}
	r, err := device.Renew(ctx, a.Options)
	return r, a.finish(ctx, r, err)
}

// refused is the refusal for good that is in force, as a *WaitError.
func (a *Agent) refused() error {
	o, now := a.outcome(), a.now()
	if o.Final == nil || !o.NotBefore.After(now) || o.NotBefore.Sub(now) > maxWait {
		return nil
	}
	return &WaitError{*o.Final, o.NotBefore}
}

// NeedsRenewal tells from the state folder whether it is time for a new working certificate and,
// if not, when it will be.
func (a *Agent) NeedsRenewal() (needed bool, from time.Time, err error) {
	s, now, err := a.read()
	if err == nil && s.Condition == device.NotEnrolled {
		err = state.ErrEmpty
	}
	if err != nil {
		return false, time.Time{}, err
	}
	s.Poll = 0
	next := a.next(s, nil, a.outcome(), now)
	return !next.at.After(now), next.at, nil
}

// Check makes sure, as the gate for a new firmware, that the server has accepted the identity
// from this program since the board was started; unless it has, Check asks it, and renews if only
// that helps.
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
	if err := a.finish(ctx, r, err); err != nil {
		return err
	}
	if s := a.Status(); !s.Healthy {
		return errors.New(s.Unhealthy)
	}
	return nil
}

// finish records the outcome of an act outside of Turn.
func (a *Agent) finish(ctx context.Context, r device.Result, err error) error {
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

// outcome is the outcome of the work so far, of this process or another.
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

// contactKept is how much later than the one on file a contact must be to be saved if nothing
// else has changed: flash wears out.
const contactKept = time.Hour

// remember saves the outcome of the work.
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

// complain logs an error once, until it changes.
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
