package job

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Approve is `hallmark approve`.
func Approve(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "approve ID", Short: "Approve what another operator asked for, or review a break-glass",
		Long: `Approve what another operator asked for and may not do alone: a job, which runs then; a
new operator, a setting, a new key or the lifting of a tombstone, which the other types
once more.
For a job started with --break-glass it is the review. "hallmark approve list" shows what waits.`,
		Example: "  hallmark approve list\n  hallmark approve a4", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.Arguments(func(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
			open, err := cl.Approvals(ctx) // list is completed as a command
			var names []string
			for _, p := range open.Items {
				names = append(names, p.ID+"\t"+about(p))
			}
			return names, err
		})}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		p, err := cl.Approve(c.Context(), args[0])
		if err != nil || *asJSON {
			return terminal.Shown(c, p, err)
		}
		text := "approved: " + about(p) + "; " + p.Requester + " does it now by typing it again"
		switch p.Kind {
		case "job":
			text = "approved: " + about(p) + "; it is " + p.Job.State + ": hallmark job show " + p.Job.ID + " --wait"
		case "review":
			text = "reviewed: " + about(p)
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), plain.Line(text))
		return err
	})
	c.AddCommand(approvals(a))
	return c
}

// about says in words what a request is about.
func about(p jobs.Approval) string {
	switch p.Kind {
	case "job":
		return fmt.Sprintf("job %s, %s of %s", p.Job.ID, p.Job.Kind, terminal.Count(int(p.Job.Total), "device"))
	case "review":
		return fmt.Sprintf("break-glass of job %s, %s of %s", p.Job.ID, p.Job.Kind, terminal.Count(int(p.Job.Total), "device"))
	case "operator":
		return "a new operator, " + p.Subject
	case "setting":
		return "the setting " + p.Subject
	case "grant":
		return "a new key for " + p.Subject + ", whose certificates end"
	case "tombstone":
		return "lifting the tombstones of " + p.Subject
	}
	return p.Kind + " " + p.Subject
}

func approvals(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List what waits for another operator, reviews among it", Example: "  hallmark approve list", Args: cobra.NoArgs}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, _ []string) error {
		return terminal.List(c, *asJSON, 0, "REQUEST\tABOUT\tWHERE\tASKED BY\tASKED\tUNTIL\tWHY", func(p jobs.Approval) []string {
			where := ""
			if p.Job != nil {
				where = cmp.Or(p.Job.Where, named(c, cl, *p.Job))
			}
			return []string{p.ID, about(p), where, p.Requester, terminal.When(p.Requested), terminal.When(p.Expires), p.Why}
		}, func(int, string) (wire.List[jobs.Approval], error) { return cl.Approvals(c.Context()) })
	})
	return c
}

// named are the devices of a job that were named: one line has room for a few.
func named(c *cobra.Command, cl *client.Client, j jobs.Job) string {
	const room = 3
	found, err := cl.JobDevices(c.Context(), j.ID, client.Query{Limit: room})
	if err != nil {
		return ""
	}
	var names []string
	for _, d := range found.Items {
		names = append(names, d.Name)
	}
	if more := j.Total - int64(len(names)); more > 0 {
		names = append(names, fmt.Sprintf("and %d more: hallmark job show %s --devices", more, j.ID))
	}
	return strings.Join(names, ", ")
}

// happened is what an alert is about: of a job its kind and size, and that it broke the glass.
func happened(e wire.Event) string {
	text := e.Verb
	if kind := e.Detail["kind"]; kind != "" {
		text += " (" + kind
		if n := e.Detail["devices"]; n != "" {
			text += ", devices: " + n
		}
		text += ")"
	}
	if why := e.Detail["break_glass"]; why != "" {
		text += ", WITHOUT ANOTHER OPERATOR: " + why
	}
	return text
}

// Alert is `hallmark alert`.
func Alert(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the alerts that you have not seen, and mark them as seen",
		Long:    "List the alerts that you have not seen: what other operators did that all must hear of.\nWith that you have seen them; \"hallmark audit list\" still has them.",
		Example: "  hallmark alert list", Args: cobra.NoArgs}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, _ []string) error {
		newest := int64(0)
		err := terminal.List(c, *asJSON, 0, "TIME\tBY\tWHAT\tOBJECT\tWHY", func(e wire.Event) []string {
			return []string{terminal.When(e.Time), e.Actor, happened(e), e.Object, e.Reason}
		}, func(int, string) (wire.List[wire.Event], error) {
			got, err := cl.Alerts(c.Context())
			if n := len(got.Items); n > 0 {
				newest = got.Items[n-1].Sequence
			}
			return got, err
		})
		if err != nil || newest == 0 {
			return err
		}
		return cl.SeeAlerts(c.Context(), newest)
	})
	return terminal.Group("alert", "What other operators did that you must hear of", "  hallmark alert list", c)
}

// Setting is `hallmark setting`.
func Setting(a *terminal.App) *cobra.Command {
	list := terminal.Table(a, &cobra.Command{Use: "list", Short: "List the settings", Example: "  hallmark setting list"},
		"SETTING\tVALUE\tDEFAULT", (*client.Client).Settings, func(s jobs.Setting) []string { return []string{s.Name, s.Value, s.Default} })
	set := &cobra.Command{Use: "set NAME VALUE", Short: "Change a setting, if two operators agree",
		Long: `Change a setting. This takes two operators as soon as there are two: the first time it
asks for the other's approval (exit code 5), the second time it is done.

revoke-threshold is how many devices one operator may revoke within a day without
another's approval.`,
		Example: "  hallmark setting set revoke-threshold 20 --why \"we are few\"", Args: cobra.ExactArgs(2), ValidArgsFunction: terminal.Words(jobs.SettingRevokeThreshold)}
	why := set.Flags().String("why", "", "why, in words, for the audit")
	setJSON := terminal.JSONFlag(set)
	set.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		s, err := cl.Set(c.Context(), args[0], jobs.NewSetting{Value: args[1], Why: *why})
		if err != nil || *setJSON {
			return terminal.Shown(c, s, err)
		}
		return terminal.Say(c, "%s is %s", s.Name, s.Value)
	})
	return terminal.Group("setting", "What operators may change while the server runs", "  hallmark setting list", list, set)
}
