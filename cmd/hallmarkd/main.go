// Hallmarkd is the server: the CA, the provisioning service, status and
// administration in one process. This package only wires rooms together, in plain
// sight; what they promise stands in their own folders.
//
// Exit codes: 0 done; 1 an error; 2 the command line is wrong; 3 `check` found
// something to look at, but nothing that keeps the server from working.
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
)

// version is set by the build.
var version = "unknown"

// Exit codes.
const (
	exitError    = 1
	exitUsage    = 2
	exitWarnings = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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
something to look at.`,
		Example: `  hallmarkd init --dir /srv/hallmark --name "Acme Devices" --public-url https://ca.acme.example:8443
  hallmarkd serve --config /srv/hallmark/hallmark.yaml`,
		SilenceErrors: true, SilenceUsage: true,
		Version: version,
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	cmd.AddCommand(initCommand(), checkCommand(), serveCommand(), backupCommand(), restoreCommand(), operatorCommand(), versionCommand())
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

// failure is an error with what to do next and the exit code.
type failure struct {
	error
	hint string
	code int
}

func (f failure) Unwrap() error { return f.error }

// hinted adds the next step to an error.
func hinted(err error, hint string, args ...any) error {
	return failure{err, fmt.Sprintf(hint, args...), exitError}
}

func usage(c *cobra.Command, err error) error {
	return failure{err, c.CommandPath() + " --help shows an example", exitUsage}
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(c, fmt.Errorf("%q is not understood", args[0]))
	}
	return nil
}

// report prints an error and its hint and returns the exit code.
func report(err error) int {
	if err == nil {
		return 0
	}
	f := failure{error: err, code: exitError}
	errors.As(err, &f)
	if text := err.Error(); text != "" {
		fmt.Fprintf(os.Stderr, "hallmarkd: %s\n", text)
	}
	if strings.HasPrefix(err.Error(), "unknown command") {
		f.code, f.hint = exitUsage, "hallmarkd --help lists the commands"
	}
	if f.hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", f.hint)
	}
	return f.code
}

// configFlag adds --config, which every command but init and restore needs.
func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", "hallmark.yaml", "the installation's configuration")
	c.MarkFlagFilename("config", "yaml", "yml")
}
