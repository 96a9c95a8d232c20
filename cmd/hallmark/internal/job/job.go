// Package job is the commands about acts on many devices: making, watching and stopping
// them, and what takes two operators.
package job

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Command is `hallmark job`.
func Command(a *terminal.App) *cobra.Command {
	return terminal.Group("job", "Acts on many devices: watch, stop, report", "  hallmark job show j3 --wait",
		list(a), show(a),
		move(a, "pause", "Pause a running job", "What was done stays; \"hallmark job resume\" goes on."),
		move(a, "resume", "Let a paused job go on, until the end of its next stage", ""),
		move(a, "cancel", "End a job: devices that it has not reached are left alone", "What was done stays, and is listed; what was suspended can be restored by another job."),
		report(a), verify())
}

func ids(ctx context.Context, cl *client.Client, _ string) ([]string, error) {
	got, err := cl.Jobs(ctx, client.Query{Limit: 50})
	var names []string
	for _, j := range got.Items {
		names = append(names, j.ID+"\t"+j.Kind+", "+j.State)
	}
	return names, err
}

func list(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List jobs, newest first", Example: "  hallmark job list --limit 10", Args: cobra.NoArgs}
	asJSON, limit := terminal.ListFlags(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, _ []string) error {
		return terminal.List(c, *asJSON, *limit, "JOB\tKIND\tSTATE\tDEVICES\tOPERATOR\tCREATED\tWHY", func(j jobs.Job) []string {
			return []string{j.ID, j.Kind, j.State, outcomes(j), j.Operator, terminal.When(j.Created), because(j)}
		}, func(limit int, after string) (wire.List[jobs.Job], error) {
			return cl.Jobs(c.Context(), client.Query{Limit: limit, After: after})
		})
	})
	return c
}

// because is the reason of a job, with what is said in words.
func because(j jobs.Job) string {
	return strings.TrimSuffix(strings.TrimPrefix(j.Reason+": "+j.Why, ": "), ": ")
}

// outcomes words what has happened: "120: 118 done, 2 unchanged".
func outcomes(j jobs.Job) string {
	text := strconv.FormatInt(j.Total, 10)
	for i, outcome := range slices.Sorted(maps.Keys(j.Outcomes)) {
		text += []string{": ", ", "}[min(i, 1)] + strconv.FormatInt(j.Outcomes[outcome], 10) + " " + outcome
	}
	return text
}

func show(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "show ID", Short: "Show a job, how far it is, and who enforces what it changed",
		Long: `Show a job, how far it is, and who enforces what it changed. With --wait it is followed
to its end, or until it pauses, and until every relying party that reports enforces what
it changed, if that is within seconds.`,
		Example: "  hallmark job show j3\n  hallmark job show j3 --wait\n  hallmark job show j3 --devices --outcome refused",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(ids)}
	asJSON := terminal.JSONFlag(c)
	wait := c.Flags().Bool("wait", false, "follow it to its end")
	devices := c.Flags().Bool("devices", false, "list its devices and what became of each")
	outcome := c.Flags().String("outcome", "", "with --devices: only those with this outcome")
	c.RegisterFlagCompletionFunc("outcome", terminal.Words("done", "unchanged", "refused", "cancelled"))
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
		if *devices {
			return terminal.List(c, *asJSON, 0, "DEVICE\tOUTCOME\tAT", func(d jobs.Device) []string {
				return []string{d.Name, d.Outcome, terminal.Exactly(d.At)}
			}, func(limit int, after string) (wire.List[jobs.Device], error) {
				return cl.JobDevices(c.Context(), args[0], client.Query{Filter: *outcome, Limit: limit, After: after})
			})
		}
		p, err := cl.Job(c.Context(), args[0])
		// A terminal shows progress without being asked.
		if err == nil && (*wait || !*asJSON && terminal.Interactive(c.OutOrStdout()) && moving(p.State)) {
			p, err = follow(c, cl, args[0])
		}
		terminal.Unsigned(c, p.Unsigned)
		if err != nil || *asJSON {
			return terminal.Shown(c, p, err)
		}
		return printed(c, p)
	})
	return c
}

func printed(c *cobra.Command, p jobs.Progress) error {
	glass, waits := p.BreakGlass, ""
	switch {
	case glass != "" && p.Until.IsZero():
		glass += "; reviewed"
	case glass != "":
		glass += "; not reviewed yet, runs until " + terminal.Exactly(p.Until)
	}
	switch {
	case p.Approval != "":
		waits = "hallmark approve " + p.Approval
	case p.State == "expired" || p.State == "waiting":
		waits = "nobody: it was not approved in time, and nothing was done; to go on, ask again"
	}
	var stages []string
	for _, n := range p.Stages {
		stages = append(stages, strconv.FormatInt(n, 10))
	}
	err := terminal.Show(c, false, p, [2]string{"Job", p.ID}, [2]string{"Kind", p.Kind}, [2]string{"State", p.State}, [2]string{"Operator", p.Operator},
		[2]string{"Where", p.Where}, [2]string{"Reason", p.Reason}, [2]string{"Why", p.Why}, [2]string{"Created", terminal.Exactly(p.Created)},
		[2]string{"Ended", terminal.Exactly(p.Ended)}, [2]string{"Stages", strings.Join(stages, ", ")}, [2]string{"Break-glass", glass},
		[2]string{"Waits for", waits}, [2]string{"Devices", outcomes(p.Job)})
	if line := enforced(p); err == nil && line != "" {
		err = terminal.Say(c, "%s", line)
	}
	return err
}

// enforced says at whom a job took effect: "enforced at 14 of 14, slowest 0.8 s", or who
// is missing; empty if it has changed nothing yet.
func enforced(p jobs.Progress) string {
	if p.Change == 0 {
		return ""
	}
	if len(p.Enforcement) == 0 {
		return "no relying party reports what it enforces (hallmark relying-party invite NAME)"
	}
	slowest := 0.0
	var missing []string
	for _, e := range p.Enforcement {
		if !e.At.IsZero() {
			slowest = max(slowest, e.At.Sub(p.Changed).Seconds())
			continue
		}
		said := "last report " + terminal.Exactly(e.Reported)
		if e.Problem != "" {
			said += ": " + e.Problem
		}
		missing = append(missing, e.Name+" ("+said+")")
	}
	text := fmt.Sprintf("enforced at %d of %d", len(p.Enforcement)-len(missing), len(p.Enforcement))
	if len(missing) < len(p.Enforcement) {
		text += fmt.Sprintf(", slowest %.1f s", slowest)
	}
	if len(missing) > 0 {
		text += "; not yet at " + strings.Join(missing, ", ")
	}
	return text
}

func move(a *terminal.App, verb, short, long string) *cobra.Command {
	c := &cobra.Command{Use: verb + " ID", Short: short, Long: strings.TrimSpace(short + ".\n\n" + long), Example: "  hallmark job " + verb + " j3",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(ids)}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		j, err := cl.MoveJob(c.Context(), args[0], verb)
		if err != nil || *asJSON {
			return terminal.Shown(c, j, err)
		}
		return terminal.Say(c, "job %s is %s; devices %s", j.ID, j.State, outcomes(j))
	})
	return c
}

func report(a *terminal.App) *cobra.Command {
	return &cobra.Command{Use: "report ID", Short: "Print a signed report of a job, for the auditor",
		Long: `Print a signed report of a job: who asked and who approved, every device and what became
of it, the CRLs, and when each relying party was known to enforce it. It is a JSON Web
Signature (RFC 7515); "hallmark job verify" and any other program that knows those verify
it with trust/infrastructure.pem.`,
		Example: "  hallmark job report j3 > j3.json\n  hallmark job verify j3.json --roots trust/infrastructure.pem",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(ids),
		RunE: a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
			r, err := cl.Report(c.Context(), args[0])
			return terminal.Shown(c, r, err)
		})}
}

func verify() *cobra.Command {
	c := &cobra.Command{Use: "verify FILE", Short: "Verify a signed report and show what it says",
		Long:    "Verify a signed report and show what it says. It needs neither a server nor settings:\nthe auditor has the report and the installation's infrastructure.pem.",
		Example: "  hallmark job verify j3.json --roots trust/infrastructure.pem", Args: cobra.ExactArgs(1)}
	asJSON := terminal.JSONFlag(c)
	roots := c.Flags().String("roots", "", "the installation's trust/infrastructure.pem")
	c.MarkFlagRequired("roots")
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		trusted, err := os.ReadFile(*roots)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(trusted) {
			return errors.New(*roots + " holds no PEM certificate")
		}
		r, err := jobs.VerifyReport(text, pool)
		terminal.Unsigned(c, r.Job.Unsigned)
		if err != nil || *asJSON {
			return terminal.Shown(c, r, err)
		}
		for _, p := range r.Approvals {
			terminal.Say(c, "request %s, %s: asked by %s (%s), approved by %s %s", p.ID, p.Kind, p.Requester, p.Why, cmp.Or(p.Approver, "nobody"), terminal.Exactly(p.Approved))
		}
		terminal.Say(c, "signed by %s at %s\n", r.Installation, terminal.Exactly(r.Made))
		return printed(c, jobs.Progress{Job: r.Job, Enforcement: r.Enforcement})
	})
	return c
}
