package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/config"
)

func initCommand() *cobra.Command {
	var f installation.Founding
	c := &cobra.Command{
		Use: "init", Short: "Make a new installation: three roots, their issuers, the record and a first operator", Args: noArguments,
		Long: `Init makes a new installation in a folder: hallmark.yaml, three roots and their
issuing CAs, the record, and operator/ with the first operator's certificate, which
the hallmark command finds through --config or HALLMARK_CONFIG.

The root keys are written apart (--root-out). The server never needs them: put them
where no thief of the server finds them. A folder that holds a CA is refused.

--public-url says how the listeners are reached from outside: https for devices
(repeat it for further names; operators use the first one's host), http for status.
The status URL stands in every certificate: choose a name that lasts. --listen is the
address for devices, by default the first https URL's port if that is 1024 or more,
else 8443; operators, status (CRL and OCSP) and metrics get the next three ports.

What devices trust changes by trust bundles, which the infrastructure root's key
signs. With --trust-keys 3 --trust-threshold 2 two of three keys do, written beside
the root keys: give each to another person. hallmarkd trust changes that later, too.`,
		Example: `  hallmarkd init --dir /srv/hallmark --name "Acme Devices" \
    --public-url https://ca.acme.example:8443 --public-url http://pki.acme.example \
    --root-out /media/safe/hallmark-roots`,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.Dir == "" || f.Name == "" {
				return usage(c, errors.New("--dir and --name are needed"))
			}
			made, err := f.Found(c.Context())
			if err != nil {
				return err
			}
			return tellFounded(c.OutOrStdout(), f, made)
		},
	}
	c.Flags().StringVar(&f.Dir, "dir", "", "the folder to make")
	c.Flags().StringVar(&f.Name, "name", "", "the organisation's name, as it stands in certificates")
	c.Flags().StringVar(&f.Listen, "listen", "", "HOST:PORT of the devices' listener (default the port in --public-url, or :8443)")
	c.Flags().StringArrayVar(&f.Public, "public-url", nil, "how the listeners are reached: https for devices, http for status")
	c.Flags().StringVar(&f.RootOut, "root-out", "", "the folder to write the root keys to, or a key URI with {name} in it (default DIR/root-keys)")
	c.Flags().StringVar(&f.IssuerKeys, "issuer-keys", config.IssuerKeys, "where the issuing CAs' keys are made, now and later: a key URI with {name} in it")
	c.Flags().IntVar(&f.TrustKeys, "trust-keys", 0, "make so many keys for signing trust bundles, beside the root keys (default: the infrastructure root signs)")
	c.Flags().IntVar(&f.Threshold, "trust-threshold", 0, "how many of them must sign")
	c.MarkFlagDirname("dir")
	c.MarkFlagDirname("root-out")
	return c
}

func tellFounded(out io.Writer, f installation.Founding, made installation.Founded) error {
	warning := "Keep them away from the server, which never needs them.\n"
	if f.RootOut == "" {
		warning = fmt.Sprintf(`
MOVE THE ROOT KEYS AWAY: whoever has %s
owns every identity for ever. The server runs without them; check warns while they
are near.
`, made.RootKeys)
	}
	_, err := fmt.Fprintf(out, `%s is a CA now: manufacturing, operational and infrastructure, each with a root
of its own. Root keys: %s
%s
Next:
  hallmarkd serve --config %s
  export HALLMARK_CONFIG=%s
  hallmark ticket create

Devices reach it at %s.
Relying parties trust %s.
`, f.Name, made.RootKeys, warning, made.Config, made.Operator, strings.Join(made.Devices, ", "), filepath.Clean(made.RelyingParties))
	for _, pair := range made.Forward {
		_, wrong := fmt.Fprintf(out, "The server does not listen at the port of %s: forward that to %s, or change listen.\n", pair[0], pair[1])
		err = errors.Join(err, wrong)
	}
	return err
}
