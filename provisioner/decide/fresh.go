package decide

import "fmt"

// fresh refuses a ticket that was used or has expired (design decision 9: single use).
func fresh(c *Case) error {
	t := c.View.Ticket
	switch {
	case !t.Redeemed.IsZero():
		return &Refusal{Code: "ticket-used", Detail: fmt.Sprintf("the ticket was used at %s by another device", t.Redeemed.UTC().Format("2006-01-02 15:04:05 MST")),
			Hint: "one ticket enrols one device: hallmark ticket create"}
	case !c.Now.Before(t.Expires):
		return &Refusal{Code: "ticket-expired", Detail: fmt.Sprintf("the ticket ran out at %s", t.Expires.UTC().Format("2006-01-02 15:04:05 MST")),
			Hint: "make a new one, longer if the line needs it: hallmark ticket create --ttl 8h"}
	}
	return nil
}
