package recordtest

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// softDevice is a device without hardware, with a key of its own.
func softDevice() record.Device {
	d := newDevice()
	d.Assurance, d.EKs, d.AKName, d.AKPublic = record.Assurance{}, nil, nil, []byte("spki")
	d.Key = sha256.Sum256([]byte("soft" + d.Serial))
	return d
}

// softKeys: a device is found by its key, and one without hardware is known by it.
func softKeys(t *testing.T, b *bench) {
	soft, hard := softDevice(), b.enrolled()
	b.must(b.admit(soft))
	b.equalDevice(soft)
	for name, c := range map[string]struct {
		key  [32]byte
		want string
	}{"its key": {soft.Key, soft.ID}, "the key of a chip": {hard.Key, hard.ID}, "no key": {[32]byte{}, ""}} {
		v, err := b.Look(b.ctx, record.Query{Key: c.key})
		b.must(err)
		if got := v.ByKey; c.want == "" && got != nil || c.want != "" && (got == nil || got.ID != c.want) {
			t.Errorf("%s finds %+v", name, got)
		}
	}
	twin := softDevice()
	twin.Key = soft.Key
	b.refused("a second device with the key", record.ErrConflict, func() error { return b.admit(twin) })
	// A chip's device is known by the chip: whether it may have the key of another is judged.
	for range 2 {
		same := newDevice()
		same.Key = soft.Key
		b.must(b.admit(same))
	}
	v, err := b.Look(b.ctx, record.Query{Key: soft.Key})
	b.must(err)
	if v.ByKey == nil || v.ByKey.ID != soft.ID {
		t.Errorf("its key finds %+v", v.ByKey)
	}
}

// grantsGiven: what a grant is found by, and that one follows another.
func grantsGiven(t *testing.T, b *bench) {
	d := softDevice()
	b.must(b.admit(d))
	first := record.Grant{ID: id("grant"), Device: d.ID, Created: Now, Expires: Now.Add(time.Hour)}
	grant := func(g record.Grant) {
		t.Helper()
		shards, err := b.Grant(b.ctx, g, event("device.granted"))
		b.must(err)
		if len(shards) != 0 {
			t.Errorf("a grant changed %v", shards)
		}
	}
	grant(first)
	b.recorded("device.granted")
	for what, q := range map[string]record.Query{"its id": {Ticket: first.ID}, "the device's key": {Key: d.Key}, "the device's ID": {Device: d.ID}} {
		v, err := b.Look(b.ctx, q)
		b.must(err)
		if v.Grant == nil {
			t.Fatalf("%s finds no grant", what)
		}
		b.equal(what, *v.Grant, first)
		if v.Lot == nil || v.Lot.Name != d.Lot {
			t.Errorf("%s: lot %+v", what, v.Lot)
		}
	}
	if v, err := b.Look(b.ctx, record.Query{Serial: d.Serial}); err != nil || v.Grant != nil {
		t.Errorf("a serial number alone finds %+v, %v", v.Grant, err)
	}
	second := record.Grant{ID: id("grant"), Device: d.ID, Created: Now.Add(time.Minute), Expires: Now.Add(2 * time.Hour)}
	grant(second)
	first.Expires = first.Created // it is over, and on a clock that is set back as well
	got, err := b.GrantsOf(b.ctx, d.ID)
	b.must(err)
	b.equal("grants", got, []record.Grant{second, first})

	use := record.Admission{Device: d, Grant: second.ID, Event: event("device.returned")}
	use.Event.Time = Now.Add(5 * time.Minute)
	for range 2 { // the second time changes nothing of the grant
		_, err = b.Admit(b.ctx, record.Query{Key: d.Key}, func(record.View) (record.Admission, error) { return use, nil })
		b.must(err)
		use.Event.Time = use.Event.Time.Add(time.Minute)
	}
	second.Redeemed = Now.Add(5 * time.Minute)
	v, err := b.Look(b.ctx, record.Query{Ticket: second.ID})
	b.must(err)
	b.equal("used grant", *v.Grant, second)

	third := record.Grant{ID: id("grant"), Device: d.ID, Created: Now.Add(10 * time.Minute), Expires: Now.Add(3 * time.Hour)}
	grant(third)
	for range 2 { // the second time there is none
		b.must(b.EndGrants(b.ctx, Now.Add(time.Hour), event("grant.ended")))
	}
	b.recorded("grant.ended")
	second.Expires, third.Expires = second.Created, third.Created
	got, err = b.GrantsOf(b.ctx, d.ID)
	b.must(err)
	b.equal("ended grants", got, []record.Grant{third, second, first})
}

// grantsOfNewKeys: the certificates for the lost key end, on hold or not, and those of
// others do not.
func grantsOfNewKeys(t *testing.T, b *bench) {
	d, other := softDevice(), softDevice()
	b.must(b.admit(d))
	b.must(b.admit(other))
	mine, theirs := b.issue(newIntent(d.ID)), b.issue(newIntent(other.ID))
	_, err := b.Suspend(b.ctx, d.ID, Now.Add(time.Second), event("device.suspended"))
	b.must(err)
	g := record.Grant{ID: id("grant"), Device: d.ID, NewKey: true, Created: Now.Add(time.Minute), Expires: Now.Add(time.Hour)}
	shards, err := b.Grant(b.ctx, g, event("device.granted"))
	b.must(err)
	b.equal("shards", shards, []record.Shard{{Issuer: mine.Issuer, Number: mine.Shard}})
	got, err := b.Status(b.ctx, mine.Issuer, mine.Serial)
	b.must(err)
	if !got.Revoked.Equal(Now.Add(time.Second)) || got.Reason != record.ReasonSuperseded {
		t.Errorf("revoked %v for reason %d", got.Revoked, got.Reason)
	}
	if got, err = b.Status(b.ctx, theirs.Issuer, theirs.Serial); err != nil || !got.Revoked.IsZero() {
		t.Errorf("another device's certificate: %+v, %v", got, err)
	}
	// The device is suspended as before; nothing of it comes back with a restoration.
	if shards, err = b.Restore(b.ctx, d.ID, Now.Add(time.Hour), event("device.restored")); err != nil || len(shards) != 0 {
		t.Errorf("restoring: %v, %v", shards, err)
	}
	// A renewal that was admitted before comes too late.
	intend := func() error { return b.Intend(b.ctx, []record.Certificate{newIntent(d.ID)}, nil) }
	b.refused("sign for the lost key", record.ErrConflict, intend)
	lost := func(want *record.Grant) {
		t.Helper()
		v, err := b.Look(b.ctx, record.Query{Device: d.ID})
		b.must(err)
		b.equal("lost by", v.Lost, want)
	}
	lost(&g)
	// A later grant gives nobody the key back before it is made use of.
	later := record.Grant{ID: id("grant"), Device: d.ID, Created: Now.Add(2 * time.Minute), Expires: Now.Add(3 * time.Minute)}
	_, err = b.Grant(b.ctx, later, event("device.granted"))
	b.must(err)
	g.Expires = g.Created
	b.refused("sign for the lost key after another grant", record.ErrConflict, intend)
	lost(&g)
	d.Key, d.AKPublic = sha256.Sum256([]byte("new key")), []byte("new spki")
	_, err = b.Admit(b.ctx, record.Query{Ticket: g.ID}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: d, Grant: g.ID, Event: event("device.returned")}, nil
	})
	b.must(err)
	b.equalDevice(d)
	lost(nil)
	b.must(intend())
	// Nor does one come in time that was admitted before and is so late that the new key is there.
	late, birth := newIntent(d.ID), newIntent(d.ID)
	late.Predecessor = mine.Serial
	birth.Profile = "idevid"
	for what, i := range map[string]record.Certificate{"renew by a certificate of the lost key": late, "sign an IDevID for the lost key": birth} {
		b.refused(what, record.ErrConflict, func() error { return b.Intend(b.ctx, []record.Certificate{i}, nil) })
	}
	birth.Key = d.Key
	b.must(b.Intend(b.ctx, []record.Certificate{birth}, nil))
}

func grantsRefused(t *testing.T, b *bench) {
	hard, gone, soft := b.enrolled(), b.enrolled(), softDevice()
	b.must(b.admit(soft))
	_, err := b.Revoke(b.ctx, gone.ID, Now, record.ReasonCessation, "lost", event("device.revoked"))
	b.must(err)
	taken := record.Grant{ID: id("grant"), Device: soft.ID, Created: Now, Expires: Now.Add(time.Hour)}
	_, err = b.Grant(b.ctx, taken, event("device.granted"))
	b.must(err)
	for what, c := range map[string]struct {
		g    record.Grant
		want error
	}{
		"no such device":       {record.Grant{ID: "g", Device: "nobody"}, record.ErrNotFound},
		"a revoked device":     {record.Grant{ID: "g", Device: gone.ID}, record.ErrConflict},
		"a new key for a chip": {record.Grant{ID: "g", Device: hard.ID, NewKey: true}, record.ErrConflict},
		"a taken id":           {record.Grant{ID: taken.ID, Device: hard.ID}, record.ErrExists},
	} {
		c.g.Created, c.g.Expires = Now, Now.Add(time.Hour)
		b.refused(what, c.want, func() error {
			_, err := b.Grant(b.ctx, c.g, event("x"))
			return err
		})
	}
}
