package record

import (
	"context"
	"time"
)

// Grant lets one device come back that cannot prove enough by itself: its key is in no
// chip that a maker vouches for, or its model's grace is over.
type Grant struct {
	// ID is also the id of a ticket, whose secret is derived from it as a ticket's is.
	ID     string
	Device string
	// NewKey: the device's key is lost, and whoever shows the ticket may bring one new key
	// in its place.
	NewKey           bool
	Created, Expires time.Time
	// Redeemed is when it was first made use of; zero if never.
	Redeemed time.Time
}

// Grants is how an administrator lets devices come back.
type Grants interface {
	// Grant records a grant for g.Device (g.Redeemed is not read) and ends those that it
	// had, on any clock: Expires is not after Created then. With NewKey the device's
	// certificates that are good or on hold are revoked (superseded) in the same transaction,
	// and the shards are returned that this changed: nobody holds the key rightfully any more.
	// ErrNotFound if there is no such device; ErrConflict if it is revoked, or if NewKey and it
	// has hardware; ErrExists if the ID is taken.
	Grant(ctx context.Context, g Grant, e Event) ([]Shard, error)
	// EndGrants ends all grants that were not made use of, on any clock. It is for a restore
	// that lost which were.
	EndGrants(ctx context.Context, at time.Time, e Event) error
	// GrantsOf lists a device's grants, newest first.
	GrantsOf(ctx context.Context, device string) ([]Grant, error)
}
