package renewal

import (
	"time"

	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// PathPlans is like wire.PathWhoami and the others: GET ?limit=&after=: List[Plan], newest first;
// POST NewPlan: Plan; GET /ID: Plan; POST /ID/cancel: Plan.
const PathPlans = "/v1/renewals"

// Bounds of a plan's window.
const (
	MinWithin = time.Second
	MaxWithin = 90 * 24 * time.Hour
)

// NewPlan makes every device of a selection renew within a time, evenly spread over it. Revoked
// devices are left out.
type NewPlan struct {
	jobs.Selection
	// Within is in seconds.
	Within int64 `json:"within"`
	// Why is in words, for the audit, at most 1,000 bytes.
	Why string `json:"why,omitempty"`
	// DryRun only returns what the plan would be, without an ID.
	DryRun bool `json:"dry_run,omitempty"`
}

// Plan is a renewal plan: a job. State is "running", "paused", "done" or "cancelled".
type Plan struct {
	ID       string `json:"id,omitempty"`
	State    string `json:"state,omitempty"`
	Operator string `json:"operator"`
	// Where is the expression; empty if devices were named.
	Where string `json:"where,omitempty"`
	Why   string `json:"why,omitempty"`
	// Created and Due are the window. A device that first asks after it renews at once.
	Created time.Time `json:"created"`
	Due     time.Time `json:"due"`
	Ended   time.Time `json:"ended,omitzero"`
	// Total counts its devices, Told those that have asked and know their moment, Renewed those
	// that are done, Revoked those that were revoked before renewing, Pending the others.
	Total   int64 `json:"total"`
	Told    int64 `json:"told"`
	Renewed int64 `json:"renewed"`
	Revoked int64 `json:"revoked"`
	Pending int64 `json:"pending"`
	// Missing names at most ten of the pending ones, when a single plan is shown.
	Missing []string `json:"missing,omitempty"`
	// Late counts, by model, the devices of a new plan that ask less often than once per window:
	// some of them will only renew when they next ask.
	Late []jobs.Tally `json:"late,omitempty"`
}
