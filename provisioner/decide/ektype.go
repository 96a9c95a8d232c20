package decide

import (
	"fmt"
	"slices"
	"strings"
)

// ekType accepts one type of endorsement key for each make and model of certified chip (design
// decision 5): that of the first such chip, or what an operator allowed. A chip usually has a
// P-256 and an RSA key, each with a certificate, and nothing ties them together; somebody with
// root on a device could otherwise enrol it once with each.
func ekType(c *Case) error {
	chip := c.Facts.TPM
	if chip == nil || !chip.Certified || len(c.View.EKTypes) == 0 || slices.Contains(c.View.EKTypes, chip.EKType) {
		return nil
	}
	return &Refusal{Code: "ek-type",
		Detail: fmt.Sprintf("TPMs of maker %s, model %s, enrol with their %s endorsement key and this one came with its %s key: with two, one chip could be two devices",
			chip.Maker, chip.Model, strings.Join(c.View.EKTypes, " or "), chip.EKType),
		Hint: fmt.Sprintf("if these chips have no other: hallmark tpm allow %q %q %s", chip.Maker, chip.Model, chip.EKType)}
}
