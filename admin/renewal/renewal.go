// Package renewal is how operators say which devices renew, and by when.
//
// A plan is a job that the devices themselves carry out: the pipeline tells each its
// moment when it asks (package provisioner).
package renewal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/selection"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// Store is what plans ask of the record.
type Store interface {
	selection.Store
	Survey(ctx context.Context, of record.Selection, at time.Time) (record.Survey, error)
	CreateJob(ctx context.Context, of record.Selection, at time.Time, judge record.JobJudge) (record.Job, error)
	Job(ctx context.Context, id string) (record.Job, error)
	Jobs(ctx context.Context, p record.Page) ([]record.Job, string, error)
	JobDevices(ctx context.Context, id, outcome string, p record.Page) ([]record.JobDevice, string, error)
	CancelJob(ctx context.Context, id string, at time.Time, e record.Event) (record.Job, error)
	Model(ctx context.Context, name string) (record.Model, error)
}

// Service answers operators; every field is needed.
type Service struct {
	Store Store
	// DefaultPoll is how often devices ask when to renew, unless their model says otherwise.
	DefaultPoll time.Duration
	// Changed is called after a plan was made or cancelled.
	Changed func()
}

// Routes are for operators.
func (s *Service) Routes() []gate.Route {
	return []gate.Route{
		{Pattern: "GET " + renewal.PathPlans, Handle: s.list},
		{Pattern: "POST " + renewal.PathPlans, Handle: s.plan, Limit: 128 * jobs.MaxNamed},
		{Pattern: "GET " + renewal.PathPlans + "/{id}", Handle: s.show},
		{Pattern: "POST " + renewal.PathPlans + "/{id}/cancel", Handle: s.cancel},
	}
}

// mostNamed is how many pending devices are named.
const mostNamed = 10

func (s *Service) plan(ctx context.Context, c *gate.Call) (any, error) {
	var in renewal.NewPlan
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	switch {
	case !gate.Within(in.Within, renewal.MinWithin, renewal.MaxWithin):
		return nil, gate.Invalid("write 6h or 2d", "the time within which devices renew is 1 second to 90 days")
	case len(in.Why) > view.MaxWhy:
		return nil, gate.Invalid("", "why: at most %d bytes", view.MaxWhy)
	}
	of, err := selection.Of(ctx, s.Store, in.Selection)
	if err != nil {
		return nil, err
	}
	if of.Devices == nil {
		of.Where = unrevoked(of.Where)
	}
	j := record.Job{Kind: record.JobRenew, Operator: c.Caller.Name, Expression: in.Where, Why: in.Why, State: record.JobRunning,
		Created: c.Now, Due: c.Now.Add(time.Duration(in.Within) * time.Second)}
	found, err := s.Store.Survey(ctx, of, c.Now)
	if err != nil {
		return nil, gate.Absent(err, "hallmark device list shows those there are", "a device that was named is gone")
	}
	for _, t := range found.States {
		if t.Name == record.StateRevoked { // they were named
			return nil, gate.Refuse(http.StatusConflict, wire.CodeConflict, "leave them out; hallmark device list shows the state of each", "%d of the devices that were named are revoked", t.Count)
		}
	}
	if found.Devices == 0 {
		return nil, errNobody
	}
	late, err := s.late(ctx, found.Models, j.Due.Sub(j.Created))
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		j.Total, j.State = found.Devices, ""
	} else if j, err = s.create(ctx, c, of, j); err != nil {
		return nil, err
	}
	out := showPlan(j)
	out.Late = late
	return out, nil
}

var errNobody = gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "hallmark device list EXPR shows what an expression selects", "no device is selected that could renew")

// For makes a plan for devices that another act has chosen; nil if there are none.
func (s *Service) For(ctx context.Context, c *gate.Call, of record.Selection, within time.Duration, why string) (*renewal.Plan, error) {
	found, err := s.Store.Survey(ctx, of, c.Now)
	if err != nil || found.Devices == 0 {
		return nil, err
	}
	j, err := s.create(ctx, c, of, record.Job{Kind: record.JobRenew, Operator: c.Caller.Name, Why: why, State: record.JobRunning,
		Created: c.Now, Due: c.Now.Add(within)})
	if errors.Is(err, errNobody) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := showPlan(j)
	out.Late, err = s.late(ctx, found.Models, within)
	return &out, err
}

func (s *Service) create(ctx context.Context, c *gate.Call, of record.Selection, j record.Job) (record.Job, error) {
	j.Issuer = of.Holding
	e := c.Event("renewal.planned", "")
	e.Reason, e.Detail["within"] = j.Why, j.Due.Sub(j.Created).String()
	if j.Expression != "" {
		e.Detail["where"] = j.Expression
	}
	j, err := s.Store.CreateJob(ctx, of, c.Now, func(v record.JobView) (record.JobPlan, error) {
		if v.Total == 0 { // those of the survey were revoked meanwhile
			return record.JobPlan{}, errNobody
		}
		e.Detail["devices"] = fmt.Sprint(v.Total)
		return record.JobPlan{Job: j, Event: e}, nil
	})
	if err == nil {
		s.Changed()
	}
	return j, gate.Conflict(err, "end those that nobody needs: hallmark renew list, hallmark renew cancel ID")
}

// unrevoked leaves out the devices that will never renew.
func unrevoked(where *record.Selector) *record.Selector {
	living := &record.Selector{Op: record.OpNotEqual, Field: "state", Value: record.StateRevoked}
	if where == nil {
		return living
	}
	return &record.Selector{Op: record.OpAnd, Args: []*record.Selector{where, living}}
}

// late counts, by model, the devices that may not ask again before the window ends.
func (s *Service) late(ctx context.Context, models []record.Tally, within time.Duration) (late []jobs.Tally, err error) {
	for _, t := range models {
		m, err := s.Store.Model(ctx, t.Name)
		if err != nil {
			return nil, err
		}
		if poll := cmp.Or(m.Poll, s.DefaultPoll); poll < 0 || poll > within {
			late = append(late, jobs.Tally{Name: t.Name, Count: t.Count})
		}
	}
	return late, nil
}

// list gives the plans among a page of jobs, which may be none.
func (s *Service) list(ctx context.Context, c *gate.Call) (any, error) {
	page, filter, err := c.Page()
	if err != nil {
		return nil, err
	}
	if filter != "" {
		return nil, gate.Invalid("", "plans are not filtered")
	}
	all, after, err := s.Store.Jobs(ctx, page)
	out := wire.List[renewal.Plan]{Items: []renewal.Plan{}, After: after}
	for _, j := range all {
		if j.Kind == record.JobRenew {
			out.Items = append(out.Items, showPlan(j))
		}
	}
	return out, err
}

func (s *Service) find(ctx context.Context, id string) (record.Job, error) {
	j, err := s.Store.Job(ctx, id)
	if err == nil && j.Kind != record.JobRenew {
		err = record.ErrNotFound
	}
	return j, gate.Absent(err, "hallmark renew list shows those there are", "there is no renewal plan %q", id)
}

func (s *Service) show(ctx context.Context, c *gate.Call) (any, error) {
	j, err := s.find(ctx, c.Request.PathValue("id"))
	if err != nil {
		return nil, err
	}
	out := showPlan(j)
	if out.Pending == 0 {
		return out, nil
	}
	// JobDevices cannot select the pending, whose outcome is the empty string, so they are
	// looked for page by page.
	for page := (record.Page{Limit: wire.MaxPage}); ; {
		found, next, err := s.Store.JobDevices(ctx, j.ID, "", page)
		for _, d := range found {
			if d.Outcome == record.OutcomePending && len(out.Missing) < mostNamed {
				out.Missing = append(out.Missing, d.Name)
			}
		}
		if page.After = next; err != nil || next == "" || len(out.Missing) == mostNamed {
			return out, err
		}
	}
}

func (s *Service) cancel(ctx context.Context, c *gate.Call) (any, error) {
	if err := c.Read(&struct{}{}); err != nil {
		return nil, err
	}
	j, err := s.find(ctx, c.Request.PathValue("id"))
	if err != nil {
		return nil, err
	}
	cancelled, err := s.Store.CancelJob(ctx, j.ID, c.Now, c.Event("renewal.cancelled", j.ID))
	if errors.Is(err, record.ErrConflict) {
		return nil, gate.Refuse(http.StatusConflict, wire.CodeConflict, "hallmark renew show "+j.ID, "renewal plan %s is over", j.ID)
	}
	s.Changed()
	return showPlan(cancelled), err
}

func showPlan(j record.Job) renewal.Plan {
	return renewal.Plan{ID: j.ID, State: j.State, Operator: j.Operator, Where: j.Expression, Why: j.Why, Created: j.Created, Due: j.Due, Ended: j.Ended,
		Total: j.Total, Told: j.Told, Renewed: j.Outcomes[record.OutcomeDone], Revoked: j.Outcomes[record.OutcomeRevoked], Pending: j.Outcomes[record.OutcomePending]}
}
