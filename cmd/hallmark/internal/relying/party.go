// Package relying is the commands about relying parties: for operators, who invite them
// and see what each enforces, and for the host that one runs on, where the relay runs.
package relying

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"
)

// Command is `hallmark relying-party`.
func Command(a *terminal.App) *cobra.Command {
	return terminal.Group("relying-party", "Who accepts devices, and what each of them enforces", "  hallmark relying-party list",
		invite(a), list(a), disable(a))
}

func invite(a *terminal.App) *cobra.Command {
	ttl := terminal.Days(wire.DefaultInvite)
	c := &cobra.Command{Use: "invite NAME", Short: "Invite the relay of a relying party and print the invitation",
		Long: `Invite the relay of a broker, gateway or proxy and print the invitation, a secret that
makes one certificate once. It lets a disabled relying party in again.`,
		Example: "  hallmark relying-party invite broker-1 > invitation", Args: cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing}
	c.Flags().Var(&ttl, "ttl", "how long it is valid, at most 7d")
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		got, err := cl.InviteRelyingParty(c.Context(), wire.NewRelyingParty{Name: args[0], TTL: ttl.Seconds()})
		if err != nil {
			return err
		}
		terminal.Note(c, "hallmark: valid until %s; on the host of %s run: hallmark relay join - --dir DIR < INVITATION", terminal.Exactly(got.Expires), args[0])
		return terminal.Say(c, "%s", got.Invitation)
	})
	return c
}

func list(a *terminal.App) *cobra.Command {
	return terminal.Table(a, &cobra.Command{Use: "list", Short: "List the relying parties, what each enforces and how far behind it is",
		Long: `List the relying parties: what each enforces and for which program, how many changes it
is behind, since when it enforces what it does, when it reported last, until when what it
holds is good, and what keeps it from more.`,
		Example: "  hallmark relying-party list\n  hallmark relying-party list --json"},
		"NAME\tSTATE\tENFORCES\tFAIL\tCHANGE\tBEHIND\tSINCE\tREPORTED\tGOOD UNTIL\tPROBLEM", (*client.Client).RelyingParties, row)
}

func row(p wire.RelyingParty) []string {
	if p.Reported.IsZero() {
		return []string{p.Name, p.State, "nothing yet", "", "", "", "", "", "", p.Problem}
	}
	what, change := strings.TrimSpace(p.Program+" "+strings.Join(p.Formats, ",")), strconv.FormatInt(p.Number, 10)
	if p.Number < 0 {
		what, change = "nothing yet", ""
	}
	return []string{p.Name, p.State, what, p.Fail, change, strconv.FormatInt(p.Behind, 10),
		terminal.Exactly(p.Since), terminal.Exactly(p.Reported), terminal.When(p.Until), p.Problem}
}

func disable(a *terminal.App) *cobra.Command {
	return &cobra.Command{Use: "disable NAME", Aliases: []string{"remove"}, Short: "Bar a relying party's relay and revoke its certificates",
		Example: "  hallmark relying-party disable broker-1", Args: cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(names),
		RunE: a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
			p, err := cl.DisableRelyingParty(c.Context(), args[0])
			if err != nil {
				return err
			}
			return terminal.Say(c, "disabled %s: certificates revoked and published; its files stay as they are", p.Name)
		})}
}

var names = terminal.Listed((*client.Client).RelyingParties, func(p wire.RelyingParty) string { return p.Name + "\t" + p.State })
