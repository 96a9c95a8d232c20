package decide

// permitted requires a ticket of a device that is not on record: a certificate at manufacture
// needs somebody's permission (design decision 11).
func permitted(c *Case) error {
	switch {
	case c.Ticket == "":
		return &Refusal{Code: "ticket-needed", Detail: "this device is not on record and brought no ticket",
			Hint: "make one: hallmark ticket create"}
	case c.View.Ticket == nil || c.View.Lot == nil || c.View.Model == nil:
		return &Refusal{Code: "ticket-invalid", Detail: "the ticket is not known here",
			Hint: "make a new one: hallmark ticket create"}
	}
	return nil
}
