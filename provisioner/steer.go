package provisioner

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/provisioner/decide"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

// Steering tells a device when to renew, as ACME Renewal Information does (RFC 9773
// §4.2), and when to ask again.
type Steering struct {
	// Start and End are the window in which the device picks its moment.
	Start, End time.Time
	// Poll is after how long it asks again; 0 means never.
	Poll time.Duration
}

// DefaultPoll is how often devices ask unless their model says otherwise.
const DefaultPoll = 6 * time.Hour

// seenEvery is the resolution of the recorded time of last contact: a device that asks more often
// does not cost a transaction each time.
const seenEvery = 15 * time.Minute

// Poll answers a device that asks when to renew, or tests a new certificate before relying on it:
// it accepts what Renew would. It records the contact, and that the certificate is in use, so
// that its predecessor can no longer renew.
func (s *Service) Poll(ctx context.Context, contact Contact) (Steering, error) {
	view, err := s.Store.Look(ctx, record.Query{Issuer: contact.Issuer, CertificateSerial: contact.Serial})
	if err != nil {
		return Steering{}, err
	}
	if view.ByID == nil {
		return Steering{}, decide.UnknownCertificate
	}
	if err := decide.Renewal(decide.Case{Now: s.Now(), Proved: contact.Proved, Who: identity.Identity{Device: *view.ByID, Known: true}, View: view}); err != nil {
		return Steering{}, s.stop(ctx, forked(*view.ByID, view.Presented, err))
	}
	if view.Presented.Used.IsZero() || s.Now().Sub(view.ByID.Seen) >= seenEvery {
		if err := s.Store.Seen(ctx, contact.Issuer, contact.Serial, s.Now()); err != nil {
			return Steering{}, err
		}
	}
	steering := s.steer(contact, view.Model)
	return steering, s.hasten(ctx, *view.ByID, &steering)
}

// steer is when the holder of a certificate renews: in the twentieth of its life after the first
// two thirds, or at once if it is not a working certificate.
func (s *Service) steer(c Contact, m *record.Model) Steering {
	steering := Steering{Poll: DefaultPoll}
	if m != nil && m.Poll != 0 {
		steering.Poll = max(m.Poll, 0)
	}
	if c.Profile != profile.LDevID {
		steering.Start = s.Now().Truncate(time.Second)
		steering.End = steering.Start
		return steering
	}
	steering.Start, steering.End = window(c.Certificate)
	return steering
}

// window is when a working certificate is renewed unless an operator says otherwise.
func window(c *x509.Certificate) (start, end time.Time) {
	due := ca.Due(c.NotBefore, c.NotAfter)
	return due.Truncate(time.Second), due.Add(c.NotAfter.Sub(c.NotBefore) / 20).Truncate(time.Second)
}
