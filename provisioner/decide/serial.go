package decide

import (
	"fmt"

	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

// serialNumber refuses placeholders and a serial number that the ticket does not
// allow (design decision 11).
func serialNumber(c *Case) error {
	serial, t := c.Who.Device.Serial, c.View.Ticket
	if err := Serial(serial); err != nil {
		return err
	}
	if t.Serial != "" && record.Fold(t.Serial) != record.Fold(serial) {
		return otherSerial(serial)
	}
	return nil
}

// Serial refuses what cannot be a device's serial number.
func Serial(serial string) error {
	if err := identity.CheckSerial(serial); err != nil {
		return &Refusal{Code: "serial-invalid", Detail: err.Error(),
			Hint: "give the product's own: hallmark-device enrol --serial SERIAL"}
	}
	return nil
}

// ownSerial refuses a returning device that names another serial number: its ticket was made for
// another unit. If its key is on record, package identity has refused it already; this is for a
// key that replaces a lost one.
func ownSerial(c *Case) error {
	if c.Serial == "" || record.Fold(c.Serial) == record.Fold(c.Who.Device.Serial) {
		return nil
	}
	return otherSerial(c.Serial)
}

func otherSerial(serial string) *Refusal {
	return &Refusal{Code: "ticket-serial", Detail: fmt.Sprintf("the ticket is for another serial number than %s", serial),
		Hint: "use the ticket that was made for this serial number"}
}
