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

// Serial refuses what can be no device's serial number.
func Serial(serial string) error {
	if err := identity.CheckSerial(serial); err != nil {
		return &Refusal{Code: "serial-invalid", Detail: err.Error(),
			Hint: "give the product's own: hallmark-device enrol --serial SERIAL"}
	}
	return nil
}

// ownSerial refuses a serial number that is not that of the device which comes back: its
// ticket was made for another unit than the one that it is used on. With a key that is on
// record package identity says so; this is for a key that takes the place of a lost one.
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
