// Hallmark is the operator's command: models, lots and tickets for the factory,
// devices and certificates in the field, and who may administer. It is a client of the
// operator protocol like any other: everything it can do passes the server's judgement
// and audit.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/wire"
)

// version is set by the build.
var version = "unknown"

// Exit codes; exitCodes tells people.
const (
	exitError    = 1
	exitUsage    = 2
	exitRefused  = 3
	exitNotFound = 4
	exitNetwork  = 6
)

const exitCodes = `Exit codes: 0 done; 1 an error; 2 the command line is wrong; 3 the server refused;
4 there is no such thing; 6 the server cannot be reached, or is another one.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	os.Exit(report(err))
}

func root() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:   "hallmark",
		Short: "Administer a Hallmark installation",
		Long: `Hallmark administers a Hallmark installation: who may make which devices, and what
becomes of them.

It finds the server and your certificate through a settings file: --config, else
$HALLMARK_CONFIG, else hallmark/hallmark.yaml in your configuration folder
(~/.config). "hallmarkd init" writes the first operator's settings to
operator/hallmark.yaml; "hallmark operator accept" writes everybody else's.

` + exitCodes,
		Example: `  export HALLMARK_CONFIG=/srv/hallmark/operator/hallmark.yaml
  hallmark ticket create --serial SN-0001
  hallmark device list 'seen < 2026-11-01'
  hallmark device revoke SN-0001 --reason key-compromise`,
		Version:       version,
		SilenceErrors: true, SilenceUsage: true,
	}
	cmd.PersistentFlags().StringVar(&a.config, "config", "", "settings file, or the folder that holds it (default $"+configVariable+")")
	cmd.AddCommand(a.vendorcaCommand(), a.modelCommand(), a.lotCommand(), a.ticketCommand(), a.deviceCommand(),
		a.certCommand(), a.operatorCommand(), a.auditCommand(), a.whoamiCommand(), versionCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  hallmark version", Args: cobra.NoArgs,
		RunE: run(func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "hallmark", version)
			return err
		}),
	}
}

// failure is an error of a command's own doing, in contrast to a wrong command line.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// run marks what a command returns as its own failure: whatever else comes back from
// the command library is about the command line.
func run(do func(c *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		if err := do(c, args); err != nil {
			return failure{err}
		}
		return nil
	}
}

// hinted is an error with what to do next.
type hinted struct {
	error
	hint string
}

// usage is a wrong command line that only the command itself can notice.
type usage struct{ error }

// group makes a noun: by itself it shows its verbs.
func group(noun, short, example string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: noun, Short: short, Example: example, SuggestionsMinimumDistance: 2,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				err = fmt.Errorf("%w: did you mean %q?", err, near[0])
			}
			return err
		},
	}
	// A mistyped verb's own flags are unknown here; it is the verb that is wrong.
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if typed := c.Flags().Args(); c == cmd && len(typed) > 0 {
			return c.RunE(c, typed)
		}
		return err
	})
	cmd.AddCommand(verbs...)
	return cmd
}

// report prints what is wrong and what to do next, and returns the exit code.
func report(err error) int {
	if err == nil {
		return 0
	}
	code, hint := diagnose(err)
	// A problem's text repeats its hint.
	text := strings.TrimSuffix(strings.TrimSpace(err.Error()), " ("+hint+")")
	fmt.Fprintln(os.Stderr, "hallmark:", printable(text, true))
	if hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", printable(hint, true))
	}
	return code
}

// diagnose finds the exit code and the next step; the table is in exitCodes.
func diagnose(err error) (code int, hint string) {
	var own failure
	var wrong usage
	var next hinted
	var unreachable *client.Unreachable
	var refused *wire.Problem
	switch {
	case !errors.As(err, &own) || errors.As(err, &wrong):
		return exitUsage, "add --help to see an example"
	case errors.As(err, &unreachable):
		return exitNetwork, unreachable.Hint
	case errors.As(err, &refused):
		switch refused.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict:
			return exitRefused, refused.Hint
		case http.StatusNotFound:
			return exitNotFound, refused.Hint
		case http.StatusBadRequest: // a name, a number or an expression that was typed
			return exitUsage, refused.Hint
		}
		return exitError, refused.Hint
	case errors.As(err, &next):
		return exitError, next.hint
	}
	return exitError, ""
}

// printable keeps foreign text from steering the terminal, by control characters or by
// turning the direction of writing; lines allows line breaks.
func printable(text string, lines bool) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r == '\n' && lines || r >= ' ' && r != 0x7f && (r < 0x80 || r >= 0xa0) && (r < 0x202a || r > 0x202e) && (r < 0x2066 || r > 0x2069) {
			return r
		}
		return '?'
	}, text)
}
