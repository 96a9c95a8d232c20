package decide

import (
	"fmt"

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
	return clash
}

func ended(t record.Tombstone) *Refusal {
	return &Refusal{
		Code:   "identity-barred",
		Detail: fmt.Sprintf("this device was revoked on %s and may not come back", day(t.Since)),
		Hint:   "an administrator can tell why: hallmark audit list",
	}
}
