package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/proxy"
)

// rootsFlag describes whom to believe; Identity.Roots reads it.
const rootsFlag = "whom to believe: a PEM `FILE`, \"system\" or \"infrastructure\" (Hallmark's own); both of these if not given"

func connectCommand() *cobra.Command {
	var o common
	var connection device.Connection
	c := &cobra.Command{
		Use:   "connect --to HOST:PORT",
		Short: "Make a mutual-TLS connection with the working certificate",
		Long: `Make a mutual-TLS connection in which this device's key signs, and join it to standard
input and output.

` + exitCodes,
		Example: "  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | hallmark-device connect --to gateway.example.com:443",
		Args:    arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.tpmFlag(c, "the one enrolled with")
	c.Flags().StringVar(&connection.To, "to", "", "`HOST:PORT` to connect to")
	c.Flags().StringVar(&connection.Roots, "roots", "", rootsFlag)
	c.Flags().StringVar(&connection.Name, "name", "", "name in the server's certificate, if it is not HOST")
	c.Flags().StringSliceVar(&connection.ALPN, "alpn", nil, "application protocol to ask for, such as http/1.1")
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		if connection.To == "" {
			return usageError{errors.New("--to is needed"), c.CommandPath()}
		}
		return device.Connect(c.Context(), o.options(c), connection, c.InOrStdin(), c.OutOrStdout())
	})
	return c
}

func proxyCommand() *cobra.Command {
	var o common
	var list tunnels
	var verbose bool
	c := &cobra.Command{
		Use:   "proxy --listen SOCKET --to HOST:PORT",
		Short: "Lend this device's identity to other programs",
		Long: `Listen for programs that speak plain TCP, and speak mutual TLS for them, in which this
device's key signs. New connections show the newest working certificate; those that
stand are not touched by a renewal. Runs until it is stopped.

--listen and --to come in pairs and may be repeated; what follows a --listen belongs to
it, what comes before the first holds for all. Without them the [proxy] sections of the
file of settings are served, as "hallmark-device run" does. SOCKET is unix:PATH, or 127.0.0.1:PORT
for every program on this machine. A unix socket is open to root, to the user that
hallmark-device runs as, and to each --user and --group; a number names one that only a
container knows.

` + exitCodes,
		Example: "  hallmark-device proxy --listen 127.0.0.1:1883 --to broker.example.com:8883\n" +
			"  hallmark-device proxy --roots broker-ca.pem \\\n" +
			"      --listen unix:/run/hallmark/mqtt --to broker.example.com:8883 --user telegraf \\\n" +
			"      --listen unix:/run/hallmark/api --to api.example.com:443 --group apps",
		Args: arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.tpmFlag(c, "the one enrolled with")
	list.flags(c)
	c.Flags().BoolVar(&verbose, "verbose", false, "report each connection that begins or ends, not only problems")
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		tunnels, err := list.all(o.found.Tunnels)
		if err != nil {
			return usageError{err, c.CommandPath()}
		}
		options := o.options(c)
		identity, err := device.OpenIdentity(options)
		if err != nil {
			return err
		}
		for _, t := range tunnels { // sooner than the first program finds out
			if _, err := identity.Roots(t.Roots); err != nil {
				return advised{err, "--roots takes a PEM file of the certificates that the server's chain ends in"}
			}
		}
		p := &proxy.Proxy{Dialer: identity, Tunnels: tunnels, Report: options.Report}
		if verbose {
			p.Trace = options.Report
		}
		err = p.Run(c.Context())
		identity.Close()
		return err
	})
	return c
}

// tunnels reads flags that belong to the --listen before them.
type tunnels struct {
	every proxy.Tunnel // what comes before the first
	list  []proxy.Tunnel
}

// at is the tunnel that the next flag belongs to.
func (t *tunnels) at() *proxy.Tunnel {
	if len(t.list) == 0 {
		return &t.every
	}
	return &t.list[len(t.list)-1]
}

// setter is a flag that is told each value in the order of the command line.
type setter struct {
	kind string
	set  func(value string) error
}

func (s setter) Set(value string) error { return s.set(value) }
func (s setter) Type() string           { return s.kind }
func (s setter) String() string         { return "" }

func (t *tunnels) flags(c *cobra.Command) {
	add := func(name, kind, usage string, set func(value string) error) {
		c.Flags().Var(setter{kind, set}, name, usage)
	}
	add("listen", "SOCKET", "where programs find it: unix:PATH or 127.0.0.1:PORT", func(v string) error {
		next := t.every
		next.Listen = v
		// What is added to one list must not show in another.
		next.ALPN, next.Users, next.Groups = slices.Clone(next.ALPN), slices.Clone(next.Users), slices.Clone(next.Groups)
		t.list = append(t.list, next)
		return nil
	})
	add("to", "HOST:PORT", "the server it leads to", func(v string) error { t.at().To = v; return nil })
	add("roots", "FILE", rootsFlag, func(v string) error { t.at().Roots = v; return nil })
	add("name", "NAME", "name in the server's certificate, if it is not HOST", func(v string) error { t.at().Name = v; return nil })
	add("alpn", "PROTOCOL", "application protocol to ask for, such as mqtt", func(v string) error { t.at().ALPN = append(t.at().ALPN, v); return nil })
	add("user", "USER", "who may use the unix socket", func(v string) error { t.at().Users = append(t.at().Users, v); return nil })
	add("group", "GROUP", "whose members may use it", func(v string) error { t.at().Groups = append(t.at().Groups, v); return nil })
	add("limit", "N", fmt.Sprintf("connections that stand at once, more have to wait (default %d)", proxy.DefaultLimit), func(v string) error {
		n, err := strconv.Atoi(v)
		t.at().Limit = n
		return err
	})
}

// all are the tunnels, checked; those of the file of settings if there is no flag.
func (t *tunnels) all(file []proxy.Tunnel) ([]proxy.Tunnel, error) {
	if len(t.list) == 0 && len(file) > 0 {
		return file, nil
	}
	if len(t.list) == 0 {
		return nil, errors.New("--listen and --to are needed")
	}
	for _, tunnel := range t.list {
		if err := tunnel.Check(); err != nil {
			return nil, fmt.Errorf("--listen %s: %w", tunnel.Listen, err)
		}
	}
	return t.list, nil
}
