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
	// Life is how long a request for consent stands.
	Life = 24 * time.Hour
	// DefaultThreshold is the value of jobs.SettingRevokeThreshold until one is set.
	DefaultThreshold = 100
	// window is the time for which the threshold counts.
	window = 24 * time.Hour
)

// Store is what judging asks of the record.
type Store interface {
	record.Approvals
	Able(ctx context.Context, at time.Time) ([]string, error)
	RevokedAlone(ctx context.Context, operator string, since time.Time) (int64, error)
	Setting(ctx context.Context, name string) (string, error)
}

// Watch judges. Make one for a record with New.
type Watch struct {
	store Store
	mu    sync.Mutex
	// reserved are the devices that operators are revoking right now.
	reserved map[string]int64
}

// New watches over a record.
func New(s Store) *Watch { return &Watch{store: s, reserved: map[string]int64{}} }

// Alone reports whether nobody but the caller could act.
func Alone(able []string, caller string) bool {
	return !slices.ContainsFunc(able, func(name string) bool { return name != caller })
}

// Need returns nil if the caller may do now what kind and subject (record.Approval) say:
// alone, or with another's consent, which is used up. Otherwise it asks for consent and
// returns the refusal that says so.
func (w *Watch) Need(ctx context.Context, c *gate.Call, kind, subject, why string) error {
	able, err := w.store.Able(ctx, c.Now)
	if err != nil || Alone(able, c.Caller.Name) {
		return err
	}
	e := c.Event("approval.spent", subject)
	e.Detail["kind"] = kind
	if err := w.store.SpendApproval(ctx, kind, subject, c.Caller.Name, c.Now, e); !errors.Is(err, record.ErrNotFound) {
		return err
	}
	e = c.Event("approval.requested", subject)
	e.Reason, e.Alert, e.Detail["kind"] = why, true, kind
	a, err := w.store.RequestApproval(ctx, record.Approval{Kind: kind, Subject: subject, Why: why,
		Requester: c.Caller.Name, Requested: c.Now, Expires: c.Now.Add(Life)}, e)
	if err != nil {
		return err
	}
	return gate.Refuse(http.StatusForbidden, wire.CodeApproval, "another operator types: hallmark approve "+a.ID+"; then type this again",
		"this takes two operators: request %s waits for the other until %s", a.ID, a.Expires.UTC().Format(time.RFC3339))
}

// glassLife is for how long a job runs on a break-glass that nobody has reviewed.
const glassLife = time.Hour

// Ask lets a job wait for another operator's consent or, if breakGlass says why it
// cannot, run until he reviews it.
func Ask(p *record.JobPlan, why, breakGlass string, now time.Time) {
	p.Approval = &record.Approval{Kind: record.ApproveJob, Why: why, Requester: p.Job.Operator, Requested: now, Expires: now.Add(Life)}
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

// Revoking calls do with how many devices the operator may still revoke alone; less than
// zero never. No other count of the same record is made meanwhile.
func (w *Watch) Revoking(ctx context.Context, operator string, now time.Time, do func(left int64) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	threshold, err := w.Threshold(ctx)
	if err != nil {
		return err
	}
	already, err := w.store.RevokedAlone(ctx, operator, now.Add(-window))
	if err != nil {
		return err
	}
	return do(max(0, threshold-already-w.reserved[operator]))
}

// RevokeOne refuses one revocation beyond what the caller may do alone, and counts it
// until done is called, after which the record does.
func (w *Watch) RevokeOne(ctx context.Context, c *gate.Call) (done func(), err error) {
	able, err := w.store.Able(ctx, c.Now)
	if err != nil {
		return nil, err
	}
	name := c.Caller.Name
	err = w.Revoking(ctx, name, c.Now, func(left int64) error {
		if left == 0 && !Alone(able, name) {
			return gate.Refuse(http.StatusForbidden, wire.CodeApproval,
				"suspend it, or let another operator approve its revocation: hallmark device revoke --where 'serial = SERIAL' --reason REASON",
				"%s has revoked as many devices within a day as one operator may alone", name)
		}
		w.reserved[name]++
		return nil
	})
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.reserved[name]--; w.reserved[name] == 0 {
			delete(w.reserved, name)
		}
	}, err
}
