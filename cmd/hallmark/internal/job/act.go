package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Act is a verb that changes the state of devices.
type Act struct {
	// Kind is the kind of its jobs, and the verb; Done the participle.
	Kind, Done  string
	Short, Long string
	Example     string
	// One does it to a single device.
	One func(*client.Client, context.Context, string, wire.StatusRequest) (wire.StatusChange, error)
}

const selecting = `

Several devices, or those that --where selects, are a job: it is watched to its end, and
goes on if this command is interrupted. --dry-run shows what it would touch, and changes
nothing. An expression that selects everything needs the number typed back.`

const twoOperators = ` More
devices than "hallmark setting list" allows, or a whole lot, take a second operator: the
job waits for the approval (exit code 5). With --break-glass it does not wait, and runs
for an hour at most; everybody is alerted, and another operator must review it.`

// standardReasons are spelled as in RFC 5280 §5.3.1 and in what OpenSSL shows.
var standardReasons = map[string]string{
	"keyCompromise": "key-compromise", "affiliationChanged": "affiliation-changed",
	"cessationOfOperation": "cessation", "privilegeWithdrawn": "privilege-withdrawn",
}

// acting is what was typed.
type acting struct {
	Act
	in             jobs.New
	asJSON         *bool
	dryRun, detach bool
	reason         string
}

// Command makes the verb; complete completes serial numbers.
func (act Act) Command(a *terminal.App, complete terminal.Completion) *cobra.Command {
	t := acting{Act: act, in: jobs.New{Kind: act.Kind}}
	long := act.Long + selecting
	if destroys(act.Kind) {
		long += twoOperators
	}
	c := &cobra.Command{Use: act.Kind + " SERIAL... | --where EXPR", Short: act.Short, Long: long, Example: act.Example, ValidArgsFunction: complete}
	t.asJSON = terminal.JSONFlag(c)
	f := c.Flags()
	f.StringVar(&t.in.Where, "where", "", "the devices that an expression selects, as in \"hallmark device list\"")
	f.StringVar(&t.in.Why, "why", "", "why, in words, for the audit")
	f.BoolVar(&t.dryRun, "dry-run", false, "show what it would touch, and change nothing")
	f.StringSliceVar(&t.in.Stages, "stage", nil, "pause after so many devices, or such a part: 1%,10%")
	f.Int64Var(&t.in.Count, "count", 0, "how many devices it must be about")
	f.BoolVar(&t.detach, "detach", false, "do not watch the job: print its ID")
	if act.Kind == jobs.Revoke {
		f.StringVar(&t.reason, "reason", "", strings.Join(wire.RevocationReasons, ", "))
		c.RegisterFlagCompletionFunc("reason", terminal.Words(wire.RevocationReasons...))
	} else {
		f.StringVar(&t.reason, "reason", "", "the same as --why")
	}
	if destroys(act.Kind) {
		f.StringVar(&t.in.BreakGlass, "break-glass", "", "do it without another operator, and why that cannot wait")
	}
	c.RegisterFlagCompletionFunc("where", terminal.Nothing)
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error { return t.run(a, c, args) })
	return c
}

// destroys says of which verbs a second operator may have to approve.
func destroys(kind string) bool { return kind == jobs.Revoke || kind == jobs.Retire }

func (t acting) run(a *terminal.App, c *cobra.Command, args []string) error {
	if (len(args) == 0) == !c.Flags().Changed("where") {
		return terminal.Usage(errors.New("name devices by SERIAL..., or select them with --where EXPR"))
	}
	if t.in.Kind == jobs.Revoke && t.reason == "" && !t.dryRun {
		return terminal.Usage(errors.New("--reason is needed: one of " + strings.Join(wire.RevocationReasons, ", ")))
	}
	if t.in.Kind == jobs.Revoke {
		t.in.Reason = cmp.Or(standardReasons[t.reason], t.reason)
	} else if t.reason != "" {
		t.in.Why = strings.TrimSuffix(t.reason+": "+t.in.Why, ": ")
	}
	t.in.Devices = args
	if t.dryRun {
		cl, err := a.Open(c)
		if err != nil {
			return err
		}
		return t.survey(c, cl)
	}
	cl, err := a.Change(c)
	if err != nil {
		return err
	}
	if len(args) == 1 && len(t.in.Stages) == 0 && t.in.Count == 0 && t.in.BreakGlass == "" && !t.detach {
		err := t.one(c, cl, args[0])
		problem := (*wire.Problem)(nil)
		if !destroys(t.Kind) || !errors.As(err, &problem) || problem.Code != wire.CodeApproval {
			return err
		}
		fmt.Fprintln(c.ErrOrStderr(), "hallmark:", plain.Text(problem.Detail)) // why it becomes a job
	}
	return t.many(c, cl)
}

// one is done, and published, when the answer comes.
func (t acting) one(c *cobra.Command, cl *client.Client, serial string) error {
	got, err := t.One(cl, c.Context(), serial, wire.StatusRequest{Reason: t.in.Reason, Why: t.in.Why})
	terminal.Unsigned(c, got.Unsigned)
	if err != nil || *t.asJSON {
		return terminal.Shown(c, got, err)
	}
	if !got.Changed {
		return terminal.Say(c, "%s was %s already; nothing changed", got.Device, got.State)
	}
	return terminal.Say(c, "%s %s: %s on %s; published", t.Done, got.Device,
		terminal.Count(got.Certificates, "certificate"), terminal.Count(got.Shards, "CRL shard"))
}

// many makes a job and watches it.
func (t acting) many(c *cobra.Command, cl *client.Client) error {
	j, err := cl.CreateJob(c.Context(), t.in)
	if problem := (*wire.Problem)(nil); errors.As(err, &problem) && problem.Code == wire.CodeCount && t.in.Count == 0 && terminal.Interactive(c.InOrStdin()) {
		if t.in.Count, err = typedBack(c, problem); err == nil {
			j, err = cl.CreateJob(c.Context(), t.in)
		}
	}
	switch {
	case err != nil:
		return err
	case j.State == "waiting":
		if *t.asJSON {
			terminal.Show(c, true, j)
		} else if t.detach {
			terminal.Say(c, "%s", j.ID)
		}
		waits := "waits for another operator"
		if j.Repeated {
			waits = "was asked for before and " + waits + " still; nothing new was made"
		}
		return terminal.Waiting(fmt.Errorf("job %s, %s of %s, %s", j.ID, j.Kind, terminal.Count(int(j.Total), "device"), waits),
			"another operator types: hallmark approve "+j.Approval+"; until then suspending needs nobody: hallmark device suspend "+t.selected())
	case t.detach:
		if *t.asJSON {
			return terminal.Show(c, true, j)
		}
		return terminal.Say(c, "%s", j.ID)
	}
	terminal.Note(c, "hallmark: job %s: %s %s", j.ID, j.Kind, terminal.Count(int(j.Total), "device"))
	p, err := follow(c, cl, j.ID)
	terminal.Unsigned(c, p.Unsigned)
	if err != nil || *t.asJSON {
		return terminal.Shown(c, p, err)
	}
	return t.ended(c, p)
}

// selected is the selection, to type it again.
func (t acting) selected() string {
	if len(t.in.Devices) > 0 {
		return strings.Join(t.in.Devices, " ")
	}
	return "--where '" + strings.ReplaceAll(t.in.Where, "'", `'\''`) + "'"
}

// ended says what a job has come to.
func (t acting) ended(c *cobra.Command, p jobs.Progress) error {
	text := fmt.Sprintf("%s %s by job %s", t.Done, terminal.Count(int(p.Outcomes["done"]), "device"), p.ID)
	for _, other := range []string{"unchanged", "refused", "cancelled", jobs.Pending} {
		if n := p.Outcomes[other]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, other)
		}
	}
	switch p.State {
	case "done":
		text += "; published"
	case "paused":
		text += "; paused: hallmark job resume " + p.ID + ", or cancel"
	default:
		text += "; " + p.State
	}
	if line := enforced(p); line != "" {
		text += "\n" + line
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), plain.Text(text))
	return err
}

// typedBack asks for the number of devices; whoever does not type it gets the refusal.
func typedBack(c *cobra.Command, refusal *wire.Problem) (int64, error) {
	fmt.Fprintf(c.ErrOrStderr(), "%s\nType the number to go on: ", plain.Text(refusal.Detail))
	n, err := strconv.ParseInt(strings.TrimSpace(terminal.Line(c.InOrStdin(), 4096)), 10, 64)
	if err != nil || n == 0 {
		return 0, refusal
	}
	return n, nil
}

func (t acting) survey(c *cobra.Command, cl *client.Client) error {
	s, err := cl.Survey(c.Context(), t.in.Selection)
	terminal.Unsigned(c, s.Unsigned)
	if err != nil || *t.asJSON {
		return terminal.Shown(c, s, err)
	}
	var sample, shards []string
	for _, d := range s.Sample {
		sample = append(sample, d.Name)
	}
	for _, one := range s.Shards[:min(len(s.Shards), 10)] {
		shards = append(shards, one.Issuer+"/"+strconv.FormatInt(one.Number, 10))
	}
	if more := len(s.Shards) - len(shards); more > 0 {
		shards = append(shards, fmt.Sprintf("and %d more", more))
	}
	return terminal.Show(c, false, s, [2]string{"Would " + t.Kind, fmt.Sprintf("%d of %d devices", s.Devices, s.Fleet)},
		[2]string{"State", tallies(s.States)}, [2]string{"Model", tallies(s.Models)}, [2]string{"Lot", tallies(s.Lots)}, [2]string{"Last contact", tallies(s.Contact)},
		[2]string{"For example", strings.Join(sample, ", ")}, [2]string{"Working certificates", strconv.FormatInt(s.Certificates, 10)},
		[2]string{"CRL shards", strings.TrimSpace(fmt.Sprintf("%d %s", len(s.Shards), strings.Join(shards, ", ")))})
}

func tallies(list []jobs.Tally) string {
	var texts []string
	for _, t := range list {
		texts = append(texts, fmt.Sprintf("%s %d", t.Name, t.Count))
	}
	return strings.Join(texts, ", ")
}

// label is KEY=VALUE or KEY-.
var label = regexp.MustCompile(`^([a-z][a-z0-9_-]*)(=.*|-)$`)

// Label is `hallmark device label`.
func Label(a *terminal.App, complete terminal.Completion) *cobra.Command {
	c := &cobra.Command{Use: "label EXPR|SERIAL... KEY=VALUE... KEY-...", Short: "Set labels on devices, or remove them",
		Long: `Set labels on the devices that are named or selected: KEY=VALUE sets, KEY- removes. A
selector knows them as labels.KEY. An argument with a blank, a comparison, a bracket or a
star in it is an expression.`,
		Example: "  hallmark device label SN-0001 SN-0002 site=mainz\n  hallmark device label 'lot = w47' ring=1 old-\n  hallmark device list 'labels.site = mainz'",
		Args:    cobra.MinimumNArgs(2), ValidArgsFunction: complete}
	asJSON := terminal.JSONFlag(c)
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error {
		in, err := labels(args)
		if err != nil {
			return terminal.Usage(err)
		}
		cl, err := a.Change(c)
		if err != nil {
			return err
		}
		got, err := cl.Label(c.Context(), in)
		if err != nil || *asJSON {
			return terminal.Shown(c, got, err)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "labelled %s\n", terminal.Count(int(got.Devices), "device"))
		return err
	})
	return c
}

// labels tells devices, which come first, from labels.
func labels(args []string) (in jobs.NewLabels, err error) {
	in.Set = map[string]string{}
	for i, arg := range args {
		found := label.FindStringSubmatch(arg)
		switch {
		case i > 0 && found != nil && found[2] == "-":
			in.Remove = append(in.Remove, found[1])
		case i > 0 && found != nil:
			in.Set[found[1]] = found[2][1:]
		case len(in.Set)+len(in.Remove) > 0:
			return in, fmt.Errorf("%q is neither KEY=VALUE nor KEY-", arg)
		case strings.ContainsAny(arg, " =<>()*\""):
			in.Where = arg
		default:
			in.Devices = append(in.Devices, arg)
		}
	}
	if len(in.Set)+len(in.Remove) == 0 {
		return in, errors.New("no label: write KEY=VALUE, or KEY- to remove one")
	}
	if in.Where != "" && len(in.Devices) > 0 {
		return in, errors.New("name devices, or select them by one expression")
	}
	return in, nil
}

// Lift is `hallmark device lift`.
func Lift(a *terminal.App, complete terminal.Completion) *cobra.Command {
	c := &cobra.Command{Use: "lift SERIAL", Short: "Let a revoked device come back, if two operators agree",
		Long: `Lift the tombstones of a device that was revoked by mistake: its TPM, its attestation key
and its serial number may enrol again, uncounted, and its certificates stay revoked. This
takes two operators as soon as there are two: the first time it asks for the other's
approval (exit code 5), the second time it is done.`,
		Example: "  hallmark device lift SN-0001 --why \"it was SN-0010 that was stolen\"",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: complete}
	why := c.Flags().String("why", "", "why, in words, for the audit")
	c.MarkFlagRequired("why")
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		got, err := cl.Lift(c.Context(), args[0], wire.StatusRequest{Why: *why})
		if err != nil || *asJSON {
			return terminal.Shown(c, got, err)
		}
		text := "lifted the tombstones of " + got.Device + ": it may enrol again"
		if !got.Changed {
			text = got.Device + " is " + got.State + "; nothing changed"
		}
		return terminal.Say(c, "%s", text)
	})
	return c
}
