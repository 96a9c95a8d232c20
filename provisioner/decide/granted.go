package decide

import (
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// granted decides whether a device that lost its certificates gets them again without an
// administrator's grant. It does if its keys are in a TPM that the maker or the lot's list
// vouches for, or in any TPM while its working certificate is valid, since it could then renew as
// well. Any other may be a copy, unless only the answer was lost: the device never renewed, or
// shows the ticket that it enrolled with.
func granted(c *Case) error {
	a, d := c.Who.Device.Assurance, c.Who.Device
	if g := c.View.Lost; g != nil && g.Device == d.ID && !c.Who.NewKey && !reinstated(c) {
		return &Refusal{Code: "grant-needed", Detail: fmt.Sprintf("the key of %s was declared lost on %s", d.Name(), day(g.Created)),
			Hint: "enrol the device with the ticket that hallmark device grant --new-key printed"}
	}
	switch t := c.View.Ticket; {
	case c.Who.NewKey: // identity has seen the grant; whether it is still valid is checked below
	case a.Certified, a.Registered, c.Facts.TPM != nil && c.Facts.TPM.Certified, d.Renewed.IsZero():
		return nil
	case a.Hardware && !c.Who.NewEK && valid(c.View.Newest, c.Now):
		return nil
	case t != nil && t.ID == c.Ticket && t.Device == d.ID && c.Now.Before(t.Expires):
		return nil
	}
	if validGrant(c) != nil {
		return nil
	}
	return &Refusal{Code: "grant-needed", Detail: fmt.Sprintf("%s is on record, and no certified TPM vouches that this is it", d.Name()),
		Hint: "an administrator can let it come back: hallmark device grant " + d.Serial + " --for 7d"}
}

// reinstated reports whether an administrator lets a key that was declared lost come back, by a later
// grant that is not for a new key.
func reinstated(c *Case) bool {
	g := validGrant(c)
	return g != nil && !g.NewKey
}

// valid reports whether there is a valid working certificate.
func valid(newest *record.Certificate, now time.Time) bool {
	return newest != nil && newest.Revoked.IsZero() && !now.After(newest.NotAfter)
}

// validGrant is the device's grant, or nil if it has none that is valid now.
func validGrant(c *Case) *record.Grant {
	if g := c.View.Grant; g != nil && g.Device == c.Who.Device.ID && c.Now.Before(g.Expires) {
		return g
	}
	return nil
}

// Grant is the id of the device's valid grant, to be recorded as used; empty if it has none.
func Grant(c Case) string {
	if g := validGrant(&c); g != nil && c.Who.Known {
		return g.ID
	}
	return ""
}
