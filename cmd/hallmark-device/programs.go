package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/device"
)

// rootsFlag describes whom to believe; Identity.Roots reads it.
const rootsFlag = "whom to believe: a PEM `FILE` of CA certificates, \"system\" or \"infrastructure\" (Hallmark's own); both of these if not given"

func connectCommand() *cobra.Command {
	var o common
	var connection device.Connection
	c := &cobra.Command{
		Use:   "connect --to HOST:PORT",
		Short: "Make a mutual-TLS connection with the working certificate",
		Long: `Make a mutual-TLS connection in which this device's key signs, and join it to standard
input and output.

` + exitCodes,
		Example: "  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | hallmark-device connect --to gateway.example.com:443",
		Args:    arguments(cobra.NoArgs),
	}
	o.stateFlag(c)
	o.tpmFlag(c, "the one enrolled with")
	c.Flags().StringVar(&connection.To, "to", "", "`HOST:PORT` to connect to")
	c.Flags().StringVar(&connection.Roots, "roots", "", rootsFlag)
	c.Flags().StringVar(&connection.Name, "name", "", "name in the server's certificate, if it is not HOST")
	c.Flags().StringSliceVar(&connection.ALPN, "alpn", nil, "application protocol to ask for, such as http/1.1")
	c.RunE = run(func(c *cobra.Command, _ []string) error {
		if connection.To == "" {
			return usageError{errors.New("--to is needed"), c.CommandPath()}
		}
		return device.Connect(c.Context(), o.options(c), connection, c.InOrStdin(), c.OutOrStdout())
	})
	return c
}
