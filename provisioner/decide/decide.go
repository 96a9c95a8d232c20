// Package decide judges: IDENTITY + request + rules → DECISION with a reason.
//
// One rule, one file, each citing where it comes from. Rules are pure: they see a
// [Case], which was read in the very transaction that will record the decision.
package decide

import (
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

// Case is everything that a rule may look at.
type Case struct {
	Now  time.Time
	Who  identity.Identity
	View record.View
	// Facts are the claims' facts.
	Facts attest.Facts
	// Ticket and Serial are what the request named; empty if it named none.
	Ticket, Serial string
}

// Refusal is a decision against, with a stable code (wire.Code…), a sentence for the
// person at the line and the next step.
type Refusal struct {
	Code, Detail, Hint string
	// Suspend: the device must be suspended for what was seen.
	Suspend bool
}

func (r *Refusal) Error() string { return r.Detail }

// A rule returns nil if it has nothing against the case.
type rule func(*Case) error

// The order is that of what one would want to read first: the final reasons, then
// what the line can mend.
var (
	enrolling = []rule{barred, standing, permitted, fresh, serialNumber, boundTPM, lotOpen, listed, assured, ekType, quota}
	returning = []rule{barred, standing, ownSerial, endorsementKeys, granted, grace}
	renewing  = []rule{standing, current, grace}
)

// Enrolment judges an enrolment, or the return of a device that is on record already:
// that one needs no ticket and is not counted.
func Enrolment(c Case) error {
	if c.Who.Known {
		return judge(returning, &c)
	}
	return judge(enrolling, &c)
}

// Renewal judges a renewal, or whether the certificate that a device shows could renew.
func Renewal(c Case) error { return judge(renewing, &c) }

func judge(rules []rule, c *Case) error {
	for _, r := range rules {
		if err := r(c); err != nil {
			return err
		}
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
