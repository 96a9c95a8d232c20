package recordtest

import (
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

func relyingParties(t *testing.T, b *bench) {
	broker := record.RelyingParty{Name: "broker", Created: Now, Invitation: "r1", InvitedUntil: Now.Add(time.Hour)}
	b.must(b.InviteRelyingParty(b.ctx, broker, event("relying-party.invited")))
	b.recorded("relying-party.invited")
	b.equalParty(broker)
	b.refused("report of a stranger", record.ErrNotFound, func() error { return b.Report(b.ctx, "nil", record.Enforcement{Fail: "closed", Reported: Now}) })

	// One set of names, two kinds: neither passes for the other.
	anna := record.Operator{Name: "anna", Created: Now, Invitation: "i1", InvitedUntil: Now.Add(time.Hour)}
	b.must(b.Invite(b.ctx, anna, event("operator.invited")))
	anna.Name, anna.Invitation = "broker", "i2"
	b.refused("invite a relying party as operator", record.ErrExists, func() error { return b.Invite(b.ctx, anna, event("x")) })
	b.refused("invite an operator as relying party", record.ErrExists, func() error {
		return b.InviteRelyingParty(b.ctx, record.RelyingParty{Name: "anna", Created: Now, Invitation: "r2", InvitedUntil: Now.Add(time.Hour)}, event("x"))
	})
	b.refused("recover a relying party as operator", record.ErrConflict, func() error { return b.RecoverOperator(b.ctx, "broker", Now, event("x")) })
	accept := func(id string, key byte, at time.Time) func() error {
		return func() error {
			_, err := b.AcceptRelyingParty(b.ctx, id, [32]byte{key}, at, event("relying-party.accepted"))
			return err
		}
	}
	b.refused("an operator's invitation", record.ErrNotFound, accept("i1", 1, Now))
	b.refused("a relying party's invitation", record.ErrNotFound, func() error {
		_, err := b.AcceptInvitation(b.ctx, "r1", [32]byte{1}, Now, event("x"))
		return err
	})
	for what, do := range map[string]func() error{
		"as operator":      func() error { _, err := b.Operator(b.ctx, "broker"); return err },
		"as relying party": func() error { _, err := b.RelyingParty(b.ctx, "anna"); return err },
		"disable broker":   func() error { return b.DisableOperator(b.ctx, "broker", Now, event("x")) },
		"disable anna":     func() error { return b.DisableRelyingParty(b.ctx, "anna", Now, event("x")) },
	} {
		b.refused(what, record.ErrNotFound, do)
	}

	b.refused("late", record.ErrNotFound, accept("r1", 1, Now.Add(time.Hour)))
	b.must(accept("r1", 1, Now)())
	b.recorded("relying-party.accepted")
	b.equal("whose invitation", b.last().Object, "broker")
	b.unchanged("accept again", accept("r1", 1, Now))
	b.refused("another key", record.ErrNotFound, accept("r1", 2, Now))
	certificate := newIntent("")
	certificate.Principal, certificate.Profile, certificate.Key = "broker", "relay", [32]byte{1}
	certificate = b.issue(certificate)
	again := record.RelyingParty{Name: "broker", Created: Now, Invitation: "r3", InvitedUntil: Now.Add(time.Hour)}
	b.refused("invite who has a certificate", record.ErrExists, func() error { return b.InviteRelyingParty(b.ctx, again, event("x")) })

	b.must(b.DisableRelyingParty(b.ctx, "broker", Now.Add(time.Minute), event("relying-party.disabled")))
	b.recorded("relying-party.disabled")
	b.unchanged("disable again", func() error { return b.DisableRelyingParty(b.ctx, "broker", Now, event("x")) })
	b.refused("accept when disabled", record.ErrNotFound, accept("r1", 1, Now))
	b.refused("report when disabled", record.ErrConflict, func() error { return b.Report(b.ctx, "broker", record.Enforcement{Fail: "closed", Reported: Now}) })
	late := newIntent("")
	late.Principal = "broker"
	b.refused("sign for who is disabled", record.ErrDisabled, func() error { return b.Intend(b.ctx, []record.Certificate{late}, nil) })
	if shards, err := b.RevokePrincipal(b.ctx, "broker", Now.Add(time.Minute), record.ReasonPrivilege, event("relying-party.revoked")); err != nil || len(shards) != 1 {
		t.Errorf("revoked: %v, %v", shards, err)
	}
	b.is(certificate, "revoked")
	b.must(b.InviteRelyingParty(b.ctx, again, event("relying-party.invited"))) // set up anew
	b.refused("sign for a key that it had", record.ErrConflict, func() error { return b.Intend(b.ctx, []record.Certificate{late}, nil) })
	again.Created = broker.Created
	b.equalParty(again)
	if all, err := b.Operators(b.ctx); err != nil || len(all) != 1 {
		t.Errorf("operators: %v, %v", all, err)
	}
}

func enforcement(t *testing.T, b *bench) {
	for _, name := range []string{"b", "a"} {
		b.must(b.InviteRelyingParty(b.ctx, record.RelyingParty{Name: name, Created: Now, Invitation: "i" + name, InvitedUntil: Now.Add(time.Hour)}, event("relying-party.invited")))
	}
	at := func(second int) time.Time { return Now.Add(time.Duration(second) * time.Second) }
	report := func(name string, number int64, second int) {
		t.Helper()
		b.must(b.Report(b.ctx, name, record.Enforcement{Number: number, Reported: at(second), Formats: "crl,serials", Program: "nginx", Fail: "closed", Until: at(1000), Version: "1"}))
	}
	taken := func(number int64, want ...record.Taken) {
		t.Helper()
		got, err := b.TakenUp(b.ctx, number, "")
		b.must(err)
		b.equal("taken up", got, want)
	}
	taken(1)
	report("b", -1, 1)
	taken(0, record.Taken{Name: "b"})
	report("b", 5, 2)
	report("b", 5, 3)
	report("b", 9, 4)
	report("a", 7, 5)
	got, err := b.RelyingParty(b.ctx, "b")
	b.must(err)
	b.equal("enforcement", got.Enforcement, record.Enforcement{Number: 9, Since: at(4), Reported: at(4), Formats: "crl,serials", Program: "nginx", Fail: "closed", Until: at(1000), Version: "1"})
	taken(4, record.Taken{Name: "a", At: at(5)}, record.Taken{Name: "b", At: at(2)})
	taken(6, record.Taken{Name: "a", At: at(5)}, record.Taken{Name: "b", At: at(4)})
	taken(8, record.Taken{Name: "a"}, record.Taken{Name: "b", At: at(4)})
	report("b", 6, 6) // files were lost
	taken(8, record.Taken{Name: "a"}, record.Taken{Name: "b"})
	taken(5, record.Taken{Name: "a", At: at(5)}, record.Taken{Name: "b", At: at(2)})
	b.must(b.DisableRelyingParty(b.ctx, "b", at(7), event("relying-party.disabled")))
	taken(5, record.Taken{Name: "a", At: at(5)})
	for n := range 1100 {
		report("a", int64(100+n), 100)
	}
	taken(1199, record.Taken{Name: "a", At: at(100)})
	taken(0, record.Taken{Name: "a", At: at(100)}) // before the oldest step kept
}

func (b *bench) equalParty(want record.RelyingParty) {
	b.Helper()
	got, err := b.RelyingParty(b.ctx, want.Name)
	b.must(err)
	b.equal("relying party", got, want)
}

// failing: a device for which a relay fails holds up the jobs that it is in, and no other.
func failing(t *testing.T, b *bench) {
	b.people("anna")
	ids := b.many(2)
	var names []string
	for _, id := range ids {
		d, err := b.Device(b.ctx, id)
		b.must(err)
		names = append(names, d.Name())
	}
	with := b.create(record.Job{Kind: record.JobSuspend}, record.Selection{Devices: ids})
	without := b.create(record.Job{Kind: record.JobSuspend}, record.Selection{Devices: ids[:1]})
	pending := b.create(record.Job{Kind: record.JobRevoke}, record.Selection{Devices: ids})
	b.step(with.ID, 2)
	b.step(without.ID, 1)
	b.must(b.InviteRelyingParty(b.ctx, record.RelyingParty{Name: "a", Created: Now, Invitation: "ia", InvitedUntil: Now.Add(time.Hour)}, event("relying-party.invited")))
	at := func(second int) time.Time { return Now.Add(time.Duration(second) * time.Second) }
	report := func(number int64, second int, failing ...record.Failure) {
		t.Helper()
		want := record.Enforcement{Number: number, Since: at(second), Reported: at(second), Fail: "closed", Failing: failing}
		b.must(b.Report(b.ctx, "a", want))
		got, err := b.RelyingParty(b.ctx, "a")
		b.must(err)
		b.equal("enforcement", got.Enforcement, want)
	}
	taken := func(number int64, job record.Job, want time.Time) {
		t.Helper()
		got, err := b.TakenUp(b.ctx, number, job.ID)
		b.must(err)
		b.equal("taken up", got, []record.Taken{{Name: "a", At: want}})
	}
	first := record.Failure{Device: names[1], Change: 4, Since: at(1), Times: 1}
	report(5, 1, first, record.Failure{Device: "default:nobody", Change: 3, Since: at(1), Times: 7})
	taken(5, with, time.Time{})
	taken(3, with, at(1)) // before the failure
	taken(5, without, at(1))
	taken(5, pending, at(1)) // what it has not come to cannot fail for it
	first.Times = 2
	report(6, 2, first)
	taken(6, with, time.Time{})
	second := record.Failure{Device: names[1], Change: 6, Since: at(3), Times: 1}
	report(7, 3, second)
	taken(5, with, at(3))
	taken(6, with, time.Time{})
	report(8, 4)
	taken(5, with, at(3))
	taken(6, with, at(4))
	taken(6, without, at(2))
	taken(8, with, at(4))
	report(9, 5, second) // the same again
	taken(6, with, time.Time{})
	for n := range int64(1100) {
		report(10+2*n, int(6+2*n), record.Failure{Device: names[0], Change: 10 + 2*n, Since: at(int(6 + 2*n)), Times: 1})
		report(11+2*n, int(7+2*n))
	}
	taken(6, with, at(1206)) // the oldest step that is kept
	taken(2208, without, at(2205))
}
