// Package consent says what one operator may not do alone, once there are two (design
// decision 14): revoke many devices, lift a tombstone, make an operator, change a setting.
package consent

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

const (
	// life is how long a request for consent stands.
	life = 24 * time.Hour
	// DefaultThreshold is the value of jobs.SettingRevokeThreshold until one is set.
	DefaultThreshold = 100
	// window is the time for which the threshold counts.
	window = 24 * time.Hour
)

// Store is what judging asks of the record.
type Store interface {
	record.Approvals
	Able(ctx context.Context, at time.Time, lost time.Duration) ([]string, error)
	RevokedAlone(ctx context.Context, operator string, since time.Time) (int64, error)
	LotsEnded(ctx context.Context, devices []string, at time.Time) ([]string, error)
	Setting(ctx context.Context, name string) (string, error)
}

// Watch judges. Make one for a record with New.
type Watch struct {
	store Store
	// one is held shared while a single device is being ended, and exclusively while a job
	// is judged by what has been ended.
	one sync.RWMutex
	mu  sync.Mutex
	// ending are the single devices that are being ended right now.
	ending map[*ending]bool
}

// ending is a device and who ends it.
type ending struct{ device, operator string }

// New watches over a record.
func New(s Store) *Watch { return &Watch{store: s, ending: map[*ending]bool{}} }

// Alone reports whether nobody but the caller could act.
func Alone(able []string, caller string) bool {
	return !slices.ContainsFunc(able, func(name string) bool { return name != caller })
}

// Others are the operators, except one, who can act now. Need also counts those who could a
// moment ago (record.AbleAfterDisabling).
func (w *Watch) Others(ctx context.Context, but string, now time.Time) (others []string, err error) {
	able, err := w.store.Able(ctx, now, 0)
	return slices.DeleteFunc(able, func(name string) bool { return name == but }), err
}

// Need returns nil if the caller may do now what kind and subject (record.Approval) say: alone,
// or with another operator's approval, which is spent when act is written, the event of what is
// done. Otherwise it asks for approval and returns the refusal that says so, in which the
// subject is called name.
func (w *Watch) Need(ctx context.Context, c *gate.Call, act *record.Event, kind, subject, name string) error {
	able, err := w.store.Able(ctx, c.Now, record.AbleAfterDisabling)
	if err != nil || Alone(able, c.Caller.Name) {
		return err
	}
	given, err := w.store.GivenApproval(ctx, kind, subject, c.Caller.Name, c.Now)
	if err == nil {
		act.Spends, act.Detail["approval"], act.Detail["approver"] = given.ID, given.ID, given.Approver
	}
	if !errors.Is(err, record.ErrNotFound) {
		return err
	}
	e := c.Event("approval.requested", name)
	e.Reason, e.Alert, e.Detail["kind"] = act.Reason, true, kind
	a, err := w.store.RequestApproval(ctx, record.Approval{Kind: kind, Subject: subject, Why: act.Reason,
		Requester: c.Caller.Name, Requested: c.Now, Expires: c.Now.Add(life)}, e)
	if err != nil {
		return err
	}
	hint := "another operator types: hallmark approve " + a.ID + "; then type this again"
	others, err := w.Others(ctx, c.Caller.Name, c.Now)
	if err != nil {
		return err
	}
	if len(others) == 0 {
		hint = "nobody else can approve it now, and who left within a day counts still: type this again after that, or make another operator on the server: hallmarkd operator recover --name NAME"
	}
	return gate.Refuse(http.StatusForbidden, wire.CodeApproval, hint,
		"this takes two operators: request %s waits for the other until %s", a.ID, a.Expires.UTC().Format(time.DateTime+" UTC"))
}

// glassLife is for how long a job runs on a break-glass that nobody has reviewed.
const glassLife = time.Hour

// Ask makes a job wait for another operator's consent or, if breakGlass says why it cannot
// wait, run at once, though not for longer than glassLife until another operator reviews it.
func Ask(p *record.JobPlan, why, breakGlass string, now time.Time) {
	p.Approval = &record.Approval{Kind: record.ApproveJob, Why: why, Requester: p.Job.Operator, Requested: now, Expires: now.Add(life)}
	p.Job.State = record.JobWaiting
	if breakGlass != "" {
		p.Approval.Kind, p.Approval.Why, p.Approval.Expires = record.ReviewJob, breakGlass, time.Time{}
		p.Job.State, p.Job.Until = record.JobRunning, now.Add(glassLife)
		p.Event.Detail["break_glass"], p.Event.Detail["until"] = breakGlass, p.Job.Until.UTC().Format(time.RFC3339)
	}
}

// Threshold is how many devices one operator may revoke within a day without another's
// consent.
func (w *Watch) Threshold(ctx context.Context) (int64, error) {
	text, err := w.store.Setting(ctx, jobs.SettingRevokeThreshold)
	if errors.Is(err, record.ErrNotFound) {
		return DefaultThreshold, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// Revoking calls do with how many devices the operator may still revoke alone, by a job;
// never less than zero. No single device is ended until do returns or calls release, which
// it does as soon as the job is known to need consent: writing down a large one takes
// seconds.
func (w *Watch) Revoking(ctx context.Context, operator string, now time.Time, do func(left int64, release func()) error) error {
	w.one.Lock()
	release := sync.OnceFunc(w.one.Unlock)
	defer release()
	left, err := w.left(ctx, operator, now)
	if err != nil {
		return err
	}
	return do(max(0, left), release)
}

func (w *Watch) left(ctx context.Context, operator string, now time.Time) (int64, error) {
	threshold, err := w.Threshold(ctx)
	if err != nil {
		return 0, err
	}
	already, err := w.store.RevokedAlone(ctx, operator, now.Add(-window))
	return threshold - already, err
}

// RevokeOne calls end, which ends one device in the record, unless that is beyond what the
// caller may do alone (wire.CodeApproval): too many within a day, or the last of a lot. The
// device counts as ended meanwhile. Publishing CRLs, which may take long, is not for end.
func (w *Watch) RevokeOne(ctx context.Context, c *gate.Call, d record.Device, end func() error) error {
	able, err := w.store.Able(ctx, c.Now, record.AbleAfterDisabling)
	if err != nil {
		return err
	}
	w.one.RLock()
	defer w.one.RUnlock()
	one := &ending{d.ID, c.Caller.Name}
	if err := w.admit(ctx, c, d, one, able); err != nil {
		return err
	}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.ending, one)
	}()
	return end()
}

// admit counts a device among those that are being ended, if the caller may end it.
func (w *Watch) admit(ctx context.Context, c *gate.Call, d record.Device, one *ending, able []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !Alone(able, c.Caller.Name) {
		if err := w.judge(ctx, c, d); err != nil {
			return err
		}
	}
	w.ending[one] = true
	return nil
}

// judge says what keeps a caller from ending a device beside those that are being ended.
func (w *Watch) judge(ctx context.Context, c *gate.Call, d record.Device) error {
	left, err := w.left(ctx, c.Caller.Name, c.Now)
	if err != nil {
		return err
	}
	all := []string{d.ID}
	for e := range w.ending {
		all = append(all, e.device)
		if e.operator == c.Caller.Name {
			left--
		}
	}
	lots, err := w.store.LotsEnded(ctx, all, c.Now)
	if err != nil {
		return err
	}
	hint := "suspending it needs nobody: hallmark device suspend " + d.Serial
	switch {
	case slices.Contains(lots, d.Lot):
		return gate.Refuse(http.StatusForbidden, wire.CodeApproval, hint,
			"%s is the last of lot %s, which had others within a day: to end a whole lot takes two operators", d.Name(), d.Lot)
	case left <= 0:
		return gate.Refuse(http.StatusForbidden, wire.CodeApproval, hint,
			"%s has revoked as many devices within a day as one operator may alone", c.Caller.Name)
	}
	return nil
}
