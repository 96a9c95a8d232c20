// Package renewal is `hallmark renew`: by when which devices renew.
package renewal

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// Command is `hallmark renew`.
func Command(a *terminal.App) *cobra.Command {
	return terminal.Group("renew", "Renewal plans: by when which devices renew", "  hallmark renew plan 'lot = W47' --within 6h",
		plan(a), list(a), show(a), cancel(a))
}

func ids(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	got, err := cl.RenewalPlans(ctx, client.Query{Limit: 50})
	var all []string
	for _, p := range got.Items {
		all = append(all, p.ID+"\t"+p.State+", "+p.Where)
	}
	return all, err
}

func plan(a *terminal.App) *cobra.Command {
	var in renewal.NewPlan
	var within terminal.Days
	c := &cobra.Command{
		Use: "plan EXPR --within TIME", Short: "Have devices renew within a time",
		Long: `Have every device that EXPR selects renew within a time, the load spread evenly over
it. Each learns its moment when it next asks, as often as its model's --poll says; what
first asks when the time is over renews at once, and what is switched off when it is
back. EXPR is that of "hallmark device list"; '' selects every device. Revoked devices
are left out.`,
		Example: "  hallmark renew plan 'lot = W47' --within 6h --dry-run\n  hallmark renew plan 'tpm.firmware = \"1.2.3.4\"' --within 2d --why 'new subject'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing,
	}
	asJSON := terminal.JSONFlag(c)
	c.Flags().Var(&within, "within", "the time that they have, 1s to 90d")
	c.Flags().BoolVar(&in.DryRun, "dry-run", false, "only say what the plan would be")
	c.Flags().StringVar(&in.Why, "why", "", "why, in words, for the audit")
	c.MarkFlagRequired("within")
	c.RegisterFlagCompletionFunc("within", terminal.Words("1h", "6h", "1d", "7d"))
	c.RegisterFlagCompletionFunc("why", terminal.Nothing)
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error {
		in.Where, in.Within = args[0], within.Seconds()
		open := a.Change
		if in.DryRun {
			open = a.Open
		}
		cl, err := open(c)
		if err != nil {
			return err
		}
		p, err := cl.PlanRenewal(c.Context(), in)
		if err != nil || *asJSON {
			return terminal.Shown(c, p, err)
		}
		would := map[bool]string{true: "would renew", false: "will renew"}[in.DryRun]
		terminal.Say(c, "%s %s by %s, one every %s", terminal.Count(int(p.Total), "device"), would, terminal.Exactly(p.Due), apart(p))
		for _, late := range p.Late {
			terminal.Say(c, "%s of model %s may ask later than that, and then renew at once: hallmark model show %[2]s",
				terminal.Count(int(late.Count), "device"), late.Name)
		}
		if !in.DryRun {
			err = terminal.Say(c, "this is plan %s: hallmark renew show %[1]s", p.ID)
		}
		return err
	})
	return c
}

// apart is the time between two renewals of a plan.
func apart(p renewal.Plan) string {
	d := terminal.Days((p.Due.Sub(p.Created) / time.Duration(max(p.Total, 1))).Round(time.Millisecond))
	return cmp.Or(d.String(), "0s")
}

func list(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List renewal plans, newest first", Example: "  hallmark renew list", Args: cobra.NoArgs}
	asJSON, limit := terminal.ListFlags(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, _ []string) error {
		return terminal.List(c, *asJSON, *limit, "PLAN\tSTATE\tUNTIL\tRENEWED\tTOLD\tDEVICES\tSELECTED BY", func(p renewal.Plan) []string {
			return []string{p.ID, p.State, terminal.When(p.Due), number(p.Renewed), number(p.Told), number(p.Total), p.Where}
		}, func(limit int, after string) (wire.List[renewal.Plan], error) {
			return cl.RenewalPlans(c.Context(), client.Query{Limit: limit, After: after})
		})
	})
	return c
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func show(a *terminal.App) *cobra.Command {
	return verb(a, &cobra.Command{Use: "show ID", Short: "Show how far a renewal plan is", Example: "  hallmark renew show j3"}, a.Asking, (*client.Client).RenewalPlan)
}

func cancel(a *terminal.App) *cobra.Command {
	return verb(a, &cobra.Command{Use: "cancel ID", Short: "End a renewal plan",
		Long:    "End a renewal plan: what has not renewed yet gets its own window back, when it next asks.",
		Example: "  hallmark renew cancel j3"}, a.Changing, (*client.Client).CancelRenewal)
}

// verb is a command that takes a plan and shows it.
func verb(a *terminal.App, c *cobra.Command, with func(terminal.Act) func(*cobra.Command, []string) error, do func(*client.Client, context.Context, string) (renewal.Plan, error)) *cobra.Command {
	c.Args, c.ValidArgsFunction = cobra.ExactArgs(1), a.Arguments(ids)
	asJSON := terminal.JSONFlag(c)
	c.RunE = with(func(c *cobra.Command, cl *client.Client, args []string) error {
		p, err := do(cl, c.Context(), args[0])
		if err != nil {
			return err
		}
		missing := strings.Join(p.Missing, ", ")
		if more := p.Pending - int64(len(p.Missing)); more > 0 && missing != "" {
			missing += " and " + number(more) + " more"
		}
		return terminal.Show(c, *asJSON, p, [2]string{"Plan", p.ID}, [2]string{"State", p.State}, [2]string{"Selected by", p.Where}, [2]string{"Why", p.Why},
			[2]string{"Operator", p.Operator}, [2]string{"From", terminal.Exactly(p.Created)}, [2]string{"Until", terminal.Exactly(p.Due)}, [2]string{"Ended", terminal.Exactly(p.Ended)},
			[2]string{"Devices", number(p.Total)}, [2]string{"Know their moment", number(p.Told)}, [2]string{"Renewed", number(p.Renewed)},
			[2]string{"Revoked before", number(p.Revoked)}, [2]string{"Not yet", number(p.Pending)}, [2]string{"Among them", missing})
	})
	return c
}
