package record

import (
	"context"
	"time"
)

// Selection is which devices are meant: those with the IDs in Devices, or, if that is
// nil, those that Where selects; a nil Where selects all.
type Selection struct {
	Where   *Selector
	Devices []string
	// Holding, unless empty, means those instead that are not revoked and hold a certificate
	// of this issuer that is good or on hold; it may have expired.
	Holding string
}

// Kinds of jobs. What a device of a status job becomes is Job.Target.
const (
	JobSuspend = "suspend"
	JobRestore = "restore"
	JobRetire  = "retire"
	JobRevoke  = "revoke"
	// JobRenew is a renewal plan: its devices renew between Created and Due.
	JobRenew = "renew"
	// JobRevokeIssuer ends the certificates of an issuing CA (Job.Issuer); its devices are
	// those that hold one, and stay what they are.
	JobRevokeIssuer = "revoke-issuer"
)

// MaxPlans is how many renewal plans that are not over a device may be in: each is asked and
// written to when it renews.
const MaxPlans = 50

// States of a job.
const (
	// JobWaiting: it needs the approval of a second operator.
	JobWaiting = "waiting"
	// JobRunning: it is carried out, step by step.
	JobRunning = "running"
	// JobPaused: it ended a stage or was paused; somebody must resume it.
	JobPaused = "paused"
	// JobPublishing: every device has its outcome, and the last CRLs are not out yet.
	JobPublishing = "publishing"
	// JobDone, JobCancelled and JobExpired are final.
	JobDone      = "done"
	JobCancelled = "cancelled"
	// JobExpired: nobody approved it in time; its devices have OutcomeCancelled.
	JobExpired = "expired"
)

// Outcomes of a job for one device; a job of another kind may have others.
const (
	OutcomePending   = ""
	OutcomeDone      = "done"
	OutcomeUnchanged = "unchanged" // it was in that state already
	OutcomeRefused   = "refused"   // it is revoked, and that is final
	OutcomeCancelled = "cancelled" // the job ended before it reached the device
	OutcomeRevoked   = "revoked"   // of a renewal plan: it was revoked before it renewed
)

// Job is one act on many devices. The set of devices is fixed when the job is made.
type Job struct {
	ID   string
	Kind string
	// Operator asked for it; a disabled one's job does not go on.
	Operator string
	// Expression is what was typed to select the devices; empty if they were named.
	Expression string
	// Issuer is that of a JobRevokeIssuer, and of the JobRenew that was made with it.
	Issuer string
	// Reason is the CRLReason of a revocation, Why is in words.
	Reason  int
	Why     string
	State   string
	Created time.Time
	// Ended is when it was done or cancelled.
	Ended time.Time
	// Stages are the numbers of devices after which the job pauses by itself, increasing.
	Stages []int64
	// Until is when a break-glass ends: unless it was reviewed, the job pauses then. Zero
	// means that the job needs no review, or has had it.
	Until time.Time
	// Due is the end of a renewal plan's window. Told counts the devices that have been given
	// their moment in it; the store counts.
	Due  time.Time
	Told int64
	// Total counts the devices, Outcomes those that have each outcome. The store counts.
	Total    int64
	Outcomes map[string]int64
	// Change is the number of the last change (Changes) when it last came to a device, and
	// Changed is when: whoever knows that change knows all of the job's. The store keeps them.
	Change  int64
	Changed time.Time
}

// Target is the state of a device that a status job has done with; empty for a job of
// another kind.
func (j Job) Target() string {
	return map[string]string{JobSuspend: StateSuspended, JobRestore: StateActive, JobRetire: StateRevoked, JobRevoke: StateRevoked}[j.Kind]
}

// JobDevice is what a job did to one device.
type JobDevice struct {
	// Device is the device's ID, Name its MODEL:SERIAL.
	Device, Name string
	Outcome      string
	// At is when the outcome was recorded.
	At time.Time
}

// LotMemory is for how long a device that ended still counts as one that its lot had:
// whoever ends a lot in many acts ends a whole lot all the same.
const LotMemory = 24 * time.Hour

// JobView is what a job is judged by before it is recorded.
type JobView struct {
	// Total counts the devices that the job would be about.
	Total int64
	// Everything: no device that is not revoked was left out.
	Everything bool
	// WholeLots are the lots that the devices would be the end of, as LotsEnded says.
	WholeLots []string
	// Able are the operators who could act; see Operators.Able.
	Able []string
}

// JobPlan is what a judge of a JobView decided to write: the job, waiting or running,
// the approval or review that it needs, if any, and the event.
type JobPlan struct {
	Job      Job
	Approval *Approval
	Event    Event
}

// JobJudge decides on a JobView; like a Judge it is pure and quick.
type JobJudge func(JobView) (JobPlan, error)

// JobStep is what one step of a job did.
type JobStep struct {
	// Job is the job after the step. It is running if there is more to do at once.
	Job Job
	// Shards are those that must be published.
	Shards []Shard
}

// Jobs is acts on many devices.
type Jobs interface {
	// Survey says what a job about the selection would touch, and changes nothing.
	Survey(ctx context.Context, of Selection, at time.Time) (Survey, error)
	// CreateJob fixes the devices of a selection, in the order of their IDs, which is random, and
	// records the job that judge decides on in the same view of the record. A large job is written in
	// pieces, between which others write; it is invisible until it is complete. Jobs are made one at
	// a time. If the judge relies on no single device being ended between the view and the job, the
	// caller must ensure that (admin/consent). An error of judge comes back unchanged and nothing is
	// written. ErrNotFound if there is no device of one of the IDs. ErrExists, with the earlier job,
	// if the same operator has asked for the same act on the same devices in the same words, and that
	// job still waits for approval as this one would: nothing is written. ErrConflict if it is a
	// JobRenew and one of its devices is pending in MaxPlans others, or a JobRevokeIssuer and there is
	// another of the same issuer that was not cancelled.
	CreateJob(ctx context.Context, of Selection, at time.Time, judge JobJudge) (Job, error)
	Job(ctx context.Context, id string) (Job, error)
	// Jobs lists jobs, newest first.
	Jobs(ctx context.Context, p Page) ([]Job, string, error)
	// JobDevices lists the devices of a job in its order, with an outcome if one is named.
	JobDevices(ctx context.Context, id, outcome string, p Page) ([]JobDevice, string, error)
	// UnfinishedJobs lists those that are running or publishing, oldest first.
	UnfinishedJobs(ctx context.Context) ([]Job, error)
	// PauseJob pauses a running job; ErrConflict in any other state.
	PauseJob(ctx context.Context, id string, e Event) (Job, error)
	// ResumeJob lets a paused job run until the next stage; ErrConflict in any other
	// state, if the operator who asked for the job is disabled, or if its break-glass has
	// ended and was not reviewed.
	ResumeJob(ctx context.Context, id string, at time.Time, e Event) (Job, error)
	// CancelJob ends a job that is waiting, running or paused: its pending devices get
	// OutcomeCancelled. With a JobRevokeIssuer that has ended nothing goes the JobRenew that
	// was made with it (at the same time), which the event names as its "plan".
	// ErrConflict if it is publishing or over.
	CancelJob(ctx context.Context, id string, at time.Time, e Event) (Job, error)
	// ExpireJobs ends the waiting jobs whose requests have expired, each with the event, as
	// CancelJob does.
	ExpireJobs(ctx context.Context, at time.Time, event func(Job) Event) error
	// StepJob brings at most limit pending devices of a running status job into its
	// target, as Revoke, Suspend and Restore do, with one outcome and, where something
	// changed, one event each, all in one transaction. At the end of a stage, when the
	// operator is disabled, or when a break-glass has ended, the job is paused; when nothing
	// is pending, it is publishing. A running JobRevokeIssuer revokes what its devices hold of
	// the issuer instead, and with the last device all other certificates of it, but for OCSP
	// responders', which are what tells others of it. ErrConflict if the job is neither.
	StepJob(ctx context.Context, id string, limit int, at time.Time, event func(Device) Event) (JobStep, error)
	// IssuerRevocations lists the jobs of the kind JobRevokeIssuer, but for those that were
	// cancelled before they ran, oldest first.
	IssuerRevocations(ctx context.Context) ([]Job, error)
	// JobShards lists the shards of a job's devices that must be published before it is done.
	JobShards(ctx context.Context, id string, at time.Time) ([]Shard, error)
	// FinishJob ends a publishing job; ErrConflict in any other state.
	FinishJob(ctx context.Context, id string, at time.Time, e Event) (Job, error)
	// Planned reports whether a renewal plan is running.
	Planned(ctx context.Context) (bool, error)
	// Moment is when a device is to renew by the running renewal plans in which it is pending, the
	// earliest if there are several; zero if there is none. A device that first asks is given the
	// next moment of the window, and the rest of the window is divided evenly among those that have
	// not asked, so that the load is even whenever they do. One that asks again gets the same answer;
	// one that first asks after the window's end gets at. No event is written.
	Moment(ctx context.Context, device string, at time.Time) (time.Time, error)
	// RevokedAlone counts the devices that an operator has revoked or retired since a time,
	// or whose certificates ended by a grant for a new key, one by one or by a job that was
	// made or had not ended then, but for jobs that another operator approves or reviews.
	RevokedAlone(ctx context.Context, operator string, since time.Time) (int64, error)
	// LotsEnded lists the lots that have a device in force now, would have none without those
	// with the IDs in devices, and had several LotMemory ago or since. In force is what is not
	// revoked, is not about to be by a job that waits for nobody's approval, and does not hold
	// a grant for a new key of which no use was made.
	LotsEnded(ctx context.Context, devices []string, at time.Time) ([]string, error)
	// Conclude gives a device its outcome in every running or paused job of a kind that is not
	// a status job, and ends the jobs in which nothing is pending then. Nothing happens if
	// there is none; no event is written.
	Conclude(ctx context.Context, kind, device, outcome string, at time.Time) error
}

// Survey is what a selection of devices comes to.
type Survey struct {
	Devices, Fleet int64
	// States, Models and Lots count devices by each, most first; of Models and Lots at
	// most twenty. Contact counts them by when they were last seen, newest first.
	States, Models, Lots, Contact []Tally
	// Sample is at most ten of the devices.
	Sample []Device
	// Certificates counts their working certificates (LDevIDs) that are good or on hold
	// and have not expired, Shards are the CRLs that name those.
	Certificates int64
	Shards       []Shard
}

// Tally is a number of things of one sort.
type Tally struct {
	Name  string
	Count int64
}

// Labels is what operators note on devices.
type Labels interface {
	// LabelDevices sets and removes labels on every device of a selection and counts the
	// devices; ErrNotFound if there is no device of one of the IDs.
	LabelDevices(ctx context.Context, of Selection, set map[string]string, remove []string, e Event) (int64, error)
}
