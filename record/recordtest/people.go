package recordtest

import (
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

func operators(t *testing.T, b *bench) {
	anna := record.Operator{Name: "anna", Created: Now, Invitation: "i1", InvitedUntil: Now.Add(time.Hour)}
	b.must(b.Invite(b.ctx, anna, event("operator.invited")))
	b.recorded("operator.invited")
	b.equalOperator(anna)
	b.refused("invitation of another", record.ErrExists, func() error {
		return b.Invite(b.ctx, record.Operator{Name: "bert", Created: Now, Invitation: "i1", InvitedUntil: Now.Add(time.Hour)}, event("x"))
	})
	anna.Invitation = "i2"
	b.must(b.Invite(b.ctx, anna, event("operator.invited")))

	accept := func(id string, at time.Time) func() error {
		return func() error { _, err := b.AcceptInvitation(b.ctx, id, [32]byte{1}, at, event("x")); return err }
	}
	b.refused("renewed invitation", record.ErrNotFound, accept("i1", Now))
	b.refused("late", record.ErrNotFound, accept("i2", Now.Add(time.Hour)))
	b.refused("no invitation", record.ErrNotFound, accept("", Now))
	won := b.parallelAccept("i2")
	if len(won) != 1 {
		t.Fatalf("one invitation was accepted %d times", len(won))
	}
	b.recorded("operator.accepted")
	b.equal("whose invitation", b.last().Object, "anna")
	anna.Accepted = won[0]
	b.equalOperator(anna)
	again := func(at time.Time) func() error {
		return func() error {
			o, err := b.AcceptInvitation(b.ctx, "i2", anna.Accepted, at, event("x"))
			if err == nil {
				b.equal("accepted again", o, anna)
			}
			return err
		}
	}
	b.unchanged("the same key again", again(Now.Add(time.Minute)))
	b.refused("another key", record.ErrNotFound, accept("i2", Now))
	b.refused("the same key, late", record.ErrNotFound, again(Now.Add(time.Hour)))

	certificate := newIntent("")
	certificate.Principal, certificate.Key = "anna", anna.Accepted
	b.issue(certificate)
	late := record.Operator{Name: "anna", Created: Now, Invitation: "i3", InvitedUntil: Now.Add(time.Hour)}
	b.refused("invite who has a certificate", record.ErrExists, func() error { return b.Invite(b.ctx, late, event("x")) })
	late.Created = certificate.NotAfter.Add(time.Hour)
	b.must(b.Invite(b.ctx, late, event("operator.invited"))) // the certificate has expired
	anna.Invitation, anna.Accepted = "i3", [32]byte{}
	b.equalOperator(anna)

	// Nobody disables the only one who can act, however late word of the other's end comes.
	disable := func() error {
		return b.DisableOperator(b.ctx, "anna", Now.Add(time.Minute), event("operator.disabled"))
	}
	b.refused("disable the only one", record.ErrConflict, disable)
	b.people("dora")
	b.must(b.DisableOperator(b.ctx, "dora", Now.Add(time.Hour), event("operator.disabled")))
	b.refused("disable the only one that is left", record.ErrConflict, disable)
	b.must(b.RecoverOperator(b.ctx, "dora", Now, event("operator.recovered")))
	b.must(disable())
	b.recorded("operator.disabled")
	anna.Disabled, anna.Invitation, anna.InvitedUntil = Now.Add(time.Minute), "", time.Time{}
	b.equalOperator(anna)
	b.refused("accept when disabled", record.ErrNotFound, accept("i3", Now))
	b.unchanged("disable again", func() error { return b.DisableOperator(b.ctx, "anna", Now, event("x")) })
	b.refused("disable a stranger", record.ErrNotFound, func() error { return b.DisableOperator(b.ctx, "nil", Now, event("x")) })

	b.must(b.RecoverOperator(b.ctx, "anna", Now, event("operator.recovered")))
	b.recorded("operator.recovered")
	anna.Disabled = time.Time{}
	b.equalOperator(anna)
	before := b.last().Sequence
	b.must(b.RecoverOperator(b.ctx, "anna", Now, event("operator.recovered")))
	if b.last().Sequence != before+1 {
		t.Error("a recovery was not written down")
	}
	b.must(b.RecoverOperator(b.ctx, "cleo", Now, event("operator.recovered")))
	b.equalOperator(record.Operator{Name: "cleo", Created: Now})
	all, err := b.Operators(b.ctx)
	if err != nil || len(all) != 3 {
		t.Errorf("operators: %v, %v", all, err)
	}
	_, err = b.Operator(b.ctx, "nil")
	b.isErr("unknown operator", err, record.ErrNotFound)
}

// actsOfTheDisabled: what somebody asked for who was disabled meanwhile is not done, whatever time
// it bears.
func actsOfTheDisabled(t *testing.T, b *bench) {
	b.people("anna", "bert", "cleo")
	d := b.enrolled()
	by := func(verb string) record.Event {
		e := event(verb)
		e.By, e.Actor = "bert", "operator:bert"
		return e
	}
	b.must(b.SetSetting(b.ctx, "x", "1", by("setting.changed")))
	b.equal("read back", b.last().By, "")
	b.must(b.DisableOperator(b.ctx, "bert", Now.Add(time.Minute), event("operator.disabled")))
	for what, do := range map[string]func() error{
		"set":     func() error { return b.SetSetting(b.ctx, "x", "2", by("setting.changed")) },
		"disable": func() error { return b.DisableOperator(b.ctx, "anna", Now, by("operator.disabled")) },
		"revoke": func() error {
			_, err := b.Revoke(b.ctx, d.ID, Now, 0, "", by("device.revoked"))
			return err
		},
		"label": func() error {
			_, err := b.LabelDevices(b.ctx, record.Selection{}, map[string]string{"a": "b"}, nil, by("device.labelled"))
			return err
		},
		"plan": func() error {
			_, err := b.CreateJob(b.ctx, record.Selection{}, Now, func(v record.JobView) (record.JobPlan, error) {
				p, err := plan(record.Job{Kind: record.JobRenew, Due: Now.Add(time.Hour)})(v)
				p.Event = by("renewal.planned")
				return p, err
			})
			return err
		},
	} {
		b.refused(what, record.ErrDisabled, do)
	}
	b.must(b.Note(b.ctx, event("operator.refused")))
}

// givenByTheDisabled: whoever stole an operator's key may hold tickets, grants and invitations of that
// operator's. They end with the operator, unless they were used, and others' do not.
func givenByTheDisabled(t *testing.T, b *bench) {
	b.people("anna", "bert")
	by := func(name string) record.Event {
		e := event("given")
		e.By = name
		return e
	}
	tickets, devices := map[string]string{}, map[string]string{}
	for _, name := range []string{"anna", "bert", ""} {
		ticket := record.Ticket{ID: id("ticket"), Lot: "default", Created: Now, Expires: Now.Add(time.Hour)}
		b.must(b.CreateTickets(b.ctx, []record.Ticket{ticket}, by(name)))
		d := softDevice()
		b.must(b.admit(d))
		g := record.Grant{ID: id("grant"), Device: d.ID, NewKey: true, Created: Now, Expires: Now.Add(time.Hour)}
		_, err := b.Grant(b.ctx, g, by(name))
		b.must(err)
		tickets[name], devices[name] = ticket.ID, d.ID
	}
	used := record.Ticket{ID: id("ticket"), Lot: "default", Created: Now, Expires: Now.Add(time.Hour)}
	b.must(b.CreateTickets(b.ctx, []record.Ticket{used}, by("anna")))
	_, err := b.Admit(b.ctx, record.Query{Ticket: used.ID}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: newDevice(), Ticket: used.ID, Event: event("device.enrolled")}, nil
	})
	b.must(err)
	invite := func(name, by string) {
		t.Helper()
		e := event("invited")
		e.By = by
		b.must(b.Invite(b.ctx, record.Operator{Name: name, Created: Now, Invitation: "i-" + name, InvitedUntil: Now.Add(time.Hour)}, e))
	}
	accept := func(name string) error {
		_, err := b.AcceptInvitation(b.ctx, "i-"+name, [32]byte{1}, Now, event("operator.accepted"))
		return err
	}
	invite("cleo", "anna") // and has a certificate
	b.must(accept("cleo"))
	c := newIntent("")
	c.Principal, c.Key = "cleo", [32]byte{1}
	b.issue(c)
	invite("dora", "bert")
	invite("eve", "anna")
	invite("fred", "anna") // and has accepted
	b.must(accept("fred"))
	invite("gina", "anna")
	invite("gina", "bert") // again
	b.must(b.InviteRelyingParty(b.ctx, record.RelyingParty{Name: "broker", Created: Now, Invitation: "i-broker", InvitedUntil: Now.Add(time.Hour)}, by("anna")))

	b.must(b.DisableOperator(b.ctx, "anna", Now.Add(time.Minute), event("operator.disabled")))
	detail := b.last().Detail
	b.equal("tickets withdrawn", detail["withdrawn_tickets"], "1")
	b.equal("grants withdrawn", detail["withdrawn_grants"], "1")
	b.equal("invitations withdrawn", detail["withdrawn_invitations"], "broker, eve, fred")
	for name, ticket := range tickets {
		got, err := b.Ticket(b.ctx, ticket)
		b.must(err)
		given, err := b.GrantsOf(b.ctx, devices[name])
		b.must(err)
		if stands := name != "anna"; got.Expires.After(got.Created) != stands || len(given) != 1 || given[0].Expires.After(given[0].Created) != stands {
			t.Errorf("%q: the ticket ends %v, the grants are %+v", name, got.Expires, given)
		}
	}
	for _, name := range []string{"cleo", "dora", "gina"} {
		o, err := b.Operator(b.ctx, name)
		b.must(err)
		if !o.Disabled.IsZero() || o.Invitation == "" {
			t.Errorf("%+v", o)
		}
	}
	b.isErr("invited by the disabled", accept("eve"), record.ErrNotFound)
	c = newIntent("")
	c.Principal, c.Key = "fred", [32]byte{1}
	b.refused("a certificate for who had accepted", record.ErrDisabled, func() error { return b.Intend(b.ctx, []record.Certificate{c}, nil) })
	_, err = b.AcceptRelyingParty(b.ctx, "i-broker", [32]byte{1}, Now, event("accepted"))
	b.isErr("a relying party invited by the disabled", err, record.ErrNotFound)
	_, err = b.RevokePrincipal(b.ctx, "anna", Now, record.ReasonPrivilege, event("operator.revoked"))
	b.must(err)
	invite("anna", "bert") // what stood before does not come back
	got, err := b.Ticket(b.ctx, tickets["anna"])
	b.must(err)
	b.equal("the ticket ends", got.Expires.After(got.Created), false)
}

// invitedAnew: who is invited again comes in by that invitation alone. A key that had accepted
// the one before, or a certificate that has ended since, may be on its way to another certificate.
func invitedAnew(t *testing.T, b *bench) {
	invite := func(id string) func() error {
		return func() error {
			return b.Invite(b.ctx, record.Operator{Name: "anna", Created: Now, Invitation: id, InvitedUntil: Now.Add(time.Hour)}, event("operator.invited"))
		}
	}
	accepted := func(id string, key byte) {
		t.Helper()
		_, err := b.AcceptInvitation(b.ctx, id, [32]byte{key}, Now, event("operator.accepted"))
		b.must(err)
	}
	intent := func(key byte) record.Certificate {
		c := newIntent("")
		c.Principal, c.Key = "anna", [32]byte{key}
		return c
	}
	late := func(what string, key byte) {
		t.Helper()
		b.refused(what, record.ErrConflict, func() error { return b.Intend(b.ctx, []record.Certificate{intent(key)}, nil) })
	}
	b.people("bert")
	b.must(invite("i1")())
	accepted("i1", 1)
	b.must(invite("i2")())
	late("the key of the invitation before", 1)
	accepted("i2", 2)
	late("another key", 1)
	b.refused("another key behind it", record.ErrConflict, func() error { return b.Intend(b.ctx, []record.Certificate{intent(2), intent(1)}, nil) })
	open := b.intend(intent(2))
	late("another key, while that is being signed", 1)
	b.refused("invite whose certificate is being signed", record.ErrExists, invite("i3"))
	b.must(b.Complete(b.ctx, []record.Certificate{signed(open)}, event("certificate.issued")))
	b.issue(intent(3)) // a renewal
	tardy := intent(4)
	tardy.Intended = open.NotAfter.Add(time.Second)
	b.refused("a renewal of what has ended", record.ErrConflict, func() error { return b.Intend(b.ctx, []record.Certificate{tardy}, nil) })

	b.must(b.DisableOperator(b.ctx, "anna", Now, event("operator.disabled")))
	_, err := b.RevokePrincipal(b.ctx, "anna", Now, record.ReasonPrivilege, event("operator.revoked"))
	b.must(err)
	b.must(invite("i4")())
	late("a renewal of what was revoked", 4)
	b.must(b.RecoverOperator(b.ctx, "anna", Now, event("operator.recovered")))
	b.equalOperator(record.Operator{Name: "anna", Created: Now})
	b.issue(intent(5)) // the host's
}

// parallelAccept lets many keys accept one invitation and returns those that could.
func (b *bench) parallelAccept(id string) (won [][32]byte) {
	type result struct {
		key [32]byte
		err error
	}
	results := make(chan result, 20)
	for n := range cap(results) {
		go func() {
			key := [32]byte{2, byte(n)}
			_, err := b.AcceptInvitation(b.ctx, id, key, Now, event("operator.accepted"))
			results <- result{key, err}
		}()
	}
	for range cap(results) {
		if r := <-results; r.err == nil {
			won = append(won, r.key)
		} else {
			b.isErr("late to accept", r.err, record.ErrNotFound)
		}
	}
	return won
}

func (b *bench) equalOperator(want record.Operator) {
	b.Helper()
	got, err := b.Operator(b.ctx, want.Name)
	b.must(err)
	b.equal("operator", got, want)
}

func authorities(t *testing.T, b *bench) {
	one := record.Authority{Fingerprint: "aa", DER: []byte("one"), Added: Now, AddedBy: "anna"}
	two := record.Authority{Fingerprint: "bb", DER: []byte("two"), Added: Now, AddedBy: "anna"}
	add := func(want int, as ...record.Authority) {
		t.Helper()
		n, err := b.AddAuthorities(b.ctx, as, event("vendorca.imported"))
		b.must(err)
		b.equal("added", n, want)
	}
	add(1, one)
	b.recorded("vendorca.imported")
	add(1, one, two)
	b.unchanged("import again", func() error { _, err := b.AddAuthorities(b.ctx, []record.Authority{one, two}, event("x")); return err })
	got, err := b.Authorities(b.ctx)
	b.must(err)
	b.equal("authorities", got, []record.Authority{one, two})
	b.must(b.RemoveAuthority(b.ctx, "aa", event("vendorca.removed")))
	b.recorded("vendorca.removed")
	b.refused("remove again", record.ErrNotFound, func() error { return b.RemoveAuthority(b.ctx, "aa", event("x")) })
	got, err = b.Authorities(b.ctx)
	b.must(err)
	b.equal("authorities", got, []record.Authority{two})
}

// ekTypes: the first of a make and model is recorded with its device, others by hand.
func ekTypes(t *testing.T, b *bench) {
	chip := record.EKType{Maker: "TEST", Model: "chip"}
	q := record.Query{Chip: &chip}
	listed := func() []string {
		t.Helper()
		v, err := b.Look(b.ctx, q)
		b.must(err)
		return v.EKTypes
	}
	if got := listed(); got != nil {
		t.Errorf("before the first: %q", got)
	}
	d := newDevice()
	for _, name := range []string{"P-256", "P-256", ""} { // a store need not be told once only
		_, err := b.Admit(b.ctx, q, func(record.View) (record.Admission, error) {
			return record.Admission{Device: d, EKType: name, Event: event("device.enrolled")}, nil
		})
		b.must(err)
	}
	allowed := record.EKType{Maker: "TEST", Model: "chip", Type: "P-384", Since: Now, AllowedBy: "anna"}
	b.must(b.AllowEKType(b.ctx, allowed, event("tpm.allowed")))
	b.recorded("tpm.allowed")
	for _, taken := range []string{"P-256", "P-384"} {
		again := allowed
		again.Type = taken
		b.refused("allow again", record.ErrExists, func() error { return b.AllowEKType(b.ctx, again, event("x")) })
	}
	other := record.EKType{Maker: "TEST", Model: "", Type: "RSA-2048", Since: Now, AllowedBy: "anna"}
	b.must(b.AllowEKType(b.ctx, other, event("tpm.allowed")))
	b.equal("types of the chip", listed(), []string{"P-256", "P-384"})
	got, err := b.EKTypes(b.ctx)
	b.must(err)
	first := record.EKType{Maker: "TEST", Model: "chip", Type: "P-256", Since: Now, Device: d.ID}
	b.equal("all types", got, []record.EKType{other, first, allowed})
	v, err := b.Look(b.ctx, record.Query{Device: d.ID})
	b.must(err)
	if v.EKTypes != nil {
		t.Errorf("looked up without being asked: %q", v.EKTypes)
	}
}

func events(t *testing.T, b *bench) {
	start := b.last().Sequence
	var want []record.Event
	for i, verb := range []string{"a", "b", "c", "d"} {
		e := record.Event{Time: Now.Add(time.Duration(i) * time.Second), Actor: "operator:anna", Verb: verb, Object: "default:SN-1",
			Reason: `why "not" — 100%`, Detail: map[string]string{"key": "value", "other": "ü\n"}}
		if i == 3 {
			e = record.Event{Time: Now, Verb: verb}
		}
		want = append(want, e)
	}
	b.must(b.Note(b.ctx, want...))
	for i := range want {
		want[i].Sequence = start + 1 + int64(i)
	}
	got, err := b.Events(b.ctx, start, 10)
	b.must(err)
	b.equal("events", got, want)
	got, err = b.Events(b.ctx, start+1, 2)
	b.must(err)
	b.equal("events after one, at most two", got, want[1:3])
	got, err = b.LastEvents(b.ctx, 2)
	b.must(err)
	b.equal("last events", got, []record.Event{want[3], want[2]})
	for _, limit := range []int{0, -1, 10_001} {
		if _, err := b.Events(b.ctx, 0, limit); err == nil {
			t.Errorf("a limit of %d was accepted", limit)
		}
		if _, err := b.LastEvents(b.ctx, limit); err == nil {
			t.Errorf("a limit of %d was accepted", limit)
		}
	}
	var trusted []record.Event
	for _, verb := range []string{record.VerbPublished, record.VerbActivated, "x", record.VerbListed, record.VerbImported} {
		b.must(b.Note(b.ctx, record.Event{Time: Now, Verb: verb}))
		if verb != "x" {
			trusted = append([]record.Event{b.last()}, trusted...)
		}
	}
	got, err = b.TrustEvents(b.ctx, 10)
	b.must(err)
	b.equal("events of trust", got, trusted)
	got, err = b.TrustEvents(b.ctx, 1)
	b.must(err)
	b.equal("the last event of trust", got, trusted[:1])
	b.refused("an event without verb", nil, func() error { return b.Note(b.ctx, event("fine"), record.Event{Time: Now}) })
	b.refused("an event without time", nil, func() error { return b.Note(b.ctx, record.Event{Verb: "x"}) })
	d := newDevice()
	b.refused("an admission that cannot be written down", nil, func() error {
		_, err := b.Admit(b.ctx, record.Query{}, func(record.View) (record.Admission, error) { return record.Admission{Device: d}, nil })
		return err
	})
}
