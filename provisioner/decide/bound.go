package decide

import "bytes"

// boundTPM refuses a ticket made for another chip: a list, if there is one, always binds (design
// decision 5).
func boundTPM(c *Case) error {
	t := c.View.Ticket
	if t.EKName == nil || c.Facts.TPM != nil && bytes.Equal(t.EKName, c.Facts.TPM.EKName) {
		return nil
	}
	return &Refusal{Code: "ticket-ek", Detail: "the ticket is for another TPM",
		Hint: "check that the board and the purchase record belong together"}
}
