// Hallmarkd is the server: the CA, the provisioning service, status and administration
// in one process, and the commands that make such an installation and look after it.
// This package is the command line; the work is done in internal/.
//
// Exit codes: 0 done; 1 an error; 2 the command line is wrong; 3 `check` found
// something to look at, but nothing that keeps the server from working; 4 an HSM refused
// the PIN.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/internal/help"
)

// version is set by the build.
var version = "unknown"

// Exit codes.
const (
	exitError    = 1
	exitUsage    = 2
	exitWarnings = 3
	exitPIN      = 4 // a service manager must not restart the server after it
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends it at once
	err := root().ExecuteContext(ctx)
	stop()
	os.Exit(report(err))
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hallmarkd",
		Short: "A private CA that gives every device a certificate of its own",
		Long: `Hallmarkd gives every device a certificate of its own at manufacture, after its
TPM has attested, renews it, and lets an administrator take it away.

Exit codes: 0 done; 1 an error; 2 the command line is wrong; 3 check found
something to look at; 4 an HSM refused the PIN.`,
		Example: `  hallmarkd init --dir /srv/hallmark --name "Acme Devices" --public-url https://ca.acme.example:8443
  hallmarkd serve --config /srv/hallmark/hallmark.yaml`,
		SilenceErrors: true, SilenceUsage: true,
		Version: version,
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	cmd.AddCommand(initCommand(), serveCommand(), checkCommand(), backupCommand(), restoreCommand(), operatorCommand(), issuerCommand(), trustCommand(), versionCommand())
	help.Switches(cmd)
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  hallmarkd version", Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "hallmarkd", version)
			return err
		},
	}
}

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

func usage(c *cobra.Command, err error) error {
	return coded{installation.Hint(err, "%s --help shows an example", c.CommandPath()), exitUsage}
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(c, fmt.Errorf("%q is not understood", args[0]))
	}
	return nil
}

// noun is a command that has verbs and does nothing without one.
func noun(c *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	var names []string
	for _, v := range verbs {
		names = append(names, v.Name())
	}
	c.Args = noArguments
	c.RunE = func(c *cobra.Command, _ []string) error {
		return usage(c, fmt.Errorf("a verb is missing: %s", strings.Join(names, ", ")))
	}
	c.AddCommand(verbs...)
	return c
}

// report prints an error and its hint and returns the exit code.
func report(err error) int {
	if err == nil {
		return 0
	}
	c := coded{code: exitError}
	errors.As(err, &c)
	hint := installation.Next(err)
	if errors.Is(err, keys.ErrPIN) {
		c.code, hint = exitPIN, "correct the file that pin-source names first: after some tries a token locks itself"
	}
	if strings.HasPrefix(err.Error(), "unknown command") { // cobra's own
		c.code, hint = exitUsage, "hallmarkd --help lists the commands"
	}
	if errors.Is(err, context.Canceled) { // by a signal: what was begun is not done
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintf(os.Stderr, "hallmarkd: %v\n", err)
	if hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", hint)
	}
	return c.code
}

// configFlag adds --config, which every command but init and restore needs.
func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", installation.ConfigFile, "the installation's configuration, or the folder that holds it")
	c.MarkFlagFilename("config", "yaml", "yml")
}

// issuers completes an argument with the names of the installation's issuing CAs, by which
// their roots are named too.
func issuers(path *string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		if in, err := installation.Read(*path); err == nil && len(args) == 0 {
			for _, i := range in.Issuers {
				names = append(names, i.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
