package bulk

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/consent"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

func (s *Service) approvals(ctx context.Context, c *gate.Call) (any, error) {
	open, err := s.Store.OpenApprovals(ctx, c.Now)
	if err != nil {
		return nil, err
	}
	out := wire.List[jobs.Approval]{Items: make([]jobs.Approval, len(open))}
	for i, a := range open {
		if out.Items[i], err = s.showApproval(ctx, a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// showApproval also says what it is about.
func (s *Service) showApproval(ctx context.Context, a record.Approval) (jobs.Approval, error) {
	out := jobs.Approval{ID: a.ID, Kind: a.Kind, Subject: a.Subject, Why: a.Why, Requester: a.Requester,
		Requested: a.Requested, Expires: a.Expires, Approver: a.Approver, Approved: a.Approved}
	switch a.Kind {
	case record.ApproveJob, record.ReviewJob:
		j, err := s.Store.Job(ctx, a.Subject)
		if err != nil {
			return out, err
		}
		shown := showJob(j, nil)
		out.Job = &shown
	case record.ApproveTombstone, record.ApproveGrant:
		d, err := s.Store.Device(ctx, a.Subject)
		if err != nil {
			return out, err
		}
		out.Subject = d.Name()
	}
	return out, nil
}

func (s *Service) approve(ctx context.Context, c *gate.Call) (any, error) {
	if err := c.Read(&struct{}{}); err != nil {
		return nil, err
	}
	id := c.Request.PathValue("id")
	asked, err := s.Store.Approval(ctx, id)
	if err != nil {
		return nil, worded(err, id)
	}
	if asked.Requester == c.Caller.Name {
		return nil, s.ownRequest(ctx, c, asked)
	}
	verb := "approval.given"
	if asked.Kind == record.ReviewJob {
		verb = "review.done"
	}
	shown, err := s.showApproval(ctx, asked)
	if err != nil {
		return nil, err
	}
	e := c.Event(verb, shown.Subject)
	e.Reason, e.Alert = asked.Why, true
	e.Detail["request"], e.Detail["kind"], e.Detail["requester"] = asked.ID, asked.Kind, asked.Requester
	a, err := s.Store.Approve(ctx, id, c.Caller.Name, c.Now, e)
	if err != nil {
		return nil, worded(err, id)
	}
	s.Wake()
	return s.showApproval(ctx, a)
}

// ownRequest refuses to let operators approve what they asked for, and says who may.
func (s *Service) ownRequest(ctx context.Context, c *gate.Call, a record.Approval) error {
	others, err := s.Watch.Others(ctx, c.Caller.Name, c.Now)
	if err != nil {
		return err
	}
	hint := "nobody else has a certificate now: hallmark operator list"
	if len(others) > 0 {
		hint = "who may: " + strings.Join(others, ", ")
	}
	if a.Kind == record.ApproveJob {
		hint += `; if nobody answers: the same command with --break-glass "WHY IT CANNOT WAIT"`
	}
	return gate.Refuse(http.StatusConflict, wire.CodeConflict, hint, "request %s is your own: another operator must approve it", a.ID)
}

// maxAlerts is how many alerts are shown at once.
const maxAlerts = 1000

func (s *Service) alerts(ctx context.Context, c *gate.Call) (any, error) {
	rows, err := s.Store.Alerts(ctx, c.Caller.Name, maxAlerts)
	return view.List(rows, "", view.Event), err
}

func (s *Service) seen(ctx context.Context, c *gate.Call) (any, error) {
	var in jobs.SeenAlerts
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	return in, s.Store.SeeAlerts(ctx, c.Caller.Name, in.UpTo)
}

// maxThreshold is the greatest value of jobs.SettingRevokeThreshold.
const maxThreshold = 1_000_000

func (s *Service) settings(ctx context.Context, _ *gate.Call) (any, error) {
	n, err := s.Watch.Threshold(ctx)
	return wire.List[jobs.Setting]{Items: []jobs.Setting{threshold(n)}}, err
}

func threshold(n int64) jobs.Setting {
	return jobs.Setting{Name: jobs.SettingRevokeThreshold, Value: strconv.FormatInt(n, 10), Default: strconv.Itoa(consent.DefaultThreshold)}
}

// set changes a setting, which takes two operators: a setting may be what requires the
// second.
func (s *Service) set(ctx context.Context, c *gate.Call) (any, error) {
	var in jobs.NewSetting
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	name := c.Request.PathValue("name")
	n, err := strconv.ParseInt(in.Value, 10, 64)
	switch {
	case name != jobs.SettingRevokeThreshold:
		return nil, gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "hallmark setting list shows those there are", "there is no setting %q", name)
	case err != nil || n < 0 || n > maxThreshold:
		return nil, gate.Invalid("", "%s %q: a number from 0 to %d", name, in.Value, maxThreshold)
	case len(in.Why) > view.MaxWhy:
		return nil, gate.Invalid("", "why: at most %d bytes", view.MaxWhy)
	}
	value := strconv.FormatInt(n, 10)
	now, err := s.Watch.Threshold(ctx)
	if err != nil || n == now {
		return threshold(now), err
	}
	e := c.Event("setting.changed", name)
	e.Reason, e.Alert = in.Why, true
	e.Detail["value"] = value
	if err := s.Watch.Need(ctx, c, &e, record.ApproveSetting, name+"="+value, name+"="+value); err != nil {
		return nil, err
	}
	return threshold(n), s.Store.SetSetting(ctx, name, value, e)
}
