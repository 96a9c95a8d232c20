package decide

import "fmt"

// lotOpen refuses to fill a closed lot (design decision 11).
func lotOpen(c *Case) error {
	if c.View.Lot.Closed.IsZero() {
		return nil
	}
	return &Refusal{Code: "lot-closed", Detail: fmt.Sprintf("lot %s is closed", c.View.Lot.Name),
		Hint: "open a new one: hallmark lot create"}
}
