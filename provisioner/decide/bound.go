package decide

import (
	"bytes"
	"encoding/hex"
)

// boundTPM refuses a ticket made for another chip: a list, if there is one, always binds (design
// decision 5).
func boundTPM(c *Case) error {
	t := c.View.Ticket
	if t.EKName == nil || c.Facts.TPM != nil && bytes.Equal(t.EKName, c.Facts.TPM.EKName) {
		return nil
	}
	return &Refusal{Code: "ticket-ek", Detail: "the ticket is for another TPM" + named(c),
		Hint: "check that the board and the purchase record belong together"}
}

// named is the end of a sentence: which chip this is, for whoever has to put it on a list.
func named(c *Case) string {
	if c.Facts.TPM == nil {
		return ""
	}
	return ": its EK Name is " + hex.EncodeToString(c.Facts.TPM.EKName)
}
