package admin

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func (s *Service) operators(ctx context.Context, _ *gate.Call) (any, error) {
	all, err := s.Store.Operators(ctx)
	return view.List(all, "", showOperator), err
}

func (s *Service) invite(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.NewOperator
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	switch {
	case !operatorName.MatchString(in.Name):
		return nil, gate.Invalid("", "operator %q: 1 to 32 of a-z, 0-9 and . _ -, beginning with a letter or digit", in.Name)
	case in.TTL != 0 && !gate.Within(in.TTL, time.Minute, wire.MaxInvitation):
		return nil, gate.Invalid("", "an invitation is valid for 1 minute to 7 days")
	}
	ttl := cmp.Or(time.Duration(in.TTL)*time.Second, wire.DefaultInvite)
	o := record.Operator{Name: in.Name, Created: c.Now, Invitation: s.Permissions.NewID(), InvitedUntil: c.Now.Add(ttl)}
	e := c.Event("operator.invited", o.Name)
	e.Detail["until"] = o.InvitedUntil.UTC().Format(time.RFC3339)
	if err := s.Watch.Need(ctx, c, &e, record.ApproveOperator, o.Name, o.Name); err != nil {
		return nil, err
	}
	err := s.Store.Invite(ctx, o, e)
	if errors.Is(err, record.ErrExists) {
		err = gate.Refuse(http.StatusConflict, wire.CodeConflict, "a second person, or a second computer, needs a name of its own; who lost the certificate, or never got it: hallmark operator disable "+o.Name+" first",
			"%q is an operator with a certificate, or with one that is being signed, or a relying party", o.Name)
	}
	return wire.Invitation{Invitation: s.permission(wire.KindInvitation, o.Invitation, s.OperatorServer), Expires: o.InvitedUntil}, err
}

// disable bars an operator, revokes the operator's certificates and publishes that.
func (s *Service) disable(ctx context.Context, c *gate.Call) (any, error) {
	name := c.Request.PathValue("name")
	if err := c.Read(&struct{}{}); err != nil {
		return nil, err
	}
	if _, err := s.Store.Operator(ctx, name); err != nil {
		return nil, gate.Absent(err, "hallmark operator list shows those there are", "there is no operator %q", name)
	}
	e := c.Event("operator.disabled", name)
	e.Alert = true
	err := s.Store.DisableOperator(ctx, name, c.Now, e)
	if errors.Is(err, record.ErrConflict) {
		return nil, gate.Refuse(http.StatusConflict, wire.CodeLastOperator,
			"invite another first; when nobody can sign in any more, hallmarkd operator recover on the server is the way back",
			"without %q nobody could administer this installation", name)
	}
	if err != nil {
		return nil, err
	}
	e = c.Event("operator.revoked", name)
	e.By = "" // it was begun
	if _, err := s.Status.RevokePrincipal(ctx, name, record.ReasonPrivilege, e); err != nil {
		return nil, err
	}
	o, err := s.Store.Operator(ctx, name)
	return showOperator(o), err
}
