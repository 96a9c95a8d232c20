package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/cmd/hallmark-device/internal/settings"
	"github.com/hallmark-pki/hallmark/cmd/internal/help"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/serial"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// command is the root command.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "hallmark-device",
		Short:         "Get, keep and renew this device's certificates",
		Long:          "hallmark-device proves to a Hallmark server what this device's TPM is, and gets, keeps\nand renews the certificates that it is given for it.\n\n" + exitCodes,
		Example:       "  hallmark-device enrol - --serial SN-0001 < ticket\n  hallmark-device run\n  hallmark-device status",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	settings.FileFlag(root)
	root.AddCommand(enrolCommand(), renewCommand(), runCommand(), needsRenewalCommand(), statusCommand(), connectCommand(), proxyCommand(),
		generaliseCommand(), configCommand(), versionCommand())
	help.Switches(root)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{err, c.CommandPath()} })
	return root
}

// run marks the error of a command as a failure, as opposed to wrong usage.
func run(f func(c *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		if err := f(c, args); err != nil {
			return failure{message(err)}
		}
		return nil
	}
}

// arguments wraps cobra's check of the number of arguments.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{err, c.CommandPath()}
		}
		return nil
	}
}

// commonFlags are the flags that most commands share.
type commonFlags struct {
	state, tpm string
	key, proxy string
	json       bool
	// found are all settings with their values.
	found settings.Found
	// resolved is called when the settings are known; may be nil.
	resolved func()
}

// stateFlag adds --state, and has the command find its settings before it runs.
func (o *commonFlags) stateFlag(c *cobra.Command) {
	settings.Add(c, &o.state, "state", "")
	c.PreRunE = func(c *cobra.Command, _ []string) (err error) {
		if o.found, err = settings.Find(c, os.Getenv); err == nil && o.resolved != nil {
			o.resolved()
		}
		return err
	}
}

func (o *commonFlags) tpmFlag(c *cobra.Command, otherwise string) {
	settings.Add(c, &o.tpm, "tpm", "TPM: a device file, unix:PATH or tcp:HOST:PORT (default "+otherwise+")")
}

func (o *commonFlags) jsonFlag(c *cobra.Command) {
	c.Flags().BoolVar(&o.json, "json", false, "print the result as JSON")
}

func (o *commonFlags) options(c *cobra.Command) device.Options {
	return device.Options{State: o.state, TPM: o.tpm, Key: o.key, Proxy: o.proxy, Built: buildTime(),
		Report: func(line string) { fmt.Fprintln(c.ErrOrStderr(), plain.Text(line)) }}
}

// print prints v as JSON if requested, else the lines.
func (o *commonFlags) print(c *cobra.Command, v any, lines ...string) error {
	if o.json {
		text, err := json.MarshalIndent(v, "", "  ")
		if err == nil {
			_, err = c.OutOrStdout().Write(plain.JSON(append(text, '\n')))
		}
		return err
	}
	for _, l := range lines {
		fmt.Fprintln(c.OutOrStdout(), plain.Text(l))
	}
	return nil
}

func enrolCommand() *cobra.Command {
	var o commonFlags
	var from enrolFlags
	c := &cobra.Command{
		Use:     "enrol [TICKET]",
		Aliases: []string{"enroll"},
		Short:   "Get this device's identity",
		Long: `Get this device's identity: the IDevID certificate, which lasts, for a key that never
leaves the TPM. "hallmark-device run" fetches the first working certificate and keeps it
fresh from then on; "hallmark-device renew" fetches one.

TICKET is a line that "hallmark ticket create" printed. Write "-" to have it read from
standard input, or leave it out and set the environment variable HALLMARK_TICKET: both
keep it out of the list of processes. A device that has lost its state folder, and that
the server knows, needs no ticket, but --server and --roots.

Without a TPM the key can be kept in a file (--key file, in the state folder, or --key
file:PATH), where the model allows it: then whoever copies the file is the device. Or a
program of yours signs with a key that it alone reaches, in a secure element for
instance (--key "external:COMMAND"; docs/external-signer.md).

Enrolling an enrolled device changes nothing.

` + exitCodes,
		Example: "  hallmark-device enrol - --serial SN-0001 < ticket\n" +
			"  hallmark-device enrol - --serial-from dmi < ticket\n" +
			"  hallmark-device enrol --server https://ca.example.com:8443 --roots infrastructure.pem\n" +
			"  hallmark-device enrol - --key \"external:/usr/local/lib/signer\" < ticket",
		Args: arguments(cobra.MaximumNArgs(1)),
	}
	o.stateFlag(c)
	o.tpmFlag(c, collect.DefaultSpec)
	o.jsonFlag(c)
	from.flags(c, &o)
	c.RunE = run(func(c *cobra.Command, args []string) error {
		ticket, err := readTicket(c, args)
		if err != nil {
			return usageError{err, c.CommandPath()}
		}
		e := device.Enrolment{Options: o.options(c), Ticket: ticket}
		if e.Servers, e.Roots, err = from.server(c, &o, ticket != nil); err != nil {
			return err
		}
		if ticket == nil && (len(e.Servers) == 0 || len(e.Roots) == 0) && notEnrolled(o.state) {
			return usageError{errors.New("a ticket is needed, or both --server and --roots"), c.CommandPath()}
		}
		if e.Serial, err = from.serialNumber(c.Context()); errors.Is(err, serial.ErrSource) {
			return usageError{err, c.CommandPath()}
		} else if err != nil {
			return advised{err, "give it with --serial, or name another source with --serial-from"}
		}
		r, err := device.Enrol(c.Context(), e)
		if err != nil {
			return err
		}
		if r.Already {
			return o.print(c, r, "already enrolled as "+r.Device+"; nothing changed")
		}
		return o.print(c, r, "enrolled as "+r.Device, "next: hallmark-device run, or renew for one certificate")
	})
	return c
}

func notEnrolled(folder string) bool {
	_, _, err := state.At(folder).Load()
	return err != nil
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  hallmark-device version", Args: arguments(cobra.NoArgs),
		RunE: run(func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(c.OutOrStdout(), "hallmark-device %s\nbuilt no earlier than %s\n", version, buildTime().Format(time.RFC3339))
			return err
		}),
	}
}

// readTicket reads the ticket from the argument, standard input or the environment; nil if there
// is none. It unsets the variable, which programs run by the agent must not see.
func readTicket(c *cobra.Command, args []string) (*wire.Permission, error) {
	text := os.Getenv("HALLMARK_TICKET")
	os.Unsetenv("HALLMARK_TICKET")
	if len(args) == 1 {
		text = args[0]
	}
	if text == "-" {
		line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 4096)).ReadString('\n')
		if err != nil && err != io.EOF {
			return nil, err
		}
		if text = strings.TrimSpace(line); text == "" {
			return nil, errors.New("no ticket on standard input")
		}
	}
	if text == "" {
		return nil, nil
	}
	p, err := wire.ParsePermission(wire.KindTicket, text)
	if err != nil {
		return nil, err
	}
	return &p, nil
}

func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }
