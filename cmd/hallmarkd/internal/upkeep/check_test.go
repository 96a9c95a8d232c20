package upkeep

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// What others can use or change is found: keys, record, and the configuration by which
// others' could be used.
func TestFileModes(t *testing.T) {
	f := newFactory(t)
	look := func() Finding { return about(Check(t.Context(), f.in.Config.File, time.Now()), "file modes") }
	if found := look(); found.Level != OK {
		t.Fatalf("%+v", found)
	}
	for path, mode := range map[string]os.FileMode{
		f.in.Config.ServerSecret: 0o640, f.in.Config.File: 0o622, f.in.Config.Dir: 0o777,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []os.FileMode{mode, info.Mode().Perm()} {
			if err := os.Chmod(path, m); err != nil {
				t.Fatal(err)
			}
			if found := look(); (found.Level == Warning) != (m == mode) || m == mode && !strings.HasPrefix(found.Detail, path+" has mode") {
				t.Errorf("%s with mode %v: %+v", path, m, found)
			}
		}
	}
}

// A disk that is full is found before the server's log is read.
func TestDiskFull(t *testing.T) {
	disk := os.Getenv("SMALL_DISK")
	if disk == "" { // again, in a mount namespace and as root of it
		flags := []string{"--mount"}
		if os.Getuid() != 0 {
			flags = append(flags, "--map-root-user")
		}
		again := exec.Command("unshare", append(flags, os.Args[0], "-test.run=^TestDiskFull$")...)
		again.Env = append(os.Environ(), "SMALL_DISK="+t.TempDir())
		if out, err := again.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := syscall.Mount("none", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	f := newFactoryIn(t, filepath.Join(disk, "ca"))
	look := func() Finding { return about(Check(t.Context(), f.in.Config.File, time.Now()), "disk") }
	if found := look(); found.Level != "" {
		t.Errorf("with room: %+v", found)
	}
	if err := os.WriteFile(filepath.Join(disk, "filler"), make([]byte, 60<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if found := look(); found.Level != Error || !strings.Contains(found.Detail, f.in.Config.Dir) {
		t.Errorf("without: %+v", found)
	}
}

// A clock that leapt is told by what was recorded last.
func TestCheckDoubtsTheClock(t *testing.T) {
	f := newFactory(t)
	for _, c := range []struct {
		leap time.Duration
		want string
	}{{0, ""}, {29 * 24 * time.Hour, ""}, {40 * 24 * time.Hour, Warning}, {-time.Hour, Warning}} {
		found := Findings{}
		checkClock(t.Context(), f.store, &found, time.Now().Add(c.leap))
		if got := about(found, "clock"); got.Level != c.want {
			t.Errorf("after %v: %+v", c.leap, got)
		}
	}
}

// Who was invited cannot act yet, and who has let the certificate expire no longer.
func TestCheckCountsWhoCanAct(t *testing.T) {
	f := newFactory(t)
	look := func(at time.Time) Finding { return about(Check(t.Context(), f.in.Config.File, at), "operators") }
	if found := look(time.Now()); found.Level != OK || found.Detail != "1 of 1 can administer" {
		t.Errorf("%+v", found)
	}
	if err := f.store.Invite(t.Context(), record.Operator{Name: "bo", Created: time.Now(), Invitation: "i", InvitedUntil: time.Now().Add(time.Hour)}, f.event("operator.invited")); err != nil {
		t.Fatal(err)
	}
	if found := look(time.Now()); found.Level != OK || found.Detail != "1 of 2 can administer" {
		t.Errorf("one was invited: %+v", found)
	}
	if found := look(time.Now().AddDate(1, 0, 0)); found.Level != Warning || found.Hint == "" {
		t.Errorf("a year later: %+v", found)
	}
}
