// Hallmark is the operator's command: models, lots and tickets for the factory,
// devices and certificates in the field, and who may administer. It is a client of the
// operator protocol like any other: everything it can do passes the server's judgement
// and audit.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/audit"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/issuer"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/job"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/relying"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/renewal"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/cmd/internal/help"
)

// version is set by the build.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends it at once
	err := root().ExecuteContext(ctx)
	stop()
	os.Exit(terminal.Report(err))
}

// app is what every command starts from.
type app struct{ terminal.App }

func root() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:   "hallmark",
		Short: "Administer a Hallmark installation",
		Long: `Hallmark administers a Hallmark installation: who may make which devices, and what
becomes of them.

It finds the server and your certificate through a settings file: --config, else
$HALLMARK_CONFIG, else hallmark/hallmark.yaml in your configuration folder
(~/.config). "hallmarkd init" writes the first operator's settings to
operator/hallmark.yaml; "hallmark operator accept" writes everybody else's.

` + terminal.ExitCodes,
		Example: `  export HALLMARK_CONFIG=/srv/hallmark/operator/hallmark.yaml
  hallmark ticket create --serial SN-0001
  hallmark device list 'seen < 2026-11-01'
  hallmark device revoke SN-0001 --reason key-compromise`,
		Version:       version,
		SilenceErrors: true, SilenceUsage: true,
	}
	cmd.PersistentFlags().StringVar(&a.Config, "config", "", "settings file, or the folder that holds it (default $"+terminal.ConfigVariable+")")
	cmd.AddCommand(a.vendorcaCommand(), a.tpmCommand(), a.modelCommand(), a.lotCommand(), a.ticketCommand(), a.deviceCommand(),
		a.certCommand(), a.operatorCommand(), job.Command(&a.App), job.Approve(&a.App), job.Alert(&a.App), job.Setting(&a.App), issuer.Command(&a.App), renewal.Command(&a.App), relying.Command(&a.App), relying.Relay(version), audit.Command(&a.App, version), a.whoamiCommand(), versionCommand())
	terminal.SpellOut(cmd)
	help.Switches(cmd)
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  hallmark version", Args: cobra.NoArgs,
		RunE: terminal.Run(func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "hallmark", version)
			return err
		}),
	}
}
