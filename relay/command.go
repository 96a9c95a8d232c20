package relay

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/hallmark-pki/hallmark/internal/program"
	"github.com/hallmark-pki/hallmark/relay/each"
)

// command runs a line of the shell with further environment. It is ended, with all that it
// started, when its time is up. The line is not repeated in errors: they are logged, and
// reported to the server, and there may be a secret in it.
func (r *Relay) command(ctx context.Context, line string, environment []string) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(program.Environment(), environment...)
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := program.Run(cmd, 0)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("it took more than %v", r.Timeout)
	case err != nil:
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(*out)))
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

// teller runs the command for each change.
func (r *Relay) teller() each.Teller {
	return each.Teller{State: &r.state.State, Timeout: r.Timeout, Now: r.Now,
		Run: func(ctx context.Context, environment []string) error { return r.command(ctx, r.Each, environment) }}
}

// again runs it for those for whom it failed, and says how that stands.
func (r *Relay) again(ctx context.Context) error {
	if len(r.state.Failing) == 0 {
		return nil
	}
	done := r.teller().Again(ctx)
	r.problem(and(r.expire(ctx), r.state.State.Problem()))
	if !done {
		return ctx.Err()
	}
	return r.report(ctx)
}
