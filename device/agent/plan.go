package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// act is a thing to do.
type act string

const (
	enrol act = "enrolling"
	ask   act = "asking when to renew"
	renew act = "renewing"
)

// step is what comes next, and when.
type step struct {
	act act
	at  time.Time
}

// knowledge is what this process knows beyond what is on file.
type knowledge struct {
	// unsure: only the system clock tells the time; impossible: it is certainly wrong.
	unsure, impossible bool
	// foreign: the working key is not this chip's.
	foreign bool
	// renewals are when it last renewed, the oldest first; zero if it has not.
	renewals [maxRenewals]time.Time
}

// next derives what comes next.
func (a *Agent) next(s device.Status, unreadable error, o state.Outcome, now time.Time) step {
	return plan(s, unreadable, o, now, knowledge{!a.clock.sure, a.clock.impossible(), a.foreign, a.renewals})
}

// plan is next by what is on file and what is known.
func plan(s device.Status, unreadable error, o state.Outcome, now time.Time, k knowledge) step {
	next := step{renew, s.RenewAfter}
	switch {
	case unreadable != nil, s.Condition == device.NotEnrolled:
		next = step{enrol, now}
	case s.LDevID == nil:
		next.at = now
	case k.foreign, k.unsure && (k.impossible || s.Condition == device.Expired):
		// Asking distinguishes a copied state from a cleared chip, and tells the time: if the
		// server accepts the certificate, our clock is wrong.
		next = step{ask, now}
	case s.Condition == device.Expired:
		next.at = now
	case s.Poll > 0:
		if at := askAt(s, o, now); at.Before(next.at) && now.Before(next.at) { // a renewal includes asking
			next = step{ask, at}
		}
	}
	// A server whose clock is wrong may want each new certificate renewed at once, for ever.
	// Operators may want it once more within the hour.
	if again := k.renewals[0].Add(longest(life(s))); next.act == renew && s.LDevID != nil && again.After(next.at) && !now.Before(k.renewals[0]) {
		next.at = again
	}
	// A moment far ahead is from a clock that was set back since.
	if o.NotBefore.After(next.at) && o.NotBefore.Sub(now) <= maxWait {
		next.at = o.NotBefore
	}
	return next
}

// askAt is when to ask the server again. Jitter of up to a tenth separates devices that were
// switched on together.
func askAt(s device.Status, o state.Outcome, now time.Time) time.Time {
	if o.Contact.After(now) {
		return now // the clock was set back since
	}
	every := time.Duration(s.Poll) * time.Second
	sum := sha256.Sum256([]byte(s.Device + "\n" + o.Contact.UTC().Format(time.RFC3339)))
	return o.Contact.Add(every + time.Duration(binary.BigEndian.Uint64(sum[:])%uint64(every/10+1)))
}

const (
	// firstBackoff and maxBackoff bound the delay after failures; a short-lived certificate
	// lowers the maximum.
	firstBackoff = 15 * time.Second
	maxBackoff   = time.Hour
	// maxRenewals is how often a device renews within the longest delay.
	maxRenewals = 3
	// finalBackoff is how often a device asks that was refused for good.
	finalBackoff = 24 * time.Hour
	// maxWait is the longest delay before another attempt.
	maxWait = finalBackoff + 2*maxBackoff
)

// longest is the longest delay after failures, for certificates with this lifetime.
func longest(life time.Duration) time.Duration {
	return min(max(life/20, firstBackoff), maxBackoff)
}

// backoff is the delay after that many failures in a row: random up to a bound that doubles each
// time ("full jitter"), so that devices that failed together do not come back together.
func backoff(failures int, life time.Duration, random func() float64) time.Duration {
	bound := firstBackoff
	for range failures - 1 {
		if bound *= 2; bound >= longest(life) {
			bound = longest(life)
			break
		}
	}
	return max(time.Duration(random()*float64(bound)), time.Second)
}

// fail enters a failure into the outcome. Being given a turn is not a failure: the server says
// when to come.
func fail(o *state.Outcome, err error, now time.Time, life time.Duration, random func() float64) {
	o.Attempt = now
	if code(err) == wire.CodeTurn {
		o.NotBefore = now.Add(client.RetryAfter(err) + backoff(1, life, random))
		return
	}
	o.Failures++
	o.Failure = &state.Failure{Time: now, Code: clip(code(err)), Detail: clip(err.Error())}
	wait := backoff(o.Failures, life, random)
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		o.Failure.Detail = clip(p.Detail)
		if p.Final() {
			o.Final = o.Failure
			wait += finalBackoff
		}
	}
	o.NotBefore = now.Add(min(client.RetryAfter(err)+wait, maxWait))
}

// succeed enters a success into the outcome: the server has accepted the identity.
func succeed(o *state.Outcome, now time.Time, version string) {
	o.Contact, o.Attempt, o.Version, o.Boot = now, now, version, boot()
	o.Failures, o.Failure, o.Final, o.NotBefore = 0, nil, nil, time.Time{}
}

// onlyContact reports whether two successful outcomes differ only in their times.
func onlyContact(a, b state.Outcome) bool {
	return a.Version == b.Version && a.Boot == b.Boot && a.Failures == 0 && b.Failures == 0 && a.Final == nil && b.Final == nil &&
		a.Hooked == b.Hooked && slices.Equal(a.HookFailures, b.HookFailures) && slices.Equal(a.HooksDone, b.HooksDone)
}

// Codes of a state.Failure that are not the server's.
const (
	codeNetwork = "network"
	codeTrust   = "trust"
	codeTPM     = "tpm"
	codeState   = "state"
)

func code(err error) string {
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return p.Code
	}
	if _, ok := errors.AsType[*client.NetworkError](err); ok {
		return codeNetwork
	}
	if _, ok := errors.AsType[*client.TrustError](err); ok {
		return codeTrust
	}
	if errors.As(err, new(*trouble.Error)) {
		return codeTPM
	}
	return codeState
}

// Class is a kind of failure that people act on differently.
type Class int

const (
	Other   Class = iota
	Refused       // by the server, for now
	Final         // by the server, for good
	TPM           // or whatever else holds the key
	Network       // or what answered there
)

// Class is the kind of failure that is waited for.
func (e *WaitError) Class() Class {
	switch e.Failure.Code {
	case codeState:
		return Other
	case codeTPM:
		return TPM
	case codeNetwork, codeTrust:
		return Network
	}
	if (&wire.Problem{Code: e.Failure.Code}).Final() {
		return Final
	}
	return Refused
}

// life is the lifetime of the working certificate; one that gives the full backoff if there is
// none.
func life(s device.Status) time.Duration {
	if s.LDevID == nil {
		return maxBackoff * 20
	}
	return s.LDevID.NotAfter.Sub(s.LDevID.NotBefore)
}
