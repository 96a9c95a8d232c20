package client

import (
	"context"

	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// PlanRenewal has devices renew within a time.
func (c *Client) PlanRenewal(ctx context.Context, p renewal.NewPlan) (renewal.Plan, error) {
	return post[renewal.Plan](ctx, c, renewal.PathPlans, p)
}

// RenewalPlans lists renewal plans, newest first. A page may have fewer than were asked
// for although another follows.
func (c *Client) RenewalPlans(ctx context.Context, q Query) (wire.List[renewal.Plan], error) {
	return get[wire.List[renewal.Plan]](ctx, c, q.on(renewal.PathPlans))
}

// RenewalPlan shows a renewal plan.
func (c *Client) RenewalPlan(ctx context.Context, id string) (renewal.Plan, error) {
	return get[renewal.Plan](ctx, c, under(renewal.PathPlans, id))
}

// CancelRenewal ends a renewal plan.
func (c *Client) CancelRenewal(ctx context.Context, id string) (renewal.Plan, error) {
	return post[renewal.Plan](ctx, c, under(renewal.PathPlans, id, "cancel"), nothing{})
}
