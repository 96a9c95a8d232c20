package decide

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

// serialNumber refuses placeholders and a serial number that the ticket does not
// allow (design decision 11).
func serialNumber(c *Case) *Refusal {
	if err := identity.CheckSerial(c.Who.Device.Serial); err != nil {
		return &Refusal{Code: "serial-invalid", Detail: err.Error(),
			Hint: "give the product's own: hallmark-device enrol --serial SERIAL"}
	}
	t := c.View.Ticket
	if t.Serial != "" && record.Fold(t.Serial) != record.Fold(c.Who.Device.Serial) {
		return &Refusal{Code: "ticket-serial", Detail: fmt.Sprintf("the ticket is for another serial number than %s", c.Who.Device.Serial),
			Hint: "use the ticket that was made for this serial number"}
	}
	return nil
}
