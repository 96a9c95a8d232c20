package decide

import "fmt"

// hardware refuses to renew with less proof than the device enrolled with: every
// renewal is attested again (design decision 8).
func hardware(c *Case) *Refusal {
	if d := c.Who.Device; d.Assurance.Hardware && c.Facts.TPM == nil {
		return &Refusal{Code: "evidence-refused", Detail: fmt.Sprintf("%s enrolled with a TPM and renews without", d.Name())}
	}
	return nil
}
