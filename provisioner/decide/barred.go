package decide

import (
	"errors"
	"fmt"

	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

// barred refuses what a tombstone covers: any EK of a revoked chip, its AK, its
// serial number (design decision 13).
func barred(c *Case) error {
	if all := c.View.Tombstones; len(all) > 0 {
		return ended(all[0])
	}
	return nil
}

// Clash is the refusal of a device whose claims contradict the inventory. If its chip is revoked,
// device and audit get that reason, whatever serial number it now claims.
func Clash(clash error, v record.View) error {
	for _, t := range v.Tombstones {
		if t.Kind != "serial" {
			return ended(t)
		}
	}
	if c, ok := errors.AsType[*identity.Clash](clash); ok && c.Code == "serial-taken" && v.BySerial != nil {
		return taken(c, v)
	}
	return clash
}

// taken says why a serial number is taken, where the record knows: two boards got one ticket, or
// a new board the serial number of one that was replaced.
func taken(c *identity.Clash, v record.View) error {
	switch t := v.Ticket; {
	case v.BySerial.State == record.StateRevoked:
		return &Refusal{Code: "serial-taken", Detail: c.Detail + ", which is revoked",
			Hint: "a chip and a serial number belong together for good: give a new board a serial number of its own"}
	case t != nil && !t.Redeemed.IsZero() && t.Device == v.BySerial.ID:
		return &Refusal{Code: "serial-taken", Detail: fmt.Sprintf("%s, with this very ticket, at %s", c.Detail, t.Redeemed.UTC().Format("2006-01-02 15:04:05 MST")),
			Hint: "use this board's own ticket; if it is this one, compare board and label of both"}
	}
	return c
}

func ended(t record.Tombstone) *Refusal {
	return &Refusal{
		Code:   "identity-barred",
		Detail: fmt.Sprintf("this device was revoked on %s and may not come back", day(t.Since)),
		Hint:   "an administrator can tell why: hallmark audit list",
	}
}
