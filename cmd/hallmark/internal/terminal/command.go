package terminal

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// Exit codes, which ExitCodes tells people.
const (
	ExitError    = 1
	ExitUsage    = 2
	ExitRefused  = 3
	ExitNotFound = 4
	ExitWaits    = 5
	ExitNetwork  = 6
)

// ExitCodes is the table for --help.
const ExitCodes = `Exit codes: 0 done; 1 an error; 2 the command line is wrong; 3 the server refused;
4 there is no such thing; 5 it waits for another operator's approval; 6 the server
cannot be reached, or is another one.`

// failure is an error of a command's own doing, in contrast to a wrong command line.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// Run marks what a command returns as its own failure: whatever else comes back from
// the command library is about the command line.
func Run(do func(c *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
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

func (h hinted) Unwrap() error { return h.error }

// waits is something that was asked for and waits for another operator.
type waits struct{ error }

func (w waits) Unwrap() error { return w.error }

// Waiting is the end of a command whose act another operator must approve first.
func Waiting(err error, hint string) error { return waits{hinted{err, hint}} }

// Hinted adds to an error what to do next.
func Hinted(err error, hint string) error { return hinted{err, hint} }

type usage struct{ error }

// Usage is a wrong command line that only the command itself can notice.
func Usage(err error) error { return usage{err} }

// Group makes a noun: by itself it shows its verbs.
func Group(noun, short, example string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: noun, Short: short, Example: example, SuggestionsMinimumDistance: 2,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				err = fmt.Errorf("%w: did you mean %s?", err, strings.Join(near, " or "))
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

// SpellOut has every command say how it is written when it gets too few or too many
// arguments: that it "accepts 1 arg(s)" does not tell which.
func SpellOut(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		SpellOut(c)
		if check := c.Args; check != nil {
			c.Args = func(c *cobra.Command, args []string) error {
				if check(c, args) != nil {
					text := fmt.Sprintf("%s given; the command is: %s", Count(len(args), "argument"), c.UseLine())
					if strings.Contains(c.Use, "EXPR") && len(args) > 1 {
						text += "; put EXPR in quotes, as one argument: '" + strings.Join(args, " ") + "'"
					}
					return errors.New(text)
				}
				return nil
			}
		}
	}
}

// Report prints what is wrong and what to do next, and returns the exit code.
func Report(err error) int {
	if err == nil {
		return 0
	}
	code, hint := Diagnose(err)
	// A problem's text repeats its hint.
	text := strings.TrimSuffix(strings.TrimSpace(err.Error()), " ("+hint+")")
	fmt.Fprintln(os.Stderr, "hallmark:", plain.Text(text))
	if hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", plain.Text(hint))
	}
	return code
}

// Diagnose finds the exit code and the next step; the table is in ExitCodes.
func Diagnose(err error) (code int, hint string) {
	var own failure
	var wrong usage
	var next hinted
	var unreachable *client.Unreachable
	var refused *wire.Problem
	var waiting waits
	switch {
	case !errors.As(err, &own) || errors.As(err, &wrong):
		return ExitUsage, "add --help to see an example"
	case errors.As(err, &unreachable) && errors.Is(err, client.ErrInterrupted):
		return ExitError, unreachable.Hint
	case errors.As(err, &unreachable):
		return ExitNetwork, unreachable.Hint
	case errors.As(err, &waiting):
		errors.As(err, &next)
		return ExitWaits, next.hint
	case errors.As(err, &refused) && refused.Code == wire.CodeApproval:
		return ExitWaits, refused.Hint
	case errors.As(err, &refused):
		switch refused.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict:
			return ExitRefused, refused.Hint
		case http.StatusNotFound:
			return ExitNotFound, refused.Hint
		case http.StatusBadRequest: // a name, a number or an expression that was typed
			return ExitUsage, refused.Hint
		}
		return ExitError, refused.Hint
	case errors.As(err, &next):
		return ExitError, next.hint
	}
	return ExitError, ""
}
