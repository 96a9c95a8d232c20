package recordtest

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// fate is what the walk knows of a certificate without asking the store.
type fate struct {
	record.Certificate
	issued, revoked, held bool
}

// randomWalk takes random steps and compares the store with a model of a few lines:
// the standing of devices and certificates, and the union of all CRLs.
func randomWalk(t *testing.T, b *bench) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	states := map[string]string{}
	var devices []string
	var fates []*fate
	for range 4 {
		d := b.enrolled()
		devices = append(devices, d.ID)
		states[d.ID] = record.StateActive
	}
	each := func(device string, do func(*fate)) {
		for _, f := range fates {
			if f.Device == device {
				do(f)
			}
		}
	}
	for step := range 400 {
		d := devices[r.IntN(len(devices))]
		var f *fate
		if len(fates) > 0 {
			f = fates[r.IntN(len(fates))]
		}
		var err, want error
		final := func() {
			if states[d] == record.StateRevoked {
				want = record.ErrConflict
			}
		}
		action := r.IntN(20)
		switch {
		case action < 6:
			c := newIntent(d)
			c.Shard = int64(1 + r.IntN(3))
			err = b.Intend(b.ctx, []record.Certificate{c}, nil)
			if states[d] != record.StateActive {
				want = record.ErrConflict
			} else {
				fates = append(fates, &fate{Certificate: c})
			}
		case action < 12 && f != nil:
			err = b.Complete(b.ctx, []record.Certificate{signed(f.Certificate)}, event("certificate.issued"))
			if f.issued || f.revoked || f.held {
				want = record.ErrConflict
			}
			f.issued = true
		case action < 14 && f != nil:
			err = b.Void(b.ctx, f.Issuer, f.Serial, Now, event("certificate.voided"))
			if f.issued || f.revoked {
				want = record.ErrConflict
			} else {
				f.revoked, f.held = true, false
			}
		case action < 16:
			_, err = b.Suspend(b.ctx, d, Now, event("device.suspended"))
			if final(); want == nil {
				states[d] = record.StateSuspended
				each(d, func(f *fate) { f.held = f.held || !f.revoked })
			}
		case action < 19:
			_, err = b.Restore(b.ctx, d, Now, event("device.restored"))
			if final(); want == nil {
				states[d] = record.StateActive
				each(d, func(f *fate) { f.held = false })
			}
		default:
			_, err = b.Revoke(b.ctx, d, Now, record.ReasonSuperseded, "", event("device.revoked"))
			each(d, func(f *fate) { f.revoked, f.held = true, false })
			states[d] = record.StateRevoked
			fresh := b.enrolled()
			devices = append(devices, fresh.ID)
			states[fresh.ID] = record.StateActive
		}
		if !errors.Is(err, want) {
			t.Fatalf("step %d, action %d: %v, want %v", step, action, err, want)
		}
	}
	b.compare(states, fates)
}

func (b *bench) compare(states map[string]string, fates []*fate) {
	for id, want := range states {
		d, err := b.Device(b.ctx, id)
		b.must(err)
		b.equal("state", d.State, want)
	}
	listed := map[string]int{}
	for shard := range int64(3) {
		list, _, err := b.RevokedIn(b.ctx, record.Shard{Issuer: "operational", Number: shard + 1}, Now, time.Hour)
		b.must(err)
		for _, r := range list {
			listed[r.Serial]++
		}
	}
	for _, f := range fates {
		want, entries := "good", 0
		switch {
		case f.held:
			want, entries = "hold", 1
		case f.revoked:
			want, entries = "revoked", 1
		case !f.issued:
			want = "intended"
		}
		b.is(f.Certificate, want)
		if listed[f.Serial] != entries {
			b.Errorf("certificate %s, %s, is on the lists %d times", f.Serial, want, listed[f.Serial])
		}
		if (b.status(f.Certificate).DER != nil) != f.issued {
			b.Errorf("certificate %s: issued %v, in the record %v", f.Serial, f.issued, !f.issued)
		}
	}
}
