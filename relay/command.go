package relay

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/internal/program"
	"github.com/hallmark-pki/hallmark/relay/each"
	"github.com/hallmark-pki/hallmark/relay/stream"
	"github.com/hallmark-pki/hallmark/wire"
)

// command runs a shell command line with additional environment. It is killed, with all that it
// started, when its time is up. Errors do not repeat the line: they are logged and reported to the
// server, and it may hold a secret.
func (r *Relay) command(ctx context.Context, line string, environment []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, fmt.Errorf("it took more than %v", r.Timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(program.Environment(), environment...)
	out := &program.Tail{Max: 300}
	cmd.Stdout, cmd.Stderr = out, out
	err := program.Run(cmd, 0)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if said := strings.TrimSpace(string(out.Text)); err != nil && said != "" {
		err = fmt.Errorf("%w: %s", err, strings.ReplaceAll(said, "\n", "; ")) // it is shown on one line
	}
	return err
}

// tellReady tells the service manager, once, that the relying party's program may be started.
func (r *Relay) tellReady() {
	if !r.ready {
		r.ready = true
		r.Systemd.Ready()
	}
}

// keepEvery is how often it is written down who was told, while many are: the feed does not reach back
// for ever.
const keepEvery = time.Second

// teller runs the command for each change.
func (r *Relay) teller() each.Teller {
	kept := time.Now()
	return each.Teller{State: &r.state.State, Now: r.Now, Run: func(ctx context.Context, environment []string) error {
		if time.Since(kept) > keepEvery {
			_ = writeState(r.Dir, r.state) // problem says that it cannot be
			kept = time.Now()
		}
		return r.command(ctx, r.Each, environment)
	}}
}

// due fires when it is time for a retry; nil if nothing waits, or if the lists are due first: with
// several commands that hang, it is always time for a retry.
func (r *Relay) due(polled time.Time) <-chan time.Time {
	if time.Since(polled) >= pollEvery {
		return nil
	}
	return r.teller().Due()
}

// tell runs the command for what is pending, until a newer change comes, which must be in the files
// first.
func (r *Relay) tell(ctx context.Context) error {
	for {
		quiet, end := r.quiet(ctx)
		err := r.teller().Tell(ctx, quiet, r.pending, r.seen)
		end()
		if err != nil {
			return err
		}
		r.pending = slices.DeleteFunc(r.pending, func(c wire.Change) bool { return c.Number <= r.state.Told })
		if len(r.pending) == 0 || slices.ContainsFunc(r.queued, isChange) {
			return nil
		}
	}
}

func isChange(e stream.Event) bool { return e.Change != nil }

// again retries the command for the devices for which it failed, while there is nothing newer to do,
// and reports the outcome.
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

// quiet ends when a change comes or the stream fails. What comes is queued, and looked at after end.
func (r *Relay) quiet(ctx context.Context) (quiet context.Context, end func()) {
	quiet, cancel := context.WithCancel(ctx)
	if slices.ContainsFunc(r.queued, isChange) {
		cancel()
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		defer cancel()
		for {
			select {
			case e := <-r.events:
				if r.queued = stream.Add(r.queued, e); isChange(e) {
					return
				}
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
