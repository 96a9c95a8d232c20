package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"
)

func (a *app) operatorCommand() *cobra.Command {
	return terminal.Group("operator", "Who may administer", "  hallmark operator invite bo",
		a.operatorInvite(), a.operatorAccept(), a.operatorList(), a.operatorDisable())
}

func (a *app) operatorInvite() *cobra.Command {
	ttl := terminal.Days(wire.DefaultInvite)
	c := &cobra.Command{Use: "invite NAME", Short: "Invite an operator and print the invitation",
		Long:    "Invite an operator and print the invitation, a secret that makes one certificate once:\nhand it over the way you would hand over a key. Inviting somebody who has not accepted\nyet replaces the invitation.",
		Example: "  hallmark operator invite bo", Args: cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing}
	c.Flags().Var(&ttl, "ttl", "how long it is valid, at most 7d")
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		got, err := cl.Invite(c.Context(), wire.NewOperator{Name: args[0], TTL: ttl.Seconds()})
		if err != nil {
			return err
		}
		terminal.Note(c, "hallmark: valid until %s; %s runs: hallmark operator accept - < INVITATION", terminal.Exactly(got.Expires), args[0])
		return terminal.Say(c, "%s", got.Invitation)
	})
	return c
}

func (a *app) operatorAccept() *cobra.Command {
	return &cobra.Command{Use: "accept INVITATION", Short: "Become an operator on this computer",
		Long: `Become an operator on this computer: make a key, fetch a certificate for it, and write
both with the settings to --config, else $HALLMARK_CONFIG, else your configuration
folder. Write the invitation as "-" to give it on standard input, out of the list of
processes.`,
		Example: "  hallmark operator accept hmi1.abc…\n  hallmark operator accept - < invitation",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing,
		RunE: terminal.Run(func(c *cobra.Command, args []string) error {
			path, err := a.Settings()
			if err != nil {
				return err
			}
			invitation, err := terminal.Invitation(c, args[0])
			if err != nil {
				return err
			}
			name, settings, err := client.Accept(c.Context(), invitation, folder(path))
			if err != nil {
				return err
			}
			cl, err := client.Load(settings, func(string) {})
			if err != nil {
				return err
			}
			terminal.Say(c, "you are %s; your settings are in %s\nyour key begins with %s; hallmark operator list must show the same to whoever invited you", name, settings, short(cl.Key()))
			if a.Config == "" { // where every command looks
				return nil
			}
			if settings, err = filepath.Abs(settings); err != nil {
				return err
			}
			return terminal.Say(c, "next: export %s=%s", terminal.ConfigVariable, settings)
		})}
}

// folder is the folder that settings at path stand in: path may name either.
func folder(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() || filepath.Base(path) != client.SettingsFile {
		return path
	}
	return filepath.Dir(path)
}

func (a *app) operatorList() *cobra.Command {
	return terminal.Table(&a.App, &cobra.Command{Use: "list", Short: "List the operators", Example: "  hallmark operator list"},
		"OPERATOR\tSTATE\tCREATED\tINVITED UNTIL\tDISABLED\tKEY", (*client.Client).Operators, func(o wire.Operator) []string {
			return []string{o.Name, o.State, terminal.When(o.Created), terminal.When(o.InvitedUntil), terminal.When(o.Disabled), short(o.Key)}
		})
}

func (a *app) operatorDisable() *cobra.Command {
	return &cobra.Command{Use: "disable NAME", Short: "Bar an operator and revoke the operator's certificates",
		Long: `Disable bars an operator at once, revokes the operator's certificates and withdraws what the
operator gave out and nobody has used: tickets, grants, and the invitations of operators and
relying parties. Whoever stole the key may hold these, too. The audit log says how many. If the
operator merely leaves, somebody else makes what is still needed again.`,
		Example: "  hallmark operator disable bo", Args: cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(operatorNames),
		RunE: a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
			o, err := cl.DisableOperator(c.Context(), args[0])
			if err != nil {
				return err
			}
			return terminal.Say(c, "disabled %s: certificates revoked and published; what %[1]s gave out and nobody has used is withdrawn", o.Name)
		})}
}

func (a *app) whoamiCommand() *cobra.Command {
	c := &cobra.Command{Use: "whoami", Short: "Show the server, and which operator you are", Example: "  hallmark whoami", Args: cobra.NoArgs}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, _ []string) error {
		w, err := cl.Whoami(c.Context())
		if err != nil {
			return err
		}
		return terminal.Show(c, *asJSON, w, [2]string{"Operator", w.Operator}, [2]string{"Installation", w.Name}, [2]string{"Server", cl.Server()},
			[2]string{"Version", w.Version}, [2]string{"Certificate", w.Certificate}, [2]string{"Valid until", terminal.Exactly(w.Expires)})
	})
	return c
}
