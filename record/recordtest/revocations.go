package recordtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// fleet is a device with one certificate of each standing, on shards 1 to 4.
type fleet struct {
	device                  record.Device
	good, open, old, revoke record.Certificate
}

func (b *bench) fleet() (f fleet) {
	f.device = b.enrolled()
	good, open, old, void := newIntent(f.device.ID), newIntent(f.device.ID), newIntent(f.device.ID), newIntent(f.device.ID)
	open.Shard, old.Shard, void.Shard = 2, 3, 4
	old.NotBefore, old.NotAfter = Now.Add(-48*time.Hour), Now.Add(-24*time.Hour)
	f.good, f.open, f.old, f.revoke = b.issue(good), b.intend(open), b.issue(old), b.intend(void)
	b.must(b.Void(b.ctx, void.Issuer, void.Serial, Now.Add(-time.Minute), event("certificate.voided")))
	f.revoke = b.status(void)
	return f
}

// changed is what ending a fleet's device returns: the shard of what expired and of
// what was revoked before do not change.
var changed = []record.Shard{{Issuer: "operational", Number: 1}, {Issuer: "operational", Number: 2}}

func revocation(t *testing.T, b *bench) {
	f, bystander := b.fleet(), b.fleet()
	untouched := b.status(bystander.good)
	got, err := b.Revoke(b.ctx, f.device.ID, Now, record.ReasonKeyCompromise, "stolen", event("device.revoked"))
	b.must(err)
	b.equal("changed shards", got, changed)
	b.recorded("device.revoked")
	f.device.State = record.StateRevoked
	b.equalDevice(f.device)
	for _, c := range []record.Certificate{f.good, f.open, f.old} {
		if c = b.status(c); !c.Revoked.Equal(Now) || c.Reason != record.ReasonKeyCompromise {
			t.Errorf("certificate of a revoked device: %+v", c)
		}
	}
	b.equal("what was revoked before", b.status(f.revoke), f.revoke)
	b.equal("tombstones", b.tombstones(f.device), barred(f.device))
	b.equal("another device's certificate", b.status(untouched), untouched)
	b.equalDevice(bystander.device)
	b.equal("another device's tombstones", b.tombstones(bystander.device), []string(nil))

	b.unchanged("revoke again", func() error {
		shards, err := b.Revoke(b.ctx, f.device.ID, Now.Add(time.Hour), 0, "again", event("x"))
		// Whoever asks again after a failed publication must be able to see to it.
		for _, s := range changed {
			if !slices.Contains(shards, s) {
				t.Errorf("revoking again names the shards %v, not %v", shards, s)
			}
		}
		return err
	})
	b.refused("suspend what is revoked", record.ErrConflict, func() error { _, err := b.Suspend(b.ctx, f.device.ID, Now, event("x")); return err })
	b.refused("restore what is revoked", record.ErrConflict, func() error { _, err := b.Restore(b.ctx, f.device.ID, Now, event("x")); return err })
	b.refused("intend for what is revoked", record.ErrConflict, func() error { return b.Intend(b.ctx, []record.Certificate{newIntent(f.device.ID)}, nil) })
	b.refused("revive by admission", record.ErrConflict, func() error { d := f.device; d.State = record.StateActive; return b.admit(d) })
	b.refused("revoke a stranger", record.ErrNotFound, func() error { _, err := b.Revoke(b.ctx, "nil", Now, 0, "", event("x")); return err })
	for _, reason := range []int{record.ReasonHold, 7, 8, 11, -1} {
		b.refused(fmt.Sprint("reason ", reason), nil, func() error {
			_, err := b.Revoke(b.ctx, bystander.device.ID, Now, reason, "", event("x"))
			return err
		})
	}
}

// lifting: the device may come back, its certificates do not.
func lifting(t *testing.T, b *bench) {
	f := b.fleet()
	b.refused("lift what is not revoked", record.ErrConflict, func() error { return b.Lift(b.ctx, f.device.ID, event("x")) })
	_, err := b.Revoke(b.ctx, f.device.ID, Now, record.ReasonKeyCompromise, "stolen", event("device.revoked"))
	b.must(err)
	ended := b.status(f.good)
	b.must(b.Lift(b.ctx, f.device.ID, event("device.lifted")))
	b.recorded("device.lifted")
	b.equalDevice(f.device)
	b.equal("tombstones", b.tombstones(f.device), []string(nil))
	b.equal("a certificate of before", b.status(f.good), ended)
	b.must(b.admit(f.device))
	b.issue(newIntent(f.device.ID))
	_, err = b.Revoke(b.ctx, f.device.ID, Now, 0, "stolen", event("device.revoked"))
	b.must(err)
	b.equal("tombstones", b.tombstones(f.device), barred(f.device))
	b.refused("lift a stranger's", record.ErrConflict, func() error { return b.Lift(b.ctx, "nil", event("x")) })
}

func suspension(t *testing.T, b *bench) {
	f := b.fleet()
	before := map[string]record.Certificate{}
	for _, c := range []record.Certificate{f.good, f.open, f.old, f.revoke} {
		before[c.Serial] = b.status(c)
	}
	got, err := b.Suspend(b.ctx, f.device.ID, Now, event("device.suspended"))
	b.must(err)
	b.equal("changed shards", got, changed)
	b.recorded("device.suspended")
	for _, c := range []record.Certificate{f.good, f.open, f.old} {
		b.is(c, "hold")
		if at := b.status(c).Revoked; !at.Equal(Now) {
			t.Errorf("on hold since %v, want %v", at, Now)
		}
	}
	b.equal("what was revoked before", b.status(f.revoke), f.revoke)
	b.equal("tombstones", b.tombstones(f.device), []string(nil))
	b.unchanged("suspend again", func() error { _, err := b.Suspend(b.ctx, f.device.ID, Now.Add(1), event("x")); return err })
	b.refused("intend for what is suspended", record.ErrConflict, func() error { return b.Intend(b.ctx, []record.Certificate{newIntent(f.device.ID)}, nil) })
	b.refused("suspend a stranger", record.ErrNotFound, func() error { _, err := b.Suspend(b.ctx, "nil", Now, event("x")); return err })
	open, err := b.OpenIntents(b.ctx)
	b.must(err)
	if len(open) != 1 || open[0].Serial != f.open.Serial {
		t.Errorf("open intents: %v", open)
	}

	got, err = b.Restore(b.ctx, f.device.ID, Now.Add(time.Hour), event("device.restored"))
	b.must(err)
	b.equal("changed shards", got, changed)
	b.recorded("device.restored")
	b.equalDevice(f.device)
	for _, was := range before {
		b.equal("restored", b.status(was), was)
	}
	b.unchanged("restore again", func() error { _, err := b.Restore(b.ctx, f.device.ID, Now, event("x")); return err })
	b.refused("restore a stranger", record.ErrNotFound, func() error { _, err := b.Restore(b.ctx, "nil", Now, event("x")); return err })

	_, err = b.Suspend(b.ctx, f.device.ID, Now, event("device.suspended"))
	b.must(err)
	_, err = b.Revoke(b.ctx, f.device.ID, Now.Add(time.Hour), record.ReasonCessation, "stolen", event("device.revoked"))
	b.must(err)
	for _, c := range []record.Certificate{f.good, f.open, f.old} {
		if c = b.status(c); c.Reason != record.ReasonCessation || !c.Revoked.Equal(Now) {
			t.Errorf("revoked while on hold: %+v; it keeps its date", c)
		}
	}
}

// endedWhileSigning: a certificate whose device was ended between intent and
// completion exists, so the record holds it, ended from birth.
func endedWhileSigning(t *testing.T, b *bench) {
	for status, end := range map[string]func(d record.Device, c record.Certificate) error{
		"revoked": func(d record.Device, _ record.Certificate) error {
			_, err := b.Revoke(b.ctx, d.ID, Now, record.ReasonKeyCompromise, "stolen", event("device.revoked"))
			return err
		},
		"hold": func(d record.Device, _ record.Certificate) error {
			_, err := b.Suspend(b.ctx, d.ID, Now, event("device.suspended"))
			return err
		},
		"void": func(_ record.Device, c record.Certificate) error {
			return b.Void(b.ctx, c.Issuer, c.Serial, Now, event("certificate.voided"))
		},
	} {
		d := b.enrolled()
		one, two := b.intend(newIntent(d.ID)), b.intend(newIntent(d.ID))
		b.must(end(d, one))
		ended, r := b.status(one), signed(one)
		err := b.Complete(b.ctx, []record.Certificate{r, signed(two)}, event("certificate.issued"))
		b.isErr(status+": complete", err, record.ErrConflict)
		ended.DER, ended.Issued, ended.TBS = r.DER, r.Issued, nil
		b.equal(status+": the certificate", b.status(one), ended)
		if b.status(two).DER == nil {
			t.Errorf("%s: its neighbour was not recorded", status)
		}
		b.recorded("certificate.issued")
		if status != "hold" {
			continue
		}
		_, err = b.Restore(b.ctx, d.ID, Now, event("device.restored"))
		b.must(err)
		b.is(one, "good")
	}

	d := b.enrolled()
	held := b.intend(newIntent(d.ID))
	_, err := b.Suspend(b.ctx, d.ID, Now, event("device.suspended"))
	b.must(err)
	b.must(b.Void(b.ctx, held.Issuer, held.Serial, Now.Add(time.Hour), event("certificate.voided")))
	_, err = b.Restore(b.ctx, d.ID, Now, event("device.restored"))
	b.must(err)
	b.is(held, "revoked")
}

// revocationRace: whatever the order, no certificate of a revoked device is good and
// none that may exist is missing.
func revocationRace(t *testing.T, b *bench) {
	for range 20 {
		d := b.enrolled()
		var intended [9]record.Certificate
		b.parallel(len(intended), func(i int) error {
			if i == len(intended)/2 {
				_, err := b.Revoke(b.ctx, d.ID, Now, record.ReasonKeyCompromise, "stolen", event("device.revoked"))
				return err
			}
			c := newIntent(d.ID)
			if err := b.Intend(b.ctx, []record.Certificate{c}, nil); err != nil {
				return err
			}
			intended[i] = c
			return b.Complete(b.ctx, []record.Certificate{signed(c)}, event("certificate.issued"))
		})
		for _, c := range intended {
			if c.Serial == "" {
				continue
			}
			if b.is(c, "revoked"); b.status(c).DER == nil {
				t.Errorf("certificate %s was signed and is not in the record", c.Serial)
			}
		}
	}
}

func revokingOperator(t *testing.T, b *bench) {
	for _, name := range []string{"anna", "bert"} {
		b.must(b.RecoverOperator(b.ctx, name, Now, event("operator.recovered")))
	}
	certificate := func(name string, shard int64) record.Certificate {
		c := newIntent("")
		c.Issuer, c.Principal, c.Shard = "infrastructure", name, shard
		return c
	}
	one, open, other := b.issue(certificate("anna", 1)), b.intend(certificate("anna", 2)), b.issue(certificate("bert", 1))
	got, err := b.RevokePrincipal(b.ctx, "anna", Now, record.ReasonPrivilege, event("operator.revoked"))
	b.must(err)
	b.equal("changed shards", got, []record.Shard{{Issuer: "infrastructure", Number: 1}, {Issuer: "infrastructure", Number: 2}})
	b.recorded("operator.revoked")
	b.is(one, "revoked")
	b.is(open, "revoked")
	b.is(other, "good")
	b.unchanged("revoke an operator again", func() error {
		shards, err := b.RevokePrincipal(b.ctx, "anna", Now, record.ReasonPrivilege, event("x"))
		b.equal("shards to publish again", shards, got)
		return err
	})
	b.refused("revoke an unknown operator", record.ErrNotFound, func() error {
		_, err := b.RevokePrincipal(b.ctx, "nil", Now, 0, event("x"))
		return err
	})
	b.refused("hold an operator", nil, func() error {
		_, err := b.RevokePrincipal(b.ctx, "bert", Now, record.ReasonHold, event("x"))
		return err
	})
}

func revocationLists(t *testing.T, b *bench) {
	shard := record.Shard{Issuer: "operational", Number: 1}
	var want []record.Revoked
	for i := range 5 {
		d := b.enrolled()
		c := newIntent(d.ID)
		c.NotAfter = Now.Add(time.Duration(i-2) * 24 * time.Hour)
		b.issue(c)
		elsewhere := newIntent(d.ID)
		elsewhere.Shard = 2
		b.issue(elsewhere)
		r := record.Revoked{Serial: c.Serial, Since: Now, Reason: record.ReasonSuperseded}
		var err error
		if i == 4 {
			r.Reason = record.ReasonHold
			_, err = b.Suspend(b.ctx, d.ID, Now, event("device.suspended"))
		} else {
			_, err = b.Revoke(b.ctx, d.ID, Now, r.Reason, "stolen", event("device.revoked"))
		}
		b.must(err)
		if i > 0 { // expired for two days, kept for one
			want = append(want, r)
		}
	}
	b.issue(newIntent(b.enrolled().ID)) // a good one is on no list
	slices.SortFunc(want, func(a, b record.Revoked) int { return strings.Compare(a.Serial, b.Serial) })
	last, err := b.LastChange(b.ctx)
	b.must(err)
	got, shows, err := b.RevokedIn(b.ctx, shard, Now, 24*time.Hour)
	b.must(err)
	b.equal("revoked", got, want)
	b.equal("shown", shows, last)

	_, err = b.NewestCRL(b.ctx, shard)
	b.isErr("before the first list", err, record.ErrNotFound)
	crl := record.CRL{Shard: shard, Sequence: 7, Shows: 5, DER: []byte("first"), ThisUpdate: Now, NextUpdate: Now.Add(time.Hour)}
	b.must(b.PublishCRL(b.ctx, crl))
	for _, stale := range []int64{7, 6} {
		old := crl
		old.Sequence, old.DER = stale, []byte("stale")
		b.isErr("list not newer", b.PublishCRL(b.ctx, old), record.ErrConflict)
	}
	forgetful := crl
	forgetful.Sequence, forgetful.Shows = 8, 4
	b.isErr("list that knows less", b.PublishCRL(b.ctx, forgetful), record.ErrConflict)
	other := crl
	other.Number, other.Sequence = 2, 1
	b.must(b.PublishCRL(b.ctx, other))
	got2, err := b.NewestCRL(b.ctx, shard)
	b.must(err)
	b.equal("newest list", got2, crl)
	crl.Sequence, crl.DER = 1<<60, []byte("newer")
	b.must(b.PublishCRL(b.ctx, crl))
	got2, err = b.NewestCRL(b.ctx, shard)
	b.must(err)
	b.equal("newest list", got2, crl)

	published := b.parallel(50, func(i int) error {
		c := crl
		c.Sequence += 1 + int64(i)%3
		return b.PublishCRL(b.ctx, c)
	})
	if got2, err = b.NewestCRL(b.ctx, shard); err != nil || got2.Sequence != crl.Sequence+3 || published > 3 {
		t.Errorf("after a race list %d stands, %d were published, %v", got2.Sequence-crl.Sequence, published, err)
	}
}
