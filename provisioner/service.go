// Package provisioner turns evidence into an identity: the pipeline that every protocol calls.
// Read it from top to bottom in enrol.go.
//
//	evidence → claims → identity → decision → certificate
//
// It knows no wire format. A protocol (provisioner/native, …) passes it evidence, together with
// the binding that the evidence must be over, and gets an [Answer].
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

// Suspender puts a device and its certificates on hold, and publishes that before it returns
// (ca/status.Service).
type Suspender interface {
	Suspend(ctx context.Context, device string, e record.Event) ([]record.Shard, error)
}

// Authority signs and records certificates (ca.Authority).
type Authority interface {
	Issue(ctx context.Context, e record.Event, reqs ...ca.Request) ([]ca.Issued, error)
}

// Store is what the pipeline needs of the record.
type Store interface {
	record.Admissions
	Plans
	Note(ctx context.Context, es ...record.Event) error
}

// Config is what a Service is made of; every field but Pace and Makers is needed.
type Config struct {
	Store       Store
	Authority   Authority
	Suspender   Suspender
	Verifier    attest.Verifier
	Sessions    *session.Keeper
	Permissions *factory.Permissions
	// Issuers are the issuers whose IDevIDs and LDevIDs may renew.
	Issuers profile.Pins
	// SessionLife is how long a device may take to answer a challenge.
	SessionLife time.Duration
	// LDevIDLife is the life of a working certificate where the model does not say.
	LDevIDLife time.Duration
	// Pace is how many times a minute one device may get certificates; 0 means no limit.
	Pace int
	// Makers names the set of TPM makers that are trusted now; nil if it never changes.
	Makers func() string
	Now    func() time.Time
	Log    *slog.Logger
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

// Answer is either a challenge to answer with Activate, or the certificates.
type Answer struct {
	Challenge    *Challenge
	Certificates *Certificates
}

// Challenge is a credential challenge and the session that the device must return with the
// secret.
type Challenge struct {
	attest.Challenge
	Session []byte
	Expires time.Time
}

// Certificates is what a device receives. Chains are DER, leaf first, without the root.
type Certificates struct {
	Device             record.Device
	IDevID, AK, LDevID [][]byte
	// Server is the certificate of the device's own web page, for the LDevID's key; nil if its
	// model has none.
	Server [][]byte
	// Steering comes with an LDevID: when to renew it.
	Steering *Steering
	// Next is the challenge whose secret the next renewal carries.
	Next *Challenge
}

// ErrNotSigned: the CA could not sign, or not record it. The intent is void, and nothing was
// issued.
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

// nextLife is how long the next renewal may use the challenge that came with an answer; later the
// renewal costs a second message. By default a device renews after 20 days.
const nextLife = 90 * 24 * time.Hour

// challenge answers with a credential that only the chip behind the evidence can open.
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

// answer completes certificates with the challenge for the next renewal.
func (s *Service) answer(d record.Device, p attest.Pending, made *Certificates) (Answer, error) {
	made.Device = d
	if _, ok := p.Proved(); ok {
		return Answer{Certificates: made}, nil // there is no chip to challenge
	}
	bound := session.Context{Purpose: session.Next, Device: d.ID, Expires: s.Now().Add(nextLife)}
	next, blob, err := s.Sessions.Promise(bound)
	if err != nil {
		return Answer{}, err
	}
	challenge, err := s.Verifier.Challenge(p, next.Secret)
	if err != nil {
		return Answer{}, err
	}
	made.Next = &Challenge{Challenge: challenge, Session: blob, Expires: bound.Expires}
	return Answer{Certificates: made}, nil
}
