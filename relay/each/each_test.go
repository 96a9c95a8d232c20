package each

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// most is how long a command may take.
const most = 30 * time.Second

// program is the command: it dislikes some devices, and notes what it was told.
type program struct {
	dislikes map[string]bool
	takes    map[string]time.Duration // for a device
	told     []string
}

func (p *program) run(ctx context.Context, environment []string) error {
	value := func(name string) string {
		n := slices.IndexFunc(environment, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		return strings.TrimPrefix(environment[n], name+"=")
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(p.takes[value("HALLMARK_DEVICE")]):
	}
	if p.dislikes[value("HALLMARK_DEVICE")] {
		return errors.New("no good")
	}
	p.told = append(p.told, value("HALLMARK_CHANGE")+" "+value("HALLMARK_DEVICE"))
	return nil
}

func change(number int64, device string) wire.Change {
	return wire.Change{Number: number, Device: device, Status: wire.StatusHold, Expires: time.Now().Add(time.Hour)}
}

// The changes of a device that fails wait in their order, and reach it as soon as they can; what
// others are told does not wait, and nobody is told twice.
func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{dislikes: map[string]bool{"b": true}}
		tell := Teller{State: &State{Told: 1}, Run: p.run, Now: time.Now}
		all := []wire.Change{change(1, "a"), change(2, "b"), change(3, "a"), change(4, "b"), change(5, "c")}
		for range 2 {
			if err := tell.Tell(t.Context(), t.Context(), all, 7); err != nil || tell.Told != 7 {
				t.Fatalf("told up to %d: %v", tell.Told, err)
			}
		}
		if got := strings.Join(p.told, ", "); got != "3 a, 5 c" {
			t.Errorf("told: %s", got)
		}
		began := time.Now()
		for range 12 {
			<-tell.Due()
			if tell.Again(t.Context()) {
				t.Fatal("it has not failed again")
			}
		}
		if f := tell.Failing[0]; f.Device != "b" || f.Change != 2 || f.Times != 13 || !f.Since.Equal(began) || len(f.Changes) != 2 {
			t.Errorf("failing: %+v", f)
		}
		if took := time.Since(began); took < 3*time.Minute || took > 12*time.Minute {
			t.Errorf("twelve tries within %v", took)
		}
		p.dislikes["b"] = false
		<-tell.Due()
		if !tell.Again(t.Context()) || tell.Problem() != nil || tell.Due() != nil {
			t.Errorf("after the repair: %v", tell.Problem())
		}
		if got := strings.Join(p.told[2:], ", "); got != "2 b, 4 b" {
			t.Errorf("told then: %s", got)
		}
	})
}

// However many the command hangs for, each holds others up for a moment, once; whom it is only
// slow for goes before those when there is time.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{takes: map[string]time.Duration{"slow": 3 * time.Second}}
		tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
		var all []wire.Change
		for n := range int64(20) {
			all = append(all, change(n+1, fmt.Sprint("h", n)))
			p.takes[all[n].Device] = time.Hour
		}
		within := func(most time.Duration, do func()) {
			t.Helper()
			began := time.Now()
			do()
			if took := time.Since(began); took > most {
				t.Errorf("it took %v", took)
			}
		}
		within(20*brief, func() {
			if err := tell.Tell(t.Context(), t.Context(), append(all, change(21, "a")), 21); err != nil || tell.Told != 21 || len(tell.Failing) != 20 {
				t.Errorf("told up to %d: %v", tell.Told, err)
			}
		})
		for range 50 {
			<-tell.Due()
			within(most, func() { tell.Again(t.Context()) })
		}
		if slices.ContainsFunc(tell.Failing, func(f Failing) bool { return f.Times < 3 }) {
			t.Errorf("not all were tried again: %+v", tell.Failing)
		}
		within(brief+3*time.Second, func() {
			if err := tell.Tell(t.Context(), t.Context(), []wire.Change{change(22, "slow"), change(23, "b")}, 23); err != nil || tell.Told != 23 {
				t.Errorf("told up to %d: %v", tell.Told, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			<-tell.Due()
			tell.Again(ctx)
		})
		if got := strings.Join(p.told, ", "); got != "21 a, 23 b, 22 slow" {
			t.Errorf("told: %s", got)
		}
	})
}

// What comes while the command runs waits for a moment of it, and then only for what is over by
// then; whoever is alone has all of the time.
func TestNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{takes: map[string]time.Duration{"slow": 20 * time.Second}}
		tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
		all := []wire.Change{change(1, "slow")}
		if err := tell.Tell(t.Context(), t.Context(), all, 1); err != nil || len(tell.Failing) != 0 {
			t.Errorf("failing: %+v, %v", tell.Failing, err)
		}
		for comes, ends := range map[time.Duration]time.Duration{0: brief, brief / 2: brief, 5 * time.Second: 5 * time.Second} {
			tell.State = &State{}
			quiet, end := context.WithTimeout(t.Context(), comes)
			began := time.Now()
			err := tell.Tell(t.Context(), quiet, all, 1)
			if took := time.Since(began); err != nil || took != ends || len(tell.Failing) != 1 || !strings.Contains(tell.Failing[0].Says, "while others waited") {
				t.Errorf("after %v, not %v: %+v, %v", took, ends, tell.Failing, err)
			}
			end()
		}
		p.takes, p.told, tell.State, all = map[string]time.Duration{}, nil, &State{}, nil
		for n := range int64(8) {
			all = append(all, change(n+1, fmt.Sprint("d", n)))
			p.takes[all[n].Device] = brief / 2
		}
		quiet, end := context.WithTimeout(t.Context(), time.Millisecond)
		defer end()
		for upTo := int64(2); upTo <= 8; upTo += 2 {
			if err := tell.Tell(t.Context(), quiet, all, 8); err != nil || tell.Told != upTo {
				t.Errorf("told up to %d, not %d: %v", tell.Told, upTo, err)
			}
		}
	})
}

// Nobody need be told of a certificate that has ended.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{dislikes: map[string]bool{"b": true}}
		tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
		if err := tell.Tell(t.Context(), t.Context(), []wire.Change{change(2, "b")}, 2); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if !tell.Again(t.Context()) || len(tell.Failing) != 0 {
			t.Errorf("failing: %+v", tell.Failing)
		}
	})
}

// After the feed went back, nothing waits that it does not know, and what it tells of is told.
func TestResetTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{dislikes: map[string]bool{"b": true, "c": true}}
		tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
		if err := tell.Tell(t.Context(), t.Context(), []wire.Change{change(2, "b"), change(5, "b"), change(6, "c")}, 6); err != nil {
			t.Fatal(err)
		}
		tell.ResetTo(4)
		if len(tell.Failing) != 1 || len(tell.Failing[0].Changes) != 1 || tell.Failing[0].Change != 2 {
			t.Errorf("failing: %+v", tell.Failing)
		}
		p.dislikes = nil
		if err := tell.Tell(t.Context(), t.Context(), []wire.Change{change(5, "c")}, 5); err != nil || tell.Told != 5 {
			t.Errorf("told up to %d: %v", tell.Told, err)
		}
		<-tell.Due()
		if !tell.Again(t.Context()) || strings.Join(p.told, ", ") != "5 c, 2 b" {
			t.Errorf("told: %q", p.told)
		}
	})
}

// The command takes no name for an option, and what happens to others is told.
func TestOptions(t *testing.T) {
	p := &program{}
	tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
	option, options, responder := change(1, "a"), change(3, "c"), change(4, "d")
	option.Name, options.Name, responder.Name = "-rf", "a -rf", "OCSP responder"
	if err := tell.Tell(t.Context(), t.Context(), []wire.Change{option, change(2, "b"), options, responder}, 4); err != nil || tell.Told != 4 || !slices.Equal(p.told, []string{"2 b", "4 d"}) {
		t.Errorf("told %q up to %d: %v", p.told, tell.Told, err)
	}
	if err := tell.Problem(); err == nil || !strings.Contains(err.Error(), "hyphen") {
		t.Error(err)
	}
}

// However many there are of them, others do not wait, whether the command is run for these or fails;
// what is enforced ends before the first that is not listed, until its certificate has expired.
func TestManyOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{dislikes: map[string]bool{"b": true}}
		tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
		var all []wire.Change
		for n := range int64(2 * maxHeld) {
			option := change(n+1, fmt.Sprint("d", n%(2*wire.MaxRelayFailing)))
			option.Name = "-" + option.Device
			all = append(all, option)
		}
		last := int64(len(all))
		all = append(all, change(last+1, "a"), change(last+2, "b"), change(last+3, "c"))
		if err := tell.Tell(t.Context(), t.Context(), all, last+3); err != nil || tell.Told != last+3 || len(p.told) != 2 || tell.Full() {
			t.Errorf("told %q up to %d: %v", p.told, tell.Told, err)
		}
		if got, want := tell.Enforced(), int64(wire.MaxRelayFailing/2); got != want || !strings.Contains(tell.Problem().Error(), fmt.Sprintf("from change %d on", want+1)) {
			t.Errorf("enforced up to %d, not %d: %v", got, want, tell.Problem())
		}
		back := State{Told: 20, Passed: 15}
		if back.ResetTo(10); back.Enforced() != 10 {
			t.Errorf("after the feed went back to 10, enforced up to %d", back.Enforced())
		}
		p.dislikes = nil
		time.Sleep(2 * time.Hour)
		for tell.Again(t.Context()) {
		}
		if err := tell.Tell(t.Context(), t.Context(), nil, last+3); err != nil || tell.Enforced() != last+3 || tell.Problem() != nil {
			t.Errorf("after the certificates have expired, enforced up to %d: %v, %v", tell.Enforced(), tell.Problem(), err)
		}
	})
}

// Many failures of others take no place from such a name: once the command works again, everything but
// this device is enforced.
func TestOptionWhileOthersFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{dislikes: map[string]bool{}}
		tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
		var all []wire.Change
		for n := range int64(wire.MaxRelayFailing * 3 / 4) {
			c := change(n+1, fmt.Sprint("d", n))
			p.dislikes[c.Device] = true
			all = append(all, c)
		}
		last := int64(len(all)) + 1
		option := change(last, "o")
		option.Name = "-o"
		if err := tell.Tell(t.Context(), t.Context(), append(all, option), last); err != nil {
			t.Fatal(err)
		}
		p.dislikes = nil
		time.Sleep(maxWait)
		for tell.Again(t.Context()) {
			time.Sleep(maxWait)
		}
		if len(tell.Failing) != 1 || tell.Failing[0].Device != "o" || tell.Enforced() != last {
			t.Errorf("enforced up to %d of %d: %v", tell.Enforced(), last, tell.Problem())
		}
	})
}

// What waits has a bound; what is beyond is not told, and not said to be.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{dislikes: map[string]bool{"b": true}}
		tell := Teller{State: &State{}, Run: p.run, Now: time.Now}
		var all []wire.Change
		for n := range int64(2 * maxHeld) {
			all = append(all, change(n+1, "b"))
		}
		if err := tell.Tell(t.Context(), t.Context(), all, 2*maxHeld); err == nil || tell.Told != maxHeld || len(tell.Failing[0].Changes) != maxHeld {
			t.Errorf("told up to %d: %v", tell.Told, err)
		}

		p, all = &program{dislikes: map[string]bool{}}, nil
		tell.State, tell.Run = &State{}, p.run
		for n := range int64(wire.MaxRelayFailing + 5) {
			device := fmt.Sprint("d", n)
			p.dislikes[device] = true
			all = append(all, change(n+1, device))
		}
		if err := tell.Tell(t.Context(), t.Context(), all, 1000); err == nil || tell.Told != wire.MaxRelayFailing || len(tell.Failing) != wire.MaxRelayFailing {
			t.Errorf("told up to %d: %v", tell.Told, err)
		}
		p.dislikes = map[string]bool{"d100": true} // alone
		<-tell.Due()
		if err := tell.Tell(t.Context(), t.Context(), all, 1000); err != nil || tell.Told != 1000 {
			t.Errorf("after most were repaired, told up to %d: %v", tell.Told, err)
		}
	})
}
