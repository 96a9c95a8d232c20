package recordtest

import (
	"crypto/sha256"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// after lists the changes after a number, in pages of two.
func (b *bench) after(number int64) (all []record.Change) {
	b.Helper()
	for {
		page, err := b.Changes(b.ctx, number, 2)
		b.must(err)
		if len(page) == 0 {
			break
		}
		all, number = append(all, page...), page[len(page)-1].Number
	}
	last, err := b.LastChange(b.ctx)
	b.must(err)
	if !slices.IsSortedFunc(all, func(a, b record.Change) int { return int(a.Number - b.Number) }) || len(all) > 0 && last < number {
		b.Errorf("changes out of order, or beyond the last, %d: %+v", last, all)
	}
	return all
}

func changeSerials(all []record.Change) (serials []string) {
	for _, c := range all {
		serials = append(serials, c.Serial)
	}
	slices.Sort(serials)
	return serials
}

func sorted(serials ...string) []string { slices.Sort(serials); return serials }

func statusChanges(t *testing.T, b *bench) {
	f := b.fleet()
	b.equal("before the first end", changeSerials(b.after(0)), []string{f.revoke.Serial})
	renewed := newIntent(f.device.ID)
	renewed.Predecessor = f.good.Serial
	renewed = b.issue(renewed)
	start, err := b.LastChange(b.ctx)
	b.must(err)
	b.equal("issuing is no change", b.after(start), []record.Change(nil))

	_, err = b.Suspend(b.ctx, f.device.ID, Now, event("device.suspended"))
	b.must(err)
	held := b.after(start)
	b.equal("held", changeSerials(held), sorted(f.good.Serial, f.open.Serial, f.old.Serial, renewed.Serial))
	for _, c := range held {
		switch c.Serial {
		case f.good.Serial:
			want := record.Change{Number: c.Number, Issuer: c.Issuer, Serial: f.good.Serial, Shard: f.good.Shard, Device: f.device.Name(), Subject: f.good.Subject,
				Fingerprint: sha256.Sum256(f.good.DER), Successor: renewed.Serial, NotAfter: f.good.NotAfter, Revoked: Now, Reason: record.ReasonHold}
			b.equal("the change", c, want)
		case f.open.Serial:
			b.equal("fingerprint of an intent", c.Fingerprint, [32]byte{})
		}
	}
	_, err = b.Suspend(b.ctx, f.device.ID, Now, event("x"))
	b.must(err)
	b.equal("held again", b.after(start), held)

	_, err = b.Restore(b.ctx, f.device.ID, Now, event("device.restored"))
	b.must(err)
	good := b.after(start)
	b.equal("restored", changeSerials(good), changeSerials(held))
	for _, c := range good {
		if !c.Revoked.IsZero() || c.Number <= held[len(held)-1].Number {
			t.Errorf("restored: %+v", c)
		}
	}
	number, err := b.LastChange(b.ctx)
	b.must(err)
	_, err = b.Revoke(b.ctx, f.device.ID, Now, record.ReasonSuperseded, "", event("device.revoked"))
	b.must(err)
	b.equal("revoked", changeSerials(b.after(number)), changeSerials(held))

	// Found later: it exists after all, and its fingerprint is news.
	number, err = b.LastChange(b.ctx)
	b.must(err)
	late := signed(f.open)
	b.isErr("completed after the end", b.Complete(b.ctx, []record.Certificate{late}, event("certificate.issued")), record.ErrConflict)
	if all := b.after(number); len(all) != 1 || all[0].Serial != f.open.Serial || all[0].Fingerprint != sha256.Sum256(late.DER) || all[0].Reason != record.ReasonSuperseded {
		t.Errorf("found later: %+v", all)
	}
	for _, limit := range []int{0, -1, 10_001} {
		if _, err := b.Changes(b.ctx, 0, limit); err == nil {
			t.Errorf("a limit of %d", limit)
		}
	}
}

// changesSkipped: numbers that others may have seen are not given again.
func changesSkipped(t *testing.T, b *bench) {
	for _, past := range []int64{1 << 40, 5, 1 << 39} {
		b.must(b.SkipChanges(b.ctx, past))
	}
	d := b.enrolled()
	b.issue(newIntent(d.ID))
	_, err := b.Suspend(b.ctx, d.ID, Now, event("device.suspended"))
	b.must(err)
	if all := b.after(0); len(all) != 1 || all[0].Number <= 1<<40 {
		t.Errorf("%+v", all)
	}
}

// standing: what the lists and filters are made of is what Status says.
func standing(t *testing.T, b *bench) {
	f, bystander := b.fleet(), b.fleet()
	_, err := b.Suspend(b.ctx, f.device.ID, Now, event("device.suspended"))
	b.must(err)
	last, err := b.LastChange(b.ctx)
	b.must(err)
	denied := map[string]record.Revoked{}
	number, err := b.Denied(b.ctx, "operational", Now, func(r record.Revoked) { denied[r.Serial] = r })
	b.must(err)
	b.equal("number", number, last)
	void := func(c record.Certificate) record.Revoked { return record.Revoked{Serial: c.Serial, Since: c.Revoked} }
	hold := func(c record.Certificate) record.Revoked {
		return record.Revoked{Serial: c.Serial, Since: Now, Reason: record.ReasonHold}
	}
	want := map[string]record.Revoked{f.good.Serial: hold(f.good), f.open.Serial: hold(f.open), f.revoke.Serial: void(f.revoke), bystander.revoke.Serial: void(bystander.revoke)}
	b.equal("denied", denied, want)
	all := map[string]bool{}
	number, err = b.Standing(b.ctx, "operational", Now, func(serial string, denied bool) { all[serial] = denied })
	b.must(err)
	b.equal("number", number, last)
	for serial := range denied {
		if !all[serial] {
			t.Error("denied, and not so in Standing")
		}
	}
	b.equal("standing", slices.Sorted(maps.Keys(all)), sorted(f.good.Serial, f.open.Serial, f.revoke.Serial, bystander.good.Serial, bystander.open.Serial, bystander.revoke.Serial))
	number, err = b.Denied(b.ctx, "infrastructure", Now.Add(time.Hour), func(record.Revoked) { t.Error("another issuer's") })
	if err != nil || number != last {
		t.Error(number, err)
	}
}
