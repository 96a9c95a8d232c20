package native_test

import (
	"strings"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// What the pipeline does is in the audit with who asked, about what and, if it was refused, why.
func TestAudit(t *testing.T) {
	i := install(t, settings{})
	u, thief := i.unit(t, simtpm.Options{}), i.unit(t, simtpm.Options{})
	first, bound := i.ticket(t, nil), i.ticket(t, func(k *record.Ticket) { k.Serial = "SN-2" })
	invalid := bound
	invalid.Secret = i.ticket(t, nil).Secret
	suspended := func() error {
		if _, err := i.store.Suspend(t.Context(), i.device(t, "SN-1").ID, time.Now(), record.Event{Time: time.Now(), Verb: "device.suspended"}); err != nil {
			t.Fatal(err)
		}
		_, err := u.Renew(u.IDevID)
		return err
	}
	signer := i.unit(t, simtpm.Options{AlterAK: func(p *gotpm.TPMTPublic) { p.ObjectAttributes.Restricted = false }})
	guessing := func() error {
		a, err := thief.begin(bound, "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = thief.activate(wire.Activate{Session: a.Challenge.Session, Secret: random(32)})
		return err
	}
	for _, c := range []struct {
		do                          func() error
		actor, verb, object, reason string
	}{
		{func() error { _, err := u.Enrol(first, "SN-1"); return err }, "ticket:" + first.ID, "device.enrolled", "default:SN-1", ""},
		{func() error { _, err := u.Enrol(wire.Permission{}, ""); return err }, "device:default:SN-1", "device.returned", "default:SN-1", ""},
		{func() error { _, err := u.Renew(u.IDevID); return err }, "device:default:SN-1", "device.renewed", "default:SN-1", ""},
		{func() error { _, err := thief.Enrol(bound, "SN-3"); return err }, "ticket:" + bound.ID, "enrolment.refused", "SN-3", "ticket-serial: "},
		{func() error { _, err := thief.Enrol(invalid, "SN-3"); return err }, "stranger", "enrolment.refused", "SN-3", "ticket-invalid: "},
		{func() error { _, err := thief.Enrol(wire.Permission{}, ""); return err }, "stranger", "enrolment.refused", "", "ticket-needed: "},
		{func() error { _, err := signer.Enrol(bound, ""); return err }, "ticket:" + bound.ID, "enrolment.refused", "SN-2", "ak-not-restricted: "},
		{func() error {
			_, err := thief.activate(wire.Activate{Session: random(200), Secret: random(32)})
			return err
		}, "stranger", "activation.refused", "", "session-invalid: "},
		{guessing, "ticket:" + bound.ID, "activation.refused", "SN-2", "evidence-refused: "},
		{suspended, "device:default:SN-1", "renewal.refused", "default:SN-1", "device-suspended: "},
	} {
		before := i.sequence(t)
		if err := c.do(); (err != nil) != (c.reason != "") {
			t.Fatalf("%s: %v", c.verb, err)
		}
		es, err := i.store.Events(t.Context(), before, 10)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, e := range es {
			found = found || e.Actor == c.actor && e.Verb == c.verb && e.Object == c.object && strings.HasPrefix(e.Reason, c.reason) && (e.Reason == "") == (c.reason == "")
		}
		if !found {
			t.Errorf("no %s of %s by %s because %q: %+v", c.verb, c.object, c.actor, c.reason, es)
		}
	}
}
