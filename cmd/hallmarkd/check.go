package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/upkeep"
)

func checkCommand() *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use: "check", Short: "Say whether an installation is sound", Args: noArguments,
		Long: `Check reads everything that the configuration names, holds it against each other,
and says what is wrong and what deserves a look. It changes nothing, and the server
may be running.

Exit codes: 0 sound; 3 warnings; 1 errors, with which the server would not start or
relying parties would be misled.`,
		Example: "  hallmarkd check --config /srv/hallmark/hallmark.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			found := upkeep.Check(c.Context(), path, time.Now())
			if err := found.Write(c.OutOrStdout(), asJSON); err != nil {
				return err
			}
			switch {
			case found.Has(upkeep.Error):
				return errors.New("there are errors")
			case found.Has(upkeep.Warning):
				return coded{errors.New("there are warnings"), exitWarnings}
			}
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return c
}
