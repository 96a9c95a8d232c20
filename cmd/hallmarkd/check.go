package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/record"
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
			r := check(c.Context(), path, time.Now())
			if err := r.write(c.OutOrStdout(), asJSON); err != nil {
				return err
			}
			return r.verdict()
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return c
}

// Levels of a finding.
const (
	levelOK      = "ok"
	levelWarning = "warning"
	levelError   = "error"
)

// finding is one thing that was looked at.
type finding struct {
	Level   string `json:"level"`
	Subject string `json:"subject"`
	Detail  string `json:"detail"`
	Hint    string `json:"hint,omitempty"`
}

type findings []finding

func (r *findings) add(level, subject, hint, detail string, args ...any) {
	*r = append(*r, finding{level, subject, fmt.Sprintf(detail, args...), hint})
}

func (r findings) has(level string) bool {
	return slices.ContainsFunc(r, func(f finding) bool { return f.Level == level })
}

func (r findings) verdict() error {
	switch {
	case r.has(levelError):
		return failure{error: errors.New("the installation has errors"), code: exitError}
	case r.has(levelWarning):
		return failure{error: errors.New(""), code: exitWarnings}
	}
	return nil
}

func (r findings) write(out io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Findings findings `json:"findings"`
		}{r})
	}
	for _, f := range r {
		if _, err := fmt.Fprintf(out, "%-8s %-14s %s\n", f.Level, f.Subject, strings.ReplaceAll(f.Detail, "\n", "\n"+strings.Repeat(" ", 24))); err != nil {
			return err
		}
		if f.Hint != "" {
			if _, err := fmt.Fprintf(out, "%24shint: %s\n", "", f.Hint); err != nil {
				return err
			}
		}
	}
	return nil
}

// check looks at an installation as serve would, and a little further.
func check(ctx context.Context, path string, now time.Time) findings {
	var r findings
	in, err := load(path)
	if err != nil {
		r.add(levelError, "configuration", "", "%v", err)
		return r
	}
	r.add(levelOK, "configuration", "", "%s", in.config.File)
	in.checkSettings(&r, now)
	in.checkModes(&r)
	in.checkIssuers(&r, now)
	in.checkRootKeys(&r)
	store, err := openStore(ctx, in.config.Database)
	if err != nil {
		r.add(levelError, "record", "", "%v", err)
		return r
	}
	defer store.Close()
	in.checkRecord(ctx, store, &r)
	in.checkLists(ctx, store, &r, now)
	return r
}

func (in *installation) checkSettings(r *findings, now time.Time) {
	if in.config.AcceptSimulatedTPMs {
		r.add(levelWarning, "configuration", "set accept_simulated_tpms: false", "simulated TPMs are accepted: anybody with a ticket can make up a device")
	}
	bundle := in.trust.Bundle()
	if !slices.Equal(bundle.Servers, in.config.Public.Devices) {
		r.add(levelWarning, "trust bundle", "the bundle must be signed again with the infrastructure root's key",
			"devices are told to ask %s, but public.devices is %s", strings.Join(bundle.Servers, ", "), strings.Join(in.config.Public.Devices, ", "))
		return
	}
	if bundle.Created.After(now) {
		r.add(levelError, "clock", "set this machine's clock", "the trust bundle was made at %s, and this machine says it is %s", bundle.Created.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		return
	}
	r.add(levelOK, "trust bundle", "", "number %d, signed by the infrastructure root", bundle.Number)
}

// checkModes looks at who can read what nobody else should.
func (in *installation) checkModes(r *findings) {
	open := 0
	for _, path := range in.config.Secrets() {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			r.add(levelError, "file modes", "", "%v", err)
		case info.Mode().Perm()&0o077 != 0:
			r.add(levelWarning, "file modes", "chmod 600 "+path, "%s has mode %04o: others than its owner can use it", path, info.Mode().Perm())
		default:
			continue
		}
		open++
	}
	if open == 0 {
		r.add(levelOK, "file modes", "", "keys, secret and record are their owner's alone")
	}
}

// soon is how long before its end an issuer deserves attention: making a new one and
// bringing its root to every relying party takes a while.
const soon = 365 * 24 * time.Hour

func (in *installation) checkIssuers(r *findings, now time.Time) {
	for _, i := range in.issuers {
		for _, c := range []*x509.Certificate{i.root, i.certificate} {
			switch end := c.NotAfter; {
			case now.After(end) || now.Before(c.NotBefore):
				r.add(levelError, i.name, "check this machine's clock; if it is right, the CA has ended", "%s is valid from %s to %s", c.Subject, c.NotBefore.Format(time.DateOnly), end.Format(time.DateOnly))
			case now.Add(soon).After(end):
				r.add(levelWarning, i.name, "prepare its successor", "%s ends on %s", c.Subject, end.Format(time.DateOnly))
			}
		}
	}
	for _, root := range in.roots {
		list, err := x509.ParseRevocationList(root.CRL)
		if err == nil {
			err = list.CheckSignatureFrom(root.Certificate)
		}
		switch {
		case err != nil:
			r.add(levelError, root.Name, "", "its CRL: %v", err)
		case now.After(list.NextUpdate):
			r.add(levelError, root.Name, "sign a new one with the root's key", "its CRL ended on %s", list.NextUpdate.Format(time.DateOnly))
		default:
			r.add(levelOK, root.Name, "", "keys, certificates and root CRL belong together")
		}
	}
}

// maxLooked bounds the search for root keys.
const maxLooked = 10_000

// checkRootKeys looks for files in the installation that hold a root's private key.
func (in *installation) checkRootKeys(r *findings) {
	looked, near := 0, 0
	err := filepath.WalkDir(in.config.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if looked++; looked > maxLooked {
			return fs.SkipAll
		}
		if info, err := d.Info(); err != nil || info.Size() > 16<<10 {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, root := range in.roots {
			if holdsKey(text, root.Certificate.PublicKey) {
				near++
				r.add(levelWarning, root.Name, "move it to where no thief of this machine finds it; the server does not need it", "its private key is in %s", path)
			}
		}
		return nil
	})
	if err != nil {
		r.add(levelError, "root keys", "", "%v", err)
	} else if near == 0 {
		r.add(levelOK, "root keys", "", "none in %s", in.config.Dir)
	}
}

func holdsKey(text []byte, public crypto.PublicKey) bool {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			continue
		}
		if s, ok := key.(crypto.Signer); ok {
			if p, ok := s.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && p.Equal(public) {
				return true
			}
		}
	}
	return false
}

func (in *installation) checkRecord(ctx context.Context, store record.Store, r *findings) {
	if err := store.Verify(ctx); err != nil {
		r.add(levelError, "record", "stop the server and restore the last backup into a new folder: hallmarkd restore --help", "%v", err)
		return
	}
	r.add(levelOK, "record", "", "%s is sound", in.config.Database)
	operators, err := store.Operators(ctx)
	if err != nil {
		r.add(levelError, "operators", "", "%v", err)
		return
	}
	active := 0
	for _, o := range operators {
		if o.Disabled.IsZero() {
			active++
		}
	}
	if active == 0 {
		r.add(levelWarning, "operators", "hallmarkd operator recover --config "+in.config.File, "nobody may administer")
		return
	}
	r.add(levelOK, "operators", "", "%d of %d may administer", active, len(operators))
}

// checkLists looks at the newest CRL of every shard. While the server runs none is
// older than an hour.
func (in *installation) checkLists(ctx context.Context, store record.Store, r *findings, now time.Time) {
	for _, i := range in.issuers {
		shards, err := store.Shards(ctx, i.name)
		if err != nil {
			r.add(levelError, i.name+" CRLs", "", "%v", err)
			continue
		}
		missing, late, ended := 0, 0, 0
		for _, s := range shards {
			list, err := store.NewestCRL(ctx, s)
			switch {
			case errors.Is(err, record.ErrNotFound):
				missing++
			case err != nil:
				r.add(levelError, i.name+" CRLs", "", "shard %d: %v", s.Number, err)
			case !bytes.Equal(issuerOf(list.DER), i.certificate.RawSubject):
				r.add(levelError, i.name+" CRLs", "", "shard %d is not this issuer's", s.Number)
			case now.After(list.NextUpdate):
				ended++
			case now.Sub(list.ThisUpdate) > 2*time.Hour:
				late++
			}
		}
		switch {
		case ended > 0:
			r.add(levelError, i.name+" CRLs", "start the server: hallmarkd serve --config "+in.config.File, "%d of %d have ended: relying parties that check refuse every device", ended, len(shards))
		case late+missing > 0:
			r.add(levelWarning, i.name+" CRLs", "is the server running? It signs each every hour", "%d of %d are older than two hours, %d were never published", late, len(shards), missing)
		default:
			r.add(levelOK, i.name+" CRLs", "", "%d shards, all fresh", len(shards))
		}
	}
}

func issuerOf(der []byte) []byte {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil
	}
	return list.RawIssuer
}
