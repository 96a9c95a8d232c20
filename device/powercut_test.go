package device_test

import (
	"errors"
	"net/http"
	"os"
	"testing"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/powercut"
	"github.com/hallmark-pki/hallmark/wire"
)

// usual are the ways that come first: nothing lost, data lost, data torn.
const usual = 3

// cutOff lets the agent do something and cuts the power at every change to the state
// folder, losing what was not synced in some of the ways that powercut knows, others at
// each change (device/state tries them all), and lets recovered look at each. The server
// knows what it knows: it was asked just so far. ready makes the device ready for each
// attempt.
func (u *unit) cutOff(t *testing.T, ready func(), act func(device.Options) error, recovered func(what string)) {
	t.Helper()
	total := 0
	for cut, way := 0, 0; ; way++ {
		ready()
		before, err := powercut.New(u.dir, -1)
		if err != nil {
			t.Fatal(err)
		}
		during, err := powercut.New(u.dir, cut)
		if err != nil {
			t.Fatal(err)
		}
		err = act(u.options().Through(during))
		if during.Changes() < cut {
			if err != nil {
				t.Fatalf("%v; said %q", err, u.said)
			}
			t.Logf("%d changes, %d states that a power cut left", during.Changes(), total)
			if during.Changes() < 10 {
				t.Fatal("too few to be true")
			}
			return
		}
		if err != nil && !errors.Is(err, powercut.ErrCut) {
			t.Fatalf("cut %d: %v; said %q", cut, err, u.said)
		}
		left := during.After(before, cut)
		if n := len(left); n > usual {
			left = append(left[:usual:usual], left[usual+cut%(n-usual)])
		}
		if way == len(left) {
			cut, way = cut+1, -1
			continue
		}
		if err := os.RemoveAll(u.dir); err != nil {
			t.Fatal(err)
		}
		if err := left[way].Write(u.dir, u.dir); err != nil {
			t.Fatal(err)
		}
		u.said = nil
		recovered(left[way].What)
		total++
	}
}

// renews makes sure that the device finds its identity at once, renews, and keeps its name
// and its place.
func (u *unit) renews(t *testing.T, serial string) func(what string) {
	return func(what string) {
		t.Helper()
		if set, _, err := state.At(u.dir).Load(); err != nil || len(set.LDevID) == 0 || len(set.IDevID) == 0 {
			t.Fatalf("%s: no identity is left: %v", what, err)
		}
		r, err := device.Renew(t.Context(), u.options())
		if err != nil || r.Serial != serial {
			t.Fatalf("%s: %+v, %v; said %q", what, r, err, u.said)
		}
		if set := u.load(t); len(set.Fresh) > 0 {
			t.Fatalf("%s: a certificate is left over", what)
		}
	}
}

// A chip's device whose power is cut at any moment of a renewal renews.
func TestPowerCutInARenewal(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	must[device.Result](t)(device.Renew(t.Context(), u.options()))
	u.cutOff(t, func() {}, func(o device.Options) error {
		_, err := device.Renew(t.Context(), o)
		return err
	}, u.renews(t, "SN-1"))
	if n := u.used(t); n != 1 {
		t.Fatalf("%d devices are counted", n)
	}
}

// Nor does such an accident look like a copy of a key that is in a file.
func TestPowerCutInARenewalOfAFileKey(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file").enrolled(t, "L-1")
	must[device.Result](t)(device.Renew(t.Context(), u.options()))
	u.cutOff(t, func() {}, func(o device.Options) error {
		_, err := device.Renew(t.Context(), o)
		return err
	}, u.renews(t, "L-1"))
}

// A certificate that was staged and not tried yet, and the power goes again while it is.
func TestPowerCutInAnAdoption(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file").enrolled(t, "L-1")
	must[device.Result](t)(device.Renew(t.Context(), u.options()))
	staged := func() {
		u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != wire.PathPoll {
				return false
			}
			w.WriteHeader(http.StatusBadRequest)
			return true
		}
		if _, err := device.Renew(t.Context(), u.options()); err == nil || len(u.load(t).Fresh) == 0 {
			t.Fatalf("nothing is staged: %v; said %q", err, u.said)
		}
		u.refuse = nil
	}
	u.cutOff(t, staged, func(o device.Options) error {
		_, err := device.Poll(t.Context(), o)
		return err
	}, u.renews(t, "L-1"))
}

// A board whose power is cut at any moment of its enrolment enrols with the same ticket,
// as the same device, and is counted once.
func TestPowerCutInAnEnrolment(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t)
	ticket := u.ticket(t)
	enrol := func(o device.Options) error {
		_, err := device.Enrol(t.Context(), device.Enrolment{Options: o, Ticket: ticket, Serial: "SN-1"})
		return err
	}
	u.cutOff(t, func() {
		if err := os.RemoveAll(u.dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(u.dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}, enrol, func(what string) {
		if err := enrol(u.options()); err != nil {
			t.Fatalf("%s: %v; said %q", what, err, u.said)
		}
		if set := u.load(t); set.Serial != "SN-1" {
			t.Fatalf("%s: %+v", what, set)
		}
	})
	if n := u.used(t); n != 1 {
		t.Fatalf("%d devices are counted", n)
	}
	must[device.Result](t)(device.Renew(t.Context(), u.options()))
}
