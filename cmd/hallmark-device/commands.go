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
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/keys"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// command is the whole command line.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "hallmark-device",
		Short:         "Get, keep and renew this device's certificates",
		Long:          "hallmark-device proves to a Hallmark server what this device's TPM is, and gets, keeps\nand renews the certificates that it is given for it.\n\n" + exitCodes,
		Example:       "  hallmark-device enrol hmt1.abc… --serial SN-0001\n  hallmark-device renew\n  hallmark-device status",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(enrolCommand(), renewCommand(), statusCommand(), connectCommand(), proxyCommand(), versionCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usageError{err, c.CommandPath()} })
	return root
}

// run marks what a command returns as its own failure.
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

// common are the flags of every command that does something.
type common struct {
	state, tpm string
	key        string
	json       bool
}

func (o *common) stateFlag(c *cobra.Command) {
	folder := os.Getenv("HALLMARK_STATE")
	if folder == "" {
		folder = state.DefaultDir
	}
	c.Flags().StringVar(&o.state, "state", folder, "folder that keeps certificates and keys; also $HALLMARK_STATE")
}

func (o *common) tpmFlag(c *cobra.Command, otherwise string) {
	c.Flags().StringVar(&o.tpm, "tpm", os.Getenv("HALLMARK_TPM"), "TPM: a device file, unix:PATH or tcp:HOST:PORT; also $HALLMARK_TPM (default "+otherwise+")")
}

func (o *common) jsonFlag(c *cobra.Command) {
	c.Flags().BoolVar(&o.json, "json", false, "print the result as JSON")
}

func (o *common) options(c *cobra.Command) device.Options {
	return device.Options{State: o.state, TPM: o.tpm, Key: o.key, Built: buildTime(),
		Report: func(line string) { fmt.Fprintln(c.ErrOrStderr(), printable(line)) }}
}

// print prints v as JSON if asked for, else the lines.
func (o *common) print(c *cobra.Command, v any, lines ...string) error {
	if o.json {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	for _, l := range lines {
		fmt.Fprintln(c.OutOrStdout(), printable(l))
	}
	return nil
}

func enrolCommand() *cobra.Command {
	var o common
	var server, roots, serial, serialFrom, key string
	c := &cobra.Command{
		Use:     "enrol [TICKET]",
		Aliases: []string{"enroll"},
		Short:   "Get this device's identity",
		Long: `Get this device's identity: the IDevID certificate, which lasts, for a key that never
leaves the TPM. Then run "hallmark-device renew" for the first working certificate.

TICKET is a line that "hallmark ticket create" printed. Written as "-" it is read from
standard input, and left out from the environment variable HALLMARK_TICKET: both keep
it out of the list of processes. A device that the server knows already, because its
state folder was lost, needs no ticket but --server and --roots.

Without a TPM the key can be kept in a file (--key file, in the state folder, or --key
file:PATH), where the model allows it: then whoever copies the file is the device. Or a
program of yours signs with a key that it alone reaches, in a secure element for
instance (--key "external:COMMAND"; docs/external-signer.md).

Enrolling an enrolled device changes nothing.

` + exitCodes,
		Example: "  hallmark-device enrol hmt1.abc… --serial SN-0001\n" +
			"  hallmark-device enrol - --serial-from dmi < ticket\n" +
			"  hallmark-device enrol --server https://ca.example.com:8443 --roots infrastructure.pem\n" +
			"  hallmark-device enrol - --key \"external:/usr/local/lib/signer\" < ticket",
		Args: arguments(cobra.MaximumNArgs(1)),
	}
	o.stateFlag(c)
	o.tpmFlag(c, collect.DefaultSpec)
	o.jsonFlag(c)
	c.Flags().StringVar(&server, "server", "", "https URL of the server, in place of the ticket's")
	c.Flags().StringVar(&roots, "roots", "", "PEM file of infrastructure roots, in place of the ticket's")
	c.Flags().StringVar(&serial, "serial", "", "serial number of this device")
	c.Flags().StringVar(&serialFrom, "serial-from", "", "where to read it: dmi, devicetree, file:PATH or cmd:COMMAND")
	c.Flags().StringVar(&key, "key", "", "where the key is: tpm, file, file:PATH or external:COMMAND (default tpm)")
	c.MarkFlagsMutuallyExclusive("serial", "serial-from")
	c.RegisterFlagCompletionFunc("key", cobra.FixedCompletions([]string{"tpm", "file", "file:", "external:"}, cobra.ShellCompDirectiveNoSpace))
	c.RegisterFlagCompletionFunc("serial-from", cobra.FixedCompletions([]string{"dmi", "devicetree", "file:", "cmd:"}, cobra.ShellCompDirectiveNoSpace))
	c.RunE = run(func(c *cobra.Command, args []string) (err error) {
		if err := keys.CheckSpec(key); err != nil {
			return usageError{err, c.CommandPath()}
		}
		o.key = key
		e := device.Enrolment{Options: o.options(c), Server: server, Serial: serial}
		if e.Ticket, err = readTicket(c, args); err != nil {
			return usageError{err, c.CommandPath()}
		}
		if roots != "" {
			if e.Roots, err = device.ReadRoots(roots); err != nil {
				return advised{err, "--roots takes the file trust/infrastructure.pem of the server's folder"}
			}
		}
		if e.Ticket == nil && (server == "" || roots == "") && notEnrolled(o.state) {
			return usageError{errors.New("a ticket is needed, or both --server and --roots"), c.CommandPath()}
		}
		if serialFrom != "" {
			if e.Serial, err = device.ReadSerial(c.Context(), serialFrom); err != nil {
				return advised{fmt.Errorf("reading the serial number: %w", err), "give it with --serial, or name another source with --serial-from"}
			}
		}
		r, err := device.Enrol(c.Context(), e)
		if err != nil {
			return err
		}
		if r.Already {
			return o.print(c, r, "already enrolled as "+r.Device+"; nothing changed")
		}
		return o.print(c, r, "enrolled as "+r.Device, "next: hallmark-device renew")
	})
	return c
}

func notEnrolled(folder string) bool {
	_, _, err := state.At(folder).Load()
	return err != nil
}

func renewCommand() *cobra.Command {
	var o common
	c := &cobra.Command{
		Use:   "renew",
		Short: "Get a new working certificate",
		Long: `Get a new working certificate (LDevID) for a new key in the TPM. The old certificate and
key are replaced, together, once the server has accepted the new ones. Run it at two
thirds of the certificate's life; "hallmark-device status" says when that is.

Programs find the certificate and the key (TSS2 PEM) as ldevid.pem and ldevid.key in
the state folder.

` + exitCodes,
		Example: "  hallmark-device renew",
		Args:    arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.tpmFlag(c, "the one enrolled with")
	o.jsonFlag(c)
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		r, err := device.Renew(c.Context(), o.options(c))
		if err != nil {
			return err
		}
		return o.print(c, r, fmt.Sprintf("%s: working certificate valid until %s, renew after %s", r.Device, when(r.NotAfter), when(r.RenewAfter)))
	})
	return c
}

func statusCommand() *cobra.Command {
	var o common
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show what this device holds",
		Long:    "Show what this device holds, without asking the TPM or the server.\n\n" + exitCodes,
		Example: "  hallmark-device status --json",
		Args:    arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.jsonFlag(c)
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		s, err := device.ReadStatus(o.state, time.Now())
		if err != nil {
			return err
		}
		return o.print(c, s, statusLines(s)...)
	})
	return c
}

// keyLine says where the keys are.
func keyLine(s device.Status) string {
	if s.Key == keys.TPM {
		return "tpm          " + s.TPM
	}
	return "key          " + s.Key
}

func statusLines(s device.Status) []string {
	if s.Condition == device.NotEnrolled {
		return []string{"not enrolled", "next: hallmark-device enrol TICKET"}
	}
	lines := []string{"device       " + s.Device, "server       " + s.Server, keyLine(s)}
	if s.IDevID != nil {
		lines = append(lines, "IDevID       "+s.IDevID.SerialNumber+", "+s.IDevID.File)
	}
	if s.LDevID != nil {
		lines = append(lines, "LDevID       "+s.LDevID.SerialNumber+", "+s.LDevID.File,
			"valid until  "+when(s.LDevID.NotAfter), "renew after  "+when(s.RenewAfter))
	}
	lines = append(lines, fmt.Sprintf("trust        bundle %d", s.Trust), "condition    "+s.Condition)
	if s.Damaged != "" {
		lines = append(lines, "warning      the newest state is damaged, this is the one before: "+s.Damaged)
	}
	if s.Condition != device.OK {
		lines = append(lines, "next: hallmark-device renew")
	}
	return lines
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

// readTicket reads the ticket from the argument, standard input or the environment;
// nil if there is none.
func readTicket(c *cobra.Command, args []string) (*wire.Permission, error) {
	text := os.Getenv("HALLMARK_TICKET")
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
