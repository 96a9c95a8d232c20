package rollover

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// UnsignedError says which signatures a proposal lacks.
type UnsignedError struct{ Missing []string }

func (e *UnsignedError) Error() string {
	return "signatures are missing:\n  " + strings.Join(e.Missing, "\n  ")
}

// Publish makes the proposal, with the signatures of all its copies, the bundle that
// devices are given, and writes what relying parties and operators trust. Cut off, it is
// done again. The server takes the bundle when it is reloaded.
func Publish(ctx context.Context, in *installation.Installation, note Noter, copies []string, now time.Time) (*trust.Proposal, error) {
	p, err := Pending(in)
	if errors.Is(err, ErrNoProposal) {
		if p := published(in); p != nil { // it was cut off
			return p, finish(ctx, in, note, p, now)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, path := range copies {
		other, err := ReadFile(path)
		if err == nil {
			err = p.Merge(other)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if len(copies) > 0 { // the signatures are kept even if more are wanted
		if err := WriteFile(p, ProposalFile(in)); err != nil {
			return nil, err
		}
	}
	if err := p.Timely(now); err != nil {
		return nil, err
	}
	if missing := p.Missing(); len(missing) > 0 {
		return nil, &UnsignedError{missing}
	}
	signed, err := p.Signed()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(signed)
	if err != nil {
		return nil, err
	}
	before, err := os.ReadFile(in.Config.Trust.Bundle)
	if err != nil {
		return nil, err
	}
	if err := wouldServe(in, before, text); err != nil {
		return nil, err
	}
	_, next := p.Bundles()
	if err := install(in, before, text, next); err != nil {
		return nil, err
	}
	return p, finish(ctx, in, note, p, now)
}

// finish does what follows once a bundle is in use. The proposal goes last: as long as it is
// there, everything is done again.
func finish(ctx context.Context, in *installation.Installation, note Noter, p *trust.Proposal, now time.Time) error {
	_, next := p.Bundles()
	if err := anchors(in, next); err != nil {
		return err
	}
	e := record.Event{Time: now, Actor: "host", Verb: record.VerbPublished, Object: "bundle " + strconv.FormatInt(next.Number, 10), Detail: map[string]string{"sha256": fingerprint(p.Next.Bundle)}}
	for n, c := range p.Changes() {
		e.Detail[fmt.Sprintf("change%d", n+1)] = c.String()
	}
	if err := note.Note(ctx, e); err != nil {
		return err
	}
	return Withdraw(in)
}

// published is the proposal if it is the bundle in use already; else nil.
func published(in *installation.Installation) *trust.Proposal {
	p, err := ReadFile(ProposalFile(in))
	if newest, _ := in.Trust.Newest(); err != nil || !bytes.Equal(p.Next.Bundle, newest.Bundle) {
		return nil
	}
	return p
}

// Noter writes into the audit log.
type Noter interface {
	Note(ctx context.Context, es ...record.Event) error
}

// Revoked also says which issuers were revoked.
type Revoked interface {
	Teller
	IssuerRevocations(ctx context.Context) ([]record.Job, error)
}

// wouldServe makes sure that the server would start with the bundle.
func wouldServe(in *installation.Installation, before, after []byte) error {
	timeKey, err := keys.Open(in.Config.TimeKey, in.Config.Dir)
	if err != nil {
		return err
	}
	s, err := trust.New(after, in.Issuer(profile.Infrastructure).Root, timeKey, before)
	if err != nil {
		return err
	}
	trial := *in
	trial.Trust = s
	return trial.Agrees()
}

func install(in *installation.Installation, before, after []byte, next wire.Bundle) error {
	earlier := installation.EarlierBundle(in.Config, next.Number-1)
	if err := durable.MkdirAll(filepath.Dir(earlier), 0o700); err != nil {
		return err
	}
	if err := durable.ReplaceForOwner(earlier, before, 0o600); err != nil {
		return err
	}
	return durable.ReplaceForOwner(in.Config.Trust.Bundle, after, 0o600)
}

// anchors writes the roots that relying parties and operators are given, if the files say
// otherwise than the bundle.
func anchors(in *installation.Installation, b wire.Bundle) error {
	for name, roots := range map[string][][]byte{installation.RelyingParties: b.Operational, installation.Infrastructure: b.Infrastructure} {
		path, text := installation.TrustFile(in.Config, filepath.Base(name)), installation.CertificatesPEM(roots...)
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
			continue
		}
		if err := durable.ReplaceForOwner(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Activate puts an issuer to use: its line's certificates are its own from the next start
// on. The root behind it must be in the bundle that devices and relying parties were given.
func Activate(ctx context.Context, in *installation.Installation, note Revoked, name string, now time.Time) error {
	at, err := in.Find(name)
	if err != nil {
		return err
	}
	if !in.Lists(in.Issuers[at]) {
		return installation.Hint(fmt.Errorf("the trust bundle does not list the root of %s: nobody would trust what it issues", name), "publish it first: hallmarkd trust publish")
	}
	begun, err := note.IssuerRevocations(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(begun, func(j record.Job) bool { return j.Issuer == name }) {
		return fmt.Errorf("%s is revoked, or is about to be: hallmark issuer list", name)
	}
	line := profile.LineOf(name)
	s, err := installation.ReadSuccession(in.Config)
	if err != nil {
		return err
	}
	e := record.Event{Time: now, Actor: "host", Verb: record.VerbActivated, Object: name}
	before := in.Issuer(line).Name
	if before == name {
		if told, err := activeIsTold(ctx, note, name); err != nil || told {
			return cmp.Or(err, fmt.Errorf("%s is in use already", name))
		}
		return note.Note(ctx, e)
	}
	if s.InUse == nil {
		s.InUse = map[string]string{}
	}
	s.InUse[line] = name
	if err := s.Write(in.Config); err != nil {
		return err
	}
	e.Detail = map[string]string{"before": before}
	return note.Note(ctx, e)
}
