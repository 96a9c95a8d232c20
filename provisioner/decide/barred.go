package decide

import "fmt"

// barred refuses what a tombstone covers: any EK of a revoked chip, its AK, its
// serial number (design decision 13).
func barred(c *Case) *Refusal {
	for _, t := range c.View.Tombstones {
		return &Refusal{
			Code:   "identity-barred",
			Detail: fmt.Sprintf("this device was revoked on %s and may not come back", t.Since.UTC().Format("2006-01-02")),
			Hint:   "an administrator can tell why: hallmark audit list",
		}
	}
	return nil
}
