package admin_test

import (
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

func TestRenewalPlan(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	one, two := h.device(record.DefaultModel, record.DefaultLot, "SN-1"), h.device(record.DefaultModel, record.DefaultLot, "SN-2")
	h.device(record.DefaultModel, record.DefaultLot, "SN-3")
	_, err := h.anna.Revoke(ctx, "SN-3", wire.StatusRequest{Reason: "cessation"})
	check(t, err)

	plan := renewal.NewPlan{Within: 3600, Why: "new subject"}
	dry := plan
	dry.DryRun = true
	p, err := h.anna.PlanRenewal(ctx, dry)
	check(t, err)
	if p.ID != "" || p.Total != 2 || p.Due.Sub(p.Created) != time.Hour || len(p.Late) != 1 || p.Late[0] != (jobs.Tally{Name: record.DefaultModel, Count: 2}) {
		t.Errorf("dry run: %+v", p)
	}
	if all, err := h.anna.RenewalPlans(ctx, client.Query{Limit: 10}); err != nil || len(all.Items) != 0 || h.replanned.Load() != 0 {
		t.Errorf("after a dry run: %+v, %v", all, err)
	}

	p, err = h.anna.PlanRenewal(ctx, plan)
	check(t, err)
	if p.State != record.JobRunning || p.Total != 2 || p.Pending != 2 || p.Operator != "anna" || h.replanned.Load() != 1 {
		t.Errorf("planned: %+v", p)
	}
	moment, err := h.store.Moment(ctx, one.ID, p.Created)
	check(t, err)
	if moment.IsZero() || moment.After(p.Due) {
		t.Errorf("a device of the plan is told %v", moment)
	}
	check(t, h.store.Conclude(ctx, record.JobRenew, one.ID, record.OutcomeDone, h.now()))
	p, err = h.anna.RenewalPlan(ctx, p.ID)
	check(t, err)
	if p.Renewed != 1 || p.Told != 1 || p.Pending != 1 || len(p.Missing) != 1 || p.Missing[0] != two.Name() {
		t.Errorf("half way: %+v", p)
	}
	p, err = h.anna.CancelRenewal(ctx, p.ID)
	check(t, err)
	if p.State != record.JobCancelled || p.Renewed != 1 || p.Pending != 0 || h.replanned.Load() != 2 {
		t.Errorf("cancelled: %+v", p)
	}
	_, err = h.anna.CancelRenewal(ctx, p.ID)
	wantProblem(t, err, wire.CodeConflict)

	// A job of another kind is no plan, and stays what it is.
	other, err := h.store.CreateJob(ctx, record.Selection{}, h.now(), func(record.JobView) (record.JobPlan, error) {
		return record.JobPlan{Job: record.Job{Kind: record.JobSuspend, Operator: "anna", State: record.JobRunning, Created: h.now()},
			Event: record.Event{Time: h.now(), Actor: "operator:anna", Verb: "job.created"}}, nil
	})
	check(t, err)
	_, err = h.anna.CancelRenewal(ctx, other.ID)
	wantProblem(t, err, wire.CodeNotFound)
	if j, err := h.store.Job(ctx, other.ID); err != nil || j.State != record.JobRunning {
		t.Errorf("the other job is %+v, %v", j, err)
	}
	if all, err := h.anna.RenewalPlans(ctx, client.Query{Limit: 10}); err != nil || len(all.Items) != 1 || all.Items[0].ID != p.ID {
		t.Errorf("listed: %+v, %v", all, err)
	}

	for code, in := range map[string]renewal.NewPlan{
		wire.CodeFilter:    {Within: 60, Selection: jobs.Selection{Where: "lots = x"}},
		wire.CodeNotFound:  {Within: 60, Selection: jobs.Selection{Where: "lot = x"}},
		wire.CodeMalformed: {Within: 0},
	} {
		_, err := h.anna.PlanRenewal(ctx, in)
		wantProblem(t, err, code)
	}
	_, err = h.anna.PlanRenewal(ctx, renewal.NewPlan{Within: int64(renewal.MaxWithin/time.Second) + 1})
	wantProblem(t, err, wire.CodeMalformed)
	_, err = h.anna.PlanRenewal(ctx, renewal.NewPlan{Within: 60, Selection: jobs.Selection{Devices: []string{"SN-3"}}})
	wantProblem(t, err, wire.CodeConflict)

	for range record.MaxPlans {
		_, err := h.anna.PlanRenewal(ctx, renewal.NewPlan{Within: 60, Selection: jobs.Selection{Devices: []string{"SN-1"}}})
		check(t, err)
	}
	_, err = h.anna.PlanRenewal(ctx, renewal.NewPlan{Within: 60})
	if p := wantProblem(t, err, wire.CodeConflict); p.Detail != "default:SN-1 is in 50 renewal plans that are not over" {
		t.Errorf("one plan too many: %s", p.Detail)
	}
}

// TestPlanOfNobody: the devices of a plan were revoked while it was made. A plan without
// devices would never be done.
func TestPlanOfNobody(t *testing.T) {
	h := newHouse(t)
	h.device(record.DefaultModel, record.DefaultLot, "SN-1")
	h.surveyed = func() {
		_, err := h.anna.Revoke(t.Context(), "SN-1", wire.StatusRequest{Reason: "cessation"})
		check(t, err)
	}
	_, err := h.anna.PlanRenewal(t.Context(), renewal.NewPlan{Within: 60, Selection: jobs.Selection{Where: "serial = SN-1"}})
	wantProblem(t, err, wire.CodeNotFound)
	if all, err := h.anna.RenewalPlans(t.Context(), client.Query{Limit: 10}); err != nil || len(all.Items) != 0 || h.replanned.Load() != 0 {
		t.Errorf("listed: %+v, %v", all, err)
	}
}

// TestDisabledMeanwhile: who is disabled when all is done but the writing does nothing any more.
func TestDisabledMeanwhile(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 1)
	bo := h.second("bo")
	h.surveyed = func() {
		_, err := h.anna.DisableOperator(ctx, "bo")
		check(t, err)
	}
	_, err := bo.PlanRenewal(ctx, renewal.NewPlan{Within: 3600})
	wantProblem(t, err, wire.CodeUnauthorised)
	plans, _, err := h.store.Jobs(ctx, record.Page{Limit: 1})
	check(t, err)
	if len(plans) != 0 {
		t.Errorf("a plan of a disabled operator: %+v", plans)
	}
	if verbs := h.events("operator:bo"); verbs[0] != "operator.refused" {
		t.Errorf("the refusal was not written down: %v", verbs)
	}
}
