package device

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// steer takes a window from the server and picks the device's moment in it. A window that
// is none, from a server at odds with itself, is taken as its start alone. None reaches
// beyond nine tenths of the life of the certificate that it is for: whoever answered in the
// server's place once, or a server whose clock was wrong, shall not let it run out.
func (a *action) steer(s wire.Steering, certificate []byte) {
	s.Trust = 0 // the bundle itself is kept
	if c, err := x509.ParseCertificate(certificate); err == nil {
		last := c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 10)
		s.Start, s.End = earlier(s.Start, last), earlier(s.End, last)
	}
	if s.End.Before(s.Start) {
		s.End = s.Start
	}
	a.set.Steering = s
	a.set.RenewAfter = moment(a.set.Device, s)
}

func earlier(t, last time.Time) time.Time {
	if t.After(last) {
		return last
	}
	return t
}

// moment is where in a window a device renews: uniformly over the fleet, as RFC 9773 §4.2
// asks, but always the same for one device and window. A moment that were drawn anew at
// each start would come earlier the more often the power fails.
func moment(device string, s wire.Steering) time.Time {
	start := s.Start.UTC()
	sum := sha256.Sum256([]byte(device + "\n" + start.Format(time.RFC3339)))
	width := uint64(max(s.End.Sub(start), 0)/time.Second) + 1
	return start.Add(time.Duration(binary.BigEndian.Uint64(sum[:])%width) * time.Second)
}

// pollEvery is how often the server wants to be asked, within what both ends accept.
func pollEvery(s wire.Steering) time.Duration {
	if s.Poll <= 0 {
		return 0
	}
	return time.Duration(min(max(s.Poll, wire.MinPoll), wire.MaxPoll)) * time.Second
}
