package decide

import "fmt"

// quota prevents over-production of a lot (design decision 11): the count is read in the
// transaction that records the device.
func quota(c *Case) error {
	l := c.View.Lot
	if l.Quota == 0 || l.Used < l.Quota {
		return nil
	}
	return &Refusal{Code: "quota-full", Detail: fmt.Sprintf("lot %s is full: %d of %d devices are made", l.Name, l.Used, l.Quota),
		Hint: "open a new lot: hallmark lot create"}
}
