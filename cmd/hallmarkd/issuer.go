package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/rollover"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func issuerCommand() *cobra.Command {
	c := &cobra.Command{Use: "issuer", Short: "What takes a root's key", Args: noArguments,
		Example: "  hallmarkd issuer revoke operational --root-key /media/safe/operational-root.key --reason key-compromise --config /srv/hallmark",
		RunE:    func(c *cobra.Command, _ []string) error { return usage(c, errors.New("which verb?")) }}
	c.AddCommand(revokeIssuerCommand())
	return c
}

// cACompromise is the CRLReason of a CA whose key is in other hands (RFC 5280 §5.3.1).
const cACompromise = 2

func revokeIssuerCommand() *cobra.Command {
	var path, key, reason string
	c := &cobra.Command{
		Use: "revoke ISSUER --root-key KEY", Short: "Name an issuing CA on its root's CRL", ValidArgsFunction: issuers(&path), Args: exactlyOne("an issuer"),
		Long: `Revoke signs a new CRL of an issuing CA's root that names the CA: the half of
"hallmark issuer revoke" that takes the root's key. Relying parties that check the
whole chain refuse everything that the CA has signed, on record or not, when they have
the list; it is served as before, at /crl/ROOT/0.crl and in /crl/ISSUER.pem. It cannot
be taken back. A CA that issues is refused: put its successor to use first.

The key is a file, or a key URI. Bring it, run this, and take it away again.`,
		Example: "  hallmarkd issuer revoke operational --root-key /media/safe/operational-root.key --reason key-compromise --config /srv/hallmark",
		RunE: func(c *cobra.Command, args []string) error {
			code, known := view.Reasons[reason]
			if code == record.ReasonKeyCompromise {
				code = cACompromise
			}
			switch {
			case key == "":
				return usage(c, errors.New("--root-key is needed"))
			case !known:
				return usage(c, fmt.Errorf("--reason %q: one of %s", reason, strings.Join(wire.RevocationReasons, ", ")))
			}
			return changing(c, path, func(in *installation.Installation, store record.Store) (string, error) {
				signer, err := keys.Open(keyURI(key), ".")
				if err != nil {
					return "", err
				}
				root, err := rollover.RevokeIssuer(c.Context(), in, store, args[0], signer, code, time.Now())
				if err != nil {
					return "", err
				}
				said := fmt.Sprintf("The list of %s names %s now.\n", root, args[0])
				begun, err := store.IssuerRevocations(c.Context())
				if err == nil && !slices.ContainsFunc(begun, func(j record.Job) bool { return j.Issuer == args[0] }) {
					said += fmt.Sprintf("Left to do: its certificates are not revoked. hallmark issuer revoke %s --reissue --reason %s\n", args[0], reason)
				}
				return said, err
			})
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&key, "root-key", "", "the root's private key: a PEM file, or a key URI")
	c.Flags().StringVar(&reason, "reason", "", strings.Join(wire.RevocationReasons, ", "))
	c.MarkFlagFilename("root-key")
	return c
}

// keyURI is the URI of a key that may have been named by its file.
func keyURI(key string) string {
	if _, err := os.Stat(key); err == nil {
		return "file:" + key
	}
	return key
}
