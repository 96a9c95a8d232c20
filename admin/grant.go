package admin

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/selection"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// grant lets a device come back that cannot prove enough by itself. With a new key the
// certificates of the old one are on CRLs when the answer comes, which counts as a
// revocation: by it the identities of a whole fleet could be ended.
func (s *Service) grant(ctx context.Context, c *gate.Call) (any, error) {
	var in renewal.NewGrant
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	switch {
	case in.For != 0 && !gate.Within(in.For, renewal.MinGrant, renewal.MaxGrant):
		return nil, gate.Invalid("", "a device may be let in for 1 minute to 90 days")
	case len(in.Why) > view.MaxWhy:
		return nil, gate.Invalid("", "why: at most %d bytes", view.MaxWhy)
	}
	d, err := selection.One(ctx, s.Store, c.Request.PathValue("device"))
	if err != nil {
		return nil, err
	}
	g := record.Grant{ID: s.Permissions.NewID(), Device: d.ID, NewKey: in.NewKey, Created: c.Now,
		Expires: c.Now.Add(cmp.Or(time.Duration(in.For)*time.Second, renewal.DefaultGrant))}
	e := c.Event("device.granted", d.Name())
	e.Reason = in.Why
	e.Alert = g.NewKey // it ends certificates
	e.Detail["until"], e.Detail["new_key"] = g.Expires.UTC().Format(time.RFC3339), strconv.FormatBool(g.NewKey)
	shards, err := s.recordGrant(ctx, c, d, g, e)
	switch {
	case errors.Is(err, record.ErrConflict) && d.Assurance.Hardware && d.State != record.StateRevoked:
		return nil, gate.Refuse(http.StatusConflict, wire.CodeConflict, "without --new-key it comes back with the keys that its TPM has",
			"%s has a TPM, which keeps its keys", d.Name())
	case errors.Is(err, record.ErrConflict):
		return nil, gate.Refuse(http.StatusConflict, wire.CodeRevoked, "a revocation is final", "%s is revoked", d.Name())
	case err != nil:
		return nil, err
	}
	if _, err := s.Status.PublishChange(ctx, shards, nil); err != nil {
		return nil, err
	}
	out := showGrant(d, g)
	out.Unsigned = s.Status.Unsigned(shards)
	if g.NewKey {
		out.Ticket = s.permission(wire.KindTicket, g.ID, s.DeviceServer)
	}
	return out, nil
}

// recordGrant asks another operator if the caller may not end so much alone.
func (s *Service) recordGrant(ctx context.Context, c *gate.Call, d record.Device, g record.Grant, e record.Event) (shards []record.Shard, err error) {
	write := func() error {
		shards, err = s.Store.Grant(ctx, g, e)
		return err
	}
	if !g.NewKey || d.Assurance.Hardware || d.State == record.StateRevoked {
		err = write()
		return shards, err
	}
	err = s.Watch.RevokeOne(ctx, c, d, write)
	if err != nil && gate.Problem(err).Code == wire.CodeApproval {
		if err = s.Watch.Need(ctx, c, &e, record.ApproveGrant, d.ID, d.Name()); err == nil {
			err = write()
		}
	}
	return shards, err
}

func showGrant(d record.Device, g record.Grant) renewal.Grant {
	return renewal.Grant{Device: d.Name(), NewKey: g.NewKey, Created: g.Created, Expires: g.Expires, Redeemed: g.Redeemed, State: d.State}
}

// granted is until when a device may come back by a grant; zero if it has none that is
// good now.
func (s *Service) granted(ctx context.Context, d record.Device, now time.Time) (time.Time, error) {
	all, err := s.Store.GrantsOf(ctx, d.ID)
	if err != nil || len(all) == 0 || !now.Before(all[0].Expires) {
		return time.Time{}, err
	}
	return all[0].Expires, nil
}
