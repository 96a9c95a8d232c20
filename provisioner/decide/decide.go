// Package decide makes decisions: IDENTITY + request + rules → DECISION with a reason.
//
// Each rule has its own file and cites its source. Rules are pure: they see a [Case], which was
// read in the same transaction that records the decision.
package decide

import (
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

// Case is everything that a rule may consider.
type Case struct {
	Now time.Time
	// Proved is the earliest time at which the key of the certificate shown can have been proved;
	// zero means now.
	Proved time.Time
	Who    identity.Identity
	View   record.View
	// Facts are the claims' facts.
	Facts attest.Facts
	// Ticket and Serial are what the request named; empty if it named none.
	Ticket, Serial string
}

// Refusal is a negative decision: a stable code (wire.Code…), a sentence for the person at the
// line, and the next step.
type Refusal struct {
	Code, Detail, Hint string
	// Suspend: the device must be suspended.
	Suspend bool
}

func (r *Refusal) Error() string { return r.Detail }

// rule returns nil if it does not refuse the case.
type rule func(*Case) error

// The first rule that refuses gives the reason, so final reasons come before those that the line
// can fix.
var (
	enrolling = []rule{barred, standing, permitted, fresh, serialNumber, boundTPM, lotOpen, listed, assured, ekType, quota}
	returning = []rule{barred, standing, ownSerial, endorsementKeys, granted, grace}
	renewing  = []rule{standing, current, grace}
)

// Enrolment decides an enrolment, or the return of a device that is on record already, which
// needs no ticket and is not counted.
func Enrolment(c Case) error {
	if c.Who.Known {
		return judge(returning, &c)
	}
	return judge(enrolling, &c)
}

// Renewal decides a renewal, or whether the certificate that a device shows could renew.
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
