package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"

	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/makers"
)

// Bounds of an import: of one file, and of one request.
const (
	maxCertificateFile = 4 << 20
	maxImport          = 2 << 20 // base64 makes it 2.7 MiB of the server's 4
)

func (a *app) vendorcaCommand() *cobra.Command {
	return terminal.Group("vendorca", "TPM makers' CA certificates that this installation trusts", "  hallmark vendorca import ./infineon/",
		a.vendorcaImport(), a.vendorcaList(), a.vendorcaRemove())
}

func (a *app) vendorcaImport() *cobra.Command {
	c := &cobra.Command{
		Use: "import PATH", Short: "Trust TPM makers' CA certificates",
		Long: `Trust the CA certificates in a file, or in the files of a folder and the folders below
it: PEM or DER. Files that hold none are skipped and counted. Each certificate
becomes a trust anchor by itself: TPMs whose EK certificate chains to it are
"certified". docs/tpm-makers.md says where each maker publishes its own.`,
		Example: "  hallmark vendorca import OptigaEccRootCA.crt\n  hallmark vendorca import ./makers/",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := terminal.JSONFlag(c)
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error {
		found, skipped, err := readAuthorities(args[0])
		if errors.Is(err, fs.ErrNotExist) {
			return terminal.Hinted(err, "name a file or a folder with certificates of TPM makers: docs/tpm-makers.md says where they are published")
		}
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return terminal.Hinted(fmt.Errorf("%s: no CA certificate among %s", args[0], terminal.Count(skipped, "file")), "give a PEM or DER file of a TPM maker's root or intermediate; an EK certificate is not one")
		}
		cl, err := a.Change(c)
		if err != nil {
			return err
		}
		var imported []makers.Authority
		for _, part := range portions(found) {
			got, err := cl.ImportAuthorities(c.Context(), part)
			if err != nil {
				return err
			}
			imported = append(imported, got.Items...)
		}
		if *asJSON {
			return terminal.Shown(c, imported, nil)
		}
		return printImported(c.OutOrStdout(), imported, skipped)
	})
	return c
}

func printImported(w io.Writer, imported []makers.Authority, skipped int) error {
	fresh := 0
	for _, v := range imported {
		word := "known"
		if v.New {
			word = "new  "
			fresh++
		}
		fmt.Fprintf(w, "%s  %s  %s\n", word, short(v.Fingerprint), plain.Line(v.Subject))
	}
	_, err := fmt.Fprintf(w, "imported %s, %d known already; skipped %s without any\n", terminal.Count(fresh, "CA certificate"), len(imported)-fresh, terminal.Count(skipped, "file"))
	return err
}

// readAuthorities reads the CA certificates of a file or a folder, each once, and
// counts the files that hold none.
func readAuthorities(path string) (ders [][]byte, skipped int, err error) {
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, 0, err
	}
	seen := map[string]bool{}
	err = filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := readCertificateFile(path)
		if err != nil {
			return err
		}
		certificates, _ := vendorca.ReadCertificates(text)
		if len(certificates) == 0 {
			skipped++
		}
		for _, c := range certificates {
			if !seen[string(c.Raw)] {
				seen[string(c.Raw)] = true
				ders = append(ders, c.Raw)
			}
		}
		return nil
	})
	return ders, skipped, err
}

// readCertificateFile gives nothing for what is not a file of a sensible size: a
// folder behind a link, a link to nowhere.
func readCertificateFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxCertificateFile {
		return nil, err
	}
	return os.ReadFile(path)
}

// portions cuts an import to what one request may carry.
func portions(ders [][]byte) (parts [][][]byte) {
	var part [][]byte
	size := 0
	for _, der := range ders {
		if len(part) > 0 && (len(part) == wire.MaxAuthorities || size+len(der) > maxImport) {
			parts, part, size = append(parts, part), nil, 0
		}
		part, size = append(part, der), size+len(der)
	}
	return append(parts, part)
}

func (a *app) vendorcaList() *cobra.Command {
	return terminal.Table(&a.App, &cobra.Command{Use: "list", Short: "List the imported CA certificates", Example: "  hallmark vendorca list"},
		"FINGERPRINT\tSUBJECT\tEXPIRES\tIMPORTED\tBY", (*client.Client).Authorities, func(v makers.Authority) []string {
			return []string{short(v.Fingerprint), v.Subject, terminal.When(v.NotAfter), terminal.When(v.Added), v.AddedBy}
		})
}

func (a *app) vendorcaRemove() *cobra.Command {
	return &cobra.Command{Use: "remove FINGERPRINT", Short: "Trust a CA certificate no longer",
		Long:    "Trust a CA certificate no longer. Eight digits of its SHA-256 fingerprint are enough.\nDevices that enrolled under it keep their certificates.",
		Example: "  hallmark vendorca remove 9f3c21d0", Args: cobra.ExactArgs(1), ValidArgsFunction: a.Arguments(fingerprints),
		RunE: a.Changing(func(c *cobra.Command, cl *client.Client, args []string) error {
			v, err := cl.RemoveAuthority(c.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "removed %s  %s\n", short(v.Fingerprint), plain.Line(v.Subject))
			return err
		})}
}

// short is as much of a fingerprint as a person compares.
func short(fingerprint string) string {
	return plain.Line(fingerprint[:min(16, len(fingerprint))])
}
