package main

import (
	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/server"
)

func serveCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "serve", Short: "Serve devices, operators and relying parties", Args: noArguments,
		Long: `Serve runs until it gets SIGTERM or SIGINT, then finishes what it is doing. It logs
to standard error, one line "ready" when every listener accepts.`,
		Example: "  hallmarkd serve --config /srv/hallmark/hallmark.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			in, err := installation.Load(path)
			if err != nil {
				return err
			}
			return server.Run(c.Context(), in, version)
		},
	}
	configFlag(c, &path)
	return c
}
