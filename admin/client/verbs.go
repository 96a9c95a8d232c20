package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/issuers"
	"github.com/hallmark-pki/hallmark/wire/makers"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// get and post are call for the two shapes that the protocol has.
func get[T any](ctx context.Context, c *Client, path string) (answer T, err error) {
	err = c.call(ctx, http.MethodGet, path, nil, &answer)
	return answer, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (answer T, err error) {
	err = c.call(ctx, http.MethodPost, path, in, &answer)
	return answer, err
}

// nothing is the body of a request that needs none: a body of JSON is what no other
// site's page can send.
type nothing struct{}

func under(path string, names ...string) string {
	for _, name := range names {
		path += "/" + url.PathEscape(name)
	}
	return path
}

// Query says which rows of a listing are wanted.
type Query struct {
	// Filter is an expression of admin/selector; empty means all.
	Filter string
	// Limit is at most wire.MaxPage; After is the List.After of the page before.
	Limit int
	After string
}

func (q Query) on(path string) string {
	values := url.Values{"limit": {strconv.Itoa(q.Limit)}}
	if q.Filter != "" {
		values.Set("filter", q.Filter)
	}
	if q.After != "" {
		values.Set("after", q.After)
	}
	return path + "?" + values.Encode()
}

// Whoami asks which installation this is and whom it takes us for.
func (c *Client) Whoami(ctx context.Context) (wire.Whoami, error) {
	return get[wire.Whoami](ctx, c, wire.PathWhoami)
}

// Models lists the models.
func (c *Client) Models(ctx context.Context) (wire.List[wire.Model], error) {
	return get[wire.List[wire.Model]](ctx, c, wire.PathModels)
}

// Model shows a model.
func (c *Client) Model(ctx context.Context, name string) (wire.Model, error) {
	return get[wire.Model](ctx, c, under(wire.PathModels, name))
}

// CreateModel makes a model, or finds the same one.
func (c *Client) CreateModel(ctx context.Context, m wire.NewModel) (wire.Model, error) {
	return post[wire.Model](ctx, c, wire.PathModels, m)
}

// SetModel changes rules of a model.
func (c *Client) SetModel(ctx context.Context, name string, r wire.ModelRules) (wire.Model, error) {
	return post[wire.Model](ctx, c, under(wire.PathModels, name, "set"), r)
}

// Lots lists the lots.
func (c *Client) Lots(ctx context.Context) (wire.List[wire.Lot], error) {
	return get[wire.List[wire.Lot]](ctx, c, wire.PathLots)
}

// Lot shows a lot.
func (c *Client) Lot(ctx context.Context, name string) (wire.Lot, error) {
	return get[wire.Lot](ctx, c, under(wire.PathLots, name))
}

// CreateLot makes a lot, or finds the same one.
func (c *Client) CreateLot(ctx context.Context, l wire.NewLot) (wire.Lot, error) {
	return post[wire.Lot](ctx, c, wire.PathLots, l)
}

// CloseLot ends a lot for good.
func (c *Client) CloseLot(ctx context.Context, name string) (wire.Lot, error) {
	return post[wire.Lot](ctx, c, under(wire.PathLots, name, "close"), nothing{})
}

// CreateTickets makes at most wire.MaxTickets tickets, all or none.
func (c *Client) CreateTickets(ctx context.Context, t wire.NewTickets) (wire.Tickets, error) {
	return post[wire.Tickets](ctx, c, wire.PathTickets, t)
}

// Devices lists devices in order of enrolment.
func (c *Client) Devices(ctx context.Context, q Query) (wire.List[wire.Device], error) {
	return get[wire.List[wire.Device]](ctx, c, q.on(wire.PathDevices))
}

// Device shows a device by SERIAL, MODEL:SERIAL or ID, with its certificates.
func (c *Client) Device(ctx context.Context, serial string) (wire.Device, error) {
	return get[wire.Device](ctx, c, under(wire.PathDevices, serial))
}

// Suspend puts a device and its certificates on hold.
func (c *Client) Suspend(ctx context.Context, serial string, r wire.StatusRequest) (wire.StatusChange, error) {
	return post[wire.StatusChange](ctx, c, under(wire.PathDevices, serial, "suspend"), r)
}

// Restore lifts a suspension.
func (c *Client) Restore(ctx context.Context, serial string, r wire.StatusRequest) (wire.StatusChange, error) {
	return post[wire.StatusChange](ctx, c, under(wire.PathDevices, serial, "restore"), r)
}

// Revoke ends a device for good.
func (c *Client) Revoke(ctx context.Context, serial string, r wire.StatusRequest) (wire.StatusChange, error) {
	return post[wire.StatusChange](ctx, c, under(wire.PathDevices, serial, "revoke"), r)
}

// Grant lets a device come back that cannot prove enough by itself.
func (c *Client) Grant(ctx context.Context, serial string, g renewal.NewGrant) (renewal.Grant, error) {
	return post[renewal.Grant](ctx, c, under(wire.PathDevices, serial, "grant"), g)
}

// Certificates lists certificates, newest first.
func (c *Client) Certificates(ctx context.Context, q Query) (wire.List[wire.Certificate], error) {
	return get[wire.List[wire.Certificate]](ctx, c, q.on(wire.PathCerts))
}

// Certificate shows a certificate by its serial number, with its PEM.
func (c *Client) Certificate(ctx context.Context, serial string) (wire.Certificate, error) {
	return get[wire.Certificate](ctx, c, under(wire.PathCerts, serial))
}

// Operators lists the operators.
func (c *Client) Operators(ctx context.Context) (wire.List[wire.Operator], error) {
	return get[wire.List[wire.Operator]](ctx, c, wire.PathOperators)
}

// Invite makes an invitation for a new operator.
func (c *Client) Invite(ctx context.Context, o wire.NewOperator) (wire.Invitation, error) {
	return post[wire.Invitation](ctx, c, wire.PathOperators, o)
}

// DisableOperator bars an operator and revokes the operator's certificates.
func (c *Client) DisableOperator(ctx context.Context, name string) (wire.Operator, error) {
	return post[wire.Operator](ctx, c, under(wire.PathOperators, name, "disable"), nothing{})
}

// RelyingParties lists the relying parties and what each enforces.
func (c *Client) RelyingParties(ctx context.Context) (wire.List[wire.RelyingParty], error) {
	return get[wire.List[wire.RelyingParty]](ctx, c, wire.PathRelyingParties)
}

// InviteRelyingParty makes an invitation for a relying party's relay.
func (c *Client) InviteRelyingParty(ctx context.Context, p wire.NewRelyingParty) (wire.Invitation, error) {
	return post[wire.Invitation](ctx, c, wire.PathRelyingParties, p)
}

// DisableRelyingParty bars a relay and revokes its certificates.
func (c *Client) DisableRelyingParty(ctx context.Context, name string) (wire.RelyingParty, error) {
	return post[wire.RelyingParty](ctx, c, under(wire.PathRelyingParties, name, "disable"), nothing{})
}

// Authorities lists the imported TPM makers' CA certificates.
func (c *Client) Authorities(ctx context.Context) (wire.List[makers.Authority], error) {
	return get[wire.List[makers.Authority]](ctx, c, makers.PathVendorCA)
}

// ImportAuthorities imports at most wire.MaxAuthorities CA certificates (DER), all or none.
func (c *Client) ImportAuthorities(ctx context.Context, ders [][]byte) (wire.List[makers.Authority], error) {
	return post[wire.List[makers.Authority]](ctx, c, makers.PathVendorCA, makers.NewAuthorities{Certificates: ders})
}

// RemoveAuthority removes one by its fingerprint or the beginning of it.
func (c *Client) RemoveAuthority(ctx context.Context, fingerprint string) (makers.Authority, error) {
	var removed makers.Authority
	err := c.call(ctx, http.MethodDelete, under(makers.PathVendorCA, fingerprint), nil, &removed)
	return removed, err
}

// EKTypes lists which endorsement keys count, by make and model of TPM.
func (c *Client) EKTypes(ctx context.Context) (wire.List[makers.EKType], error) {
	return get[wire.List[makers.EKType]](ctx, c, makers.PathTPMs)
}

// AllowEKType lets a further endorsement key of a make and model count.
func (c *Client) AllowEKType(ctx context.Context, t makers.NewEKType) (makers.EKType, error) {
	return post[makers.EKType](ctx, c, makers.PathTPMs, t)
}

// LastEvents lists the newest events of the audit, newest first.
func (c *Client) LastEvents(ctx context.Context, limit int) (wire.List[wire.Event], error) {
	return get[wire.List[wire.Event]](ctx, c, Query{Limit: limit}.on(wire.PathAudit))
}

// EventsAfter lists the events after a sequence number, oldest first.
func (c *Client) EventsAfter(ctx context.Context, sequence int64, limit int) (wire.List[wire.Event], error) {
	q := Query{Limit: limit, After: strconv.FormatInt(sequence, 10)}
	got, err := get[wire.List[wire.Event]](ctx, c, q.on(wire.PathAudit))
	for _, e := range got.Items {
		if err == nil && e.Sequence <= sequence { // whoever follows would get the same ones for ever
			err = fmt.Errorf("%s: event %d comes after %d", c.Server(), e.Sequence, sequence)
		}
		sequence = e.Sequence
	}
	return got, err
}

// Issuers lists the issuing CAs.
func (c *Client) Issuers(ctx context.Context) (wire.List[issuers.Issuer], error) {
	return get[wire.List[issuers.Issuer]](ctx, c, issuers.Path)
}

// Issuer shows one by its name.
func (c *Client) Issuer(ctx context.Context, name string) (issuers.Issuer, error) {
	return get[issuers.Issuer](ctx, c, under(issuers.Path, name))
}

// Prove has an issuer certify the code by which a cloud wants to be shown that it is ours.
func (c *Client) Prove(ctx context.Context, issuer, code string) (issuers.Proof, error) {
	return post[issuers.Proof](ctx, c, under(issuers.Path, issuer, "prove"), issuers.NewProof{Code: code})
}

// RevokeIssuer ends every certificate that an issuing CA has issued.
func (c *Client) RevokeIssuer(ctx context.Context, issuer string, r issuers.NewRevocation) (issuers.Revocation, error) {
	return post[issuers.Revocation](ctx, c, under(issuers.Path, issuer, "revoke"), r)
}
