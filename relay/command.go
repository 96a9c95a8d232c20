package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// command runs a line of the shell with further environment. It is ended, with all that it
// started, when its time is up.
func (r *Relay) command(ctx context.Context, line string, environment []string) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(os.Environ(), environment...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%q took more than %v", line, r.Timeout)
	case err != nil:
		return fmt.Errorf("%q: %w: %s", line, err, strings.TrimSpace(string(*out)))
	}
	return nil
}

// tail keeps the end of what a command says.
type tail []byte

const maxTail = 300

func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	if over := len(*t) - maxTail; over > 0 {
		*t = append((*t)[:0], (*t)[over:]...)
	}
	return len(b), nil
}

// tellReady tells the service manager, once, that the program beside may be started.
func (r *Relay) tellReady() {
	if !r.ready {
		r.ready = true
		r.Systemd.Ready()
	}
}
