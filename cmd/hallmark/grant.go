package main

import (
	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

func (a *app) deviceGrant() *cobra.Command {
	var in renewal.NewGrant
	life := terminal.Days(renewal.DefaultGrant)
	c := &cobra.Command{
		Use: "grant SERIAL", Short: "Let a device come back that cannot prove enough by itself",
		Long: `Let a device come back that cannot prove enough by itself: it has lost its certificates
and no TPM whose maker you trust stands behind its keys, or it was away for longer than
its model's --grace. Make sure that it is the device and no copy. It keeps its serial
number and is not counted again; it runs "hallmark-device enrol" or "renew" as before.

--new-key is for a device without a TPM whose key is lost, or is with somebody else: its
certificates are revoked, and a ticket is printed, alone, with which the device enrols
again with a new key.`,
		Example: "  hallmark device grant SN-0001 --for 7d\n  hallmark device grant SN-0001 --for 1d --new-key > ticket",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(serials),
	}
	asJSON := terminal.JSONFlag(c)
	c.Flags().Var(&life, "for", "for how long, at most 90d")
	c.Flags().BoolVar(&in.NewKey, "new-key", false, "its key is lost: revoke its certificates and print a ticket for a new one")
	c.Flags().StringVar(&in.Why, "why", "", "why, in words, for the audit")
	c.RegisterFlagCompletionFunc("for", terminal.Words("1h", "1d", "7d", "30d"))
	c.RegisterFlagCompletionFunc("why", terminal.Nothing)
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		in.For = life.Seconds()
		g, err := cl.Grant(c.Context(), args[0], in)
		terminal.Unsigned(c, g.Unsigned)
		if err == nil && g.State == "suspended" {
			terminal.Note(c, "hallmark: %s is suspended, and is let in once that is lifted: hallmark device restore %[1]s", g.Device)
		}
		switch {
		case err != nil || *asJSON:
			return terminal.Shown(c, g, err)
		case g.Ticket != "":
			return terminal.Say(c, "%s", g.Ticket)
		}
		return terminal.Say(c, "%s may come back until %s", g.Device, terminal.Exactly(g.Expires))
	})
	return c
}
