package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmark-device/internal/settings"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/agent"
	"github.com/hallmark-pki/hallmark/device/keys"
)

func statusCommand() *cobra.Command {
	var o agentFlags
	var healthy bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "status",
		Short: "Show what this device holds, and whether all is well",
		Long: `Show what this device holds and what came of the agent's work, without asking the TPM or
the server.

With --healthy answer by exit code whether this firmware can stay: 0 if the server has
accepted the identity from this program since the device was started. It is asked
unless it has, so that TPM, network and clock have all been tried; --wait lets a network
that is just coming up have its time.

` + exitCodes,
		Example: "  hallmark-device status --json\n  hallmark-device status --healthy --wait 5m && rauc status mark-good",
		Args:    arguments(cobra.NoArgs),
	}
	o.flags(c)
	settings.Add(c, &o.proxy, "proxy", "")
	o.jsonFlag(c)
	c.Flags().BoolVar(&healthy, "healthy", false, "answer whether the identity works in this firmware")
	c.Flags().DurationVar(&wait, "wait", 0, "with --healthy, how long to try again")
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		a := o.agent(c)
		var err error
		if healthy {
			err = check(c.Context(), a, wait)
		}
		s := a.Status()
		if err != nil {
			return err
		}
		if s.Unreadable != "" {
			return errors.New(s.Unreadable)
		}
		return o.print(c, s, statusLines(s, o.state)...)
	})
	return c
}

// checkAgain is the pause between two attempts of check.
const checkAgain = 5 * time.Second

// check retries Check for as long as wait, also while another process has the folder.
func check(ctx context.Context, a *agent.Agent, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		err := a.Check(ctx)
		if err == nil || exitCode(failure{err}) == exitFinal || !time.Now().Add(checkAgain).Before(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(checkAgain):
		}
	}
}

// keyLine says where the keys are.
func keyLine(s agent.Status) string {
	if s.Key == keys.TPM {
		return "tpm          " + s.TPM
	}
	return "key          " + s.Key
}

// statusLines tell a person the content of the state folder.
func statusLines(s agent.Status, folder string) []string {
	if s.Condition == device.NotEnrolled {
		return append([]string{"not enrolled: " + folder + " holds no identity",
			"next: hallmark-device enrol TICKET; or, if it is enrolled, name its state folder with --state"}, workLines(s)...)
	}
	lines := []string{"device       " + s.Device, "server       " + s.Server, keyLine(s)}
	if s.IDevID != nil {
		lines = append(lines, "IDevID       "+s.IDevID.SerialNumber+", "+s.IDevID.File)
	}
	if s.LDevID != nil {
		lines = append(lines, "LDevID       "+s.LDevID.SerialNumber+", "+s.LDevID.File,
			"valid until  "+when(s.LDevID.NotAfter), "renew after  "+when(s.RenewAfter))
	}
	if s.Page != nil {
		lines = append(lines, "web page     "+strings.Join(s.Page.Names, ", ")+", "+s.Page.File)
	}
	lines = append(lines, fmt.Sprintf("trust        bundle %d", s.Trust))
	if s.Healthy || s.Condition != device.OK { // "ok" is said of the certificates alone
		lines = append(lines, "condition    "+s.Condition)
	}
	if s.Damaged != "" {
		lines = append(lines, "warning      the newest state is damaged, this is the one before: "+s.Damaged)
	}
	lines = append(lines, workLines(s)...)
	if s.Condition != device.OK && s.Agent == "" && s.Outcome.Final == nil {
		lines = append(lines, "next: hallmark-device run, or renew for one certificate")
	}
	return lines
}

// workLines tell the outcome of the agent's work.
func workLines(s agent.Status) (lines []string) {
	if !s.Outcome.Contact.IsZero() {
		lines = append(lines, "last contact "+when(s.Outcome.Contact))
	}
	if f := s.Outcome.Final; f != nil {
		lines = append(lines, fmt.Sprintf("refused      for good since %s: %s [%s]", when(f.Time), f.Detail, f.Code))
	} else if f := s.Outcome.Failure; f != nil {
		lines = append(lines, fmt.Sprintf("failing      %d×, last %s: %s [%s]", s.Outcome.Failures, when(f.Time), f.Detail, f.Code))
	}
	for _, f := range s.Outcome.HookFailures {
		lines = append(lines, "warning      "+f)
	}
	if s.Volatile != "" {
		lines = append(lines, "warning      this will be lost: "+s.Volatile)
	}
	if s.Agent != "" {
		lines = append(lines, "agent        "+s.Agent)
		if !s.NextAt.IsZero() {
			lines = append(lines, "next         "+s.Next+", "+when(s.NextAt))
		}
	}
	if !s.Healthy {
		lines = append(lines, "unhealthy    "+s.Unhealthy)
	}
	return lines
}

func generaliseCommand() *cobra.Command {
	var o commonFlags
	c := &cobra.Command{
		Use:     "generalise",
		Aliases: []string{"generalize"},
		Short:   "Prepare a golden image: forget this board",
		Long: `Remove from the state folder what belongs to this board, for an image that many boards
start from. What stays are the infrastructure roots, by which a board knows its server;
together with "server" in the file of settings they let each board enrol as itself.

A board that starts from an image that was not prepared notices that its TPM is another
and enrols as itself, too.`,
		Example: "  hallmark-device generalise",
		Args:    arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.jsonFlag(c)
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		g, err := agent.Generalise(o.state)
		if err != nil {
			return err
		}
		lines := []string{fmt.Sprintf("removed from %s: %d files and folders", o.state, len(g.Removed))}
		for _, name := range g.Left {
			lines = append(lines, "left alone: "+name)
		}
		if g.Server != "" {
			lines = append(lines, "next: put this line into "+settings.DefaultFile+" of the image: server = "+g.Server)
		}
		return o.print(c, g, lines...)
	})
	return c
}

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "See the settings", Example: "  hallmark-device config show", Args: arguments(cobra.NoArgs),
		RunE: run(func(c *cobra.Command, _ []string) error {
			return usageError{errors.New("a verb is missing"), c.CommandPath()}
		})}
	c.AddCommand(configShowCommand())
	return c
}

func configShowCommand() *cobra.Command {
	var o agentFlags
	var from enrolFlags
	c := &cobra.Command{
		Use:   "show",
		Short: "Show each setting, and what said so",
		Long: `Show the value of each setting, and whether a flag, the environment, the file or the
default said so: the first of these that says something counts.

The file has lines "name = value" and comments that begin with "#"; each section [proxy]
is one socket for other programs.`,
		Example: "  hallmark-device config show\n  hallmark-device config show --config ./hallmark-device.conf --json",
		Args:    arguments(cobra.NoArgs),
	}
	o.flags(c)
	from.flags(c, &o.commonFlags)
	o.jsonFlag(c)
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		found := o.found
		var rows [][3]string
		for i, v := range found.Values {
			found.Values[i].Value = v.Shown()
			rows = append(rows, [3]string{v.Name, v.Shown(), v.Source})
		}
		for _, s := range found.Sites {
			rows = append(rows, [3]string{"[proxy]", s.Listen + " serves " + s.To, found.File})
		}
		for _, t := range found.Tunnels {
			rows = append(rows, [3]string{"[proxy]", t.Listen + " to " + t.To, found.File})
		}
		wide := 0
		for _, r := range rows {
			wide = max(wide, len(r[1]))
		}
		var lines []string
		for _, r := range rows {
			lines = append(lines, fmt.Sprintf("%-13s %-*s  %s", r[0], wide, r[1], r[2]))
		}
		return o.print(c, found, lines...)
	})
	return c
}
