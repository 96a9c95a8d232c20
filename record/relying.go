package record

import (
	"context"
	"time"
)

// RelyingParty is whoever accepts LDevIDs and has a relay beside it that reports what is
// enforced there. Its relay's certificates bear its name in Certificate.Principal.
type RelyingParty struct {
	Name     string
	Created  time.Time
	Disabled time.Time
	// Invitation, InvitedUntil and Accepted are as in Operator.
	Invitation   string
	InvitedUntil time.Time
	Accepted     [32]byte
	// Enforcement is the newest report, zero if there was none.
	Enforcement
}

// Enforcement is what a relay reports, after its relying party has taken it up.
type Enforcement struct {
	// Number is the newest change (Changes) that is enforced, with all before it; -1 if
	// nothing is.
	Number int64
	// Since is when Number was first reported, Reported when the report came.
	Since, Reported time.Time
	// Formats are the kinds of files that the relay keeps, separated by commas; Program is
	// what for.
	Formats, Program string
	// Fail is "open" or "closed": what happens when Until has passed without contact.
	Fail  string
	Until time.Time
	// Problem says what keeps newer changes from being enforced; empty if nothing does.
	Problem string
	// Version is the relay's.
	Version string
	// Failing are the devices for which the relay's command fails: what happened to each from
	// Change on is not enforced, whatever Number says.
	Failing []Failure
}

// Failure is a device for which a relay's command fails.
type Failure struct {
	// Device is its name, MODEL:SERIAL; Change the first that it was not run for.
	Device string
	Change int64
	// Since is when it first failed, Times how often it has.
	Since time.Time
	Times int64
}

// Taken is when a relying party was first known to enforce a change.
type Taken struct {
	Name string
	// At is zero while it is not known to.
	At time.Time
}

// RelyingParties is who acts upon revocations, and how far they are. Operators and relying
// parties share one set of names: RevokePrincipal ends the certificates of either.
type RelyingParties interface {
	// InviteRelyingParty records a relying party with an invitation, or invites a recorded
	// one again, also one that was disabled. ErrExists if an operator has the name, or if
	// at p.Created it has a certificate that is neither expired nor revoked.
	InviteRelyingParty(ctx context.Context, p RelyingParty, e Event) error
	// AcceptRelyingParty is AcceptInvitation for relying parties.
	AcceptRelyingParty(ctx context.Context, id string, key [32]byte, at time.Time, e Event) (RelyingParty, error)
	// DisableRelyingParty is DisableOperator for relying parties.
	DisableRelyingParty(ctx context.Context, name string, at time.Time, e Event) error
	// Report keeps the newest report of a relying party; no event is written. Since is not
	// read. ErrNotFound if there is none of that name, ErrConflict if it is disabled. A Failure
	// of a device that is not recorded means nothing to TakenUp.
	Report(ctx context.Context, name string, r Enforcement) error
	// TakenUp says since when each relying party enforces a change of a job, by its reports,
	// ordered by name; those that are disabled or never reported are left out. As long as a
	// relying party reports a Failure, of that change or one before, for a device that the job
	// has done with, it does not enforce it, and does so from the end of the Failure on. Of each, the
	// last thousand steps and failures are kept: what is older counts as enforced since the
	// oldest of them.
	TakenUp(ctx context.Context, number int64, job string) ([]Taken, error)
	RelyingParty(ctx context.Context, name string) (RelyingParty, error)
	RelyingParties(ctx context.Context) ([]RelyingParty, error)
}
