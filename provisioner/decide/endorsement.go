package decide

import "fmt"

// maxEndorsementKeys bounds the endorsement keys of one device: twice what the TCG EK Credential
// Profile (B.3, B.4) defines for the algorithms accepted here. A program that simulates a TPM can
// make any number.
const maxEndorsementKeys = 10

// endorsementKeys refuses a device that keeps bringing new endorsement keys: they are read with
// every query for it.
func endorsementKeys(c *Case) error {
	if n := len(c.Who.Device.EKs); c.Who.NewEK && n > maxEndorsementKeys {
		return &Refusal{Code: "evidence-refused", Detail: fmt.Sprintf("%s has %d endorsement keys on record and brings another", c.Who.Device.Name(), n-1),
			Hint: "enrol with the endorsement key that was used before"}
	}
	return nil
}
