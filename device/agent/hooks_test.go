package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hallmark-pki/hallmark/device"
)

// hooked is an agent with hooks in a folder, each a line of the shell, and what it runs them with.
func hooked(t *testing.T, hooks map[string]string) (a *Agent, run func() []string) {
	t.Helper()
	dir := t.TempDir()
	for name, line := range hooks {
		hook(t, filepath.Join(dir, name), line)
	}
	a = &Agent{Options: device.Options{State: t.TempDir()}, Hooks: Hooks{Dir: dir}}
	s := good()
	s.LDevID.SerialNumber = "01"
	return a, func() []string {
		a.runHooks(context.Background(), s, a.outcome())
		return a.outcome().HookFailures
	}
}

func hook(t *testing.T, path, line string) {
	t.Helper()
	// Nothing is started meanwhile: it would have the file open for writing until it runs its own
	// program, and so long nobody can run this one (execve(2), ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+line+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Hooks that failed are run again, later and later and after a restart, and those that
// succeeded are not.
func TestHooksAreRunAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, run := hooked(t, map[string]string{"10-works": "echo works >>" + dir + "/ran", "20-fails": "echo fails >>" + dir + "/ran; test -e " + dir + "/repaired"})
	ran := func(want string) {
		t.Helper()
		text, _ := os.ReadFile(dir + "/ran")
		if got := strings.Join(strings.Fields(string(text)), " "); got != want {
			t.Errorf("ran %q, not %q", got, want)
		}
	}
	if f := run(); len(f) != 1 || !strings.Contains(f[0], "20-fails") {
		t.Errorf("%q", f)
	}
	run() // too early
	ran("works fails")
	early := a.hookAgain.Add(-firstHookPause)
	a.hookAgain = early
	run()
	ran("works fails fails")
	if a.hookPause != 2*firstHookPause {
		t.Errorf("the next pause is %v", a.hookPause)
	}
	a.hookAgain, a.hookPause = early, 0 // another process
	hook(t, dir+"/repaired", "")
	said := ""
	a.Log = func(_ Priority, line string) { said = line }
	if f := run(); len(f) != 0 || said != "hooks were run: 10-works, 20-fails" {
		t.Errorf("%q; said %q", f, said)
	}
	a.hookAgain = early
	run() // all is done
	ran("works fails fails fails")
}

// A hook that others can replace, by its folder or by the folder of what a link leads to,
// is not run.
func TestHooksOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	for _, err := range []error{os.Mkdir(open, 0o755), os.Chmod(open, 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	hook(t, open+"/theirs", "echo run >>"+dir+"/ran")
	a, run := hooked(t, nil)
	if err := os.Symlink(open+"/theirs", a.Hooks.Dir+"/10-link"); err != nil {
		t.Fatal(err)
	}
	if f := run(); len(f) != 1 || !strings.Contains(f[0], "others may change "+open+" ") {
		t.Errorf("%q", f)
	}
	// One is replaced while the one before it runs.
	a, run = hooked(t, map[string]string{"20-late": "echo run >>" + dir + "/ran"})
	hook(t, a.Hooks.Dir+"/10-opens", "chmod 777 "+a.Hooks.Dir+"/20-late")
	if f := run(); len(f) != 1 || !strings.Contains(f[0], "20-late is not run") {
		t.Errorf("%q", f)
	}
	if _, err := os.Stat(dir + "/ran"); err == nil {
		t.Error("it was run")
	}
	// So is one that a file names which others may write.
	named, runNamed := hooked(t, map[string]string{"10-note": "echo run >>" + dir + "/named"})
	named.Hooks.NamedBy = filepath.Join(open, "theirs")
	if f := runNamed(); len(f) != 1 || !strings.Contains(f[0], "no hooks are run: "+open) {
		t.Errorf("%q", f)
	}
	if _, err := os.Stat(dir + "/named"); err == nil {
		t.Error("a hook of a folder that others can name was run")
	}
	// A folder within another's is that other's.
	inner := filepath.Join(open, "hooks.d")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	hook(t, inner+"/10-note", "true")
	a.Hooks.Dir = inner
	a.hookAgain = a.hookAgain.Add(-maxHookPause)
	if f := run(); len(f) != 1 || !strings.Contains(f[0], "others may change "+open+" ") {
		t.Errorf("%q", f)
	}
}

// A flood of output, what a hook leaves behind, and text that steers a terminal do no harm;
// what is the agent's alone is not passed on.
func TestHooksThatMisbehave(t *testing.T) {
	t.Setenv("HALLMARK_PROXY", "http://name:hunter2@proxy:3128")
	t.Setenv("HALLMARK_TICKET", "hmt1.secret")
	a, run := hooked(t, map[string]string{
		"10-leaves": "sleep 1000 & echo $! >$HALLMARK_STATE/pid; exit 0",
		"20-floods": "head -c 3000000 /dev/zero | tr '\\0' x; exit 1",
		"30-tells":  "env | grep -c 'hunter2\\|hmt1'; exit 1",
	})
	f := run()
	if len(f) != 2 || len(f[0]) > 400 || !strings.HasSuffix(f[1], ": 0") {
		t.Errorf("%.1000q", f)
	}
	text, err := os.ReadFile(filepath.Join(a.Options.State, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	fmt.Sscan(string(text), &pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("what a hook left running was ended: %v", err)
	}
}
