package relay

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/internal/program"
	"github.com/hallmark-pki/hallmark/relay/each"
)

// command runs a line of the shell with further environment. It is ended, with all that it
// started, when its time is up. The line is not repeated in errors: they are logged, and
// reported to the server, and there may be a secret in it.
func (r *Relay) command(ctx context.Context, timeout time.Duration, line string, environment []string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(program.Environment(), environment...)
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := program.Run(cmd, 0)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("it took more than %v", timeout)
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
		Run: func(ctx context.Context, timeout time.Duration, environment []string) error {
			return r.command(ctx, timeout, r.Each, environment)
		}}
}

// due fires when it is time to try again; nil if nothing waits, or if lists are to be asked for
// first: where the command hangs for several, it is always time to try.
func (r *Relay) due(polled time.Time) <-chan time.Time {
	if time.Since(polled) >= pollEvery {
		return nil
	}
	return r.teller().Due()
}

// again runs it for those for whom it failed, while there is nothing newer to do, and says how
// that stands.
func (r *Relay) again(ctx context.Context) error {
	if len(r.state.Failing) == 0 {
		return nil
	}
	quiet, end := ctx, func() {}
	if !r.state.Full() {
		quiet, end = r.quiet(ctx)
	}
	done := r.teller().Again(quiet)
	end()
	r.problem(and(r.expire(ctx), r.state.State.Problem()))
	if !done {
		return ctx.Err()
	}
	return r.report(ctx)
}

// quiet lasts until a change comes or the stream fails. What comes is looked at after end.
func (r *Relay) quiet(ctx context.Context) (quiet context.Context, end func()) {
	quiet, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	listening.Go(func() {
		defer cancel()
		for current := true; current; {
			select {
			case e := <-r.events:
				r.later, current = append(r.later, e), e.change == nil
			case err := <-r.failed:
				r.failed <- err
				return
			case <-quiet.Done():
				return
			}
		}
	})
	return quiet, func() { cancel(); listening.Wait() }
}
