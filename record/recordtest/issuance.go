package recordtest

import (
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// shardsEnd: a shard is listed until the last of its certificates has ended, and again
// when it gets another.
func shardsEnd(t *testing.T, b *bench) {
	d := b.enrolled()
	var shards []record.Shard
	for range 2 {
		number, _, err := b.ReserveShard(b.ctx, "operational", 3, 3)
		b.must(err)
		shards = append(shards, record.Shard{Issuer: "operational", Number: number})
	}
	give := func(s record.Shard, until time.Time) {
		c := newIntent(d.ID)
		c.Issuer, c.Shard, c.NotAfter = s.Issuer, s.Number, until
		b.intend(c)
	}
	listed := func(what string, at time.Time, want ...record.Shard) {
		list, err := b.Shards(b.ctx, "operational", at)
		b.must(err)
		b.equal(what, list, want)
	}
	listed("empty shards", Now.AddDate(100, 0, 0), shards...)
	give(shards[0], Now.AddDate(0, 0, 30))
	give(shards[0], Now.AddDate(0, 0, 10))
	give(shards[1], time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))
	listed("before the end", Now.AddDate(0, 0, 30), shards...)
	listed("after the end", Now.AddDate(0, 0, 32), shards[1])
	give(shards[0], Now.AddDate(0, 0, 60))
	listed("prolonged", Now.AddDate(0, 0, 32), shards...)
	listed("the newest of all", Now.AddDate(8000, 0, 0), shards[1])
}

func shardsGiven(t *testing.T, b *bench) {
	for i, step := range []struct{ want, capacity, shard, given int64 }{
		{5, 10, 1, 5}, {4, 10, 1, 4}, {5, 10, 1, 1}, {5, 10, 2, 5}, {100, 10, 2, 5}, {100, 10, 3, 10},
		{1, 20, 3, 1},  // a greater capacity opens a shard again
		{1, 10, 4, 1},  // a lesser one closes it
		{10, 10, 4, 9}, // what is left, not what is wanted
	} {
		shard, given, err := b.ReserveShard(b.ctx, "operational", step.want, step.capacity)
		b.must(err)
		if shard != step.shard || given != step.given {
			t.Errorf("step %d: shard %d gave %d, want shard %d to give %d", i, shard, given, step.shard, step.given)
		}
	}
	shard, given, err := b.ReserveShard(b.ctx, "manufacturing", 1, 10)
	if err != nil || shard != 1 || given != 1 {
		t.Errorf("another issuer: shard %d gave %d, %v", shard, given, err)
	}
	list, err := b.Shards(b.ctx, "operational", Now)
	b.must(err)
	b.equal("shards", list, []record.Shard{{Issuer: "operational", Number: 1}, {Issuer: "operational", Number: 2}, {Issuer: "operational", Number: 3}, {Issuer: "operational", Number: 4}})
	list, err = b.Shards(b.ctx, "nil", Now)
	if err != nil || len(list) != 0 {
		t.Errorf("shards of an unknown issuer: %v, %v", list, err)
	}
	for _, bad := range [][2]int64{{0, 10}, {-1, 10}, {1, 0}} {
		if _, _, err := b.ReserveShard(b.ctx, "operational", bad[0], bad[1]); err == nil {
			t.Errorf("want %d of %d was accepted", bad[0], bad[1])
		}
	}
}

// shardRace: a shard never gives more than it has, or a CRL outgrows its reader.
func shardRace(t *testing.T, b *bench) {
	const capacity = 16
	type place struct{ shard, given int64 }
	places := make(chan place, 200)
	b.parallel(cap(places), func(i int) error {
		shard, given, err := b.ReserveShard(b.ctx, "operational", int64(i%7+1), capacity)
		places <- place{shard, given}
		return err
	})
	close(places)
	given := map[int64]int64{}
	for p := range places {
		given[p.shard] += p.given
	}
	for shard, n := range given {
		if full := shard < int64(len(given)); n > capacity || full && n != capacity {
			t.Errorf("shard %d of %d gave %d of %d", shard, len(given), n, capacity)
		}
	}
}

func issuance(t *testing.T, b *bench) {
	d := b.enrolled()
	intents := []record.Certificate{newIntent(d.ID), newIntent(d.ID), newIntent("")}
	intents[1].Predecessor = intents[0].Serial
	events := b.last().Sequence
	b.must(b.Intend(b.ctx, intents, nil))
	for _, want := range intents {
		b.equal("intent", b.status(want), want)
		b.is(want, "intended")
	}
	open, err := b.OpenIntents(b.ctx)
	b.must(err)
	b.equal("open intents", open, intents)

	results := []record.Certificate{signed(intents[0]), signed(intents[1])}
	b.must(b.Complete(b.ctx, results, event("certificate.issued")))
	b.recorded("certificate.issued")
	if got := b.last().Sequence; got != events+1 {
		t.Errorf("two certificates made %d events, want the one given", got-events)
	}
	for i, r := range results {
		want := intents[i]
		want.DER, want.Issued, want.TBS = r.DER, r.Issued, nil
		b.equal("certificate", b.status(r), want)
		b.is(want, "good")
	}

	b.must(b.Void(b.ctx, intents[2].Issuer, intents[2].Serial, Now.Add(time.Minute), event("certificate.voided")))
	b.recorded("certificate.voided")
	void := b.status(intents[2])
	if !void.Revoked.Equal(Now.Add(time.Minute)) || string(void.TBS) != "to be signed" {
		t.Errorf("voided intent: %+v", void)
	}
	b.is(void, "revoked")
	open, err = b.OpenIntents(b.ctx)
	b.must(err)
	if len(open) != 0 {
		t.Errorf("still open: %v", open)
	}
	_, err = b.Status(b.ctx, "operational", newSerial())
	b.isErr("status of what was never intended", err, record.ErrNotFound)
	_, err = b.Status(b.ctx, "manufacturing", intents[0].Serial)
	b.isErr("status at another issuer", err, record.ErrNotFound)
}

func issuanceRefused(t *testing.T, b *bench) {
	d := b.enrolled()
	open, done := b.intend(newIntent(d.ID)), b.issue(newIntent(d.ID))
	intend := func(change func(*record.Certificate)) func() error {
		fresh, changed := newIntent(d.ID), newIntent(d.ID)
		change(&changed)
		return func() error { return b.Intend(b.ctx, []record.Certificate{fresh, changed}, nil) }
	}
	b.refused("serial number taken by an intent", record.ErrExists, intend(func(c *record.Certificate) { c.Serial = open.Serial }))
	b.refused("serial number taken", record.ErrExists, intend(func(c *record.Certificate) { c.Serial = done.Serial }))
	b.refused("unknown device", record.ErrNotFound, intend(func(c *record.Certificate) { c.Device = "nil" }))
	b.refused("unknown operator", record.ErrNotFound, intend(func(c *record.Certificate) { c.Device, c.Principal = "", "nil" }))
	b.must(b.RecoverOperator(b.ctx, "anna", Now, event("operator.recovered")))
	b.must(b.DisableOperator(b.ctx, "anna", Now, event("operator.disabled")))
	b.refused("disabled operator", record.ErrDisabled, intend(func(c *record.Certificate) { c.Device, c.Principal = "", "anna" }))

	complete := func(c record.Certificate) func() error {
		return func() error {
			return b.Complete(b.ctx, []record.Certificate{signed(open), signed(c)}, event("x"))
		}
	}
	b.refused("complete what was not intended", record.ErrConflict, complete(newIntent(d.ID)))
	b.refused("complete twice", record.ErrConflict, complete(done))
	b.refused("complete without certificate", nil, func() error {
		return b.Complete(b.ctx, []record.Certificate{{Issuer: open.Issuer, Serial: open.Serial, Issued: Now}}, event("x"))
	})
	b.refused("void a certificate", record.ErrConflict, func() error { return b.Void(b.ctx, done.Issuer, done.Serial, Now, event("x")) })
	b.refused("void what was not intended", record.ErrConflict, func() error { return b.Void(b.ctx, "operational", newSerial(), Now, event("x")) })
	b.must(b.Void(b.ctx, open.Issuer, open.Serial, Now, event("certificate.voided")))
	b.refused("void twice", record.ErrConflict, func() error { return b.Void(b.ctx, open.Issuer, open.Serial, Now, event("x")) })
}

// issuedFor: who asks again after a lost answer is found again, and nothing is intended.
func issuedFor(t *testing.T, b *bench) {
	d, other := b.enrolled(), b.enrolled()
	b.must(b.RecoverOperator(b.ctx, "anna", Now, event("operator.recovered")))
	b.must(b.RecoverOperator(b.ctx, "bert", Now, event("operator.recovered")))
	// earlier asks again for what c is, changed; it says that whatever is found stands.
	earlier := func(c record.Certificate, change func(*record.Certificate)) (found record.Certificate) {
		c.Serial = newSerial()
		if change != nil {
			change(&c)
		}
		asked := []record.Certificate{newIntent(d.ID), c}
		b.must(b.Intend(b.ctx, asked, func(earlier []*record.Certificate) []bool {
			if len(earlier) != 2 || earlier[0] != nil {
				t.Fatalf("found %+v for what was never issued", earlier)
			}
			if earlier[1] != nil {
				found = *earlier[1]
			}
			return []bool{false, earlier[1] != nil}
		}))
		b.is(asked[0], "intended")
		if _, err := b.Status(b.ctx, c.Issuer, c.Serial); (err == nil) != (found.Serial == "") {
			t.Errorf("found %q, and asked the record of the intent: %v", found.Serial, err)
		}
		return found
	}
	first, second, operators := newIntent(d.ID), newIntent(d.ID), newIntent("")
	second.Key, operators.Principal = first.Key, "anna"
	for n, c := range []record.Certificate{first, second, operators} {
		b.intend(c)
		if found := earlier(c, nil); found.Serial != [3]string{"", first.Serial, ""}[n] {
			t.Errorf("an intent, which is not issued yet, was taken for %q", found.Serial)
		}
		b.must(b.Complete(b.ctx, []record.Certificate{signed(c)}, event("certificate.issued")))
		b.equal("issued before", earlier(c, nil), b.status(c))
	}
	own := b.issue(newIntent(""))
	for what, found := range map[string]record.Certificate{
		"other profile":  earlier(first, func(c *record.Certificate) { c.Profile = "idevid" }),
		"other key":      earlier(first, func(c *record.Certificate) { c.Key = own.Key }),
		"other device":   earlier(first, func(c *record.Certificate) { c.Device = other.ID }),
		"no device":      earlier(first, func(c *record.Certificate) { c.Device = "" }),
		"other operator": earlier(operators, func(c *record.Certificate) { c.Principal = "bert" }),
		"no operator":    earlier(operators, func(c *record.Certificate) { c.Principal = "" }),
		"our own":        earlier(own, nil),
	} {
		if found.Serial != "" {
			t.Errorf("%s: found %+v", what, found)
		}
	}
	next := newIntent(d.ID)
	next.Key = first.Key
	b.must(b.Intend(b.ctx, []record.Certificate{next}, func([]*record.Certificate) []bool { return []bool{false} }))
	b.is(next, "intended")
	_, err := b.Suspend(b.ctx, d.ID, Now, event("device.suspended"))
	b.must(err)
	_, err = b.Restore(b.ctx, d.ID, Now, event("device.restored"))
	b.must(err)
	b.equal("restored", earlier(first, nil).Serial, second.Serial)
}
