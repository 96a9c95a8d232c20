package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire/makers"
)

func (a *app) tpmCommand() *cobra.Command {
	return terminal.Group("tpm", "Makes of TPM, and which of their endorsement keys counts", "  hallmark tpm list", a.tpmList(), a.tpmAllow())
}

func (a *app) tpmList() *cobra.Command {
	return terminal.Table(&a.App, &cobra.Command{
		Use: "list", Short: "List the makes of certified TPM with the endorsement keys that count",
		Example: "  hallmark tpm list"},
		"MAKER\tMODEL\tKEY\tSINCE\tBY", (*client.Client).EKTypes, func(t makers.EKType) []string {
			return []string{t.Maker, t.Model, t.Type, terminal.When(t.Since), cmp.Or(t.AllowedBy, "the first device")}
		})
}

func (a *app) tpmAllow() *cobra.Command {
	return &cobra.Command{
		Use: "allow MAKER MODEL TYPE", Short: "Let a further endorsement key of a make of TPM count",
		Long: `Let a further endorsement key of a make and model of TPM count.

A TPM has several endorsement keys, and nothing ties one to another: with two that
count, whoever has root on a device and a second ticket can enrol it twice. So the
first certified TPM of a make and model decides, and others must come with their key of
the same type: P-256, P-384 or RSA-2048. Allow another only if some of these chips lack
the first.`,
		Example: "  hallmark tpm allow STM ST33KTPM2A RSA-2048", Args: cobra.ExactArgs(3), ValidArgsFunction: a.completeTPM,
		RunE: a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
			t, err := cl.AllowEKType(c.Context(), makers.NewEKType{Maker: args[0], Model: args[1], Type: args[2]})
			if err != nil {
				return err
			}
			return terminal.Say(c, "TPMs of maker %s, model %s, may enrol with their %s key too", t.Maker, t.Model, t.Type)
		}),
	}
}

// completeTPM knows the makes that have enrolled and the types of key.
func (a *app) completeTPM(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0, 1:
	case 2:
		return []string{"P-256", "P-384", "RSA-2048"}, cobra.ShellCompDirectiveNoFileComp
	default:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.Names(func(ctx context.Context, cl *client.Client, _ string) (names []string, err error) {
		got, err := cl.EKTypes(ctx)
		for _, t := range got.Items {
			if len(args) == 0 {
				names = append(names, t.Maker)
			} else if t.Maker == args[0] {
				names = append(names, t.Model)
			}
		}
		return slices.Compact(names), err // they are sorted
	})(c, args, begun)
}
