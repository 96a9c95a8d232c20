package bulk

import (
	"context"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

func (s *Service) list(ctx context.Context, c *gate.Call) (any, error) {
	page, filter, err := c.Page()
	if err != nil {
		return nil, err
	}
	if filter != "" {
		return nil, gate.Invalid("", "jobs are listed newest first, without a filter")
	}
	rows, after, err := s.Store.Jobs(ctx, page)
	if err != nil {
		return nil, err
	}
	open, err := s.Store.OpenApprovals(ctx, c.Now)
	return view.List(rows, after, func(j record.Job) jobs.Job { return showJob(j, open) }), err
}

func showJob(j record.Job, open []record.Approval) jobs.Job {
	out := jobs.Job{ID: j.ID, Kind: j.Kind, State: j.State, Operator: j.Operator, Where: j.Expression, Why: j.Why, Created: j.Created, Ended: j.Ended,
		Stages: j.Stages, Until: j.Until, Total: j.Total, Outcomes: map[string]int64{}, Change: j.Change, Changed: j.Changed}
	if j.Target() == record.StateRevoked {
		out.Reason = view.Reason(j.Reason)
	}
	for outcome, n := range j.Outcomes {
		if outcome == record.OutcomePending {
			outcome = jobs.Pending
		}
		out.Outcomes[outcome] = n
	}
	for _, a := range open {
		if a.Subject == j.ID && (a.Kind == record.ApproveJob || a.Kind == record.ReviewJob) {
			out.Approval = a.ID
		}
	}
	return out
}

// shown is a job with the request or review that is open for it.
func (s *Service) shown(ctx context.Context, j record.Job, now time.Time) (jobs.Job, error) {
	about, err := s.about(ctx, j.ID)
	if err != nil {
		return jobs.Job{}, err
	}
	glass := ""
	if n := len(about); n > 0 && about[n-1].Kind == record.ReviewJob {
		glass = about[n-1].Why
	}
	out := showJob(j, slices.DeleteFunc(about, func(a record.Approval) bool {
		return a.Approver != "" || a.Kind == record.ApproveJob && (j.State != record.JobWaiting || !a.Expires.After(now))
	}))
	out.BreakGlass = glass
	out.Unsigned, err = s.unsigned(ctx, j)
	return out, err
}

// unsigned asks for a job's shards, which takes a while if it is large, only if an issuer was lost.
func (s *Service) unsigned(ctx context.Context, j record.Job) (map[string]string, error) {
	issuers, err := s.Store.Issuers(ctx)
	if err != nil || s.Unsigned(view.Each(issuers, func(name string) record.Shard { return record.Shard{Issuer: name} })) == nil {
		return nil, err
	}
	shards, err := s.Store.JobShards(ctx, j.ID, j.Created)
	return s.Unsigned(shards), err
}

// about are the requests and reviews of a job, which come last.
func (s *Service) about(ctx context.Context, job string) ([]record.Approval, error) {
	requests, err := s.Store.ApprovalsOf(ctx, record.ApproveJob, job)
	if err != nil {
		return nil, err
	}
	reviews, err := s.Store.ApprovalsOf(ctx, record.ReviewJob, job)
	return append(requests, reviews...), err
}

func (s *Service) show(ctx context.Context, c *gate.Call) (any, error) {
	id := c.Request.PathValue("id")
	j, err := s.Store.Job(ctx, id)
	if err != nil {
		return nil, worded(err, id)
	}
	out := jobs.Progress{}
	if out.Job, err = s.shown(ctx, j, c.Now); err != nil {
		return nil, err
	}
	out.Enforcement, err = s.enforcement(ctx, j)
	return out, err
}

// enforcement is who acts upon what a job has changed; nobody if it has changed nothing.
func (s *Service) enforcement(ctx context.Context, j record.Job) ([]jobs.Enforced, error) {
	out := []jobs.Enforced{}
	if j.Change == 0 {
		return out, nil
	}
	taken, err := s.Store.TakenUp(ctx, j.Change, j.ID)
	if err != nil {
		return nil, err
	}
	parties, err := s.Store.RelyingParties(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range taken {
		e := jobs.Enforced{Name: t.Name, At: t.At}
		if i := slices.IndexFunc(parties, func(p record.RelyingParty) bool { return p.Name == t.Name }); i >= 0 {
			e.Reported, e.Problem = parties[i].Reported, parties[i].Problem
		}
		out = append(out, e)
	}
	return out, nil
}

func (s *Service) devices(ctx context.Context, c *gate.Call) (any, error) {
	page, outcome, err := c.Page()
	if err != nil {
		return nil, err
	}
	id := c.Request.PathValue("id")
	if _, err := s.Store.Job(ctx, id); err != nil {
		return nil, worded(err, id)
	}
	rows, after, err := s.Store.JobDevices(ctx, id, outcome, page)
	return view.List(rows, after, showDevice), err
}

func showDevice(d record.JobDevice) jobs.Device {
	out := jobs.Device{Device: d.Device, Name: d.Name, Outcome: d.Outcome, At: d.At}
	if out.Outcome == record.OutcomePending {
		out.Outcome = jobs.Pending
	}
	return out
}

func (s *Service) pause(ctx context.Context, c *gate.Call) (any, error) {
	return s.move(ctx, c, "job.paused", s.Store.PauseJob)
}

func (s *Service) resume(ctx context.Context, c *gate.Call) (any, error) {
	return s.move(ctx, c, "job.resumed", func(ctx context.Context, id string, e record.Event) (record.Job, error) {
		return s.Store.ResumeJob(ctx, id, c.Now, e)
	})
}

func (s *Service) cancel(ctx context.Context, c *gate.Call) (any, error) {
	return s.move(ctx, c, "job.cancelled", func(ctx context.Context, id string, e record.Event) (record.Job, error) {
		return s.Store.CancelJob(ctx, id, c.Now, e)
	})
}

func (s *Service) move(ctx context.Context, c *gate.Call, verb string, do func(context.Context, string, record.Event) (record.Job, error)) (any, error) {
	if err := c.Read(&struct{}{}); err != nil {
		return nil, err
	}
	id := c.Request.PathValue("id")
	j, err := do(ctx, id, c.Event(verb, id))
	if err != nil {
		return nil, worded(err, id)
	}
	s.Wake() // also to publish at once what a job that was stopped has done
	return s.shown(ctx, j, c.Now)
}
