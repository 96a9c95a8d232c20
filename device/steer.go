package device

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// steer takes a window from the server and picks the device's moment in it. A window that ends
// before its start is reduced to the start. It is limited to the first nine tenths of the
// certificate's life, so that a server with a wrong clock cannot let the certificate expire.
func (a *action) steer(s wire.Steering, certificate []byte) {
	s.Trust = 0 // the bundle itself is kept
	if c, err := x509.ParseCertificate(certificate); err == nil {
		last := c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 10)
		s.Start, s.End = within(s.Start, c.NotBefore, last), within(s.End, c.NotBefore, last)
	}
	if s.End.Before(s.Start) {
		s.End = s.Start
	}
	a.set.Steering = s
	a.set.RenewAfter = moment(a.set.Device, s)
}

// within is the moment from first to last that is nearest to t.
func within(t, first, last time.Time) time.Time {
	switch {
	case t.Before(first):
		return first
	case t.After(last):
		return last
	}
	return t
}

// moment is when in a window a device renews: uniformly distributed over the fleet, as RFC 9773
// §4.2 asks, but always the same for one device and window. A new random moment at each start
// would come earlier the more often the power fails.
func moment(device string, s wire.Steering) time.Time {
	start := s.Start.UTC()
	sum := sha256.Sum256([]byte(device + "\n" + start.Format(time.RFC3339)))
	width := uint64(max(s.End.Sub(start), 0)/time.Second) + 1
	return start.Add(time.Duration(binary.BigEndian.Uint64(sum[:])%width) * time.Second)
}

// pollEvery is how often the server wants to be asked, within the bounds of the protocol.
func pollEvery(s wire.Steering) time.Duration {
	if s.Poll <= 0 {
		return 0
	}
	return time.Duration(min(max(s.Poll, wire.MinPoll), wire.MaxPoll)) * time.Second
}
