package native_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// TestRenewalPlan: an operator's plan moves devices' windows, each its own; whoever has
// renewed is done with it, and cancelling it gives the others their windows back.
func TestRenewalPlan(t *testing.T) {
	var ahead atomic.Int64 // of the real clock
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	i := install(t, settings{now: now})
	event := record.Event{Time: time.Now(), Actor: "test", Verb: "x"}
	if err := i.store.RecoverOperator(t.Context(), "anna", time.Now(), event); err != nil {
		t.Fatal(err)
	}
	var units []*unit
	for _, serial := range []string{"SN-1", "SN-2", "SN-3"} {
		u := i.unit(t, simtpm.Options{})
		if _, err := u.Enrol(i.ticket(t, nil), serial); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Renew(u.IDevID); err != nil {
			t.Fatal(err)
		}
		units = append(units, u)
	}
	before := poll(t, units[0], units[0].LDevID)
	created := now()
	plan, err := i.store.CreateJob(t.Context(), record.Selection{}, created, func(record.JobView) (record.JobPlan, error) {
		return record.JobPlan{Job: record.Job{Kind: record.JobRenew, Operator: "anna", State: record.JobRunning, Created: created, Due: created.Add(6 * time.Hour)}, Event: event}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ahead.Add(int64(10 * time.Second)) // it is looked for now and then
	var told []wire.Steering
	for n, u := range units {
		s := poll(t, u, u.LDevID)
		told = append(told, s)
		if at := created.Add(time.Duration(n) * 2 * time.Hour); s.Start.Sub(at).Abs() > time.Minute || !s.End.Equal(s.Start) || s.Poll != before.Poll {
			t.Errorf("device %d is told %+v, want its moment at %v", n, s, at)
		}
	}
	if s := poll(t, units[2], units[2].LDevID); s != told[2] {
		t.Errorf("asked again, it is told %+v instead of %+v", s, told[2])
	}
	id, err := units[0].Renew(units[0].LDevID)
	if err != nil {
		t.Fatal(err)
	}
	if until := time.Until(id.Steering.Start); until < 19*24*time.Hour {
		t.Errorf("with the renewal the window is %+v", id.Steering)
	}
	if s := poll(t, units[0], units[0].LDevID); s.Start != id.Steering.Start {
		t.Errorf("after it the window is %+v", s)
	}
	if plan, err = i.store.CancelJob(t.Context(), plan.ID, time.Now(), event); err != nil {
		t.Fatal(err)
	}
	if plan.Outcomes[record.OutcomeDone] != 1 || plan.Outcomes[record.OutcomeCancelled] != 2 || plan.Told != 3 {
		t.Errorf("the plan ends as %+v", plan)
	}
	ahead.Add(int64(10 * time.Second)) // it is looked for now and then
	if s := poll(t, units[1], units[1].LDevID); s.Start.Before(before.Start) {
		t.Errorf("without the plan the window is %+v", s)
	}
}
