package recordtest

import (
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// wait creates a job of anna's that waits for approval.
func (b *bench) wait() (record.Job, record.Approval) {
	b.Helper()
	j, err := b.CreateJob(b.ctx, record.Selection{}, Now, func(v record.JobView) (record.JobPlan, error) {
		p, err := plan(record.Job{Kind: record.JobRevoke, State: record.JobWaiting})(v)
		p.Approval = &record.Approval{Kind: record.ApproveJob, Why: "broken", Requester: "anna", Requested: Now, Expires: Now.Add(time.Hour)}
		return p, err
	})
	b.must(err)
	open, err := b.OpenApprovals(b.ctx, Now)
	b.must(err)
	for _, a := range open {
		if a.Subject == j.ID {
			return j, a
		}
	}
	b.Fatalf("no approval of %s is open: %+v", j.ID, open)
	return j, record.Approval{}
}

func (b *bench) approve(id, operator string, at time.Time) error {
	_, err := b.Approve(b.ctx, id, operator, at, event("approval.given"))
	return err
}

func approvals(t *testing.T, b *bench) {
	b.people("anna", "bert")
	b.many(2)
	j, a := b.wait()
	b.equal("request", a, record.Approval{ID: a.ID, Kind: record.ApproveJob, Subject: j.ID, Why: "broken", Requester: "anna", Requested: Now, Expires: Now.Add(time.Hour)})
	b.refused("step while waiting", record.ErrConflict, func() error { _, err := b.StepJob(b.ctx, j.ID, 1, Now, nil); return err })
	b.must(b.approve(a.ID, "bert", Now))
	b.recorded("approval.given")
	got, err := b.Job(b.ctx, j.ID)
	b.must(err)
	b.equal("the job's state", got.State, record.JobRunning)
	a.Approver, a.Approved = "bert", Now
	same, err := b.Approval(b.ctx, a.ID)
	b.must(err)
	b.equal("approval", same, a)
	about, err := b.ApprovalsOf(b.ctx, record.ApproveJob, j.ID)
	b.must(err)
	b.equal("approvals of the job", about, []record.Approval{a})
	b.refused("approve again", record.ErrConflict, func() error { return b.approve(a.ID, "bert", Now) })

	ask := record.Approval{Kind: record.ApproveOperator, Subject: "cleo", Requester: "anna", Requested: Now, Expires: Now.Add(time.Hour)}
	a, err = b.RequestApproval(b.ctx, ask, event("approval.requested"))
	b.must(err)
	b.recorded("approval.requested")
	b.unchanged("ask again", func() error {
		again, err := b.RequestApproval(b.ctx, ask, event("x"))
		b.equal("the same request", again, a)
		return err
	})
	spending := func(at time.Time) record.Event {
		e := event("operator.invited")
		e.Time, e.Spends = at, a.ID
		return e
	}
	spend := func(at time.Time) error {
		return b.Invite(b.ctx, record.Operator{Name: "cleo", Created: Now, Invitation: "i", InvitedUntil: Now.Add(time.Hour)}, spending(at))
	}
	given := func(requester string, at time.Time, want error) {
		t.Helper()
		got, err := b.GivenApproval(b.ctx, record.ApproveOperator, "cleo", requester, at)
		b.isErr("given", err, want)
		if err == nil {
			b.equal("given", got.ID, a.ID)
		}
	}
	given("anna", Now, record.ErrNotFound)
	b.refused("spend before it is given", record.ErrSpent, func() error { return spend(Now) })
	b.must(b.approve(a.ID, "bert", Now))
	given("anna", Now, nil)
	given("bert", Now, record.ErrNotFound)
	given("anna", Now.Add(time.Hour), record.ErrNotFound)
	b.refused("spend late", record.ErrSpent, func() error { return spend(Now.Add(time.Hour)) })
	b.refused("an act that fails", record.ErrExists, func() error {
		return b.Invite(b.ctx, record.Operator{Name: "anna", Created: Now, Invitation: "i", InvitedUntil: Now.Add(time.Hour)}, spending(Now))
	})
	given("anna", Now, nil)
	b.must(spend(Now))
	b.recorded("operator.invited")
	b.refused("spend twice", record.ErrSpent, func() error { return spend(Now) })
	given("anna", Now, record.ErrNotFound)
}

// approvalSpentForAll: what two have asked for is done once. Consent to have it done is none to have
// it done again when it has been undone.
func approvalSpentForAll(t *testing.T, b *bench) {
	b.people("anna", "bert", "cleo")
	ask := func(requester, subject string) record.Approval {
		t.Helper()
		a, err := b.RequestApproval(b.ctx, record.Approval{Kind: record.ApproveSetting, Subject: subject, Requester: requester, Requested: Now, Expires: Now.Add(time.Hour)}, event("approval.requested"))
		b.must(err)
		return a
	}
	first, second, open, other := ask("anna", "x=1"), ask("cleo", "x=1"), ask("bert", "x=1"), ask("cleo", "x=2")
	for _, a := range []record.Approval{first, second, other} {
		b.must(b.approve(a.ID, "bert", Now))
	}
	spend := func(a record.Approval) func() error {
		return func() error {
			e := event("setting.changed")
			e.Spends = a.ID
			return b.SetSetting(b.ctx, "x", a.Subject, e)
		}
	}
	b.must(spend(first)())
	b.must(spend(other)())
	_, err := b.GivenApproval(b.ctx, record.ApproveSetting, "x=1", "cleo", Now)
	b.isErr("given for what was done", err, record.ErrNotFound)
	b.refused("spend what was given for it", record.ErrSpent, spend(second))
	b.refused("approve it", record.ErrConflict, func() error { return b.approve(open.ID, "anna", Now) })
}

func approvalsRefused(t *testing.T, b *bench) {
	b.people("anna", "bert", "cleo")
	b.many(2)
	j, a := b.wait()
	b.refused("unknown", record.ErrNotFound, func() error { return b.approve("a99", "bert", Now) })
	b.refused("no id", record.ErrNotFound, func() error { return b.approve("", "bert", Now) })
	b.refused("by the requester", record.ErrConflict, func() error { return b.approve(a.ID, "anna", Now) })
	b.refused("by a stranger", record.ErrNotFound, func() error { return b.approve(a.ID, "nil", Now) })
	b.refused("late", record.ErrConflict, func() error { return b.approve(a.ID, "bert", Now.Add(time.Hour)) })
	b.must(b.DisableOperator(b.ctx, "cleo", Now, event("operator.disabled")))
	b.refused("by a disabled operator", record.ErrConflict, func() error { return b.approve(a.ID, "cleo", Now) })
	_, err := b.CancelJob(b.ctx, j.ID, Now, event("job.cancelled"))
	b.must(err)
	b.refused("of a job that was cancelled", record.ErrConflict, func() error { return b.approve(a.ID, "bert", Now) })
	if open, err := b.OpenApprovals(b.ctx, Now); err != nil || len(open) != 0 {
		t.Errorf("open: %v, %v", open, err)
	}
	_, a = b.wait()
	if open, err := b.OpenApprovals(b.ctx, Now.Add(time.Hour)); err != nil || len(open) != 0 {
		t.Errorf("expired and open: %v, %v", open, err)
	}
	ask := record.Approval{Kind: record.ApproveSetting, Subject: "x=1", Requester: "bert", Requested: Now, Expires: Now.Add(time.Hour)}
	setting, err := b.RequestApproval(b.ctx, ask, event("approval.requested"))
	b.must(err)
	b.must(b.approve(setting.ID, "anna", Now))
	b.must(b.DisableOperator(b.ctx, "anna", Now, event("operator.disabled")))
	b.refused("of a disabled operator's request", record.ErrConflict, func() error { return b.approve(a.ID, "bert", Now) })
	_, err = b.GivenApproval(b.ctx, record.ApproveSetting, "x=1", "bert", Now)
	b.isErr("a disabled operator's", err, record.ErrNotFound)
	b.refused("spend a disabled operator's", record.ErrSpent, func() error {
		e := event("setting.changed")
		e.Spends = setting.ID
		return b.SetSetting(b.ctx, "x", "1", e)
	})
}

// approvalsEnded: neither what was asked nor what was given is good any more.
func approvalsEnded(t *testing.T, b *bench) {
	b.people("anna", "bert")
	b.many(2)
	_, open := b.wait()
	given, err := b.RequestApproval(b.ctx, record.Approval{Kind: record.ApproveOperator, Subject: "cleo", Requester: "anna", Requested: Now, Expires: Now.Add(time.Hour)}, event("approval.requested"))
	b.must(err)
	b.must(b.approve(given.ID, "bert", Now))
	at := Now.Add(time.Minute)
	for range 2 { // the second time there is none
		b.must(b.EndApprovals(b.ctx, at, event("approval.ended")))
	}
	b.recorded("approval.ended")
	for _, at := range []time.Time{at, Now} { // on a clock that is set back, or in a request that came before
		b.refused("approve", record.ErrConflict, func() error { return b.approve(open.ID, "bert", at) })
		_, err = b.GivenApproval(b.ctx, record.ApproveOperator, "cleo", "anna", at)
		b.isErr("given", err, record.ErrNotFound)
	}
}

// breakGlass: the job runs until its end, after which only a review lets it go on.
func breakGlass(t *testing.T, b *bench) {
	b.people("anna", "bert")
	b.many(3)
	j, err := b.CreateJob(b.ctx, record.Selection{}, Now, func(v record.JobView) (record.JobPlan, error) {
		p, err := plan(record.Job{Kind: record.JobRevoke, Until: Now.Add(time.Hour)})(v)
		p.Approval = &record.Approval{Kind: record.ReviewJob, Why: "nobody else is here", Requester: "anna", Requested: Now}
		return p, err
	})
	b.must(err)
	b.equal("before the end", b.step(j.ID, 1).Job.State, record.JobRunning)
	late, err := b.StepJob(b.ctx, j.ID, 1, Now.Add(time.Hour), nil)
	b.must(err)
	b.equal("at the end", late.Job.State, record.JobPaused)
	resume := func() error {
		_, err := b.ResumeJob(b.ctx, j.ID, Now.Add(time.Hour), event("job.resumed"))
		return err
	}
	b.refused("resume unreviewed", record.ErrConflict, resume)
	open, err := b.OpenApprovals(b.ctx, Now.Add(1000*time.Hour))
	b.must(err)
	if len(open) != 1 || open[0].Kind != record.ReviewJob || open[0].Subject != j.ID {
		t.Fatalf("reviews: %+v", open)
	}
	b.refused("review one's own", record.ErrConflict, func() error { return b.approve(open[0].ID, "anna", Now) })
	b.must(b.approve(open[0].ID, "bert", Now.Add(1000*time.Hour)))
	b.must(resume())
	b.equal("after the review", b.step(j.ID, 10).Job.State, record.JobPublishing)
}

func ableOperators(t *testing.T, b *bench) {
	b.people("anna", "bert")
	b.must(b.Invite(b.ctx, record.Operator{Name: "cleo", Created: Now, Invitation: "i", InvitedUntil: Now.Add(time.Hour)}, event("operator.invited")))
	able := func(at time.Time, want ...string) {
		t.Helper()
		got, err := b.Able(b.ctx, at, record.AbleAfterDisabling)
		b.must(err)
		b.equal("able", got, want)
	}
	able(Now, "anna", "bert")
	able(Now.Add(60*24*time.Hour), []string(nil)...) // their certificates have ended
	b.must(b.DisableOperator(b.ctx, "bert", Now, event("operator.disabled")))
	able(Now, "anna", "bert") // nobody becomes the only one by disabling the other
	able(Now.Add(record.AbleAfterDisabling), "anna")

	// Nor by ending the issuer of the other's certificate.
	_, err := b.RevokePrincipal(b.ctx, "anna", Now, record.ReasonSuperseded, event("operator.revoked"))
	b.must(err)
	able(Now.Add(record.AbleAfterDisabling-time.Second), "anna", "bert")
	able(Now.Add(record.AbleAfterDisabling), []string(nil)...)
	now, err := b.Able(b.ctx, Now.Add(time.Second), 0)
	b.must(err)
	b.equal("able without grace", now, []string(nil))

	// Who never could act does not keep the others from acting alone.
	b.must(b.DisableOperator(b.ctx, "cleo", Now, event("operator.disabled")))
	able(Now, "anna", "bert")

	b.must(b.Invite(b.ctx, record.Operator{Name: "bert", Created: Now.Add(100 * 24 * time.Hour), Invitation: "j", InvitedUntil: Now.Add(101 * 24 * time.Hour)}, event("operator.invited")))
	o, err := b.Operator(b.ctx, "bert")
	b.must(err)
	if !o.Disabled.IsZero() || o.Invitation != "j" {
		t.Errorf("invited again: %+v", o)
	}
}

func alerts(t *testing.T, b *bench) {
	b.people("anna", "bert")
	shout := func(actor, verb string) record.Event {
		e := event(verb)
		e.Actor, e.Alert = actor, true
		return e
	}
	heard := func(operator string, want ...string) (last int64) {
		t.Helper()
		es, err := b.Alerts(b.ctx, operator, 10)
		b.must(err)
		var got []string
		for _, e := range es {
			got, last = append(got, e.Verb), e.Sequence
		}
		b.equal("alerts of "+operator, got, want)
		return last
	}
	b.must(b.Note(b.ctx, event("whisper"), shout("operator:anna", "one"), shout("server", "two")))
	heard("anna", "two")
	seen := heard("bert", "one", "two")
	b.must(b.SeeAlerts(b.ctx, "bert", seen))
	b.must(b.SeeAlerts(b.ctx, "bert", 1))
	b.must(b.Note(b.ctx, shout("operator:anna", "three")))
	heard("bert", "three")
	heard("anna", "two")
	b.people("cleo")
	heard("cleo", []string(nil)...) // what was before concerns a new one no more
}

func settings(t *testing.T, b *bench) {
	_, err := b.Setting(b.ctx, "x")
	b.isErr("never set", err, record.ErrNotFound)
	b.must(b.SetSetting(b.ctx, "x", "1", event("setting.changed")))
	b.recorded("setting.changed")
	b.unchanged("set to the same", func() error { return b.SetSetting(b.ctx, "x", "1", event("x")) })
	b.must(b.SetSetting(b.ctx, "x", "2", event("setting.changed")))
	got, err := b.Setting(b.ctx, "x")
	b.must(err)
	b.equal("setting", got, "2")
}
