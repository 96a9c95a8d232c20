package admin

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/makers"
)

// routes are the verbs of the API.
func (s *Service) routes() []gate.Route {
	return []gate.Route{
		{Pattern: "GET " + wire.PathTrust, Handle: s.trust, Open: true},
		{Pattern: "POST " + wire.PathAccept, Handle: s.issuance().Accept, Open: true},
		{Pattern: "GET " + wire.PathWhoami, Handle: s.whoami},

		{Pattern: "GET " + wire.PathModels, Handle: s.models},
		{Pattern: "GET " + wire.PathModels + "/{name}", Handle: s.model},
		{Pattern: "POST " + wire.PathModels, Handle: s.createModel},
		{Pattern: "POST " + wire.PathModels + "/{name}/set", Handle: s.setModel},
		{Pattern: "GET " + wire.PathLots, Handle: s.lots},
		{Pattern: "GET " + wire.PathLots + "/{name}", Handle: s.lot},
		{Pattern: "POST " + wire.PathLots, Handle: s.createLot, Limit: 160 * wire.MaxListed},
		{Pattern: "POST " + wire.PathLots + "/{name}/close", Handle: s.closeLot},
		{Pattern: "POST " + wire.PathTickets, Handle: s.createTickets, Limit: 256 * wire.MaxTickets},

		{Pattern: "GET " + wire.PathDevices, Handle: s.devices},
		{Pattern: "GET " + wire.PathDevices + "/{device}", Handle: s.device},
		{Pattern: "POST " + wire.PathDevices + "/{device}/suspend", Handle: s.changing(record.JobSuspend)},
		{Pattern: "POST " + wire.PathDevices + "/{device}/restore", Handle: s.changing(record.JobRestore)},
		{Pattern: "POST " + wire.PathDevices + "/{device}/retire", Handle: s.changing(record.JobRetire)},
		{Pattern: "POST " + wire.PathDevices + "/{device}/revoke", Handle: s.changing(record.JobRevoke)},
		{Pattern: "POST " + wire.PathDevices + "/{device}/grant", Handle: s.grant},
		{Pattern: "POST " + wire.PathDevices + "/{device}/lift", Handle: s.lift},
		{Pattern: "GET " + wire.PathCerts, Handle: s.certificates},
		{Pattern: "GET " + wire.PathCerts + "/{serial}", Handle: s.certificate},

		{Pattern: "GET " + wire.PathOperators, Handle: s.operators},
		{Pattern: "POST " + wire.PathOperators, Handle: s.invite},
		{Pattern: "POST " + wire.PathOperators + "/{name}/disable", Handle: s.disable},
		{Pattern: "POST " + wire.PathRenewal, Handle: s.issuance().Renew},

		{Pattern: "GET " + makers.PathVendorCA, Handle: s.authorities},
		{Pattern: "POST " + makers.PathVendorCA, Handle: s.importAuthorities, Limit: 4 << 20},
		{Pattern: "DELETE " + makers.PathVendorCA + "/{fingerprint}", Handle: s.removeAuthority},
		{Pattern: "GET " + makers.PathTPMs, Handle: s.ekTypes},
		{Pattern: "POST " + makers.PathTPMs, Handle: s.allowEKType},
		{Pattern: "GET " + wire.PathAudit, Handle: s.audit},
	}
}

// Handler serves the operators' listener, which requests client certificates over TLS
// 1.3 without session tickets and leaves judging them to this package.
func (s *Service) Handler() http.Handler {
	g := gate.Gate{Kind: "operator", Authenticate: s.callers().Recognise, Unseen: s.unseen, Note: s.Store.Note, Now: s.Now, Log: s.Log}
	return g.Handler(append(s.routes(), s.Further...))
}

// unseen counts alerts, up to a hundred.
func (s *Service) unseen(ctx context.Context, operator string) (int, error) {
	alerts, err := s.Store.Alerts(ctx, operator, 100)
	return len(alerts), err
}

// trust gives the newest bundle or, asked for what comes after one, the steps to it.
func (s *Service) trust(_ context.Context, c *gate.Call) (any, error) {
	after := c.Request.URL.Query().Get("after")
	if after == "" || s.Since == nil {
		return s.Bundle(), nil
	}
	n, err := strconv.ParseInt(after, 10, 64)
	if err != nil || n < 0 {
		return nil, gate.Malformed(errors.New("after takes the number of a trust bundle"))
	}
	return s.Since(n), nil
}

func (s *Service) whoami(_ context.Context, c *gate.Call) (any, error) {
	return wire.Whoami{Name: s.Name, Version: s.Version, Operator: c.Caller.Name, Time: c.Now,
		Certificate: profile.SerialText(c.Caller.Certificate.SerialNumber), Expires: c.Caller.Certificate.NotAfter}, nil
}
