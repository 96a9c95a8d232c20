// Package upkeep looks after an installation: it says whether one is sound, makes
// backups of a running one, and restores them without losing what was answered.
package upkeep

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
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/journal"
	"github.com/hallmark-pki/hallmark/wire"
)

// Levels of a Finding.
const (
	OK      = "ok"
	Warning = "warning"
	Error   = "error"
)

// Finding is one thing that was looked at.
type Finding struct {
	Level   string `json:"level"`
	Subject string `json:"subject"`
	Detail  string `json:"detail"`
	Hint    string `json:"hint,omitempty"`
}

// Findings are in the order of looking.
type Findings []Finding

func (r *Findings) add(level, subject, hint, detail string, args ...any) {
	*r = append(*r, Finding{level, subject, fmt.Sprintf(detail, args...), hint})
}

// Has reports whether there is a finding of a level.
func (r Findings) Has(level string) bool {
	return slices.ContainsFunc(r, func(f Finding) bool { return f.Level == level })
}

// Write prints the findings for people, or as JSON.
func (r Findings) Write(out io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Findings Findings `json:"findings"`
		}{r})
	}
	wide := 0
	for _, f := range r {
		wide = max(wide, len(f.Subject))
	}
	indent := strings.Repeat(" ", len("warning  ")+wide+2)
	for _, f := range r {
		if _, err := fmt.Fprintf(out, "%-8s %-*s  %s\n", f.Level, wide, f.Subject, strings.ReplaceAll(f.Detail, "\n", "\n"+indent)); err != nil {
			return err
		}
		if f.Hint != "" {
			if _, err := fmt.Fprintf(out, "%shint: %s\n", indent, f.Hint); err != nil {
				return err
			}
		}
	}
	return nil
}

// checked is an installation that is being checked.
type checked struct{ *installation.Installation }

// Check looks at an installation as the server would, and a little further. It changes
// nothing, and the server may be running.
func Check(ctx context.Context, path string, now time.Time) Findings {
	var r Findings
	opened, err := installation.Load(path)
	if err != nil {
		r.add(Error, "configuration", installation.Next(err), "%v", err)
		return r
	}
	r.add(OK, "configuration", "", "%s", opened.Config.File)
	in := checked{opened}
	in.checkSettings(&r, now)
	in.checkModes(&r)
	in.checkIssuers(&r, now)
	in.checkRootKeys(&r)
	store, err := in.OpenStore(ctx)
	if err != nil {
		r.add(Error, "record", installation.Next(err), "%v", err)
		return r
	}
	defer store.Close()
	in.checkRecord(ctx, store, &r)
	in.checkOperators(ctx, store, &r, now)
	checkClock(ctx, store, &r, now)
	in.checkLosses(ctx, store, &r, now)
	in.checkRevoked(ctx, store, &r)
	in.checkLists(ctx, store, &r, now)
	return r
}

func (in checked) checkSettings(r *Findings, now time.Time) {
	if in.Config.AcceptSimulatedTPMs {
		r.add(Warning, "configuration", "set accept_simulated_tpms: false", "simulated TPMs are accepted: anybody with a ticket can make up a device")
	}
	if keys := in.Config.Anchored; len(keys) > 0 {
		r.add(Warning, "configuration", "write them relative to the file", "%s: absolute paths into its own folder, with which no backup is made", strings.Join(keys, ", "))
	}
	bundle := in.Trust.Bundle()
	if !slices.Equal(bundle.Servers, in.Config.Public.Devices) {
		r.add(Warning, "trust bundle", "hallmarkd trust propose --from-config --config "+in.Config.File+", then sign and publish it",
			"devices are told to ask %s, but public.devices is %s", strings.Join(bundle.Servers, ", "), strings.Join(in.Config.Public.Devices, ", "))
		return
	}
	if bundle.Created.After(now) {
		r.add(Error, "clock", "set this machine's clock", "the trust bundle was made at %s, and this machine says it is %s", bundle.Created.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		return
	}
	if bundle.Threshold > 0 {
		r.add(OK, "trust bundle", "", "number %d; %d of %d keys sign the next", bundle.Number, bundle.Threshold, len(bundle.Signers))
	} else {
		r.add(OK, "trust bundle", "so that no single key can: hallmarkd trust propose --signer", "number %d; the infrastructure root's key signs the next", bundle.Number)
	}
	in.checkAnchors(r, bundle)
}

// checkAnchors looks at the files that others are given.
func (in checked) checkAnchors(r *Findings, bundle wire.Bundle) {
	for name, roots := range map[string][][]byte{installation.RelyingParties: bundle.Operational, installation.Infrastructure: bundle.Infrastructure} {
		path := installation.TrustFile(in.Config, filepath.Base(name))
		text, err := os.ReadFile(path)
		var held [][]byte
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			held = append(held, block.Bytes)
		}
		if err != nil || !slices.EqualFunc(held, roots, bytes.Equal) {
			r.add(Warning, "trust bundle", "hallmarkd trust publish --config "+in.Config.File+" writes it again", "%s does not hold the roots that the bundle lists", path)
		}
	}
}

// checkModes looks at who can read what nobody else should.
func (in checked) checkModes(r *Findings) {
	open := 0
	for _, path := range append(in.Config.Secrets(), strings.TrimPrefix(in.Config.Database, "sqlite:")) {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			r.add(Error, "file modes", "", "%v", err)
		case info.Mode().Perm()&0o077 != 0:
			r.add(Warning, "file modes", "chmod 600 "+path, "%s has mode %04o: others than its owner can use it", path, info.Mode().Perm())
		default:
			continue
		}
		open++
	}
	// By the configuration, or another in its place, the server trusts other keys and other TPMs.
	for _, path := range []string{in.Config.File, in.Config.Dir} {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o022 != 0 {
			r.add(Warning, "file modes", "chmod go-w "+path, "%s has mode %04o: others than its owner can change it", path, info.Mode().Perm())
			open++
		}
	}
	if open == 0 {
		r.add(OK, "file modes", "", "keys, secret and record are their owner's alone")
	}
}

// soon is how long before its end an issuer deserves attention: making a new one and
// bringing its root to every relying party takes a while.
const soon = 365 * 24 * time.Hour

func (in checked) checkIssuers(r *Findings, now time.Time) {
	for _, i := range in.Issuers {
		if !in.Lists(i) {
			continue // retired, or not trusted yet
		}
		for _, c := range []*x509.Certificate{i.Root, i.Certificate} {
			switch end := c.NotAfter; {
			case now.After(end) || now.Before(c.NotBefore):
				r.add(Error, i.Name, "check this machine's clock; if it is right, the CA has ended", "%s is valid from %s to %s", c.Subject, c.NotBefore.Format(time.DateOnly), end.Format(time.DateOnly))
			case now.Add(soon).After(end):
				r.add(Warning, i.Name, "prepare its successor: hallmarkd trust add-root --help", "%s ends on %s", c.Subject, end.Format(time.DateOnly))
			}
		}
	}
	for _, root := range in.Roots {
		list, err := x509.ParseRevocationList(root.CRL)
		if err == nil {
			err = list.CheckSignatureFrom(root.Certificate)
		}
		switch {
		case err != nil:
			r.add(Error, root.Name, "", "its CRL: %v", err)
		case now.After(list.NextUpdate):
			r.add(Error, root.Name, "sign a new one with the root's key", "its CRL ended on %s", list.NextUpdate.Format(time.DateOnly))
		default:
			r.add(OK, root.Name, "", "keys, certificates and root CRL belong together")
		}
	}
}

func checkClock(ctx context.Context, store record.Store, r *Findings, now time.Time) {
	doubt, err := installation.ClockDoubt(ctx, store, now)
	switch {
	case err != nil:
		r.add(Error, "clock", "", "%v", err)
	case doubt != "":
		r.add(Warning, "clock", "set this machine's clock: devices take the time from the server", "%s", doubt)
	}
}

// checkLosses holds the files against what the record tells of them.
func (in checked) checkLosses(ctx context.Context, store record.Store, r *Findings, now time.Time) {
	lost, err := in.Losses(ctx, store, now, true)
	if err != nil {
		r.add(Error, "issuers", "", "%v", err)
	}
	*r = append(*r, Missing(lost)...)
}

// Missing are losses as findings, also of a restore.
func Missing(lost []installation.Loss) Findings {
	r := Findings{}
	for _, l := range lost {
		level := Warning
		if l.Grave {
			level = Error
		}
		r.add(level, l.Subject, l.Hint, "%s", l.Detail)
	}
	return r
}

// maxLooked bounds the search for root keys.
const maxLooked = 10_000

// checkRootKeys looks for files in the installation that hold a root's private key.
func (in checked) checkRootKeys(r *Findings) {
	looked, near := 0, 0
	err := filepath.WalkDir(in.Config.Dir, func(path string, d fs.DirEntry, err error) error {
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
		for name, public := range in.offline() {
			if holdsKey(text, public) {
				near++
				r.add(Warning, name, "move it to where no thief of this machine finds it; the server does not need it", "its private key is in %s", path)
			}
		}
		return nil
	})
	if err != nil {
		r.add(Error, "root keys", "", "%v", err)
	} else if near == 0 {
		r.add(OK, "root keys", "", "none in %s", in.Config.Dir)
	}
}

// offline are the keys that must not be near: the roots', and those that sign bundles.
func (in checked) offline() map[string]crypto.PublicKey {
	all := map[string]crypto.PublicKey{}
	for _, root := range in.Roots {
		all[root.Name] = root.Certificate.PublicKey
	}
	for _, der := range in.Trust.Bundle().Signers {
		if key, err := x509.ParsePKIXPublicKey(der); err == nil {
			all["signer "+trust.NameOf(der)[:16]] = key
		}
	}
	return all
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

func (in checked) checkRecord(ctx context.Context, store record.Store, r *Findings) {
	if err := store.Verify(ctx); err != nil {
		r.add(Error, "record", "stop the server and restore the last backup into a new folder: hallmarkd restore --help", "%v", err)
		return
	}
	r.add(OK, "record", "", "%s is sound", in.Config.Database)
	in.checkJournal(ctx, r)
}

// checkOperators counts who can act: not who was invited and has not come, nor who has let the
// certificate expire.
func (in checked) checkOperators(ctx context.Context, store record.Store, r *Findings, now time.Time) {
	operators, err := store.Operators(ctx)
	if err != nil {
		r.add(Error, "operators", "", "%v", err)
		return
	}
	able, err := store.Able(ctx, now, 0)
	switch {
	case err != nil:
		r.add(Error, "operators", "", "%v", err)
	case len(able) == 0:
		r.add(Warning, "operators", "hallmarkd operator recover --config "+in.Config.File, "nobody can administer")
	default:
		r.add(OK, "operators", "", "%d of %d can administer", len(able), len(operators))
	}
}

// checkJournal checks that further changes can be recorded.
func (in checked) checkJournal(ctx context.Context, r *Findings) {
	dir := in.Config.Journal
	path, err := in.Database()
	if err == nil {
		checkRoom(r, filepath.Dir(path), dir)
		err = journal.Check(ctx, path, dir)
	}
	if err != nil {
		r.add(Error, "journal", "until it can be written nothing is recorded, issued or revoked", "%v", err)
		return
	}
	if _, inside := in.Config.Inside(dir); inside {
		r.add(OK, "journal", "to survive the loss of this folder keep it on another disk: journal in "+in.Config.File, "%s, beside the record", dir)
		return
	}
	r.add(OK, "journal", "", "%s", dir)
}

// room is what is left of a disk on which nothing may be written soon.
const room = 16 << 20

// checkRoom checks that the disks of some folders are not full.
func checkRoom(r *Findings, dirs ...string) {
	seen := map[syscall.Fsid]bool{}
	for _, dir := range dirs {
		var s syscall.Statfs_t
		if err := syscall.Statfs(dir, &s); err != nil || seen[s.Fsid] {
			continue // what is missing there, others say
		}
		seen[s.Fsid] = true
		if left := int64(s.Bavail) * int64(s.Bsize); left < room {
			r.add(Error, "disk", "make room: without any nothing is recorded, issued or revoked", "that of %s has %d KiB left", dir, left>>10)
		}
	}
}

// checkRevoked looks for issuers whose certificates were revoked and which their root's
// CRL does not name: what their keys may still sign is on no list then.
func (in checked) checkRevoked(ctx context.Context, store record.Store, r *Findings) {
	begun, err := store.IssuerRevocations(ctx)
	if err != nil {
		r.add(Error, "issuers", "", "%v", err)
		return
	}
	for _, j := range begun {
		at, err := in.Find(j.Issuer)
		if err != nil || j.State == record.JobWaiting {
			continue
		}
		list, err := x509.ParseRevocationList(in.Roots[at].CRL)
		if err != nil {
			continue // checkIssuers has said so
		}
		if _, listed := ca.Listed(list, in.Issuers[at].Certificate); !listed {
			r.add(Warning, j.Issuer, "bring the root's key: hallmarkd issuer revoke "+j.Issuer+" --root-key KEY --reason REASON --config "+in.Config.File,
				"job %s has revoked its certificates, and its root's CRL does not name it", j.ID)
		}
	}
}

// checkLists looks at the newest CRL of every shard. While the server runs none is
// older than an hour.
func (in checked) checkLists(ctx context.Context, store record.Store, r *Findings, now time.Time) {
	for _, i := range in.Issuers {
		shards, err := store.Shards(ctx, i.Name, now)
		if err != nil {
			r.add(Error, i.Name+" CRLs", "", "%v", err)
			continue
		}
		missing, late, ended := 0, 0, 0
		for _, s := range shards {
			list, err := store.NewestCRL(ctx, s)
			switch {
			case errors.Is(err, record.ErrNotFound):
				missing++
			case err != nil:
				r.add(Error, i.Name+" CRLs", "", "shard %d: %v", s.Number, err)
			case !bytes.Equal(issuerOf(list.DER), i.Certificate.RawSubject):
				r.add(Error, i.Name+" CRLs", "", "shard %d is not this issuer's", s.Number)
			case now.After(list.NextUpdate):
				ended++
			case now.Sub(list.ThisUpdate) > 2*time.Hour:
				late++
			}
		}
		switch {
		case ended > 0:
			r.add(Error, i.Name+" CRLs", "start the server: hallmarkd serve --config "+in.Config.File, "%d of %d have ended: relying parties that check refuse every device", ended, len(shards))
		case late+missing > 0:
			r.add(Warning, i.Name+" CRLs", "is the server running? It signs each every hour", "%d of %d are older than two hours, %d were never published", late, len(shards), missing)
		default:
			r.add(OK, i.Name+" CRLs", "", "%d, all fresh", len(shards))
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
