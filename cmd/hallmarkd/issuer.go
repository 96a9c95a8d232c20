package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/rollover"
	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func issuerCommand() *cobra.Command {
	return noun(&cobra.Command{Use: "issuer", Short: "Revoke an issuing CA, with its root's key",
		Example: "  hallmarkd issuer revoke operational --root-key /media/safe/operational-root.key --reason key-compromise --config /srv/hallmark"},
		revokeIssuerCommand(), importListCommand())
}

// cACompromise is the CRLReason of a CA whose key is in other hands (RFC 5280 §5.3.1).
const cACompromise = 2

func revokeIssuerCommand() *cobra.Command {
	var path, key, unsigned, reason string
	c := &cobra.Command{
		Use: "revoke ISSUER --root-key KEY", Short: "Name an issuing CA on its root's CRL", ValidArgsFunction: issuers(&path), Args: exactlyOne("an issuer"),
		Long: `Revoke signs a new CRL of an issuing CA's root that names the CA: the half of
"hallmark issuer revoke" that takes the root's key. Relying parties that check the
whole chain refuse everything that the CA has signed, on record or not, when they have
the list; it is served as before, at /crl/ROOT/0.crl and in /crl/ISSUER.pem. It cannot
be taken back. A CA that issues is refused: put its successor to use first.

The key is a file, or a key URI. Bring it, run this, and take it away again. Or leave it
where it is: --unsigned writes what is to be signed, and says how, and "hallmarkd issuer
import-list" takes what was signed.`,
		Example: `  hallmarkd issuer revoke operational --root-key /media/safe/operational-root.key --reason key-compromise --config /srv/hallmark
  hallmarkd issuer revoke operational --unsigned list.tbs --reason key-compromise --config /srv/hallmark`,
		RunE: func(c *cobra.Command, args []string) error {
			code, known := view.Reasons[reason]
			if code == record.ReasonKeyCompromise {
				code = cACompromise
			}
			switch {
			case (key == "") == (unsigned == ""):
				return usage(c, errors.New("one of --root-key and --unsigned is needed"))
			case !known:
				return usage(c, fmt.Errorf("--reason %q: one of %s", reason, strings.Join(wire.RevocationReasons, ", ")))
			case unsigned != "":
				return writeUnsigned(c, path, args[0], code, unsigned)
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
				return saidListed(c, store, root, args[0], reason)
			})
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&key, "root-key", "", "the root's private key: a PEM file, or a key URI")
	c.Flags().StringVar(&unsigned, "unsigned", "", "write what is to be signed to this file, and change nothing")
	c.Flags().StringVar(&reason, "reason", "", strings.Join(wire.RevocationReasons, ", "))
	c.MarkFlagFilename("root-key")
	c.MarkFlagFilename("unsigned")
	return c
}

// saidListed tells what was done, and what is left to do.
func saidListed(c *cobra.Command, store record.Store, root, issuer, reason string) (string, error) {
	said := fmt.Sprintf("The list of %s names %s now.\n", root, issuer)
	begun, err := store.IssuerRevocations(c.Context())
	if err == nil && !slices.ContainsFunc(begun, func(j record.Job) bool { return j.Issuer == issuer }) {
		said += fmt.Sprintf("Left to do: its certificates are not revoked. hallmark issuer revoke %s --reissue --reason %s\n", issuer, reason)
	}
	return said, err
}

// writeUnsigned writes what is to be signed with the root's key, and says how.
func writeUnsigned(c *cobra.Command, path, issuer string, reason int, file string) error {
	in, err := installation.Read(path)
	if err != nil {
		return err
	}
	list, err := rollover.UnsignedRevocation(in, issuer, reason, time.Now())
	if err != nil {
		return err
	}
	hash, ok := map[x509.SignatureAlgorithm]string{x509.ECDSAWithSHA256: "sha256", x509.ECDSAWithSHA384: "sha384", x509.SHA256WithRSA: "sha256"}[list.SignatureAlgorithm]
	if !ok {
		return fmt.Errorf("the root would sign with %v", list.SignatureAlgorithm)
	}
	if err := durable.Replace(file, list.RawTBSRevocationList, 0o644); err != nil {
		return err
	}
	root := profile.RootOf(issuer)
	_, err = fmt.Fprintf(c.OutOrStdout(), `%[1]s is the list of %[2]s that names %[3]s: number %[4]v, until %[5]s, unsigned.
Look at it where the root's key is, sign it, and bring both files back:
  openssl asn1parse -inform DER -in %[1]s
  openssl dgst -%[6]s -sign %[2]s.key -out %[1]s.sig %[1]s
  hallmarkd issuer import-list %[1]s --signature %[1]s.sig --config %[7]s
`, file, root, issuer, list.Number, list.NextUpdate.UTC().Format(time.DateOnly), hash, path)
	return err
}

func importListCommand() *cobra.Command {
	var path, signature string
	c := &cobra.Command{
		Use: "import-list FILE", Short: "Take a root's CRL that was signed elsewhere", Args: exactlyOne("a file"),
		Long: `Import-list puts a root's CRL, PEM or DER, in the place of the one that is served. It must
be signed by the root, have a greater crlNumber, last beyond now, be complete, and name
everything that the one before it names; an issuing CA that is in use it must not name.

With --signature FILE is what "hallmarkd issuer revoke --unsigned" wrote, and the other file
the signature over it.`,
		Example: `  hallmarkd issuer import-list list.tbs --signature list.tbs.sig --config /srv/hallmark
  hallmarkd issuer import-list operational-root.crl --config /srv/hallmark`,
		RunE: func(c *cobra.Command, args []string) error {
			text, err := readBounded(args[0], ca.MaxRootCRL)
			if err != nil {
				return err
			}
			if signature != "" {
				over, err := readBounded(signature, ca.MaxRootCRL)
				if err != nil {
					return err
				}
				if text, err = ca.SignedRevocation(text, over); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
			return changing(c, path, func(in *installation.Installation, store record.Store) (string, error) {
				done, err := rollover.ImportList(c.Context(), in, store, text, time.Now())
				if err != nil {
					return "", err
				}
				said := fmt.Sprintf("The list of %s is number %v now, and lasts until %s.\n", done.Root, done.List.Number, done.List.NextUpdate.UTC().Format(time.DateOnly))
				for _, issuer := range done.Named {
					more, err := saidListed(c, store, done.Root, issuer, "REASON")
					if err != nil {
						return "", err
					}
					said += more
				}
				return said, nil
			})
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&signature, "signature", "", "the signature over FILE, which is a list unsigned")
	c.MarkFlagFilename("signature")
	return c
}

// readBounded reads a file of at most so many bytes.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return text, err
}

// keyURI is the URI of a key that may have been named by its file.
func keyURI(key string) string {
	if _, err := os.Stat(key); err == nil || !strings.Contains(key, ":") {
		return "file:" + key
	}
	return key
}
