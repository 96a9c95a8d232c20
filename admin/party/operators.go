package party

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func (s *Service) list(ctx context.Context, _ *gate.Call) (any, error) {
	all, err := s.Store.RelyingParties(ctx)
	if err != nil {
		return nil, err
	}
	newest, err := s.Newest(ctx)
	out := wire.List[wire.RelyingParty]{Items: make([]wire.RelyingParty, len(all))}
	for i, p := range all {
		out.Items[i] = show(p, newest, s.Now())
	}
	return out, err
}

// silent is the age of a relay's last report at which something is wrong: it reports every twenty
// seconds, and its commands take thirty at most.
const silent = 5 * time.Minute

func show(p record.RelyingParty, newest int64, now time.Time) wire.RelyingParty {
	out := wire.RelyingParty{Name: p.Name, State: view.Standing(p.Disabled, p.Invitation, p.Accepted), Created: p.Created, Disabled: p.Disabled}
	if out.State == view.Invited {
		out.InvitedUntil = p.InvitedUntil
	}
	if p.Reported.IsZero() {
		return out
	}
	out.Reported, out.Number, out.Since, out.Until = p.Reported, p.Number, p.Since, p.Until
	out.Behind = max(0, newest-max(0, p.Number))
	out.Program, out.Fail, out.Problem, out.Version = p.Program, p.Fail, p.Problem, p.Version
	for _, f := range p.Failing {
		out.Failing = append(out.Failing, wire.RelayFailure(f))
	}
	if age := now.Sub(p.Reported); age > silent && out.State == view.Active {
		out.Problem = strings.TrimSuffix(fmt.Sprintf("nothing was heard of it for %v; %s", age.Truncate(time.Minute), p.Problem), "; ")
	}
	if p.Formats != "" {
		out.Formats = strings.Split(p.Formats, ",")
	}
	return out
}

func (s *Service) invite(ctx context.Context, c *gate.Call) (any, error) {
	var in wire.NewRelyingParty
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	switch {
	case !partyName.MatchString(in.Name):
		return nil, gate.Invalid("", "relying party %q: 1 to 32 of a-z, 0-9 and . _ -, beginning with a letter or digit", in.Name)
	case in.TTL != 0 && !gate.Within(in.TTL, time.Minute, wire.MaxInvitation):
		return nil, gate.Invalid("", "an invitation is valid for 1 minute to 7 days")
	}
	ttl := cmp.Or(time.Duration(in.TTL)*time.Second, wire.DefaultInvite)
	p := record.RelyingParty{Name: in.Name, Created: c.Now, Invitation: s.Permissions.NewID(), InvitedUntil: c.Now.Add(ttl)}
	e := c.Event("relying-party.invited", p.Name)
	e.Detail["until"] = p.InvitedUntil.UTC().Format(time.RFC3339)
	err := s.Store.InviteRelyingParty(ctx, p, e)
	if errors.Is(err, record.ErrExists) {
		err = gate.Refuse(http.StatusConflict, wire.CodeConflict, "choose another name; a relay that lost its certificate: hallmark relying-party disable "+p.Name+" first",
			"%q has a certificate, or is an operator", p.Name)
	}
	permission := wire.Permission{Kind: wire.KindRelay, ID: p.Invitation, Secret: s.Permissions.Secret(wire.KindRelay, p.Invitation), Server: s.Server, Root: s.Root}
	return wire.Invitation{Invitation: permission.String(), Expires: p.InvitedUntil}, err
}

// disable bars a relay, revokes its certificates and publishes that.
func (s *Service) disable(ctx context.Context, c *gate.Call) (any, error) {
	name := c.Request.PathValue("name")
	if err := c.Read(&struct{}{}); err != nil {
		return nil, err
	}
	e := c.Event("relying-party.disabled", name)
	e.Alert = true // nothing enforces revocations there any more
	if err := s.Store.DisableRelyingParty(ctx, name, c.Now, e); err != nil {
		return nil, gate.Absent(err, "hallmark relying-party list shows those there are", "there is no relying party %q", name)
	}
	e = c.Event("relying-party.revoked", name)
	e.By = "" // it was begun
	if _, err := s.Status.RevokePrincipal(ctx, name, record.ReasonPrivilege, e); err != nil {
		return nil, err
	}
	p, err := s.Store.RelyingParty(ctx, name)
	return show(p, 0, s.Now()), err
}
