package issuing

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/admin/consent"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/issuers"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// revoke ends all that an issuer has issued, by a job. It takes two operators, and a successor that
// issues already, so that devices whose certificates end can get others.
func (s *Service) revoke(ctx context.Context, c *gate.Call) (any, error) {
	var in issuers.NewRevocation
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	i, err := s.find(c.Request.PathValue("name"))
	if err != nil {
		return nil, err
	}
	reason, err := s.check(in)
	if err != nil {
		return nil, err
	}
	successor := s.inUse(profile.LineOf(i.Name))
	if err := s.mayEnd(ctx, c, i, successor); err != nil {
		return nil, err
	}
	out := issuers.Revocation{Issuer: i.Name, Successor: successor.Name, Listed: i.Listed}
	// The plan is made while the devices still hold what is about to end. If the revocation waits for
	// another operator, the devices need not.
	of := record.Selection{Holding: i.Name}
	if in.Reissue {
		within := cmp.Or(time.Duration(in.Within)*time.Second, issuers.DefaultWithin)
		if out.Plan, err = s.Plans.For(ctx, c, of, within, "issuer "+i.Name+" is being revoked"); err != nil {
			return nil, err
		}
	}
	j, err := s.Store.CreateJob(ctx, of, c.Now, func(v record.JobView) (record.JobPlan, error) {
		j := record.Job{Kind: record.JobRevokeIssuer, Issuer: i.Name, Expression: "issuer = " + i.Name, Operator: c.Caller.Name, Reason: reason, Why: in.Why, State: record.JobRunning, Created: c.Now}
		e := c.Event("issuer.revoked", "")
		e.Reason, e.Alert = in.Why, true
		e.Detail["issuer"], e.Detail["successor"], e.Detail["reason"] = i.Name, successor.Name, in.Reason
		p := record.JobPlan{Job: j, Event: e}
		if !consent.Alone(v.Able, j.Operator) {
			consent.Ask(&p, cmp.Or(in.Why, in.Reason), in.BreakGlass, c.Now)
		}
		return p, nil
	})
	if err != nil {
		return nil, errors.Join(gate.Conflict(err, "hallmark issuer list"), s.withdraw(ctx, c, out.Plan))
	}
	s.Wake()
	out.Job, out.State, out.Devices = j.ID, j.State, j.Total
	open, err := s.Store.OpenApprovals(ctx, c.Now)
	for _, a := range open {
		if a.Subject == j.ID {
			out.Approval = a.ID
		}
	}
	return out, err
}

// withdraw ends the plan of a revocation that could not be made.
func (s *Service) withdraw(ctx context.Context, c *gate.Call, p *renewal.Plan) error {
	if p == nil {
		return nil
	}
	e := c.Event("job.cancelled", p.ID)
	e.By = "" // it was begun
	_, err := s.Store.CancelJob(context.WithoutCancel(ctx), p.ID, c.Now, e)
	return err
}

func (s *Service) check(in issuers.NewRevocation) (reason int, err error) {
	reason, err = view.ReadReason(record.JobRevoke, in.Reason, in.Why)
	switch {
	case err != nil:
		return 0, gate.Invalid("", "%v", err)
	case in.Within != 0 && (!in.Reissue || !gate.Within(in.Within, renewal.MinWithin, renewal.MaxWithin)):
		return 0, gate.Invalid("write 6h or 2d", "the time within which devices are issued to anew is 1 second to 90 days")
	case len(in.BreakGlass) > view.MaxWhy:
		return 0, gate.Invalid("", "the reason of a break-glass: at most %d bytes", view.MaxWhy)
	}
	return reason, nil
}

// mayEnd refuses to end an issuer that issues, one that is ended already, and the one of the caller's
// own certificate.
func (s *Service) mayEnd(ctx context.Context, c *gate.Call, i, successor Issuer) error {
	line := profile.LineOf(i.Name)
	if successor.Name == i.Name {
		return gate.Refuse(http.StatusConflict, wire.CodeConflict,
			"put its successor to use on the server: hallmarkd trust add-root "+line+", publish, activate; until then hallmark device suspend --where EXPR stops harm at once",
			"%s issues: nothing could take the place of what ends", i.Name)
	}
	if bytes.Equal(c.Caller.Certificate.AuthorityKeyId, i.Certificate.SubjectKeyId) {
		return gate.Refuse(http.StatusConflict, wire.CodeConflict, "hallmark whoami gets you one of "+successor.Name,
			"your own certificate is of %s: you would lock yourself out", i.Name)
	}
	begun, err := s.Store.IssuerRevocations(ctx)
	if err != nil {
		return err
	}
	if j := revocation(begun, i.Name); j != nil && j.State != record.JobCancelled {
		hint := "hallmark job show " + j.ID
		switch j.State { // whoever asked for it is told to try a break-glass, or is disabled
		case record.JobWaiting:
			hint += `; if nobody approves it: hallmark job cancel ` + j.ID + `, and this again with --break-glass "WHY IT CANNOT WAIT"`
		case record.JobPaused:
			hint += "; if it cannot be resumed: hallmark job cancel " + j.ID + ", and this again"
		}
		return gate.Refuse(http.StatusConflict, wire.CodeConflict, hint, "job %s revokes %s already: it is %s", j.ID, i.Name, j.State)
	}
	return nil
}
