package recordtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// durable: what was written is there after closing and opening.
func durable(t *testing.T, p Place) {
	name := filepath.Join(t.TempDir(), "store")
	s, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, Store: s, ctx: t.Context()}
	b.variety()
	before := b.everything()
	b.must(s.Close())
	if b.Store, err = p.Open(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if after := b.everything(); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	b.must(b.Verify(b.ctx))
	b.enrolled()
}

// givenUp: a caller whose context ends gets its error only if nothing was done.
func givenUp(t *testing.T, b *bench) {
	over, cancel := context.WithCancel(b.ctx)
	cancel()
	d := newDevice()
	admit := func(ctx context.Context, d record.Device) error {
		_, err := b.Admit(ctx, record.Query{}, func(record.View) (record.Admission, error) {
			return record.Admission{Device: d, Event: event("device.enrolled")}, nil
		})
		return err
	}
	b.refused("given up before", context.Canceled, func() error { return admit(over, d) })
	b.refused("given up before reading", context.Canceled, func() error { _, err := b.Device(over, d.ID); return err })

	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(b.ctx, time.Duration(rand.IntN(5000))*time.Microsecond)
			defer cancel()
			d := newDevice()
			err := admit(ctx, d)
			_, found := b.Device(b.ctx, d.ID)
			switch {
			case err == nil && found != nil:
				t.Errorf("answered and not there: %v", found)
			case errors.Is(err, context.DeadlineExceeded) && !errors.Is(found, record.ErrNotFound):
				t.Errorf("given up and done all the same: %v", found)
			case err != nil && !errors.Is(err, context.DeadlineExceeded):
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// closed: a closed store says so.
func closed(t *testing.T, b *bench) {
	d := b.enrolled()
	b.must(b.Close())
	b.closed = true
	b.isErr("write", b.Note(b.ctx, event("x")), record.ErrUnavailable)
	_, err := b.Device(b.ctx, d.ID)
	b.isErr("read", err, record.ErrUnavailable)
	b.isErr("snapshot", b.Snapshot(b.ctx, filepath.Join(t.TempDir(), "file")), record.ErrUnavailable)
	b.must(b.Close())
}

// victimEnv names the store that a started-again test binary shall write to until it
// is killed.
const victimEnv = "HALLMARK_RECORDTEST_VICTIM"

// crashes kills a writing process at random moments. Whatever it had been told was
// recorded must be there, and the whole must hold.
func crashes(t *testing.T, p Place) {
	name := filepath.Join(t.TempDir(), "store")
	s, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	told := 0
	for range 20 {
		lines := kill(t, name)
		told += len(lines)
		s, err := p.Open(t.Context(), name)
		if err != nil {
			t.Fatalf("after the crash: %v", err)
		}
		b := &bench{T: t, Store: s, ctx: t.Context()}
		if err := b.Verify(b.ctx); err != nil {
			t.Errorf("after the crash: %v", err)
		}
		for _, line := range lines {
			b.held(line)
		}
		s.Close()
		if t.Failed() {
			break
		}
	}
	if t.Logf("the victims recorded %d things", told); told < 100 {
		t.Error("that is too little to test anything")
	}
}

// kill starts a victim, kills it and returns what it said was recorded.
func kill(t *testing.T, name string) (lines []string) {
	test, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), victimEnv+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		if len(lines) == 0 { // it writes: from now on it can die at any moment
			time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { cmd.Process.Kill() })
		}
		lines = append(lines, scanner.Text())
	}
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != -1 { // -1: a signal
		t.Errorf("the victim ended by itself: %v", cmd.ProcessState)
	}
	return lines
}

// held checks one line of a victim.
func (b *bench) held(line string) {
	b.Helper()
	var verb, name string
	fmt.Sscan(line, &verb, &name)
	var err error
	ok := false
	switch verb {
	case "admitted":
		_, err = b.Device(b.ctx, name)
		ok = err == nil
	case "intended", "issued":
		var c record.Certificate
		c, err = b.Status(b.ctx, "operational", name)
		ok = err == nil && (verb == "intended" || c.DER != nil)
	case "revoked":
		var d record.Device
		d, err = b.Device(b.ctx, name)
		ok = err == nil && d.State == record.StateRevoked
	}
	if !ok {
		b.Errorf("after the crash %q does not hold: %v", line, err)
	}
}

// victim writes with several hands and says what was recorded, until it is killed.
func victim(p Place, name string) {
	s, err := p.Open(context.Background(), name)
	if err != nil {
		fmt.Fprintln(os.Stderr, "victim:", err)
		os.Exit(1)
	}
	ctx := context.Background()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := 0; ; i++ {
				if err := live(ctx, s, fmt.Sprintf("%d-%d", os.Getpid(), counter.Add(1)), i%4 == 3); err != nil {
					fmt.Fprintln(os.Stderr, "victim:", err)
					os.Exit(1)
				}
			}
		})
	}
	all.Wait()
}

// live leads one device through its life.
func live(ctx context.Context, s record.Store, name string, revoke bool) error {
	d := newDevice()
	d.ID, d.Serial, d.AKName, d.EKs = name, name, []byte(name), nil
	_, err := s.Admit(ctx, record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: d, Session: name, Expires: Now, Event: event("device.enrolled")}, nil
	})
	if err != nil {
		return err
	}
	fmt.Println("admitted", name)
	c := newIntent(name)
	if err := s.Intend(ctx, []record.Certificate{c}, nil); err != nil {
		return err
	}
	fmt.Println("intended", c.Serial)
	if err := s.Complete(ctx, []record.Certificate{signed(c)}, event("certificate.issued")); err != nil {
		return err
	}
	fmt.Println("issued", c.Serial)
	if !revoke {
		return nil
	}
	if _, err := s.Revoke(ctx, name, Now, record.ReasonCessation, "", event("device.revoked")); err != nil {
		return err
	}
	fmt.Println("revoked", name)
	return nil
}
