package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
)

func operatorCommand() *cobra.Command {
	return noun(&cobra.Command{Use: "operator", Short: "Get in when no operator can", Example: "  hallmarkd operator recover --config /srv/hallmark/hallmark.yaml"},
		recoverCommand())
}

func recoverCommand() *cobra.Command {
	var path, name, to string
	c := &cobra.Command{
		Use: "recover", Short: "Make or re-enable an operator when nobody else can", Args: noArguments,
		Long: `Recover makes an operator, or re-enables a disabled one, and writes settings with a
fresh certificate to a new folder. It needs the issuer's key and so works on the host
alone; every other operator is alerted. The server may be running.

Certificates that the operator has already stay good. If the only operator's key was stolen,
make another one with --name, who then disables the first: hallmark operator disable NAME`,
		Example: "  hallmarkd operator recover --config /srv/hallmark/hallmark.yaml --name anna",
		RunE: func(c *cobra.Command, _ []string) error {
			return recoverOperator(c.Context(), c.OutOrStdout(), path, name, to)
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&name, "name", installation.FirstOperator, "the operator")
	c.Flags().StringVar(&to, "out", "", "the folder to write (default: operator-NAME-TIME beside the configuration)")
	c.MarkFlagDirname("out")
	return c
}

func recoverOperator(ctx context.Context, out io.Writer, path, name, to string) error {
	in, err := installation.Load(path)
	if err != nil {
		return err
	}
	if to == "" {
		to = filepath.Join(in.Config.Dir, installation.OperatorDir+"-"+filepath.Base(name)+"-"+time.Now().UTC().Format("20060102T150405Z"))
	}
	if _, err := os.Lstat(to); err == nil {
		return installation.Hint(fmt.Errorf("%s exists", to), "name another folder with --out")
	}
	store, err := in.OpenStore(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := in.RecoverOperator(ctx, store, name, to); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s may administer again.\n\nNext:\n  export HALLMARK_CONFIG=%s\n  hallmark whoami\n", name, filepath.Join(to, client.SettingsFile))
	return err
}
