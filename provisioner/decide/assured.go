package decide

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/record"
)

// assured holds what the chip could prove against what its model asks for (design
// decision 5).
func assured(c *Case) error {
	d, m := c.Who.Device, c.View.Model
	if d.Assurance.Meets(m.Assurance) {
		return nil
	}
	r := &Refusal{Code: "assurance-too-low",
		Detail: fmt.Sprintf("model %s asks for a %s TPM and this one is %s", m.Name, m.Assurance, d.Assurance)}
	switch m.Assurance {
	case record.LevelCertified:
		r.Hint = "the TPM brought no endorsement certificate"
		if c.Facts.TPM != nil && c.Facts.TPM.Uncertified != "" {
			r.Hint = c.Facts.TPM.Uncertified
		}
	case record.LevelRegistered:
		r.Hint = "put its endorsement key on the lot's list or on the ticket"
	}
	return r
}
