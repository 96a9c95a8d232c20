package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// good is a device in the middle of its certificate's life.
func good() device.Status {
	return device.Status{Condition: device.OK, Device: "d:1", RenewAfter: noon.Add(5 * 24 * time.Hour), Poll: 6 * 3600,
		LDevID: &device.Certificate{NotBefore: noon.Add(-15 * 24 * time.Hour), NotAfter: noon.Add(15 * 24 * time.Hour)}}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	contact := state.Outcome{Contact: noon.Add(-time.Hour)}
	with := func(change func(*device.Status)) device.Status { s := good(); change(&s); return s }
	polled := askAt(good(), contact, noon)
	for name, c := range map[string]struct {
		s          device.Status
		unreadable error
		o          state.Outcome
		d          knowledge
		want       step
	}{
		"all is well":          {good(), nil, contact, knowledge{}, step{ask, polled}},
		"no polls wanted":      {with(func(s *device.Status) { s.Poll = 0 }), nil, contact, knowledge{}, step{renew, good().RenewAfter}},
		"due":                  {with(func(s *device.Status) { s.RenewAfter = noon.Add(-1) }), nil, state.Outcome{}, knowledge{}, step{renew, noon.Add(-1)}},
		"clock was set back":   {good(), nil, state.Outcome{Contact: noon.Add(time.Hour)}, knowledge{}, step{ask, noon}},
		"not enrolled":         {device.Status{Condition: device.NotEnrolled}, nil, state.Outcome{}, knowledge{}, step{enrol, noon}},
		"unreadable":           {device.Status{}, errors.New("torn"), state.Outcome{}, knowledge{}, step{enrol, noon}},
		"no certificate yet":   {device.Status{Condition: device.NoLDevID}, nil, contact, knowledge{unsure: true, impossible: true}, step{renew, noon}},
		"ended":                {with(func(s *device.Status) { s.Condition = device.Expired }), nil, contact, knowledge{}, step{renew, noon}},
		"ended, says a clock":  {with(func(s *device.Status) { s.Condition = device.Expired }), nil, contact, knowledge{unsure: true}, step{ask, noon}},
		"1970":                 {good(), nil, contact, knowledge{unsure: true, impossible: true}, step{ask, noon}},
		"another chip":         {good(), nil, contact, knowledge{foreign: true}, step{ask, noon}},
		"failed":               {with(func(s *device.Status) { s.RenewAfter = noon.Add(-1) }), nil, state.Outcome{NotBefore: noon.Add(time.Hour)}, knowledge{}, step{renew, noon.Add(time.Hour)}},
		"renewed thrice, due":  {with(func(s *device.Status) { s.RenewAfter = noon.Add(-1) }), nil, state.Outcome{}, knowledge{renewals: [maxRenewals]time.Time{noon, noon, noon}}, step{renew, noon.Add(time.Hour)}},
		"renewed, wanted anew": {with(func(s *device.Status) { s.RenewAfter = noon.Add(-1) }), nil, state.Outcome{}, knowledge{renewals: [maxRenewals]time.Time{{}, noon, noon}}, step{renew, noon.Add(-1)}},
		"renewed in 2099":      {with(func(s *device.Status) { s.RenewAfter = noon.Add(-1) }), nil, state.Outcome{}, knowledge{renewals: [maxRenewals]time.Time{noon.Add(1e6 * time.Hour)}}, step{renew, noon.Add(-1)}},
		"failed in 2099":       {with(func(s *device.Status) { s.RenewAfter = noon.Add(-1) }), nil, state.Outcome{NotBefore: noon.Add(1e6 * time.Hour)}, knowledge{}, step{renew, noon.Add(-1)}},
	} {
		if got := plan(c.s, c.unreadable, c.o, noon, c.d); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if d := polled.Sub(contact.Contact); d < 6*time.Hour || d > 6*time.Hour*11/10+time.Second {
		t.Errorf("asks after %v, not six hours and up to a tenth", d)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	all := func() float64 { return 1 }
	for failures, want := range map[int]time.Duration{1: 15 * time.Second, 2: 30 * time.Second, 5: 4 * time.Minute, 30: time.Hour, 1e9: time.Hour} {
		if got := backoff(failures, 30*24*time.Hour, all); got != want {
			t.Errorf("after %d failures at most %v, want %v", failures, got, want)
		}
	}
	if got := backoff(100, 10*time.Minute, all); got != 30*time.Second {
		t.Errorf("with a certificate of ten minutes at most %v", got)
	}
	if got := backoff(9, 30*24*time.Hour, func() float64 { return 0 }); got != time.Second {
		t.Errorf("at least %v", got)
	}
	none := func() float64 { return 0 }
	for name, c := range map[string]struct {
		err  error
		code string
		wait time.Duration
	}{
		"Retry-After": {&wire.Problem{Code: wire.CodeUnavailable, Detail: "later", RetryAfter: time.Hour}, wire.CodeUnavailable, time.Hour + time.Second},
		"network":     {&client.NetworkError{Err: errors.New("no route"), RetryAfter: time.Minute}, "network", time.Minute + time.Second},
		"trust":       {fmt.Errorf("joined: %w", &client.TrustError{Err: errors.New("who?")}), "trust", time.Second},
		"revoked":     {&wire.Problem{Code: wire.CodeRevoked, Detail: "final"}, wire.CodeRevoked, 24*time.Hour + time.Second},
		"for good":    {&wire.Problem{Code: wire.CodeRevoked, Detail: "final", RetryAfter: 24 * time.Hour}, wire.CodeRevoked, maxWait},
		"disk":        {os.ErrPermission, "state", time.Second},
	} {
		var o state.Outcome
		fail(&o, c.err, noon, 30*24*time.Hour, none)
		if o.Failure.Code != c.code || o.NotBefore.Sub(noon) != c.wait || o.Failures != 1 || (o.Final != nil) != (c.code == wire.CodeRevoked) {
			t.Errorf("%s: %+v", name, o)
		}
	}
	var o state.Outcome
	fail(&o, &wire.Problem{Code: "\x1b[2J", Detail: "\u009b31m\nok"}, noon, time.Hour, none)
	if o.Failure.Code != "?[2J" || o.Failure.Detail != "?31m ok" {
		t.Errorf("a text that controls the terminal: %q", *o.Failure)
	}
	// A turn is waited for, and is no failure; nor does it make good what failed before.
	for _, before := range []state.Outcome{{}, {Failures: 2, Failure: &state.Failure{Code: "network"}}} {
		o := before
		fail(&o, &wire.Problem{Code: wire.CodeTurn, RetryAfter: time.Minute}, noon, 30*24*time.Hour, none)
		if o.Failures != before.Failures || o.Failure != before.Failure || o.Attempt != noon || o.NotBefore.Sub(noon) != time.Minute+time.Second {
			t.Errorf("a turn: %+v", o)
		}
	}
}

// An idle agent wakes up once a minute at most, notices what was done by hand, is woken by
// a signal and ends when it is told.
func TestRunRests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		wake := make(chan struct{})
		looks := map[time.Time]bool{}
		a := &Agent{Wake: wake, HealthFile: filepath.Join(dir, "health"), MetricsFile: filepath.Join(dir, "no-such-folder", "m"),
			Options: device.Options{State: filepath.Join(dir, "state"), Now: func() time.Time { looks[time.Now()] = true; return time.Now() }}}
		var said []string
		a.Log = func(p Priority, line string) { said = append(said, fmt.Sprint(int(p), line)) }
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := len(looks); n < 8 || n > 121 {
			t.Errorf("%d wake-ups in two hours", n)
		}
		if n := slices.IndexFunc(said, func(s string) bool { return strings.HasPrefix(s, "4the device is not enrolled") }); n < 0 || len(said) > 3 {
			t.Errorf("said %q", said)
		}
		time.Sleep(time.Second)
		before := len(looks)
		wake <- struct{}{}
		synctest.Wait()
		if len(looks) != before+1 {
			t.Error("not woken")
		}
		other := &Agent{Options: device.Options{State: a.Options.State}}
		var held *state.HeldError
		if err := other.Run(ctx); !errors.As(err, &held) || held.PID != os.Getpid() || held.Command == "" {
			t.Errorf("a second agent: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if text, err := os.ReadFile(filepath.Join(dir, "health")); err != nil || !bytes.HasPrefix(text, []byte("unhealthy\n")) {
		t.Fatalf("%q, %v", text, err)
	}
}

// A clock that is set while the device runs, or that went on while it slept, is looked at
// anew; one that was learned from the server goes on by the monotonic clock.
func TestClock(t *testing.T) {
	t.Parallel()
	now := noon
	c := clock{system: func() time.Time { return now }, floor: noon.Add(-time.Hour)}
	c.look()
	learned := noon.Add(1000 * time.Hour)
	c.learned, c.at, c.sure = learned, now, true
	now = now.Add(time.Hour)
	c.look()
	if got := c.now(); !got.Equal(learned.Add(time.Hour)) || !c.sure {
		t.Fatalf("%v", got)
	}
	c.passed(time.Hour, time.Hour-time.Second) // what adjtime(3) does
	if !c.sure {
		t.Fatal("a slow correction is a step")
	}
	c.passed(8*time.Hour, time.Second) // a night's suspension
	if got := c.now(); c.sure || !got.Equal(now) {
		t.Fatalf("%v", got)
	}
	now = time.Unix(0, 0)
	c.passed(-time.Hour, 0)
	if !c.impossible() {
		t.Fatal("1970 is possible")
	}
	now = now.Add(time.Minute)
	if got := c.now(); !got.Equal(c.floor.Add(time.Minute)) {
		t.Fatalf("the time stands still at %v", got)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	NewLog(&b, true, time.Now)(Warning, "a\nb \x1b[31m")
	NewLog(&b, false, func() time.Time { return noon })(Info, "c")
	if b.String() != "<4>a b ?[31m\n2026-06-01T12:00:00Z c\n" {
		t.Fatalf("%q", &b)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if IsJournal(f, "") || IsJournal(f, "1:2") {
		t.Fatal("a file is no journal")
	}
}

// A metric's label is one value whatever the names are.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := Status{Status: device.Status{Device: "a\"b\\c\nd"}}
	if text := string(s.metrics("v1")); !strings.Contains(text, `{device="a\"b\\c\nd",version="v1",condition=""} 1`+"\n") {
		t.Fatal(text)
	}
}
