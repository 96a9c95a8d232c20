package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/agent"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

const day = 24 * time.Hour

// agent is one that looks after the device; what it says is in u.said.
func (u *unit) agent() *agent.Agent {
	if u.now == nil {
		u.now = u.clock
	}
	o := u.options()
	o.Now = func() time.Time { return u.now() }
	return &agent.Agent{Options: o, Version: "v1", Log: func(_ agent.Priority, line string) { u.said = append(u.said, line) }}
}

// live lets time pass as the agent wants it for so long. It gives when each request was made.
func (u *unit) live(t *testing.T, a *agent.Agent, long time.Duration) (asked map[string][]time.Time) {
	t.Helper()
	asked = make(map[string][]time.Time)
	u.paths()
	for end := u.clock().Add(long); u.clock().Before(end); {
		wait, _ := a.Turn(t.Context())
		for _, path := range u.paths() {
			asked[path] = append(asked[path], u.clock())
		}
		if wait <= 0 {
			t.Fatalf("the agent does not rest: %v; said %q", wait, u.said)
		}
		u.sleep(min(wait, end.Sub(u.clock())))
	}
	return asked
}

// refused answers everything in the server's place.
func (u *unit) refused(status int, code, retryAfter string) {
	u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.Header().Set("Content-Type", wire.ProblemType)
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(wire.Problem{Code: code, Detail: "not today"})
		return true
	}
}

// Half a year, in which the agent renews at the moment that the window gives it.
func TestAgentKeepsACertificateFresh(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	a := u.agent()
	asked := u.live(t, a, 180*day)
	if n := len(asked[wire.PathRenew]); n < 8 || n > 10 {
		t.Fatalf("%d renewals in half a year", n)
	}
	s := a.Status()
	if !s.Healthy || s.Condition != device.OK || s.Outcome.Failures != 0 {
		t.Fatalf("%+v", s)
	}
	every := time.Duration(s.Poll) * time.Second
	if every == 0 {
		t.Fatal("the server wants no questions")
	}
	previous := asked[wire.PathPoll][0]
	for _, at := range asked[wire.PathPoll][1:] {
		if renewal := slices.ContainsFunc(asked[wire.PathRenew], func(r time.Time) bool { return at.Sub(r).Abs() < time.Minute }); !renewal {
			if gap := at.Sub(previous); gap < every-time.Minute || gap > every*11/10+time.Minute {
				t.Fatalf("asked after %v, not %v", gap, every)
			}
		}
		previous = at
	}
	// The moment is the window's, to the second: the device's clock stands still meanwhile.
	now := s.RenewAfter.Add(-time.Second)
	u.sleep(now.Sub(u.clock()))
	u.now = func() time.Time { return now }
	if _, err := a.Turn(t.Context()); err != nil || slices.Contains(u.paths(), wire.PathRenew) {
		t.Fatalf("renewed before its time: %v", err)
	}
	now = now.Add(time.Second)
	if _, err := a.Turn(t.Context()); err != nil || !slices.Contains(u.paths(), wire.PathRenew) {
		t.Fatalf("not renewed in time: %v", err)
	}
}

// A drawer for half a year, and the server away when the device comes out of it.
func TestAgentComesBack(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t)
	u.sleep(0)
	u.enrolled(t, "SN-1")
	a := u.agent()
	u.live(t, a, day)
	u.sleep(180 * day)
	u.refused(http.StatusServiceUnavailable, wire.CodeUnavailable, "600")
	a = u.agent()
	wait, err := a.Turn(t.Context())
	if problem(err) != wire.CodeUnavailable || wait < 10*time.Minute || wait > 11*time.Minute {
		t.Fatalf("the server asked for ten minutes: %v, %v", wait, err)
	}
	// So does the next agent: the power may have failed.
	if again, err := u.agent().Turn(t.Context()); err != nil || again < wait-time.Minute || again > wait {
		t.Fatalf("%v after %v, %v", again, wait, err)
	}
	if s := a.Status(); s.Healthy || !strings.Contains(s.Unhealthy, "has ended") {
		t.Fatalf("%+v", s)
	}
	if err := a.Check(t.Context()); problem(err) != wire.CodeUnavailable {
		t.Fatalf("a gate that lets pass: %v", err)
	}
	u.refuse = nil
	u.sleep(12 * time.Minute)
	if wait, err := u.agent().Turn(t.Context()); err != nil || wait < time.Hour {
		t.Fatalf("%v, %v", wait, err)
	}
	if s := u.agent().Status(); !s.Healthy || s.Outcome.Failure != nil {
		t.Fatalf("%+v", s)
	}
}

// An agent that is run now and then fails when it must let something wait, and not because
// something failed that was done by hand.
func TestOnceAfterAFailure(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	must[time.Time](t)(u.agent().Once(t.Context()))
	u.refused(http.StatusServiceUnavailable, wire.CodeUnavailable, "600")
	if _, err := u.agent().Renew(t.Context(), false); problem(err) != wire.CodeUnavailable {
		t.Fatal(err)
	}
	if next, err := u.agent().Once(t.Context()); err != nil || next.Before(u.clock().Add(time.Hour)) {
		t.Fatalf("nothing is due, but: %v, %v", next, err)
	}
	u.sleep(25 * day)
	if _, err := u.agent().Once(t.Context()); problem(err) != wire.CodeUnavailable {
		t.Fatal(err)
	}
	if next, err := u.agent().Once(t.Context()); !errors.As(err, new(*agent.WaitError)) || next.After(u.clock().Add(time.Hour)) {
		t.Fatalf("a renewal has to wait, but: %v, %v", next, err)
	}
}

// A device that was refused for good asks once a day, whoever starts it again, and comes
// back by itself should that be lifted.
func TestAgentOfARevokedDevice(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	u.live(t, u.agent(), day)
	u.refused(http.StatusForbidden, wire.CodeRevoked, "")
	u.sleep(20 * day)
	requests := 0
	for range 40 { // ten days of a device that is switched on four times a day
		a := u.agent()
		for _, times := range u.live(t, a, 6*time.Hour) {
			requests += len(times)
		}
		if s := a.Status(); s.Healthy || s.Outcome.Final == nil || s.Outcome.Final.Code != wire.CodeRevoked {
			t.Fatalf("%+v", s)
		}
	}
	if requests < 8 || requests > 11 {
		t.Fatalf("%d requests in ten days", requests)
	}
	a := u.agent()
	if _, err := a.Renew(t.Context(), false); !errors.As(err, new(*agent.WaitError)) || len(u.paths()) != 0 {
		t.Fatalf("the refusal is not remembered: %v", err)
	}
	if _, err := a.Renew(t.Context(), true); problem(err) != wire.CodeRevoked {
		t.Fatalf("forced: %v", err)
	}
	u.refuse = nil
	u.live(t, a, 2*day)
	if s := a.Status(); !s.Healthy || s.Outcome.Final != nil {
		t.Fatalf("%+v", s)
	}
}

// Whatever the clock says, the agent asks, learns the time and keeps to it; the working
// identity stays.
func TestAgentAndClocks(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	for n, wrong := range []time.Duration{-time.Since(time.Unix(0, 0)), 10 * 365 * day} {
		u := i.soft(t, "file")
		u.later.Store(0)
		u.now = u.clock
		u.enrolled(t, fmt.Sprint("L-", n))
		u.live(t, u.agent(), day)
		before := u.load(t)
		// It is switched on without a battery for its clock.
		u.now = func() time.Time { return u.clock().Add(wrong) }
		a := u.agent()
		var set time.Time
		wait, err := a.Turn(t.Context())
		if err != nil || wait < time.Hour {
			t.Fatalf("%v: %v, %v", wrong, wait, err)
		}
		if after := u.load(t); string(after.LDevIDKey) != string(before.LDevIDKey) {
			t.Fatalf("%v: a certificate was replaced because of a clock; said %q", wrong, u.said)
		}
		if s := a.Status(); !s.Healthy {
			t.Fatalf("%v: %+v", wrong, s)
		}
		// The certificate is renewed when it is time by the server's clock.
		for end := u.clock().Add(25 * day); u.clock().Before(end); {
			if wait, err = a.Turn(t.Context()); err != nil {
				t.Fatal(err)
			}
			u.later.Add(int64(wait))
		}
		after := must[device.Status](t)(device.ReadStatus(u.dir, u.clock()))
		if after.Condition != device.OK || string(u.load(t).LDevIDKey) == string(before.LDevIDKey) {
			t.Fatalf("%v: not renewed: %+v; said %q", wrong, after, u.said)
		}
		// Only if asked is the clock set, and to the right time.
		a = u.agent()
		a.SetClock = func(now time.Time) error { set = now; u.now = u.clock; return nil }
		u.later.Add(int64(7 * time.Hour))
		must[time.Duration](t)(a.Turn(t.Context()))
		if set.Sub(u.clock()).Abs() > time.Minute {
			t.Fatalf("%v: the clock was set to %v", wrong, set)
		}
	}
}

// What works beside the agent goes by the agent's clock: the device's is ten years ahead, and
// its broker's certificate has not ended.
func TestAgentLendsItsClock(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.now = u.clock
	u.enrolled(t, "L-1")
	u.live(t, u.agent(), time.Minute)
	u.now = func() time.Time { return u.clock().Add(3652 * day) }
	a := u.agent()
	address, roots := u.relyingParty(t)
	dials := func(now func() time.Time) error {
		o := u.options()
		o.Now = now
		identity := must[*device.Identity](t)(device.OpenIdentity(o))
		defer identity.Close()
		conn, err := identity.Dial(t.Context(), device.Connection{To: address, Roots: roots})
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dials(a.Now); err == nil {
		t.Fatal("the agent knows the time before it has asked")
	}
	must[time.Duration](t)(a.Turn(t.Context()))
	if err := dials(a.Now); err != nil {
		t.Fatal(err)
	}
}

// The state of another board is given up for an identity of this board's own.
func TestAgentOnACopiedState(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	u := i.unit(t)
	u.sleep(0)
	u.enrolled(t, "SN-1")
	u.live(t, u.agent(), time.Minute)
	twin := u.copied(t)
	twin.chip, twin.said = i.chip(t), nil
	dir := state.At(twin.dir)
	o := dir.Outcome()
	o.Boot = "the other board's"
	if err := dir.SaveOutcome(o); err != nil {
		t.Fatal(err)
	}
	if _, err := twin.agent().Turn(t.Context()); problem(err) != wire.CodeTicketNeeded {
		t.Fatalf("an unknown board: %v", err)
	}
	if s := twin.agent().Status(); s.Healthy || s.Outcome.Failure == nil || s.Outcome.Failure.Code != wire.CodeTicketNeeded {
		t.Fatalf("%+v", s)
	}
	a := twin.agent()
	a.Ticket = i.ticket(t)
	a.Serial = func(ctx context.Context) (string, error) { return "SN-2", nil }
	twin.live(t, a, 30*time.Minute)
	if s := a.Status(); s.Device != "default:SN-2" || !s.Healthy {
		t.Fatalf("%+v; said %q", s, twin.said)
	}
	if s := u.agent().Status(); s.Device != "default:SN-1" || !s.Healthy {
		t.Fatalf("%+v", s)
	}
}

// An image: the board's identity is gone, and the next board enrols by itself.
func TestAgentStartsFromAnImage(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	u := i.unit(t)
	u.sleep(0)
	u.enrolled(t, "SN-1")
	u.live(t, u.agent(), time.Hour)
	g := must[agent.Generalised](t)(agent.Generalise(u.dir))
	if g.Server != u.url || !slices.Contains(g.Removed, "current") {
		t.Fatalf("%+v", g)
	}
	if wait, err := u.agent().Turn(t.Context()); !errors.Is(err, state.ErrEmpty) || wait < time.Minute {
		t.Fatalf("a board that cannot enrol: %v, %v", wait, err)
	}
	// The same board, so the server knows it.
	a := u.agent()
	a.Servers = []string{g.Server}
	if _, err := a.Turn(t.Context()); !errors.Is(err, state.ErrEmpty) || !strings.Contains(err.Error(), "no roots") {
		t.Fatalf("a board that knows only its server: %v", err)
	}
	a = u.agent()
	a.Servers = []string{"https://127.0.0.1:1", g.Server} // one that is away, and the next
	a.Roots = must[[][]byte](t)(device.ReadRoots(filepath.Join(u.dir, state.AnchorsFile)))
	u.live(t, a, time.Hour)
	if s := a.Status(); s.Device != "default:SN-1" || !s.Healthy || s.Server != g.Server {
		t.Fatalf("%+v; said %q", s, u.said)
	}
	release := must[func()](t)(state.At(u.dir).LockAgent())
	defer release()
	if _, err := agent.Generalise(u.dir); !errors.As(err, new(*state.HeldError)) {
		t.Fatalf("under an agent: %v", err)
	}
}

// The TPM is away, and back; the certificate is kept, and the failure is named.
func TestAgentWithoutItsTPM(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t)
	u.sleep(0)
	u.enrolled(t, "SN-1")
	u.live(t, u.agent(), time.Hour)
	before := u.load(t)
	a := u.agent()
	a.Options.TPM = "/dev/no-such-tpm"
	u.sleep(25 * day)
	asked := u.live(t, a, 6*time.Hour)
	if len(asked) != 0 || !strings.Contains(a.Status().Unhealthy, "cannot be used") {
		t.Fatalf("%v, %+v", asked, a.Status())
	}
	if n := a.Status().Outcome.Failures; n < 5 || n > 100 {
		t.Fatalf("%d attempts in six hours", n)
	}
	if after := u.load(t); string(after.LDevIDKey) != string(before.LDevIDKey) {
		t.Fatal("the working certificate was given up")
	}
	a.Options.TPM = u.chip.Spec()
	u.live(t, a, 2*time.Hour)
	if s := a.Status(); !s.Healthy || s.Condition != device.OK {
		t.Fatalf("%+v", s)
	}
}

// A gate asks once for each program and each start of the device.
func TestGate(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	a := u.agent()
	if err := a.Check(t.Context()); err != nil || !a.Status().Healthy { // it fetched the first certificate
		t.Fatal(err)
	}
	u.paths()
	if err := a.Check(t.Context()); err != nil || len(u.paths()) != 0 {
		t.Fatalf("asked again: %v", err)
	}
	next := u.agent()
	next.Version = "v2"
	if err := next.Check(t.Context()); err != nil || !slices.Equal(u.paths(), []string{wire.PathPoll}) {
		t.Fatalf("another program: %v", err)
	}
	dir := state.At(u.dir)
	o := dir.Outcome()
	o.Boot = "another"
	if err := dir.SaveOutcome(o); err != nil {
		t.Fatal(err)
	}
	u.refused(http.StatusServiceUnavailable, wire.CodeUnavailable, "1")
	if err := next.Check(t.Context()); problem(err) != wire.CodeUnavailable {
		t.Fatalf("another start: %v", err)
	}
}

// A folder that cannot be written keeps no agent from its schedule.
func TestAgentWhoseFolderIsFull(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	a := u.agent()
	u.live(t, a, time.Hour)
	// A folder where the outcome's staging file should go fails like a full disk does.
	block := filepath.Join(u.dir, "outcome.json.new", "x")
	if err := os.MkdirAll(block, 0o755); err != nil {
		t.Fatal(err)
	}
	u.refused(http.StatusForbidden, wire.CodeSuspended, "")
	u.sleep(25 * day)
	asked := u.live(t, a, 6*time.Hour)
	if n := len(asked[wire.PathRenew]); n < 5 || n > 100 {
		t.Fatalf("%d attempts in six hours: %v", n, asked)
	}
	u.refuse = nil
	u.live(t, a, 2*time.Hour)
	if s := a.Status(); s.Condition != device.OK || !s.Healthy {
		t.Fatalf("%+v", s)
	}
	if text := strings.Join(u.said, "\n"); !strings.Contains(text, "writing the state folder") {
		t.Fatalf("said %q", u.said)
	}
}

// A server that wants to hear of a device in the year 9999, because its clock is wrong or
// somebody answered in its place for once, does not take its working certificate from it.
func TestAgentOfAFarMoment(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	u.renew(t, "idevid")
	for _, window := range []string{
		`{"start":"9999-12-31T23:59:59Z","end":"9999-12-31T23:59:59Z"}`,
		`{"start":"9999-12-31T23:59:59-12:00","end":"9999-12-31T23:59:59-12:00"}`, // in UTC that is 10000, which JSON does not know
		`{"start":"2026-01-01T00:00:00Z","end":"9999-12-31T23:59:59-12:00"}`,
	} {
		u.refuse = func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, window); return true }
		must[device.Result](t)(device.Poll(t.Context(), u.options()))
		u.refuse = nil
		a := u.agent()
		before := a.Status()
		if !before.RenewAfter.Before(before.LDevID.NotAfter) {
			t.Fatalf("%s: to be renewed after %v", window, before.RenewAfter)
		}
		u.live(t, a, before.LDevID.NotAfter.Sub(u.clock()))
		if after := a.Status(); after.Condition != device.OK || !after.LDevID.NotAfter.After(before.LDevID.NotAfter) {
			t.Fatalf("%s: %+v", window, after)
		}
	}
}

// A server whose clock is behind may want a certificate renewed as soon as it has issued it.
func TestAgentOfAPastMoment(t *testing.T) {
	t.Parallel()
	for _, window := range []string{
		`{}`,
		`{"start":"2020-01-01T00:00:00Z","end":"2020-01-01T00:00:00Z","poll":60}`,
		`{"start":"0000-01-01T00:00:00+12:00","end":"0000-01-01T00:00:00+12:00"}`, // in UTC that is -1, which JSON does not know
	} {
		u := install(t, false).soft(t, "file")
		u.sleep(0)
		u.enrolled(t, "L-1")
		u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != wire.PathPoll {
				return false
			}
			io.WriteString(w, window)
			return true
		}
		a := u.agent()
		if asked := u.live(t, a, 150*time.Minute); len(asked[wire.PathRenew]) != 9 { // three times an hour
			t.Errorf("%s: renewed %d times", window, len(asked[wire.PathRenew]))
		}
		if s := a.Status(); !s.Healthy || s.Outcome.Failures > 0 {
			t.Errorf("%s: %+v", window, s)
		}
	}
}

// Whatever Retry-After a server adds, a device that was refused for good asks once a day.
func TestAgentOfALongWait(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	u.refused(http.StatusForbidden, wire.CodeRevoked, "2147483647")
	if asked := u.live(t, u.agent(), 20*time.Hour); len(asked[wire.PathRenew]) != 1 {
		t.Errorf("asked %d times", len(asked[wire.PathRenew]))
	}
}

// A refusal at great length is remembered like another, in few bytes and one line.
func TestAgentOfALongRefusal(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "L-1")
	u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", wire.ProblemType)
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"code":"device-revoked","detail":"\ncondition    ok%s"}`, strings.Repeat("<", 60000)) // six bytes each in our JSON
		return true
	}
	a := u.agent()
	var log strings.Builder
	write := agent.NewLog(&log, true, time.Now)
	a.Log = write
	a.Options.Report = func(line string) { write(agent.Warning, line) }
	if asked := u.live(t, a, time.Minute); len(asked[wire.PathRenew]) != 1 {
		t.Errorf("asked %d times in a minute", len(asked[wire.PathRenew]))
	}
	if s := a.Status(); s.Outcome.Final == nil || len(s.Outcome.Final.Detail) > 2000 || strings.Contains(s.Outcome.Final.Detail, "\n") || log.Len() > 5000 {
		t.Errorf("kept %d bytes, told %d", len(fmt.Sprint(s.Outcome)), log.Len())
	}
}
