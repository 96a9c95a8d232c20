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
	// batch is how many devices one step is about. Others who want to write wait for it, and
	// SQLite's cost for each grows with it: of 250, three times that of 25 (docs/performance.md).
	batch = 32
	// publishEvery is how soon, at the earliest, what a job changed is published while it
	// goes on; if publishing takes longer, half of the time goes into it.
	publishEvery = time.Second
	// lookAgain is when the record is asked for work that nobody has announced.
	lookAgain = time.Minute
)

// Store is what running asks of the record.
type Store interface {
	ExpireJobs(ctx context.Context, at time.Time, event func(record.Job) record.Event) error
	UnfinishedJobs(ctx context.Context) ([]record.Job, error)
	Job(ctx context.Context, id string) (record.Job, error)
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

	// jobs are those that are under way, as the last step left them.
	jobs []record.Job
	// behind are the shards whose CRLs do not show yet what was done; due is when to publish them,
	// last when that was last done.
	behind    map[record.Shard]bool
	last, due time.Time
}

// New makes a runner. publish returns when the shards' lists show all that was recorded
// before it was called (ca/status.Service.Publish).
func New(s Store, publish func(ctx context.Context, shards ...record.Shard) error, now func() time.Time, log *slog.Logger) *Runner {
	return &Runner{store: s, publish: publish, now: now, log: log, wake: make(chan struct{}, 1), behind: map[record.Shard]bool{}}
}

// Wake tells Run that there may be work, without waiting.
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
	if err := r.look(ctx); err != nil {
		return false, err
	}
	var failed error
	running := false
	for i := range r.jobs {
		if err := r.further(ctx, &r.jobs[i]); err != nil {
			failed = errors.Join(failed, err)
		}
		running = running || moving(r.jobs[i])
	}
	r.jobs = slices.DeleteFunc(r.jobs, func(j record.Job) bool { return !moving(j) })
	if failed != nil {
		r.jobs = nil // what is in the record counts: look there again
	}
	if now := r.now(); len(r.behind) > 0 && (!running || !now.Before(r.due) || now.Before(r.last)) {
		failed = errors.Join(failed, r.publishBehind(ctx))
	}
	return running && failed == nil, failed
}

// look reads the unfinished jobs from the record, if there may be others than those known: counting
// what a large job has done takes longer than a step of it.
func (r *Runner) look(ctx context.Context) error {
	select {
	case <-r.wake:
	default:
		if len(r.jobs) > 0 {
			return nil
		}
	}
	if err := r.store.ExpireJobs(ctx, r.now(), func(j record.Job) record.Event { return expired(j, r.now()) }); err != nil {
		return err
	}
	all, err := r.store.UnfinishedJobs(ctx)
	if err == nil {
		r.jobs = slices.DeleteFunc(all, func(j record.Job) bool { return j.Target() == "" && j.Kind != record.JobRevokeIssuer }) // not ours
	}
	return err
}

func moving(j record.Job) bool {
	return j.State == record.JobRunning || j.State == record.JobPublishing
}

// further takes a job one step further and keeps its new state.
func (r *Runner) further(ctx context.Context, j *record.Job) error {
	if j.State == record.JobPublishing {
		return r.finish(ctx, j)
	}
	step, err := r.store.StepJob(ctx, j.ID, batch, r.now(), func(d record.Device) record.Event { return event(*j, d, r.now()) })
	if errors.Is(err, record.ErrConflict) { // paused or cancelled meanwhile
		j.State = record.JobPaused
		return nil
	}
	if err != nil {
		return err
	}
	for _, shard := range step.Shards {
		r.behind[shard] = true
	}
	j.State = step.Job.State
	return nil
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
func (r *Runner) finish(ctx context.Context, j *record.Job) error {
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
	done, err := r.store.Job(ctx, j.ID)
	if err != nil {
		return err
	}
	e := record.Event{Time: r.now(), Actor: "server", Verb: "job.done", Object: j.ID, Reason: j.Why, Detail: map[string]string{"kind": j.Kind}}
	for outcome, n := range done.Outcomes {
		e.Detail[outcome] = strconv.FormatInt(n, 10)
	}
	*j, err = r.store.FinishJob(ctx, j.ID, r.now(), e)
	return err
}

// expired is the line of audit, and the alert, for a job that nobody approved.
func expired(j record.Job, now time.Time) record.Event {
	return record.Event{Time: now, Actor: "server", Verb: "job.expired", Object: j.ID, Reason: "nobody approved it in time; nothing was done", Alert: true,
		Detail: map[string]string{"kind": j.Kind, "operator": j.Operator}}
}

// event is the line of audit for one device of a job.
func event(j record.Job, d record.Device, now time.Time) record.Event {
	e := record.Event{Time: now, Actor: "operator:" + j.Operator, Verb: cmp.Or(view.Verbs[j.Kind], "certificate.revoked"), Object: d.Name(), Reason: j.Why, Detail: map[string]string{"job": j.ID}}
	if slices.Contains([]string{record.JobRetire, record.JobRevoke, record.JobRevokeIssuer}, j.Kind) {
		e.Detail["reason"] = view.Reason(j.Reason)
	}
	return e
}
