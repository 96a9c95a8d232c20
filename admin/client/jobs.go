package client

import (
	"context"

	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Retire ends a device that has served its time.
func (c *Client) Retire(ctx context.Context, serial string, r wire.StatusRequest) (wire.StatusChange, error) {
	return post[wire.StatusChange](ctx, c, under(wire.PathDevices, serial, "retire"), r)
}

// Lift takes away a revoked device's tombstones, so that it may come back.
func (c *Client) Lift(ctx context.Context, serial string, r wire.StatusRequest) (wire.StatusChange, error) {
	return post[wire.StatusChange](ctx, c, under(wire.PathDevices, serial, "lift"), r)
}

// Survey says what a job about a selection would touch.
func (c *Client) Survey(ctx context.Context, of jobs.Selection) (jobs.Survey, error) {
	return post[jobs.Survey](ctx, c, jobs.PathSurvey, of)
}

// Label sets and removes labels.
func (c *Client) Label(ctx context.Context, l jobs.NewLabels) (jobs.Labelled, error) {
	return post[jobs.Labelled](ctx, c, jobs.PathLabels, l)
}

// CreateJob asks for one act on many devices. The answer says whether it runs or waits.
func (c *Client) CreateJob(ctx context.Context, j jobs.New) (jobs.Job, error) {
	return post[jobs.Job](ctx, c, jobs.PathJobs, j)
}

// Jobs lists jobs, newest first.
func (c *Client) Jobs(ctx context.Context, q Query) (wire.List[jobs.Job], error) {
	return get[wire.List[jobs.Job]](ctx, c, q.on(jobs.PathJobs))
}

// Job shows a job and who enforces what it changed.
func (c *Client) Job(ctx context.Context, id string) (jobs.Progress, error) {
	return get[jobs.Progress](ctx, c, under(jobs.PathJobs, id))
}

// JobDevices lists a job's devices; Query.Filter is an outcome.
func (c *Client) JobDevices(ctx context.Context, id string, q Query) (wire.List[jobs.Device], error) {
	return get[wire.List[jobs.Device]](ctx, c, q.on(under(jobs.PathJobs, id, "devices")))
}

// MoveJob pauses, resumes or cancels a job.
func (c *Client) MoveJob(ctx context.Context, id, verb string) (jobs.Job, error) {
	return post[jobs.Job](ctx, c, under(jobs.PathJobs, id, verb), nothing{})
}

// Report gives the signed report of a job.
func (c *Client) Report(ctx context.Context, id string) (jobs.SignedReport, error) {
	return get[jobs.SignedReport](ctx, c, under(jobs.PathJobs, id, "report"))
}

// Approvals lists what waits for a second operator.
func (c *Client) Approvals(ctx context.Context) (wire.List[jobs.Approval], error) {
	return get[wire.List[jobs.Approval]](ctx, c, jobs.PathApprovals)
}

// Approve gives consent to another's request, or reviews a break-glass.
func (c *Client) Approve(ctx context.Context, id string) (jobs.Approval, error) {
	return post[jobs.Approval](ctx, c, under(jobs.PathApprovals, id), nothing{})
}

// Alerts lists the alerts that we have not seen, oldest first.
func (c *Client) Alerts(ctx context.Context) (wire.List[wire.Event], error) {
	return get[wire.List[wire.Event]](ctx, c, jobs.PathAlerts)
}

// SeeAlerts notes that we have seen the alerts up to a sequence number.
func (c *Client) SeeAlerts(ctx context.Context, upTo int64) error {
	return c.call(ctx, "POST", jobs.PathAlerts, jobs.SeenAlerts{UpTo: upTo}, nil)
}

// Settings lists what operators may change while the server runs.
func (c *Client) Settings(ctx context.Context) (wire.List[jobs.Setting], error) {
	return get[wire.List[jobs.Setting]](ctx, c, jobs.PathSettings)
}

// Set changes a setting.
func (c *Client) Set(ctx context.Context, name string, s jobs.NewSetting) (jobs.Setting, error) {
	return post[jobs.Setting](ctx, c, under(jobs.PathSettings, name), s)
}
