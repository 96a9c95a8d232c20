package decide

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/record"
)

// standing refuses suspended and revoked devices (design decisions 13 and 14).
func standing(c *Case) error {
	if !c.Who.Known {
		return nil
	}
	return Standing(c.Who.Device)
}

// Standing decides by a recorded device's state alone.
func Standing(d record.Device) error {
	switch d.State {
	case record.StateActive:
		return nil
	case record.StateSuspended:
		return &Refusal{Code: "device-suspended", Detail: fmt.Sprintf("%s is suspended", d.Name()),
			Hint: "an administrator can lift it: hallmark device restore " + d.Serial}
	default:
		return &Refusal{Code: "device-revoked", Detail: fmt.Sprintf("%s is revoked: this is final", d.Name())}
	}
}
