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

// Guarded is Safe for a file that is not run itself, but says what is. Each folder on the
// way is looked at, and each link that leads there (path_resolution(7)): who may replace
// either chooses the file.
func Guarded(path string) error {
	if !filepath.IsAbs(path) {
		here, err := os.Getwd()
		if err != nil {
			return err
		}
		path = here + "/" + path
	}
	at, left := "/", strings.Split(path, "/")
	for links := 0; ; {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		link := info.Mode()&os.ModeSymlink != 0
		st, ok := info.Sys().(*syscall.Stat_t)
		shared := !link && info.Mode()&0o022 != 0 && (len(left) == 0 || info.Mode()&os.ModeSticky == 0)
		if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() || shared {
			return fmt.Errorf("others may change %s (chmod go-w, chown root)", at)
		}
		if link {
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			if links++; links > maxLinks {
				return &os.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
			}
			if at = filepath.Dir(at); filepath.IsAbs(target) {
				at = "/"
			}
			left = append(strings.Split(target, "/"), left...)
		}
		if len(left) == 0 {
			return nil
		}
		at, left = filepath.Join(at, left[0]), left[1:] // ".." too: there is no link in at
	}
}

// maxLinks is how many links the kernel follows, too.
const maxLinks = 40

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
		err := syscall.Kill(-c.Process.Pid, first)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	err := c.Run()
	if ended {
		End(c)
		if grace == 0 && c.ProcessState != nil && c.ProcessState.Success() {
			err = nil // nobody ends well by SIGKILL: it was through before, and that is noticed late
		}
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

// Head keeps the beginning of what a program says.
type Head struct {
	// Max is how much of it, in bytes.
	Max  int
	Text []byte
	// Over: there was more. Full, unless nil, is called then.
	Over bool
	Full func()
}

func (h *Head) Write(b []byte) (int, error) {
	room := h.Max - len(h.Text)
	if len(b) > room {
		h.Over = true
		if h.Full != nil {
			h.Full()
		}
	}
	h.Text = append(h.Text, b[:min(len(b), room)]...)
	return len(b), nil
}

// Tail keeps the end of what a program says.
type Tail struct {
	// Max is how much of it, in bytes.
	Max  int
	Text []byte
}

func (t *Tail) Write(b []byte) (int, error) {
	t.Text = append(t.Text, b...)
	if over := len(t.Text) - t.Max; over > 0 {
		t.Text = append(t.Text[:0], t.Text[over:]...)
	}
	return len(b), nil
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
