// Package provisioner turns evidence into an identity: the pipeline that every
// protocol calls and that can be read top to bottom in enrol.go.
//
//	evidence → claims → identity → decision → certificate
//
// It knows no wire format. A protocol (provisioner/native, …) hands it evidence with
// the binding that the evidence must have been made for, and gets an [Answer].
package provisioner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/internal/ration"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/session"
	"github.com/hallmark-pki/hallmark/record"
)

// Suspender puts a device and its certificates on hold, and shows it to relying parties
// before it returns (ca/status.Service).
type Suspender interface {
	Suspend(ctx context.Context, device string, e record.Event) ([]record.Shard, error)
}

// Authority signs and records certificates (ca.Authority).
type Authority interface {
	Issue(ctx context.Context, e record.Event, reqs ...ca.Request) ([]ca.Issued, error)
}

// Store is what the pipeline asks of the record.
type Store interface {
	record.Admissions
	Plans
	Note(ctx context.Context, es ...record.Event) error
}

// Config is what a Service is made of; every field but Pace is needed.
type Config struct {
	Store       Store
	Authority   Authority
	Suspender   Suspender
	Verifier    attest.Verifier
	Sessions    *session.Keeper
	Permissions *factory.Permissions
	// Issuers are those whose IDevIDs and LDevIDs may renew.
	Issuers profile.Pins
	// SessionLife is how long a device may take to answer a challenge.
	SessionLife time.Duration
	// LDevIDLife is the life of a working certificate where the model does not say.
	LDevIDLife time.Duration
	// Pace is how often in a minute one device may be given certificates; 0 means as often
	// as it likes.
	Pace int
	Now  func() time.Time
	Log  *slog.Logger
}

// Service is the pipeline.
type Service struct {
	Config
	refusals, paces ration.Ration
	plans           atomic.Pointer[outlook]
	met             *memory
}

// New checks that nothing is missing.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Authority == nil || c.Suspender == nil || c.Verifier == nil || c.Sessions == nil ||
		c.Permissions == nil || len(c.Issuers) == 0 || c.Now == nil || c.Log == nil {
		return nil, errors.New("provisioner: a part is missing")
	}
	if c.SessionLife <= 0 || c.SessionLife > 5*time.Minute {
		return nil, errors.New("provisioner: a session lives at most five minutes (TCG keys for device identity, §6.2.2)")
	}
	if c.LDevIDLife < time.Minute {
		return nil, errors.New("provisioner: a working certificate lives at least a minute")
	}
	return &Service{Config: c, met: newMemory(c.Issuers)}, nil
}

// Answer is either a challenge to answer with Activate, or the identity.
type Answer struct {
	Challenge *Challenge
	Identity  *Identity
}

// Challenge is a credential challenge and the session that the device brings back.
type Challenge struct {
	attest.Challenge
	Session []byte
	Expires time.Time
}

// Identity is what a device takes home: chains are DER, leaf first, without the root.
type Identity struct {
	Device             record.Device
	IDevID, AK, LDevID [][]byte
	// Server is for the device's own web page, of the LDevID's key; nil if its model gives none.
	Server [][]byte
	// Steering comes with an LDevID: when to renew it.
	Steering *Steering
	// Next is the challenge whose secret the next renewal carries.
	Next *Challenge
}

// ErrNotSigned: the CA's key is away, say, or the record. What was begun is void, and nothing was handed out.
var ErrNotSigned = errors.New("the CA could not sign")

// issue turns a decision into certificates.
func (s *Service) issue(ctx context.Context, d record.Device, reqs ...ca.Request) ([]ca.Issued, error) {
	e := record.Event{Time: s.Now(), Actor: "device:" + d.Name(), Verb: "certificate.issued", Object: d.Name()}
	issued, err := s.Authority.Issue(ctx, e, reqs...)
	if _, void := errors.AsType[*ca.VoidedError](err); void {
		err = fmt.Errorf("%w: %w", ErrNotSigned, err)
	}
	return issued, err
}

// nextLife is how long the challenge that came with an answer may be carried by the
// next renewal; beyond it the renewal costs a second message. A device renews at two
// thirds of 30 days.
const nextLife = 90 * 24 * time.Hour

// challenge answers with a credential that only the chip of the evidence can open.
func (s *Service) challenge(p attest.Pending, bound session.Context) (Answer, error) {
	bound.Expires = s.Now().Add(s.SessionLife)
	begun, blob, err := s.Sessions.Start(p, bound)
	if err != nil {
		return Answer{}, err
	}
	made, err := s.Verifier.Challenge(p, begun.Secret)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Challenge: &Challenge{Challenge: made, Session: blob, Expires: bound.Expires}}, nil
}

// answer completes an identity with the challenge for the next renewal.
func (s *Service) answer(d record.Device, p attest.Pending, id *Identity) (Answer, error) {
	id.Device = d
	if _, ok := p.Proved(); ok {
		return Answer{Identity: id}, nil // there is no chip to challenge
	}
	bound := session.Context{Purpose: session.Next, Device: d.ID, Expires: s.Now().Add(nextLife)}
	next, blob, err := s.Sessions.Promise(bound)
	if err != nil {
		return Answer{}, err
	}
	made, err := s.Verifier.Challenge(p, next.Secret)
	if err != nil {
		return Answer{}, err
	}
	id.Next = &Challenge{Challenge: made, Session: blob, Expires: bound.Expires}
	return Answer{Identity: id}, nil
}
