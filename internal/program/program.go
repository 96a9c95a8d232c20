// Package program runs what others wrote, and ends it, with all that it has started, when
// its time is up.
package program

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Safe refuses a file by which somebody else would act as this user: one that others may
// write, or put another in the place of. In a folder like /tmp, whose files only their
// owners replace, it is enough to own the file.
func Safe(path string) error {
	if err := Guarded(path); err != nil {
		return fmt.Errorf("%s is not run: %w", path, err)
	}
	return nil
}

// Guarded is Safe for a file that is not run itself, but says what is.
func Guarded(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return err
	}
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		shared := info.Mode()&0o022 != 0 && (at == path || info.Mode()&os.ModeSticky == 0)
		if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() || shared {
			return fmt.Errorf("others may change %s (chmod go-w, chown root)", at)
		}
		if at == "/" {
			return nil
		}
	}
}

// leftover is how long is waited, after a program has ended, for what it left behind to
// let go of its output.
const leftover = time.Second

// Run runs a command that was made with a context. When that ends, the command's group of
// processes gets SIGTERM and, after grace, SIGKILL; with no grace SIGKILL at once. A
// process that left the group (setsid(2)) lives on: only a service manager finds it.
//
// A command that ended well but left something behind that holds its output has succeeded.
func Run(c *exec.Cmd, grace time.Duration) error {
	first, ended := syscall.SIGTERM, false
	c.WaitDelay = max(grace, leftover)
	if grace == 0 {
		first = syscall.SIGKILL
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error {
		ended = true
		return syscall.Kill(-c.Process.Pid, first)
	}
	err := c.Run()
	if ended {
		End(c)
	} else if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return err
}

// End kills what is left of the group of a command that was run.
func End(c *exec.Cmd) {
	if c.Process != nil {
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
}

// private are the variables that are nobody's business but the process's that has them: a
// ticket, a proxy's password, the service manager's ear.
var private = []string{"HALLMARK_TICKET", "HALLMARK_PROXY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}

// Environment is this process's own, without what is meant for it alone.
func Environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(private, name)
	})
}
