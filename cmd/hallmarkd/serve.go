package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/server"
)

func serveCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "serve", Short: "Serve devices, operators and relying parties", Args: noArguments,
		Long: `Serve runs until it gets SIGTERM or SIGINT, then finishes what it is doing. It logs
to standard error, one line "ready" when every listener accepts.

SIGHUP makes it read configuration, trust bundle and issuers again. With a mistake in
them it logs the mistake and serves on as before.`,
		Example: "  hallmarkd serve --config /srv/hallmark/hallmark.yaml",
		RunE:    func(c *cobra.Command, _ []string) error { return serve(c.Context(), path) },
	}
	configFlag(c, &path)
	return c
}

// serve runs the server, and again after each SIGHUP.
func serve(ctx context.Context, path string) error {
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	var doors server.Doors
	defer doors.Close()
	in, err := installation.Load(path)
	var before *installation.Installation
	for err == nil {
		var next *installation.Installation
		next, err = serveUntil(ctx, &doors, in, path, again)
		switch {
		case err != nil && before != nil && !doors.Served() && ctx.Err() == nil: // a port is taken, say
			notReloaded(before, err)
			in, before, err = before, nil, nil
		case next == nil:
			return err
		default:
			before, in = in, next
		}
	}
	return err
}

// notReloaded is told in the log, as all that a server that goes on has to say.
func notReloaded(in *installation.Installation, err error) {
	var hint []any
	if next := installation.Next(err); next != "" {
		hint = []any{"hint", next}
	}
	server.Logger(in.Config.Log).Error("not reloaded, serving on as before: "+err.Error(), hint...)
}

// serveUntil serves until ctx ends or, told to by again, there is another installation to
// serve, which it returns.
func serveUntil(ctx context.Context, doors *server.Doors, in *installation.Installation, path string, again <-chan os.Signal) (next *installation.Installation, err error) {
	run, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-run.Done():
				return
			case <-again:
			}
			read, err := installation.Load(path)
			if err == nil {
				next = read
				stop()
				return
			}
			notReloaded(in, err)
		}
	}()
	err = doors.Run(run, in, version)
	stop()
	<-watched
	if next != nil && ctx.Err() == nil && errors.Is(err, context.Canceled) {
		err = nil // it was told again while it was starting
	}
	if ctx.Err() != nil || err != nil {
		next = nil
	}
	return next, err
}
