package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmark-device/internal/settings"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/page"
	"github.com/hallmark-pki/hallmark/device/proxy"
)

// rootsFlag describes the argument of Identity.Roots.
const rootsFlag = "roots to trust: a PEM `FILE`, \"system\" or \"infrastructure\" (Hallmark's own); both of these if not given"

func connectCommand() *cobra.Command {
	var o commonFlags
	var connection device.Connection
	c := &cobra.Command{
		Use:   "connect --to HOST:PORT",
		Short: "Make a mutual-TLS connection with the working certificate",
		Long: `Make a mutual-TLS connection in which this device's key signs, and join it to standard
input and output. The end of the input is passed on; nginx and some others then break the
connection off, which is an error: keep the input open until they have answered.

` + exitCodes,
		Example: "  (printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 5) | hallmark-device connect --to gateway.example.com:443",
		Args:    arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.tpmFlag(c, "the one enrolled with")
	c.Flags().StringVar(&connection.To, "to", "", "`HOST:PORT` to connect to")
	c.Flags().StringVar(&connection.Roots, "roots", "", rootsFlag)
	c.Flags().StringVar(&connection.Name, "name", "", "name in the server's certificate, if it is not HOST")
	c.Flags().Func("alpn", "application `PROTOCOL` to ask for, such as http/1.1; may be repeated", func(v string) error {
		connection.ALPN = append(connection.ALPN, v)
		return nil
	})
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		if connection.To == "" {
			return usageError{errors.New("--to is needed"), c.CommandPath()}
		}
		err := device.Connect(c.Context(), o.options(c), connection, c.InOrStdin(), c.OutOrStdout())
		if errors.As(err, new(*tls.CertificateVerificationError)) {
			return advised{err, "name who signed the server's certificate with --roots FILE, and its name, if that is not HOST, with --name"}
		}
		return err
	})
	return c
}

func proxyCommand() *cobra.Command {
	var o commonFlags
	var list sockets
	var verbose bool
	c := &cobra.Command{
		Use:   "proxy --listen SOCKET --to HOST:PORT | --serve ADDRESS --to PROGRAM",
		Short: "Lend this device's identity to other programs",
		Long: `Lend this device's identity to programs that speak plain TCP. New connections show the
newest certificate; those that stand are not touched by a renewal. Runs until it is
stopped.

--listen SOCKET waits for programs on this machine, and speaks mutual TLS for them to
the server --to HOST:PORT. SOCKET is unix:PATH, or 127.0.0.1:PORT for every program on
this machine. A unix socket is open to root, to the user that hallmark-device runs as,
and to each --user and --group; a number names one that only a container knows.

--serve ADDRESS is the other way round: it puts the web page, or whatever the program
--to 127.0.0.1:PORT serves, on the network behind TLS, with the device's server
certificate ("hallmark model set MODEL --serve-names '{serial}.local'"). Clients need a
certificate: an operator's, or with --clients FILE one that chains to those in FILE. One
that the CRL it names says is revoked is refused; if that list is not to be had, --fail
says what happens.

--listen and --serve may be repeated; what follows one belongs to it, what comes before
the first holds for all. Without them the [proxy] sections of the file of settings are
served, as "hallmark-device run" does.

` + exitCodes,
		Example: "  hallmark-device proxy --listen 127.0.0.1:1883 --to broker.example.com:8883\n" +
			"  hallmark-device proxy --roots broker-ca.pem \\\n" +
			"      --listen unix:/run/hallmark/mqtt --to broker.example.com:8883 --user telegraf \\\n" +
			"      --listen unix:/run/hallmark/api --to api.example.com:443 --group apps\n" +
			"  hallmark-device proxy --serve :443 --to 127.0.0.1:80 --clients owner-ca.pem",
		Args: arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.tpmFlag(c, "the one enrolled with")
	list.flags(c)
	c.Flags().BoolVar(&verbose, "verbose", false, "report each connection that begins or ends, not only problems")
	c.RegisterFlagCompletionFunc("fail", cobra.FixedCompletions([]string{page.FailOpen, page.FailClosed}, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		tunnels, sites, err := list.all(o.found)
		if err != nil {
			return usageError{err, c.CommandPath()}
		}
		options := o.options(c)
		identity, err := device.OpenIdentity(options)
		if err != nil {
			return err
		}
		for _, t := range tunnels { // before a program runs into it
			if _, err := identity.Roots(t.Roots); err != nil {
				return advised{err, "--roots takes a PEM file of the certificates that the server's chain ends in"}
			}
		}
		p := &proxy.Proxy{Dialer: identity, Tunnels: tunnels, Server: page.Server{Identity: identity, Report: options.Report}, Sites: sites, Report: options.Report}
		if verbose {
			p.Trace = options.Report
		}
		err = p.Run(c.Context())
		identity.Close()
		return err
	})
	return c
}

// sockets collects flags that belong to the --listen or --serve before them.
type sockets struct {
	every     proxy.Tunnel // set before the first
	everySite proxy.Site   // the same for --serve
	tunnels   []proxy.Tunnel
	sites     []proxy.Site
	serving   bool // the newest is a site
}

// change applies a flag to the tunnel that it belongs to.
func (s *sockets) change(set func(*proxy.Tunnel)) error {
	switch {
	case s.serving:
		return errors.New("belongs to --listen, not to --serve")
	case len(s.tunnels) == 0:
		set(&s.every)
	default:
		set(&s.tunnels[len(s.tunnels)-1])
	}
	return nil
}

// changeSite applies a flag to the site that it belongs to.
func (s *sockets) changeSite(set func(*proxy.Site)) error {
	switch {
	case s.serving:
		set(&s.sites[len(s.sites)-1])
	case len(s.tunnels) == 0:
		set(&s.everySite)
	default:
		return errors.New("belongs to --serve, not to --listen")
	}
	return nil
}

// setter is a flag whose values are set in the order of the command line.
type setter struct {
	kind string
	set  func(value string) error
}

func (s setter) Set(value string) error { return s.set(value) }
func (s setter) Type() string           { return s.kind }
func (s setter) String() string         { return "" }

func (s *sockets) flags(c *cobra.Command) {
	add := func(name, kind, usage string, set func(value string) error) {
		c.Flags().Var(setter{kind, set}, name, usage)
	}
	add("listen", "SOCKET", "where programs find it: unix:PATH or 127.0.0.1:PORT", func(v string) error {
		next := s.every
		next.Listen = v
		// Tunnels must not share the slices.
		next.ALPN, next.Users, next.Groups = slices.Clone(next.ALPN), slices.Clone(next.Users), slices.Clone(next.Groups)
		s.tunnels, s.serving = append(s.tunnels, next), false
		return nil
	})
	add("serve", "ADDRESS", "where the network finds it: :443, or HOST:PORT", func(v string) error {
		next := s.everySite
		next.Listen, next.Limit = v, s.every.Limit
		s.sites, s.serving = append(s.sites, next), true
		return nil
	})
	add("to", "HOST:PORT", "the server it leads to; after --serve the program, 127.0.0.1:PORT or unix:PATH", func(v string) error {
		if s.serving {
			return s.changeSite(func(t *proxy.Site) { t.To = v })
		}
		return s.change(func(t *proxy.Tunnel) { t.To = v })
	})
	add("clients", "FILE", "who may use what is served: a PEM file of CA certificates (default \""+page.Operators+"\", the installation's)", func(v string) error {
		return s.changeSite(func(t *proxy.Site) { t.Clients = v })
	})
	add("fail", "OPEN|CLOSED", "whether clients are let in if their CRL is unavailable: open or closed (default \""+page.FailOpen+"\")", func(v string) error {
		return s.changeSite(func(t *proxy.Site) { t.Fail = v })
	})
	add("roots", "FILE", rootsFlag, func(v string) error { return s.change(func(t *proxy.Tunnel) { t.Roots = v }) })
	add("name", "NAME", "name in the server's certificate, if it is not HOST", func(v string) error { return s.change(func(t *proxy.Tunnel) { t.Name = v }) })
	add("alpn", "PROTOCOL", "application protocol to ask for, such as mqtt", func(v string) error {
		return s.change(func(t *proxy.Tunnel) { t.ALPN = append(t.ALPN, v) })
	})
	add("user", "USER", "who may use the unix socket", func(v string) error {
		return s.change(func(t *proxy.Tunnel) { t.Users = append(t.Users, v) })
	})
	add("group", "GROUP", "whose members may use it", func(v string) error {
		return s.change(func(t *proxy.Tunnel) { t.Groups = append(t.Groups, v) })
	})
	add("limit", "N", fmt.Sprintf("connections that stand at once, more have to wait (default %d)", proxy.DefaultLimit), func(v string) error {
		n, err := strconv.Atoi(v)
		if s.serving {
			return errors.Join(err, s.changeSite(func(t *proxy.Site) { t.Limit = n }))
		}
		return errors.Join(err, s.change(func(t *proxy.Tunnel) { t.Limit = n }))
	})
}

// all are the validated tunnels and sites; those of the file if no flags are given.
func (s *sockets) all(file settings.Found) ([]proxy.Tunnel, []proxy.Site, error) {
	if len(s.tunnels)+len(s.sites) == 0 {
		if len(file.Tunnels)+len(file.Sites) > 0 {
			return file.Tunnels, file.Sites, nil
		}
		return nil, nil, errors.New("--listen or --serve is needed, with --to")
	}
	for _, t := range s.tunnels {
		if err := t.Check(); err != nil {
			return nil, nil, fmt.Errorf("--listen %s: %w", t.Listen, err)
		}
	}
	for _, site := range s.sites {
		if err := site.Check(); err != nil {
			return nil, nil, fmt.Errorf("--serve %s: %w", site.Listen, err)
		}
	}
	return s.tunnels, s.sites, nil
}
