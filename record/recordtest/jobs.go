package recordtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// people are operators with a certificate each.
func (b *bench) people(names ...string) {
	b.Helper()
	for _, name := range names {
		b.must(b.RecoverOperator(b.ctx, name, Now, event("operator.recovered")))
		c := newIntent("")
		c.Issuer, c.Principal = "infrastructure", name
		b.issue(c)
	}
}

// many are devices with a working certificate each.
func (b *bench) many(n int) (ids []string) {
	b.Helper()
	for range n {
		d := b.enrolled()
		b.issue(newIntent(d.ID))
		ids = append(ids, d.ID)
	}
	slices.Sort(ids)
	return ids
}

// plan lets a job run.
func plan(j record.Job) record.JobJudge {
	return func(record.JobView) (record.JobPlan, error) {
		if j.Operator == "" {
			j.Operator = "anna"
		}
		if j.State == "" {
			j.State = record.JobRunning
		}
		j.Created = Now
		return record.JobPlan{Job: j, Event: event("job.created")}, nil
	}
}

func (b *bench) create(j record.Job, of record.Selection) record.Job {
	b.Helper()
	got, err := b.CreateJob(b.ctx, of, Now, plan(j))
	b.must(err)
	return got
}

// step takes a step of at most limit devices.
func (b *bench) step(id string, limit int) record.JobStep {
	b.Helper()
	got, err := b.StepJob(b.ctx, id, limit, Now, func(d record.Device) record.Event { e := event("device.moved"); e.Object = d.ID; return e })
	b.must(err)
	return got
}

func (b *bench) outcomes(id string) (all []string) {
	b.Helper()
	list, _, err := b.JobDevices(b.ctx, id, "", record.Page{Limit: 1000})
	b.must(err)
	for _, d := range list {
		all = append(all, d.Device+" "+d.Outcome)
	}
	return all
}

// workingCertificate: a device tells the end and the key of its newest working one.
func workingCertificate(t *testing.T, b *bench) {
	d := b.enrolled()
	is := func(want record.Certificate) {
		t.Helper()
		got, err := b.Device(b.ctx, d.ID)
		b.must(err)
		if !got.Expires.Equal(want.NotAfter) || got.KeyAlgorithm != want.KeyAlgorithm {
			t.Errorf("the device says %v, %q; want %v, %q", got.Expires, got.KeyAlgorithm, want.NotAfter, want.KeyAlgorithm)
		}
	}
	is(record.Certificate{})
	one := newIntent(d.ID)
	one.KeyAlgorithm = "ecdsa-p256"
	b.intend(one)
	is(record.Certificate{})
	b.must(b.Complete(b.ctx, []record.Certificate{signed(one)}, event("certificate.issued")))
	is(one)
	b.equal("algorithm of the certificate", b.status(one).KeyAlgorithm, "ecdsa-p256")
	birth := newIntent(d.ID)
	birth.Profile, birth.KeyAlgorithm = "idevid", "rsa-2048"
	b.issue(birth)
	is(one)
	two := newIntent(d.ID)
	two.NotAfter, two.KeyAlgorithm = one.NotAfter.Add(time.Hour), "ecdsa-p384"
	b.issue(two)
	is(two)
}

func labels(t *testing.T, b *bench) {
	ids := b.many(3)
	label := func(of record.Selection, set map[string]string, remove ...string) int64 {
		t.Helper()
		n, err := b.LabelDevices(b.ctx, of, set, remove, event("device.labelled"))
		b.must(err)
		return n
	}
	of := func(id string) map[string]string {
		d, err := b.Device(b.ctx, id)
		b.must(err)
		return d.Labels
	}
	b.equal("labelled", label(record.Selection{Devices: ids[:2]}, map[string]string{"site": "x", "owner": "y"}), int64(2))
	b.recorded("device.labelled")
	b.equal("labels", of(ids[0]), map[string]string{"site": "x", "owner": "y"})
	b.equal("labels of another", of(ids[2]), map[string]string(nil))
	where := &record.Selector{Op: record.OpEqual, Field: record.LabelField + "site", Value: "x"}
	b.equal("labelled by a selector that the label is in", label(record.Selection{Where: where}, map[string]string{"site": "z"}, "owner"), int64(2))
	b.equal("labels", of(ids[1]), map[string]string{"site": "z"})
	b.equal("all labelled", label(record.Selection{}, map[string]string{"all": ""}), int64(3))
	list, _, err := b.Devices(b.ctx, nil, record.Page{Limit: 3})
	b.must(err)
	for _, d := range list {
		if v, ok := d.Labels["all"]; !ok || v != "" {
			t.Errorf("labels in a list: %v", d.Labels)
		}
	}
	b.refused("label a stranger", record.ErrNotFound, func() error {
		_, err := b.LabelDevices(b.ctx, record.Selection{Devices: []string{ids[0], "nil"}}, map[string]string{"a": "b"}, nil, event("x"))
		return err
	})
}

func survey(t *testing.T, b *bench) {
	ids := b.many(14)
	old := newDevice()
	old.Seen = Now.Add(-40 * 24 * time.Hour)
	b.must(b.admit(old))
	expired := newIntent(old.ID)
	expired.NotAfter = Now.Add(-time.Second)
	b.issue(expired)
	_, err := b.Suspend(b.ctx, ids[0], Now, event("device.suspended"))
	b.must(err)
	_, err = b.Revoke(b.ctx, ids[1], Now, 0, "stolen", event("device.revoked"))
	b.must(err)
	got, err := b.Survey(b.ctx, record.Selection{}, Now)
	b.must(err)
	if len(got.Sample) != 10 {
		t.Errorf("a sample of %d", len(got.Sample))
	}
	got.Sample = nil
	b.equal("survey of all", got, record.Survey{Devices: 15, Fleet: 15,
		States:  []record.Tally{{Name: "active", Count: 13}, {Name: "revoked", Count: 1}, {Name: "suspended", Count: 1}},
		Models:  []record.Tally{{Name: "default", Count: 15}},
		Lots:    []record.Tally{{Name: "default", Count: 15}},
		Contact: []record.Tally{{Name: "in the last hour", Count: 14}, {Name: "longer ago", Count: 1}},
		// One was revoked, one has expired.
		Certificates: 13, Shards: []record.Shard{{Issuer: "operational", Number: 1}}})
	got, err = b.Survey(b.ctx, record.Selection{Devices: ids[:2]}, Now)
	b.must(err)
	if got.Devices != 2 || got.Certificates != 1 || len(got.Sample) != 2 {
		t.Errorf("survey of two: %+v", got)
	}
	_, err = b.Survey(b.ctx, record.Selection{Devices: []string{"nil"}}, Now)
	b.isErr("survey of a stranger", err, record.ErrNotFound)
}

// jobs: the devices are fixed, each gets one outcome, and a step repeated changes nothing.
func jobs(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(5)
	_, err := b.Suspend(b.ctx, ids[1], Now, event("device.suspended"))
	b.must(err)
	_, err = b.Revoke(b.ctx, ids[3], Now, 0, "stolen", event("device.revoked"))
	b.must(err)
	var saw record.JobView
	j, err := b.CreateJob(b.ctx, record.Selection{}, Now, func(v record.JobView) (record.JobPlan, error) {
		saw = v
		return plan(record.Job{Kind: record.JobSuspend, Why: "firmware", Expression: "all"})(v)
	})
	b.must(err)
	b.equal("view", saw, record.JobView{Total: 5, Everything: true, WholeLots: []string{"default"}, Able: []string{"anna"}})
	b.recorded("job.created")
	b.equal("event's object", b.last().Object, j.ID)
	b.equal("job", j, record.Job{ID: j.ID, Kind: record.JobSuspend, Operator: "anna", Expression: "all", Why: "firmware",
		State: record.JobRunning, Created: Now, Total: 5, Outcomes: map[string]int64{"": 5}})
	late := b.enrolled()

	got := b.step(j.ID, 2)
	b.equal("state after a step", got.Job.State, record.JobRunning)
	newest, err := b.LastChange(b.ctx)
	b.must(err)
	if kept, err := b.Job(b.ctx, j.ID); err != nil || newest == 0 || kept.Change != newest || !kept.Changed.Equal(Now) {
		t.Errorf("the last change is %d; the job says %+v, %v", newest, kept, err)
	}
	b.equal("shards", got.Shards, []record.Shard{{Issuer: "operational", Number: 1}})
	unfinished, err := b.UnfinishedJobs(b.ctx)
	b.must(err)
	if len(unfinished) != 1 || unfinished[0].Outcomes[record.OutcomeDone] != 1 {
		t.Errorf("unfinished: %+v", unfinished)
	}
	got = b.step(j.ID, 100)
	b.equal("state after the last step", got.Job.State, record.JobPublishing)
	b.equal("outcomes", b.outcomes(j.ID), []string{ids[0] + " done", ids[1] + " unchanged", ids[2] + " done", ids[3] + " refused", ids[4] + " done"})
	b.equal("newest event is of a device", b.last().Verb, "device.moved")
	for i, want := range []string{record.StateSuspended, record.StateSuspended, record.StateSuspended, record.StateRevoked, record.StateSuspended} {
		if d, err := b.Device(b.ctx, ids[i]); err != nil || d.State != want {
			t.Errorf("device %d is %s, want %s (%v)", i, d.State, want, err)
		}
	}
	b.equalDevice(late)
	b.refused("step when nothing is pending", record.ErrConflict, func() error { _, err := b.StepJob(b.ctx, j.ID, 1, Now, nil); return err })
	shards, err := b.JobShards(b.ctx, j.ID, Now)
	b.must(err)
	b.equal("shards of the job", shards, []record.Shard{{Issuer: "operational", Number: 1}})
	done, err := b.FinishJob(b.ctx, j.ID, Now.Add(time.Second), event("job.done"))
	b.must(err)
	b.recorded("job.done")
	if done.State != record.JobDone || !done.Ended.Equal(Now.Add(time.Second)) {
		t.Errorf("finished: %+v", done)
	}
	list, next, err := b.JobDevices(b.ctx, j.ID, record.OutcomeRefused, record.Page{Limit: 1})
	b.must(err)
	if len(list) != 1 || list[0].Device != ids[3] || next != "" {
		t.Errorf("refused: %v, %q", list, next)
	}
	for what, do := range map[string]func() error{
		"pause":  func() error { _, err := b.PauseJob(b.ctx, j.ID, event("x")); return err },
		"resume": func() error { _, err := b.ResumeJob(b.ctx, j.ID, Now, event("x")); return err },
		"cancel": func() error { _, err := b.CancelJob(b.ctx, j.ID, Now, event("x")); return err },
		"finish": func() error { _, err := b.FinishJob(b.ctx, j.ID, Now, event("x")); return err },
	} {
		b.refused(what+" what is over", record.ErrConflict, do)
	}
	_, err = b.Job(b.ctx, "j999")
	b.isErr("no such job", err, record.ErrNotFound)

	// A hold that becomes a revocation keeps its date; everything else a revocation does
	// is the single device's.
	j = b.create(record.Job{Kind: record.JobRevoke, Reason: record.ReasonKeyCompromise, Why: "stolen"}, record.Selection{Devices: ids[:1]})
	b.step(j.ID, 10)
	d, err := b.Device(b.ctx, ids[0])
	b.must(err)
	b.equal("tombstones", b.tombstones(d), barred(d))
	last, _, err := b.Jobs(b.ctx, record.Page{Limit: 1})
	b.must(err)
	b.equal("newest job", last[0].ID, j.ID)
}

func jobInStages(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(6)
	j := b.create(record.Job{Kind: record.JobRevoke, Stages: []int64{1, 3}}, record.Selection{})
	state := func(want string, done int64) {
		t.Helper()
		got, err := b.Job(b.ctx, j.ID)
		b.must(err)
		if got.State != want || got.Outcomes[record.OutcomeDone] != done || !slices.Equal(got.Stages, []int64{1, 3}) {
			t.Errorf("the job is %+v; want %s with %d done", got, want, done)
		}
	}
	resume := func() {
		t.Helper()
		_, err := b.ResumeJob(b.ctx, j.ID, Now, event("job.resumed"))
		b.must(err)
		b.recorded("job.resumed")
	}
	b.equal("paused by itself", b.step(j.ID, 100).Job.State, record.JobPaused)
	state(record.JobPaused, 1)
	b.refused("step while paused", record.ErrConflict, func() error { _, err := b.StepJob(b.ctx, j.ID, 1, Now, nil); return err })
	resume()
	b.step(j.ID, 1)
	state(record.JobRunning, 2)
	_, err := b.PauseJob(b.ctx, j.ID, event("job.paused"))
	b.must(err)
	b.recorded("job.paused")
	resume()
	b.step(j.ID, 100)
	state(record.JobPaused, 3)
	resume()
	b.step(j.ID, 2)
	got, err := b.CancelJob(b.ctx, j.ID, Now, event("job.cancelled"))
	b.must(err)
	b.recorded("job.cancelled")
	b.equal("what happened", got.Outcomes, map[string]int64{record.OutcomeDone: 5, record.OutcomeCancelled: 1})
	state(record.JobCancelled, 5)
	if d, err := b.Device(b.ctx, ids[5]); err != nil || d.State != record.StateActive {
		t.Errorf("the last device is %s, %v", d.State, err)
	}
}

func jobRefused(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(2)
	no := errors.New("no")
	b.refused("judge says no", no, func() error {
		_, err := b.CreateJob(b.ctx, record.Selection{}, Now, func(record.JobView) (record.JobPlan, error) { return record.JobPlan{}, no })
		return err
	})
	for what, of := range map[string]record.Selection{
		"a stranger":     {Devices: []string{ids[0], "nil"}},
		"one twice":      {Devices: []string{ids[0], ids[0]}},
		"a bad selector": {Where: &record.Selector{Op: "~"}},
	} {
		b.refused(what, nil, func() error {
			_, err := b.CreateJob(b.ctx, of, Now, plan(record.Job{Kind: record.JobRevoke}))
			return err
		})
	}
	b.refused("a job that is done", record.ErrConflict, func() error {
		_, err := b.CreateJob(b.ctx, record.Selection{}, Now, plan(record.Job{Kind: record.JobRevoke, State: record.JobDone}))
		return err
	})
	empty := b.create(record.Job{Kind: record.JobRevoke}, record.Selection{Devices: []string{}})
	b.equal("a job of no device", b.step(empty.ID, 1).Job.State, record.JobPublishing)
	// Part of a lot is no whole lot, and one device is none.
	for n, of := range map[int]record.Selection{2: {Devices: ids}, 1: {Devices: ids[:1]}} {
		b.enrolled()
		_, err := b.CreateJob(b.ctx, of, Now, func(v record.JobView) (record.JobPlan, error) {
			if len(v.WholeLots) != 0 || v.Everything || v.Total != int64(n) {
				t.Errorf("a part of a lot: %+v", v)
			}
			return record.JobPlan{}, no
		})
		b.isErr("judge", err, no)
	}
}

// jobAskedAgain: while a job waits, whoever asks for the same again gets that one.
func jobAskedAgain(t *testing.T, b *bench) {
	b.people("anna", "bert")
	ids := b.many(3)
	ask := func(j record.Job, at time.Time, devices ...string) (record.Job, error) {
		return b.CreateJob(b.ctx, record.Selection{Devices: devices}, at, func(v record.JobView) (record.JobPlan, error) {
			p, err := plan(j)(v)
			if j.State == record.JobWaiting {
				p.Approval = &record.Approval{Kind: record.ApproveJob, Requester: p.Job.Operator, Requested: at, Expires: at.Add(time.Hour)}
			}
			return p, err
		})
	}
	asked := record.Job{Kind: record.JobRevoke, State: record.JobWaiting, Reason: 1, Why: "stolen", Stages: []int64{1}}
	first, err := ask(asked, Now, ids[0], ids[1])
	b.must(err)
	b.unchanged("ask again", func() error {
		again, err := ask(asked, Now.Add(time.Minute), ids[1], ids[0])
		b.isErr("ask again", err, record.ErrExists)
		b.equal("the job that waits", again, first)
		return nil
	})
	different := map[string]record.Job{"operator": asked, "kind": asked, "reason": asked, "why": asked, "stages": asked, "expression": asked, "running": asked}
	for what, j := range different {
		switch what {
		case "operator":
			j.Operator = "bert"
		case "kind":
			j.Kind = record.JobRetire
		case "reason":
			j.Reason = 4
		case "why":
			j.Why = "lost"
		case "stages":
			j.Stages = nil
		case "expression":
			j.Expression = "lot = w47"
		case "running":
			j.State = record.JobRunning
		}
		if got, err := ask(j, Now, ids[0], ids[1]); err != nil || got.ID == first.ID {
			t.Errorf("another %s: %s, %v", what, got.ID, err)
		}
	}
	for _, devices := range [][]string{ids, ids[:1], ids[1:]} {
		got, err := ask(asked, Now, devices...)
		b.must(err)
		b.equal("other devices", got.Total, int64(len(devices)))
	}
	late, err := ask(asked, Now.Add(time.Hour), ids[0], ids[1])
	b.must(err) // the first request has expired
	_, err = b.CancelJob(b.ctx, late.ID, Now, event("job.cancelled"))
	b.must(err)
	_, err = ask(asked, Now.Add(time.Hour), ids[0], ids[1])
	b.must(err) // what was cancelled waits no more
}

func jobOfAnotherKind(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(2)
	j := b.create(record.Job{Kind: "renew"}, record.Selection{})
	b.refused("step", record.ErrConflict, func() error { _, err := b.StepJob(b.ctx, j.ID, 1, Now, nil); return err })
	b.refused("conclude a status job", nil, func() error { return b.Conclude(b.ctx, record.JobRevoke, ids[0], "done", Now) })
	b.must(b.Conclude(b.ctx, "other", ids[0], "done", Now))
	for i, id := range ids {
		b.must(b.Conclude(b.ctx, "renew", id, fmt.Sprint("renewed ", i), Now.Add(time.Hour)))
		b.must(b.Conclude(b.ctx, "renew", id, "again", Now.Add(2*time.Hour)))
	}
	b.equal("outcomes", b.outcomes(j.ID), []string{ids[0] + " renewed 0", ids[1] + " renewed 1"})
	got, err := b.Job(b.ctx, j.ID)
	b.must(err)
	if got.State != record.JobDone || !got.Ended.Equal(Now.Add(time.Hour)) {
		t.Errorf("the job is %+v", got)
	}
}

// revokedAlone: what one operator has ended without another, in one way or the other.
func revokedAlone(t *testing.T, b *bench) {
	b.people("anna", "bert")
	ids := b.many(7)
	alone := func(since time.Time, want int64) {
		t.Helper()
		got, err := b.RevokedAlone(b.ctx, "anna", since)
		b.must(err)
		b.equal("revoked alone", got, want)
	}
	end := func(i int, actor, verb string, detail map[string]string) {
		t.Helper()
		e := event(verb)
		e.Actor, e.Detail = actor, detail
		_, err := b.Revoke(b.ctx, ids[i], Now, 0, "", e)
		b.must(err)
	}
	end(0, "operator:anna", "device.revoked", nil)
	end(1, "operator:anna", "device.retired", map[string]string{"reason": "cessation"})
	end(2, "operator:bert", "device.revoked", nil)
	alone(Now.Add(-time.Hour), 2)
	alone(Now, 0)
	j := b.create(record.Job{Kind: record.JobRevoke}, record.Selection{Devices: ids[3:5]})
	b.create(record.Job{Kind: record.JobSuspend}, record.Selection{Devices: ids[5:]})
	alone(Now.Add(-time.Hour), 4)
	_, err := b.StepJob(b.ctx, j.ID, 1, Now, func(d record.Device) record.Event {
		e := event("device.revoked")
		e.Actor, e.Detail = "operator:anna", map[string]string{"job": j.ID}
		return e
	})
	b.must(err)
	alone(Now.Add(-time.Hour), 4)
	b.wait()
	alone(Now.Add(-time.Hour), 4)

	// A job that has not ended counts for as long, and after its end.
	alone(Now.Add(time.Hour), 2)
	_, err = b.CancelJob(b.ctx, j.ID, Now.Add(2*time.Hour), event("job.cancelled"))
	b.must(err)
	alone(Now.Add(time.Hour), 2)
	alone(Now.Add(2*time.Hour), 0)

	// So does a grant that ends certificates.
	for _, new := range []string{"true", "false"} {
		e := event("device.granted")
		e.Actor, e.Detail = "operator:anna", map[string]string{"new_key": new}
		b.must(b.Note(b.ctx, e))
	}
	alone(Now.Add(-time.Hour), 5)
}

// jobAndItsOperator: the job of an operator who was disabled goes no further.
func jobAndItsOperator(t *testing.T, b *bench) {
	b.people("anna", "bert")
	b.many(3)
	j := b.create(record.Job{Kind: record.JobRevoke, Operator: "bert"}, record.Selection{})
	b.step(j.ID, 1)
	b.must(b.DisableOperator(b.ctx, "bert", Now, event("operator.disabled")))
	b.equal("job of a disabled operator", b.step(j.ID, 1).Job.State, record.JobPaused)
	b.refused("resume it", record.ErrConflict, func() error { _, err := b.ResumeJob(b.ctx, j.ID, Now, event("x")); return err })
	got, err := b.CancelJob(b.ctx, j.ID, Now, event("job.cancelled"))
	b.must(err)
	b.equal("what happened", got.Outcomes, map[string]int64{record.OutcomeDone: 1, record.OutcomeCancelled: 2})
}

// moments: the window of a renewal plan is given out evenly, whenever its devices ask.
func moments(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(10)
	outside := b.enrolled()
	planned := func(want bool) {
		t.Helper()
		got, err := b.Planned(b.ctx)
		b.must(err)
		b.equal("planned", got, want)
	}
	moment := func(id string, at time.Time) time.Time {
		t.Helper()
		got, err := b.Moment(b.ctx, id, at)
		b.must(err)
		return got
	}
	after := func(seconds int) time.Time { return Now.Add(time.Duration(seconds) * time.Second) }
	at := func(what string, got time.Time, seconds int) {
		t.Helper()
		if !got.Equal(after(seconds)) {
			t.Errorf("%s: %v after the start, want %v s", what, got.Sub(Now), seconds)
		}
	}
	planned(false)
	b.equal("moment without a plan", moment(ids[0], Now), time.Time{})
	j := b.create(record.Job{Kind: record.JobRenew, Due: after(100)}, record.Selection{Devices: ids})
	planned(true)
	b.equal("moment of another device", moment(outside.ID, Now), time.Time{})
	for i, id := range ids[:3] { // at once
		at("asked at once", moment(id, Now), 10*i)
	}
	at("asked again", moment(ids[1], after(55)), 10)
	b.must(b.Conclude(b.ctx, record.JobRenew, ids[0], record.OutcomeDone, after(1)))
	b.equal("moment of one that has renewed", moment(ids[0], after(2)), time.Time{})
	b.must(b.Conclude(b.ctx, record.JobRenew, ids[3], record.OutcomeDone, after(1))) // unasked
	// Seven have not asked, for what is left at 30 s.
	for i, id := range ids[4:9] {
		at("asked late", moment(id, after(30)), 30+10*i)
	}
	at("asked too late", moment(ids[9], after(500)), 500)
	got, err := b.Job(b.ctx, j.ID)
	b.must(err)
	if !got.Due.Equal(after(100)) || got.Told != 8 {
		t.Errorf("the plan is %+v", got)
	}

	// A second plan may be more urgent; pausing or cancelling gives moments back.
	k := b.create(record.Job{Kind: record.JobRenew, Due: after(10)}, record.Selection{Devices: ids[8:]})
	at("of two plans the earlier", moment(ids[8], Now), 0)
	_, err = b.PauseJob(b.ctx, k.ID, event("job.paused"))
	b.must(err)
	at("while it is paused", moment(ids[8], Now), 70)
	_, err = b.CancelJob(b.ctx, k.ID, Now, event("job.cancelled"))
	b.must(err)
	_, err = b.CancelJob(b.ctx, j.ID, Now, event("job.cancelled"))
	b.must(err)
	b.equal("moment of a cancelled plan", moment(ids[8], Now), time.Time{})
	planned(false)
}

// issuerRevoked: a job ends what devices hold of an issuer, then all else of it, and
// leaves the devices and the responders that tell of it.
func issuerRevoked(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(3)
	_, err := b.Suspend(b.ctx, ids[1], Now.Add(-time.Hour), event("device.suspended"))
	b.must(err)
	_, err = b.Revoke(b.ctx, ids[2], Now.Add(-time.Hour), record.ReasonCessation, "gone", event("device.revoked"))
	b.must(err)
	other := b.enrolled()
	kept := newIntent(other.ID)
	kept.Issuer = "operational-2"
	b.issue(kept)
	responder, server, old := newIntent(""), newIntent(""), newIntent("")
	responder.Profile, server.Profile, old.Profile = "ocsp", "proof", "proof"
	old.NotAfter = Now.Add(-time.Minute)
	for _, c := range []record.Certificate{responder, server, old} {
		b.issue(c)
	}
	newest := func(id string) record.Certificate {
		t.Helper()
		list, _, err := b.Certificates(b.ctx, &record.Selector{Op: record.OpEqual, Field: "device", Value: id}, record.Page{Limit: 1})
		b.must(err)
		return list[0]
	}
	j := b.create(record.Job{Kind: record.JobRevokeIssuer, Issuer: "operational", Reason: record.ReasonKeyCompromise, Why: "stolen"}, record.Selection{Holding: "operational"})
	b.equal("devices that hold one", j.Total, int64(2))
	b.equal("issuer", j.Issuer, "operational")
	begun, err := b.IssuerRevocations(b.ctx)
	b.must(err)
	if len(begun) != 1 || begun[0].ID != j.ID {
		t.Errorf("revocations of issuers: %+v", begun)
	}
	again := func() error {
		_, err := b.CreateJob(b.ctx, record.Selection{Holding: "operational"}, Now, plan(record.Job{Kind: record.JobRevokeIssuer, Issuer: "operational"}))
		return err
	}
	b.refused("another for the same issuer", record.ErrConflict, again)
	step := b.step(j.ID, 1)
	b.equal("after one device", step.Job.State, record.JobRunning)
	b.equal("its shards", step.Shards, []record.Shard{{Issuer: "operational", Number: 1}})
	b.equal("newest event is of the device", b.last().Verb, "device.moved")
	if c := b.status(server); !c.Revoked.IsZero() {
		t.Errorf("the rest is revoked before the devices' are: %+v", c)
	}
	step = b.step(j.ID, 10)
	b.equal("after the last", step.Job.State, record.JobPublishing)
	b.equal("outcomes", b.outcomes(j.ID), []string{ids[0] + " done", ids[1] + " done"})
	shards, err := b.JobShards(b.ctx, j.ID, Now)
	b.must(err)
	b.equal("shards of the job", shards, []record.Shard{{Issuer: "operational", Number: 1}})
	for id, since := range map[string]time.Time{ids[0]: Now, ids[1]: Now.Add(-time.Hour), ids[2]: Now.Add(-time.Hour)} {
		reason := record.ReasonKeyCompromise
		if id == ids[2] {
			reason = record.ReasonCessation // it was final
		}
		if c := newest(id); !c.Revoked.Equal(since) || c.Reason != reason {
			t.Errorf("a device's certificate is revoked since %v for %d, want %v for %d", c.Revoked, c.Reason, since, reason)
		}
	}
	if c := b.status(server); !c.Revoked.Equal(Now) {
		t.Errorf("what is no device's: %+v", c)
	}
	for name, c := range map[string]record.Certificate{"a responder's": responder, "an expired one": old, "another issuer's": kept} {
		if c := b.status(c); !c.Revoked.IsZero() {
			t.Errorf("%s was revoked", name)
		}
	}
	for id, want := range map[string]string{ids[0]: record.StateActive, ids[1]: record.StateSuspended, ids[2]: record.StateRevoked} {
		if d, err := b.Device(b.ctx, id); err != nil || d.State != want {
			t.Errorf("a device is %s, want %s (%v)", d.State, want, err)
		}
	}
	_, err = b.Restore(b.ctx, ids[1], Now, event("device.restored"))
	b.must(err)
	if c := newest(ids[1]); c.Revoked.IsZero() {
		t.Error("restoring the device has brought back a certificate of the revoked issuer")
	}

	// One that was cancelled before it ran is none.
	waits, err := b.CreateJob(b.ctx, record.Selection{Holding: "operational-2"}, Now, func(v record.JobView) (record.JobPlan, error) {
		p, err := plan(record.Job{Kind: record.JobRevokeIssuer, Issuer: "operational-2", State: record.JobWaiting})(v)
		p.Approval = &record.Approval{Kind: record.ApproveJob, Requester: "anna", Requested: Now, Expires: Now.Add(time.Hour)}
		return p, err
	})
	b.must(err)
	if begun, err = b.IssuerRevocations(b.ctx); err != nil || len(begun) != 2 || begun[1].State != record.JobWaiting {
		t.Errorf("with one that waits: %+v, %v", begun, err)
	}
	_, err = b.CancelJob(b.ctx, waits.ID, Now, event("job.cancelled"))
	b.must(err)
	if begun, err = b.IssuerRevocations(b.ctx); err != nil || len(begun) != 1 {
		t.Errorf("after it was cancelled: %+v, %v", begun, err)
	}
}

// issuerPlan: the renewal plan of an issuer's revocation ends with it if nothing was ended.
func issuerPlan(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(2)
	begin := func() (plan, end record.Job) {
		t.Helper()
		of := record.Selection{Devices: ids}
		return b.create(record.Job{Kind: record.JobRenew, Issuer: "operational", Due: Now.Add(time.Hour)}, of),
			b.create(record.Job{Kind: record.JobRevokeIssuer, Issuer: "operational", Reason: 4}, of)
	}
	others := b.create(record.Job{Kind: record.JobRenew, Due: Now.Add(time.Hour)}, record.Selection{Devices: ids})
	cancelled := func(end record.Job, plan record.Job, want string) {
		t.Helper()
		_, err := b.CancelJob(b.ctx, end.ID, Now, event("job.cancelled"))
		b.must(err)
		got, err := b.Job(b.ctx, plan.ID)
		b.must(err)
		b.equal("the plan", got.State, want)
		b.equal("the event tells of the plan", b.last().Detail["plan"] == plan.ID, want == record.JobCancelled)
	}
	plan, end := begin()
	cancelled(end, plan, record.JobCancelled)
	begun, err := b.IssuerRevocations(b.ctx)
	b.must(err)
	b.equal("revocations", len(begun), 0)
	plan, end = begin()
	b.step(end.ID, 1)
	cancelled(end, plan, record.JobRunning) // one device needs another certificate
	got, err := b.Job(b.ctx, others.ID)
	b.must(err)
	b.equal("another plan", got.State, record.JobRunning)
}

// tooManyPlans: what a renewal costs does not grow with the plans that were ever made.
func tooManyPlans(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(3)
	renew := record.Job{Kind: record.JobRenew, Due: Now.Add(time.Hour)}
	first := b.create(renew, record.Selection{Devices: ids[:2]})
	for range record.MaxPlans - 1 {
		b.create(renew, record.Selection{Devices: ids[1:]})
	}
	b.refused("one more", record.ErrConflict, func() error {
		_, err := b.CreateJob(b.ctx, record.Selection{Devices: ids}, Now, plan(renew))
		return err
	})
	b.create(record.Job{Kind: record.JobSuspend}, record.Selection{Devices: ids})
	b.create(renew, record.Selection{Devices: []string{ids[0], ids[2]}})
	_, err := b.CancelJob(b.ctx, first.ID, Now, event("renewal.cancelled"))
	b.must(err)
	b.create(renew, record.Selection{Devices: ids[1:2]})
}

// revokedInPlan: a device that is revoked is waited for no more.
func revokedInPlan(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(3)
	j := b.create(record.Job{Kind: record.JobRenew, Due: Now.Add(time.Hour)}, record.Selection{Devices: ids})
	b.must(b.Conclude(b.ctx, record.JobRenew, ids[0], record.OutcomeDone, Now))
	_, err := b.Suspend(b.ctx, ids[1], Now, event("device.suspended"))
	b.must(err)
	_, err = b.Revoke(b.ctx, ids[1], Now, 0, "scrapped", event("device.revoked"))
	b.must(err)
	got, err := b.Job(b.ctx, j.ID)
	b.must(err)
	b.equal("outcomes", got.Outcomes, map[string]int64{record.OutcomeDone: 1, record.OutcomeRevoked: 1, record.OutcomePending: 1})
	b.equal("state", got.State, record.JobRunning)
	_, err = b.PauseJob(b.ctx, j.ID, event("job.paused"))
	b.must(err)
	end := b.create(record.Job{Kind: record.JobRetire}, record.Selection{Devices: ids[2:]})
	b.equal("the job that ends the last", b.step(end.ID, 10).Job.State, record.JobPublishing)
	got, err = b.Job(b.ctx, j.ID)
	b.must(err)
	if got.State != record.JobDone || !got.Ended.Equal(Now) || got.Outcomes[record.OutcomeRevoked] != 2 {
		t.Errorf("the plan: %+v", got)
	}
}

// expired: a job that nobody approves in time ends, and says so.
func expired(t *testing.T, b *bench) {
	b.people("anna", "bo")
	ids := b.many(2)
	ask := func(kind string, until time.Time) record.Job {
		t.Helper()
		j, err := b.CreateJob(b.ctx, record.Selection{Devices: ids}, Now, func(v record.JobView) (record.JobPlan, error) {
			p, err := plan(record.Job{Kind: kind, State: record.JobWaiting, Why: until.String()})(v)
			p.Approval = &record.Approval{Kind: record.ApproveJob, Requester: "anna", Requested: Now, Expires: until}
			return p, err
		})
		b.must(err)
		return j
	}
	at := Now.Add(time.Hour)
	late, open, approved := ask(record.JobRevoke, at), ask(record.JobRevoke, at.Add(time.Second)), ask(record.JobRetire, at)
	of, err := b.ApprovalsOf(b.ctx, record.ApproveJob, approved.ID)
	b.must(err)
	_, err = b.Approve(b.ctx, of[0].ID, "bo", Now, event("approval.given"))
	b.must(err)
	expire := func() {
		t.Helper()
		b.must(b.ExpireJobs(b.ctx, at, func(j record.Job) record.Event {
			e := event("job.expired")
			e.Object = j.ID
			return e
		}))
	}
	expire()
	b.recorded("job.expired")
	b.equal("event's object", b.last().Object, late.ID)
	for id, want := range map[string]string{late.ID: record.JobExpired, open.ID: record.JobWaiting, approved.ID: record.JobRunning} {
		got, err := b.Job(b.ctx, id)
		b.must(err)
		b.equal("state of "+id, got.State, want)
		if id == late.ID && (!got.Ended.Equal(at) || got.Outcomes[record.OutcomeCancelled] != 2) {
			t.Errorf("expired: %+v", got)
		}
	}
	before := b.last().Sequence
	expire()
	b.equal("events of expiring again", b.last().Sequence, before)
	b.refused("cancel what has expired", record.ErrConflict, func() error { _, err := b.CancelJob(b.ctx, late.ID, at, event("x")); return err })
	ofLate, err := b.ApprovalsOf(b.ctx, record.ApproveJob, late.ID)
	b.must(err)
	b.refused("approve what has expired", record.ErrConflict, func() error { _, err := b.Approve(b.ctx, ofLate[0].ID, "bo", at, event("x")); return err })
}

// lotsEnded: what would leave a lot with nothing in force that had several within a day.
func lotsEnded(t *testing.T, b *bench) {
	b.people("anna")
	var ids []string
	for range 4 {
		d := softDevice()
		b.must(b.admit(d))
		ids = append(ids, d.ID)
	}
	ends := func(what string, at time.Time, want []string, devices ...string) {
		t.Helper()
		got, err := b.LotsEnded(b.ctx, devices, at)
		b.must(err)
		if len(got)+len(want) > 0 {
			b.equal(what, got, want)
		}
	}
	whole := []string{record.DefaultLot}
	ends("nothing", Now, nil)
	ends("a stranger", Now, nil, "nil")
	ends("three of four", Now, nil, ids[:3]...)
	ends("all", Now, whole, ids...)

	_, err := b.Revoke(b.ctx, ids[0], Now, 0, "", event("device.revoked"))
	b.must(err)
	ends("all that is left", Now, whole, ids[1:]...)
	ends("what has ended", Now, nil, ids[0])
	g := record.Grant{ID: id("grant"), Device: ids[1], NewKey: true, Created: Now, Expires: Now.Add(time.Hour)}
	_, err = b.Grant(b.ctx, g, event("device.granted"))
	b.must(err)
	ends("the others have a key", Now, nil, ids[2])
	j := b.create(record.Job{Kind: record.JobRetire, State: record.JobWaiting}, record.Selection{Devices: ids[2:3]})
	ends("one waits for approval", Now, nil, ids[3])
	_, err = b.CancelJob(b.ctx, j.ID, Now, event("job.cancelled"))
	b.must(err)
	j = b.create(record.Job{Kind: record.JobRetire}, record.Selection{Devices: ids[2:3]})
	ends("another is being retired", Now, whole, ids[3])
	ends("it is as good as retired", Now, nil, ids[2])

	later := Now.Add(record.LotMemory + time.Second)
	ends("it was there a day ago", later, whole, ids[3])
	b.step(j.ID, 10)
	ends("the last of a day", Now, whole, ids[3])
	ends("it has been the only one for a day", later, nil, ids[3])
}
