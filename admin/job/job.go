// Package job takes acts on many devices through to their end, whatever stops the server
// on the way.
//
// What a job has done stands in the record, and nowhere else: a step is one transaction,
// in which devices get their outcome, and the lists are published from what the record
// says. So a server that starts again goes on where the last one was.
package job

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
)

const (
	// batch is how many devices one step is about: others who want to write wait for it.
	batch = 250
	// publishEvery is how soon, at the earliest, what a job changed is published while it
	// goes on; if publishing takes longer, half of the time goes into it.
	publishEvery = time.Second
	// lookAgain is when the record is asked for work that nobody has announced.
	lookAgain = time.Minute
)

// Store is what running asks of the record.
type Store interface {
	UnfinishedJobs(ctx context.Context) ([]record.Job, error)
	StepJob(ctx context.Context, id string, limit int, at time.Time, event func(record.Device) record.Event) (record.JobStep, error)
	JobShards(ctx context.Context, id string, at time.Time) ([]record.Shard, error)
	FinishJob(ctx context.Context, id string, at time.Time, e record.Event) (record.Job, error)
}

// Runner runs the status jobs of one record; make one with New.
type Runner struct {
	store   Store
	publish func(ctx context.Context, shards ...record.Shard) error
	now     func() time.Time
	log     *slog.Logger
	wake    chan struct{}

	// behind are the shards whose lists do not show what was done; due is when to publish
	// them, last when that was done before.
	behind    map[record.Shard]bool
	last, due time.Time
}

// New makes a runner. publish returns when the shards' lists show all that was recorded
// before it was called (ca/status.Service.Publish).
func New(s Store, publish func(ctx context.Context, shards ...record.Shard) error, now func() time.Time, log *slog.Logger) *Runner {
	return &Runner{store: s, publish: publish, now: now, log: log, wake: make(chan struct{}, 1), behind: map[record.Shard]bool{}}
}

// Wake says that there may be work. It does not wait.
func (r *Runner) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends. What fails is tried again, after a second at first.
func (r *Runner) Run(ctx context.Context) {
	backoff := time.Second
	for ctx.Err() == nil {
		wait := time.Duration(0)
		switch more, err := r.round(ctx); {
		case err != nil && ctx.Err() == nil:
			r.log.Error("a job does not get on; it is being tried again", "error", err, "again_in", backoff)
			wait, backoff = backoff, min(2*backoff, lookAgain)
		case more:
			backoff = time.Second
			continue
		default:
			wait, backoff = lookAgain, time.Second
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round takes every job one step further, so that none waits for the end of another, and
// reports whether there is more to do at once.
func (r *Runner) round(ctx context.Context) (more bool, err error) {
	all, err := r.store.UnfinishedJobs(ctx)
	if err != nil {
		return false, err
	}
	var failed error
	running := false
	for _, j := range all {
		switch {
		case j.Target() == "" && j.Kind != record.JobRevokeIssuer: // not ours
		case j.State == record.JobPublishing:
			failed = errors.Join(failed, r.finish(ctx, j))
		default:
			step, err := r.store.StepJob(ctx, j.ID, batch, r.now(), func(d record.Device) record.Event { return event(j, d, r.now()) })
			if err != nil && !errors.Is(err, record.ErrConflict) { // paused or cancelled meanwhile
				failed = errors.Join(failed, err)
				continue
			}
			for _, shard := range step.Shards {
				r.behind[shard] = true
			}
			running = running || step.Job.State == record.JobRunning || step.Job.State == record.JobPublishing // which publishes it all
			more = more || running
		}
	}
	if now := r.now(); len(r.behind) > 0 && (!running || !now.Before(r.due) || now.Before(r.last)) {
		failed = errors.Join(failed, r.publishBehind(ctx))
	}
	return more && failed == nil, failed
}

// publishBehind publishes what steps have changed.
func (r *Runner) publishBehind(ctx context.Context) error {
	var shards []record.Shard
	for shard := range r.behind {
		shards = append(shards, shard)
	}
	begin := r.now()
	if err := r.publish(ctx, shards...); err != nil {
		return err
	}
	clear(r.behind)
	r.last = r.now()
	r.due = r.last.Add(max(publishEvery, r.last.Sub(begin)))
	return nil
}

// finish publishes all that a job has changed, also before a crash, and ends it.
func (r *Runner) finish(ctx context.Context, j record.Job) error {
	shards, err := r.store.JobShards(ctx, j.ID, r.now())
	if err != nil {
		return err
	}
	if err := r.publish(ctx, shards...); err != nil {
		return err
	}
	for _, shard := range shards {
		delete(r.behind, shard)
	}
	e := record.Event{Time: r.now(), Actor: "server", Verb: "job.done", Object: j.ID, Reason: j.Why, Detail: map[string]string{"kind": j.Kind}}
	for outcome, n := range j.Outcomes {
		e.Detail[outcome] = strconv.FormatInt(n, 10)
	}
	_, err = r.store.FinishJob(ctx, j.ID, r.now(), e)
	return err
}

// event is the line of audit for one device of a job.
func event(j record.Job, d record.Device, now time.Time) record.Event {
	e := record.Event{Time: now, Actor: "operator:" + j.Operator, Verb: cmp.Or(view.Verbs[j.Kind], "certificate.revoked"), Object: d.Name(), Reason: j.Why, Detail: map[string]string{"job": j.ID}}
	if slices.Contains([]string{record.JobRetire, record.JobRevoke, record.JobRevokeIssuer}, j.Kind) {
		e.Detail["reason"] = view.Reason(j.Reason)
	}
	return e
}
