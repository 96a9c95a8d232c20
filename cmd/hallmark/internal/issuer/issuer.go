// Package issuer is `hallmark issuer`: the issuing CAs, as those see them who must be
// told to trust them.
package issuer

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire/issuers"
)

// Command is `hallmark issuer`.
func Command(a *terminal.App) *cobra.Command {
	return terminal.Group("issuer", "The issuing CAs", "  hallmark issuer show operational", list(a), show(a), prove(a), revoke(a))
}

var names = terminal.Listed((*client.Client).Issuers, func(i issuers.Issuer) string { return i.Name + "\t" + i.Subject })

func list(a *terminal.App) *cobra.Command {
	return terminal.Table(a, &cobra.Command{Use: "list", Short: "List the issuing CAs", Example: "  hallmark issuer list"},
		"ISSUER\tSTATE\tSUBJECT\tEXPIRES", (*client.Client).Issuers, func(i issuers.Issuer) []string {
			return []string{i.Name, i.State, i.Subject, terminal.When(i.NotAfter)}
		})
}

func show(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "show ISSUER", Short: "Show an issuing CA and print its certificate as PEM",
		Example: "  hallmark issuer show operational\n  hallmark issuer show operational | openssl x509 > operational.pem",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(names)}
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, args []string) error {
		i, err := cl.Issuer(c.Context(), args[0])
		if err != nil {
			return err
		}
		err = terminal.Show(c, *asJSON, i, [2]string{"Issuer", i.Name}, [2]string{"State", i.State}, [2]string{"Revoked by job", i.Job},
			[2]string{"On its root's CRL since", terminal.Exactly(i.Listed)}, [2]string{"Subject", i.Subject}, [2]string{"SHA-256", i.Fingerprint},
			[2]string{"Not before", terminal.Exactly(i.NotBefore)}, [2]string{"Not after", terminal.Exactly(i.NotAfter)})
		if err != nil || *asJSON {
			return err
		}
		_, err = fmt.Fprint(c.OutOrStdout(), "\n", plain.Text(i.PEM))
		return err
	})
	return c
}

func prove(a *terminal.App) *cobra.Command {
	c := &cobra.Command{Use: "prove ISSUER --code CODE", Short: "Show a cloud that an issuing CA is yours",
		Long: `Print the verification certificate that AWS IoT (registration code) and Azure IoT Hub
(verification code) ask for when a CA certificate is registered: the code, certified by
that CA. It is good for nothing else: nobody has its key, it ends after a day, and its
only purpose is this one.`,
		Example: "  hallmark issuer prove operational --code 8f3a2c1d9e7b4a60 > proof.pem",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(names)}
	code := c.Flags().String("code", "", "the code that the cloud shows")
	c.MarkFlagRequired("code")
	c.RegisterFlagCompletionFunc("code", terminal.Nothing)
	asJSON := terminal.JSONFlag(c)
	c.RunE = a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
		p, err := cl.Prove(c.Context(), args[0], *code)
		if err != nil || *asJSON {
			return terminal.Shown(c, p, err)
		}
		_, err = fmt.Fprint(c.OutOrStdout(), plain.Text(p.PEM))
		return err
	})
	return c
}
