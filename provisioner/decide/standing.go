package decide

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/record"
)

// standing refuses suspended and revoked devices (design decisions 13 and 14).
func standing(c *Case) *Refusal {
	if !c.Who.Known {
		return nil
	}
	return stateOf(c.Who.Device)
}

// Standing judges a recorded device's state alone.
func Standing(d record.Device) error {
	if r := stateOf(d); r != nil {
		return r
	}
	return nil
}

func stateOf(d record.Device) *Refusal {
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
