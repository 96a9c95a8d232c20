package decide

import (
	"fmt"
	"slices"
	"strings"
)

// ekType lets one endorsement key of a certified chip count (design decision 5): that
// of the first chip of its make and model, or what an operator allowed. A chip has
// several, mostly a P-256 and an RSA key, each with a certificate, and nothing ties one to
// another; whoever has root on a device could otherwise enrol it once for each.
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
