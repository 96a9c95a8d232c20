package admin_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/issuers"
)

// succeed puts the successor of a line's issuer to use, as far as operators see it.
func (h *house) succeed(line string) {
	h.t.Helper()
	founded, err := premises.Found(statusURL, h.now(), profile.Successor(line))
	check(h.t, err)
	h.successors = append(h.successors, founded...)
}

func TestRevokeIssuer(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	h.runJobs()
	one := h.device(record.DefaultModel, record.DefaultLot, "SN-1")
	h.device(record.DefaultModel, record.DefaultLot, "SN-2")
	in := issuers.NewRevocation{Reason: "key-compromise", Why: "stolen", Reissue: true, Within: 60}
	refused := func(code, issuer string, in issuers.NewRevocation) {
		t.Helper()
		_, err := h.anna.RevokeIssuer(ctx, issuer, in)
		wantProblem(t, err, code)
	}
	refused(wire.CodeNotFound, "nobody", in)
	refused(wire.CodeConflict, profile.Operational, in) // it issues
	h.succeed(profile.Operational)
	refused(wire.CodeMalformed, profile.Operational, issuers.NewRevocation{Reason: "hold"})
	refused(wire.CodeMalformed, profile.Operational, issuers.NewRevocation{Reason: "superseded", Reissue: true, Within: 1 << 62})
	refused(wire.CodeMalformed, profile.Operational, issuers.NewRevocation{Reason: "superseded", Within: 60})
	refused(wire.CodeConflict, "operational-2", in)

	r, err := h.anna.RevokeIssuer(ctx, profile.Operational, in)
	check(t, err)
	if r.Successor != "operational-2" || r.State != record.JobRunning || r.Devices != 2 || r.Approval != "" || r.Plan == nil || r.Plan.Total != 2 || h.replanned.Load() != 1 {
		t.Errorf("begun: %+v", r)
	}
	refused(wire.CodeConflict, profile.Operational, in) // it has begun
	if j := h.reaches(r.Job, record.JobDone); j.Outcomes[record.OutcomeDone] != 2 {
		t.Errorf("the job is %+v", j)
	}
	rows, _, err := h.store.Certificates(ctx, &record.Selector{Op: record.OpEqual, Field: "device", Value: one.ID}, record.Page{Limit: 10})
	check(t, err)
	for _, row := range rows {
		if ours := row.Issuer == profile.Operational; ours != (record.StatusOf(row, h.now()) == "revoked") || ours && !h.onList(row) {
			t.Errorf("%s of %s is %s", row.Profile, row.Issuer, record.StatusOf(row, h.now()))
		}
	}
	if d, err := h.store.Device(ctx, one.ID); err != nil || d.State != record.StateActive {
		t.Errorf("the device is %s, %v", d.State, err)
	}
	if moment, err := h.store.Moment(ctx, one.ID, h.now()); err != nil || moment.IsZero() {
		t.Errorf("its moment is %v, %v", moment, err)
	}
	i, err := h.anna.Issuer(ctx, profile.Operational)
	check(t, err)
	if i.State != issuers.Revoked || i.Job != r.Job {
		t.Errorf("shown: %+v", i)
	}
	refused(wire.CodeConflict, profile.Operational, in) // it has ended

	// Nobody locks himself out.
	h.succeed(profile.Infrastructure)
	refused(wire.CodeConflict, profile.Infrastructure, issuers.NewRevocation{Reason: "superseded"})
}

func TestRevokeIssuerTakesTwo(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	h.device(record.DefaultModel, record.DefaultLot, "SN-1")
	bert := h.second("bert")
	h.runJobs()
	h.succeed(profile.Operational)
	h.succeed(profile.Manufacturing)

	// What nobody wants any more takes its renewal plan along.
	r, err := h.anna.RevokeIssuer(ctx, profile.Operational, issuers.NewRevocation{Reason: "superseded", Reissue: true})
	check(t, err)
	_, err = h.anna.MoveJob(ctx, r.Job, "cancel")
	check(t, err)
	if p, err := h.anna.RenewalPlan(ctx, r.Plan.ID); err != nil || p.State != record.JobCancelled {
		t.Errorf("the plan: %+v, %v", p, err)
	}
	if i, err := h.anna.Issuer(ctx, profile.Operational); err != nil || i.State != issuers.Succeeded {
		t.Errorf("shown: %+v, %v", i, err)
	}

	r, err = h.anna.RevokeIssuer(ctx, profile.Operational, issuers.NewRevocation{Reason: "superseded"})
	check(t, err)
	if r.State != record.JobWaiting || r.Approval == "" || r.Plan != nil {
		t.Errorf("begun: %+v", r)
	}
	if i, err := h.anna.Issuer(ctx, profile.Operational); err != nil || i.State != issuers.Waiting {
		t.Errorf("shown: %+v, %v", i, err)
	}
	_, err = h.anna.Approve(ctx, r.Approval)
	wantProblem(t, err, wire.CodeConflict)
	_, err = h.anna.RevokeIssuer(ctx, profile.Operational, issuers.NewRevocation{Reason: "superseded", BreakGlass: "nobody is awake"}) // as that hint says
	wantProblem(t, err, wire.CodeConflict)
	if p, _ := errors.AsType[*wire.Problem](err); !strings.Contains(p.Hint, "hallmark job cancel "+r.Job+", and this again with --break-glass") {
		t.Errorf("whoever would go ahead is told %q", p.Hint)
	}
	_, err = bert.Approve(ctx, r.Approval)
	check(t, err)
	h.reaches(r.Job, record.JobDone)

	r, err = h.anna.RevokeIssuer(ctx, profile.Manufacturing, issuers.NewRevocation{Reason: "key-compromise", BreakGlass: "nobody is awake"})
	check(t, err)
	if r.State != record.JobRunning || r.Approval == "" {
		t.Errorf("with a break-glass: %+v", r)
	}
	h.reaches(r.Job, record.JobDone)
	alerts, err := bert.Alerts(ctx)
	check(t, err)
	if n := len(alerts.Items); n == 0 || alerts.Items[n-1].Verb != "issuer.revoked" || alerts.Items[n-1].Detail["break_glass"] == "" {
		t.Errorf("bert is told %+v", alerts.Items)
	}
}

// A revocation that stopped because whoever asked for it was disabled is taken up by another.
func TestRevokeIssuerOfSomebodyDisabled(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	h.device(record.DefaultModel, record.DefaultLot, "SN-1")
	bert := h.second("bert")
	h.succeed(profile.Operational)
	in := issuers.NewRevocation{Reason: "superseded", BreakGlass: "nobody is awake"}
	r, err := bert.RevokeIssuer(ctx, profile.Operational, in)
	check(t, err)
	_, err = h.anna.DisableOperator(ctx, "bert")
	check(t, err)
	_, err = h.anna.MoveJob(ctx, r.Job, "pause") // as its next step would
	check(t, err)
	_, err = h.anna.MoveJob(ctx, r.Job, "resume")
	wantProblem(t, err, wire.CodeConflict)
	_, err = h.anna.RevokeIssuer(ctx, profile.Operational, in)
	wantProblem(t, err, wire.CodeConflict)
	if p, _ := errors.AsType[*wire.Problem](err); !strings.Contains(p.Hint, "if it cannot be resumed: hallmark job cancel "+r.Job+", and this again") {
		t.Errorf("whoever takes it up is told %q", p.Hint)
	}
	_, err = h.anna.MoveJob(ctx, r.Job, "cancel")
	check(t, err)
	_, err = h.anna.RevokeIssuer(ctx, profile.Operational, in)
	check(t, err)
}
