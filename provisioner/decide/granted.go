package decide

import (
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// granted lets a device that lost its certificates have them again by itself if a TPM
// that its maker or the lot's list vouches for stands behind its keys, or any TPM whose
// recorded keys it has proved while its working certificate is in force: those could
// renew it too. Any other may be a copy, and needs an administrator's grant, unless
// nothing was lost but the answer: the device never renewed, or shows the ticket that it
// was enrolled with.
func granted(c *Case) error {
	a, d := c.Who.Device.Assurance, c.Who.Device
	if g := c.View.Lost; g != nil && g.Device == d.ID && !c.Who.NewKey && !found(c) {
		return &Refusal{Code: "grant-needed", Detail: fmt.Sprintf("the key of %s was declared lost on %s", d.Name(), day(g.Created)),
			Hint: "enrol the device with the ticket that hallmark device grant --new-key printed"}
	}
	switch t := c.View.Ticket; {
	case c.Who.NewKey: // identity has seen the grant; whether it is still good is asked below
	case a.Certified, a.Registered, c.Facts.TPM != nil && c.Facts.TPM.Certified, d.Renewed.IsZero():
		return nil
	case a.Hardware && !c.Who.NewEK && works(c.View.Newest, c.Now):
		return nil
	case t != nil && t.ID == c.Ticket && t.Device == d.ID && c.Now.Before(t.Expires):
		return nil
	}
	if inForce(c) != nil {
		return nil
	}
	return &Refusal{Code: "grant-needed", Detail: fmt.Sprintf("%s is on record, and no certified TPM vouches that this is it", d.Name()),
		Hint: "an administrator can let it come back: hallmark device grant " + d.Serial + " --for 7d"}
}

// found reports whether an administrator lets a key that was declared lost come back: by a
// grant after that one, for no other key.
func found(c *Case) bool {
	g := inForce(c)
	return g != nil && !g.NewKey
}

// works reports whether a working certificate is good.
func works(newest *record.Certificate, now time.Time) bool {
	return newest != nil && newest.Revoked.IsZero() && !now.After(newest.NotAfter)
}

// inForce is the device's grant, or nil if it has none that is good now.
func inForce(c *Case) *record.Grant {
	if g := c.View.Grant; g != nil && g.Device == c.Who.Device.ID && c.Now.Before(g.Expires) {
		return g
	}
	return nil
}

// Grant is the id of the grant that let a case pass, to be noted as used; empty if the
// device has none.
func Grant(c Case) string {
	if g := inForce(&c); g != nil && c.Who.Known {
		return g.ID
	}
	return ""
}
