package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmark-device/internal/settings"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/agent"
	"github.com/hallmark-pki/hallmark/device/page"
	"github.com/hallmark-pki/hallmark/device/proxy"
	"github.com/hallmark-pki/hallmark/internal/sdnotify"
)

// agentFlags are the flags of commands that do the agent's work.
type agentFlags struct {
	commonFlags
	hooks           agent.Hooks
	health, metrics string
	setClock        bool
}

func (o *agentFlags) flags(c *cobra.Command) {
	o.stateFlag(c)
	o.tpmFlag(c, "the one enrolled with")
	settings.Add(c, &o.hooks.Dir, "hooks", "")
	settings.AddDuration(c, &o.hooks.Limit, "hook-limit")
	settings.Add(c, &o.health, "health-file", "")
	settings.Add(c, &o.metrics, "metrics-file", "")
	settings.AddBool(c, &o.setClock, "set-clock")
}

// agent is the agent that the settings describe; it logs to standard error.
func (o *agentFlags) agent(c *cobra.Command) *agent.Agent {
	a := &agent.Agent{Options: o.options(c), Version: version, Hooks: o.hooks, HealthFile: o.health, MetricsFile: o.metrics}
	a.Log = func(_ agent.Priority, line string) { a.Options.Report(line) }
	a.Hooks.NamedBy = o.found.FileOf("hooks")
	if err := o.found.Guarded("hooks"); err != nil && a.Hooks.Dir != "" { // renewals go on without them
		a.Options.Report("no hooks are run: " + err.Error())
	}
	if o.setClock {
		a.SetClock = setClock
	}
	return a
}

// setClock sets the system clock, which requires CAP_SYS_TIME.
func setClock(t time.Time) error {
	tv := syscall.NsecToTimeval(t.UnixNano())
	return settimeofday(&tv)
}

// settimeofday is the system call, which tests replace.
var settimeofday = syscall.Settimeofday

func runCommand() *cobra.Command {
	var o agentFlags
	var from enrolFlags
	var once bool
	c := &cobra.Command{
		Use:   "run",
		Short: "Keep this device's certificate fresh",
		Long: `Look after this device's identity until stopped: renew at the moment that the server
wants, ask it as often as it says, try again later and later when something fails, run
the hooks after a swap, and serve the [proxy] sections of the file of settings. A device
that was refused for good asks once a day.

With --once do what is due now and end, for devices that sleep or have a timer; with
--json the answer says when there is more to do, or when to retry what failed. SIGHUP
makes a running agent look at once.

A board without identity enrols by itself if the settings (or the ticket in
HALLMARK_TICKET) say where, and waits otherwise.

` + exitCodes,
		Example: "  hallmark-device run\n  hallmark-device run --once --json",
		Args:    arguments(cobra.NoArgs),
	}
	o.flags(c)
	from.flags(c, &o.commonFlags)
	o.jsonFlag(c)
	c.Flags().BoolVar(&once, "once", false, "do what is due now, and end")
	c.RunE = run(func(c *cobra.Command, _ []string) (err error) {
		a := o.agent(c)
		if a.Ticket, err = readTicket(c, nil); err != nil {
			return usageError{err, c.CommandPath()}
		}
		if a.Servers, a.Roots, err = from.server(c, &o.commonFlags, a.Ticket != nil); err != nil {
			return err
		}
		a.Serial = from.serialNumber
		if once {
			next, err := a.Once(c.Context())
			if err != nil && (!o.json || next.IsZero()) {
				return err
			}
			// A device that sleeps needs to know when to retry, too.
			return errors.Join(o.print(c, struct {
				Next time.Time `json:"next"`
			}{next}, "nothing to do before "+when(next)), err)
		}
		a.Log = agent.NewLog(os.Stderr, agent.IsJournal(os.Stderr, os.Getenv("JOURNAL_STREAM")), time.Now)
		a.Options.Report = func(line string) { a.Log(agent.Warning, line) }
		a.Systemd = sdnotify.New()
		a.Wake = hangups(c.Context())
		if len(o.found.Tunnels)+len(o.found.Sites) > 0 {
			a.Beside = func(ctx context.Context) { serve(ctx, o.found, a) }
		}
		return a.Run(c.Context())
	})
	return c
}

// hangups returns the channel by which SIGHUP wakes the agent.
func hangups(ctx context.Context) <-chan struct{} {
	signals, wake := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case <-ctx.Done():
				return
			case wake <- struct{}{}:
			}
		}
	}()
	return wake
}

// serve lends the identity to other programs until ctx ends. A socket that cannot be opened stops
// neither the agent nor the other sockets.
func serve(ctx context.Context, found settings.Found, a *agent.Agent) {
	identity := &lazyIdentity{o: a.Options, failed: a.Failed}
	identity.o.Now = a.Now
	defer identity.close()
	var all sync.WaitGroup
	keep := func(p proxy.Proxy) {
		p.Dialer, p.Server, p.Report = identity, identity, func(line string) { a.Log(agent.Warning, line) }
		for ctx.Err() == nil {
			if err := p.Run(ctx); err != nil {
				a.Log(agent.Error, err.Error()+"; trying again in a minute")
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Minute):
			}
		}
	}
	for _, t := range found.Tunnels {
		all.Go(func() { keep(proxy.Proxy{Tunnels: []proxy.Tunnel{t}}) })
	}
	for _, s := range found.Sites {
		all.Go(func() { keep(proxy.Proxy{Sites: []proxy.Site{s}}) })
	}
	all.Wait()
}

// lazyIdentity is an identity that is opened when needed, for it may not exist yet.
type lazyIdentity struct {
	o      device.Options
	failed func(error)
	mu     sync.Mutex
	i      *device.Identity

	lists page.Lists
}

func (l *lazyIdentity) identity() (_ *device.Identity, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.i == nil {
		l.i, err = device.OpenIdentity(l.o)
	}
	return l.i, err
}

// close leaves no key in the TPM: a later user with a resource manager could not flush keys that
// were loaded without one.
func (l *lazyIdentity) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.i != nil {
		l.i.Close()
	}
}

// Dial makes a connection with the newest working certificate.
func (l *lazyIdentity) Dial(ctx context.Context, c device.Connection) (*tls.Conn, error) {
	conn, err := l.dial(ctx, c)
	l.failed(err)
	return conn, err
}

func (l *lazyIdentity) dial(ctx context.Context, c device.Connection) (*tls.Conn, error) {
	i, err := l.identity()
	if err != nil {
		return nil, err
	}
	return i.Dial(ctx, c)
}

// ServerTLSConfig looks for the certificate when a client connects.
func (l *lazyIdentity) ServerTLSConfig(clients, fail string) (*tls.Config, error) {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		i, err := l.identity()
		if err != nil {
			return nil, err
		}
		config, err := page.Server{Identity: i, Lists: &l.lists, Report: l.o.Report}.ServerTLSConfig(clients, fail)
		if err != nil {
			return nil, err
		}
		return config.GetConfigForClient(hello)
	}}, nil
}

func renewCommand() *cobra.Command {
	var o agentFlags
	var force bool
	c := &cobra.Command{
		Use:   "renew",
		Short: "Get a new working certificate now",
		Long: `Get a new working certificate (LDevID) for a new key in the TPM, due or not. The old
certificate and key are replaced, together, once the server has accepted the new ones,
and the hooks are run. "hallmark-device run" does so by itself when it is time.

Programs find the certificate and the key (TSS2 PEM) as ldevid.pem and ldevid.key in
the state folder.

A device that was refused for good is told so from memory for a day, unless forced.

` + exitCodes,
		Example: "  hallmark-device renew\n  hallmark-device needs-renewal && hallmark-device renew",
		Args:    arguments(cobra.NoArgs),
	}
	o.flags(c)
	settings.Add(c, &o.proxy, "proxy", "")
	o.jsonFlag(c)
	c.Flags().BoolVar(&force, "force", false, "ask the server although it has refused this device for good less than a day ago")
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		r, err := o.agent(c).Renew(c.Context(), force)
		if err != nil {
			return err
		}
		return o.print(c, r, fmt.Sprintf("%s: working certificate valid until %s, renew after %s", r.Device, when(r.NotAfter), when(r.RenewAfter)))
	})
	return c
}

func needsRenewalCommand() *cobra.Command {
	var o agentFlags
	c := &cobra.Command{
		Use:   "needs-renewal",
		Short: "Say by exit code whether it is time to renew",
		Long: `Say whether it is time to get a working certificate, from the state folder alone: exit
code 0 if it is, 7 if not yet. What the server has changed since the device last asked
is not known to it; "hallmark-device run --once" asks.

` + exitCodes,
		Example: "  hallmark-device needs-renewal && hallmark-device renew",
		Args:    arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.jsonFlag(c)
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		needed, from, err := o.agent(c).NeedsRenewal()
		if err != nil {
			return err
		}
		line := "not before " + when(from)
		if needed {
			line, err = "it is time to renew", nil
		} else {
			err = errNotYet
		}
		return errors.Join(o.print(c, struct {
			Needed bool      `json:"needed"`
			From   time.Time `json:"from"`
		}{needed, from}, line), err)
	})
	return c
}

// errNotYet is an answer, not a failure.
var errNotYet = errors.New("it is not time yet")
