package decide

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/record"
)

// assured refuses a device that proved less than its model requires (design decision 5).
func assured(c *Case) error {
	d, m := c.Who.Device, c.View.Model
	if d.Assurance.Meets(m.Assurance) {
		return nil
	}
	r := &Refusal{Code: "assurance-too-low",
		Detail: fmt.Sprintf("model %s asks for a %s TPM and this one is %s", m.Name, m.Assurance, d.Assurance)}
	switch chip := c.Facts.TPM; {
	case !d.Assurance.Hardware:
		r.Detail = fmt.Sprintf("model %s asks for a %s TPM and this key is in none", m.Name, m.Assurance)
		r.Hint = "have the TPM hold it (--key tpm), or use a ticket for a lot whose model asks for software"
	case m.Assurance == record.LevelRegistered:
		r.Detail += named(c)
		r.Hint = "its EK Name has to be on the ticket (hallmark ticket create --from CSV) or on the lot's list"
	case m.Assurance == record.LevelCertified && chip != nil && chip.Uncertified != "":
		r.Hint = chip.Uncertified
	case m.Assurance == record.LevelCertified:
		r.Hint = "the TPM brought no endorsement certificate: use a ticket for a lot whose model asks for registered or first-use"
	}
	return r
}
