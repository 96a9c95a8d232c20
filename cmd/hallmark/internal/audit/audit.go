// Package audit is `hallmark audit`: what happened and who did it, for people, for log
// collectors and for the review of who may do what.
package audit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"
)

// Command is `hallmark audit`; version is the program's.
func Command(a *terminal.App, version string) *cobra.Command {
	return terminal.Group("audit", "What happened, and who did it", "  hallmark audit list",
		list(a), follow(a, version), review(a))
}

func list(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List events, oldest first",
		Long:    "List the newest events, oldest of them first, or with --after all events since that\nsequence number.",
		Example: "  hallmark audit list\n  hallmark audit list --after 1200 --json", Args: cobra.NoArgs}
	asJSON := terminal.JSONFlag(c)
	limit := c.Flags().Int("limit", 50, "how many; with --after, 0 means all")
	after := c.Flags().Int64("after", -1, "events with a greater sequence number than this")
	c.RunE = terminal.Run(func(c *cobra.Command, _ []string) error {
		since := c.Flags().Changed("after")
		switch {
		case since && *after < 0 || *limit < 0:
			return terminal.Usage(errors.New("--after and --limit are not negative"))
		case !since && (*limit < 1 || *limit > wire.MaxPage):
			return terminal.Usage(fmt.Errorf("--limit is 1 to %d unless there is --after", wire.MaxPage))
		case since && !c.Flags().Changed("limit"):
			*limit = 0
		}
		cl, err := a.Open(c)
		if err != nil {
			return err
		}
		return terminal.List(c, *asJSON, *limit, "SEQUENCE\tTIME\tACTOR\tVERB\tOBJECT\tREASON", eventRow, func(size int, cursor string) (wire.List[wire.Event], error) {
			if !since {
				got, err := cl.LastEvents(c.Context(), size)
				slices.Reverse(got.Items)
				return got, err
			}
			if cursor != "" {
				if *after, err = strconv.ParseInt(cursor, 10, 64); err != nil {
					return wire.List[wire.Event]{}, err
				}
			}
			return cl.EventsAfter(c.Context(), *after, size)
		})
	})
	return c
}

func eventRow(e wire.Event) []string {
	reason := e.Reason
	if word := e.Detail["reason"]; word != "" {
		reason = strings.TrimSuffix(word+": "+reason, ": ")
	}
	return []string{strconv.FormatInt(e.Sequence, 10), e.Time.Local().Format("2006-01-02 15:04:05"), e.Actor, e.Verb, e.Object, reason}
}
