// Command hallmark-device gives a device its identity: it proves to a Hallmark server what its
// TPM is, and stores and renews the certificates that it gets.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Set by the linker: -X main.version=v1.2.3 -X main.built=2026-11-22T00:00:00Z.
var (
	version = "unreleased"
	built   = ""
)

// since is when this source was written: a clock that is earlier is wrong.
var since = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// buildTime is a lower bound of the current time.
func buildTime() time.Time {
	if t, err := time.Parse(time.RFC3339, built); err == nil && t.After(since) {
		return t
	}
	return since
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal kills the process
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	if errors.Is(err, errNotYet) {
		os.Exit(exitNotYet)
	}
	complain(os.Stderr, err)
	os.Exit(exitCode(err))
}
