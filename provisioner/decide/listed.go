package decide

import "fmt"

// listed refuses a chip that is not on its lot's list (design decision 5).
func listed(c *Case) error {
	if !c.View.Lot.Listed || c.View.OnList {
		return nil
	}
	return &Refusal{Code: "ek-not-listed", Detail: fmt.Sprintf("lot %s has a list of TPMs and this one is not on it%s", c.View.Lot.Name, named(c)),
		Hint: "check that the board belongs to this lot"}
}
