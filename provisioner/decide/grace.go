package decide

import "fmt"

// grace ends the return of devices whose last working certificate ended too long ago for
// their model, unless an administrator granted it.
func grace(c *Case) error {
	m, last := c.View.Model, c.View.Newest
	if m == nil || m.Grace == 0 || last == nil || !c.Now.After(last.NotAfter.Add(m.Grace)) || validGrant(c) != nil {
		return nil
	}
	return &Refusal{Code: "grace-over",
		Detail: fmt.Sprintf("the last working certificate of %s ended on %s, and model %s lets devices come back for %s after that",
			c.Who.Device.Name(), day(last.NotAfter), m.Name, m.Grace),
		Hint: "an administrator can let it come back: hallmark device grant " + c.Who.Device.Serial + " --for 7d"}
}
