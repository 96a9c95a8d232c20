package decide

import (
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// UnknownCertificate refuses a certificate of this installation that is not on record, as after
// restoring an older backup.
var UnknownCertificate = &Refusal{Code: "certificate-unknown", Detail: "the certificate shown is not on record",
	Hint: "enrol again: hallmark-device enrol"}

// current lets a device renew only with the live IDevID, the newest LDevID, or the LDevID before
// it until the newest has been used (design decision 8). An older one may be a copy, or come from
// a rolled-back firmware slot: the device falls back to its IDevID by itself. If no chip holds
// the key, an older one means that two parties hold it: both are stopped. What was proved before
// the newest was in use, and a proxy delivered late or once more, does not mean that.
func current(c *Case) error {
	p, newest := c.View.Presented, c.View.Newest
	if p == nil || p.Device != c.Who.Device.ID || p.DER == nil {
		return UnknownCertificate
	}
	if !p.Revoked.IsZero() {
		return &Refusal{Code: "certificate-revoked", Detail: fmt.Sprintf("the certificate shown was revoked on %s", day(p.Revoked))}
	}
	switch {
	case p.Profile == "idevid":
		return nil
	case p.Profile != "ldevid":
		return &Refusal{Code: "unauthorised", Detail: "this certificate cannot renew"}
	case newest == nil || newest.Serial == p.Serial:
		return nil
	case newest.Predecessor == p.Serial && newest.Used.IsZero():
		return nil // the answer that carried the successor may have been lost
	}
	if !c.Who.Device.Assurance.Hardware && (c.Proved.IsZero() || c.Proved.After(begun(newest))) {
		return &Refusal{Code: "key-forked", Suspend: true,
			Detail: fmt.Sprintf("%s showed an older certificate although a newer one was made from it: its key exists twice", c.Who.Device.Name()),
			Hint:   fmt.Sprintf("an administrator finds out who holds the other copy, and then: hallmark device restore %[1]s, or hallmark device grant %[1]s --new-key", c.Who.Device.Serial)}
	}
	return &Refusal{Code: "certificate-old", Detail: "a newer certificate of this device is in use",
		Hint: "the device renews with its IDevID by itself; if it does not, run hallmark-device renew"}
}

// begun is when a certificate was first used or, if it was not yet, issued.
func begun(c *record.Certificate) time.Time {
	if c.Used.IsZero() {
		return c.Issued
	}
	return c.Used
}
