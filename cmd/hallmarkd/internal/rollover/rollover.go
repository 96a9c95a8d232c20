// Package rollover changes what an installation tells others to trust. A change is first a proposal
// in the installation's folder, then signed wherever the keys are kept, and only then published: no
// step strands those who have followed the one before.
package rollover

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/wire"
)

// ProposalFile is where an installation's proposal is.
func ProposalFile(in *installation.Installation) string {
	return installation.TrustFile(in.Config, "proposal.json")
}

// ErrNoProposal: nothing is proposed.
var ErrNoProposal = errors.New("there is no proposal")

// Pending reads the installation's proposal; ErrNoProposal if there is none, or if the
// bundle in use is not the one that it was made for.
func Pending(in *installation.Installation) (*trust.Proposal, error) {
	p, err := ReadFile(ProposalFile(in))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoProposal
	}
	if err != nil {
		return nil, err
	}
	if newest, _ := in.Trust.Newest(); !bytes.Equal(p.Base.Bundle, newest.Bundle) {
		return nil, ErrNoProposal
	}
	return p, nil
}

// ReadFile reads a proposal from a file, which may be anything that somebody has brought.
func ReadFile(path string) (*trust.Proposal, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, trust.MaxProposal+1))
	if err != nil {
		return nil, err
	}
	p, err := trust.ReadProposal(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// WriteFile writes a proposal to a file.
func WriteFile(p *trust.Proposal, path string) error {
	text, err := p.Write()
	if err != nil {
		return err
	}
	return durable.ReplaceForOwner(path, text, 0o644)
}

// draft is what the next bundle is to be: the proposal's or, if there is none, the one in
// use.
func draft(in *installation.Installation, now time.Time) (wire.Bundle, error) {
	b := in.Trust.Bundle()
	p, err := Pending(in)
	if err == nil {
		_, b = p.Bundles()
	} else if !errors.Is(err, ErrNoProposal) {
		return b, err
	}
	b.Created = now.UTC().Truncate(time.Second)
	return b, nil
}

// propose replaces the installation's proposal. Signatures that it had are void; those of
// signers are made at once.
func propose(in *installation.Installation, next wire.Bundle, signers ...crypto.Signer) (*trust.Proposal, error) {
	base, _ := in.Trust.Newest()
	p, err := trust.Propose(base, next)
	if err != nil {
		return nil, err
	}
	if len(p.Changes()) == 0 {
		return nil, errors.New("the trust bundle in use says so already: there is nothing to change")
	}
	for _, signer := range signers {
		if _, err := p.Sign(signer, next.Created); err != nil {
			return nil, err
		}
	}
	return p, WriteFile(p, ProposalFile(in))
}

// Withdraw drops the proposal.
func Withdraw(in *installation.Installation) error {
	err := os.Remove(ProposalFile(in))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoProposal
	}
	return err
}

// Wishes are changes that need no new CA.
type Wishes struct {
	// FromConfig takes the name, the servers' URLs and the channel binding from the configuration.
	FromConfig bool
	// Signers and TimeKeys are SubjectPublicKeyInfo (DER) to be listed.
	Signers, TimeKeys [][]byte
	// Drop are fingerprints of signers and time keys, or their beginnings, to be listed no more.
	Drop []string
	// Threshold is how many of the signers must sign; 0 leaves it.
	Threshold int
}

// Propose proposes changes in addition to those that are proposed already.
func Propose(in *installation.Installation, w Wishes, now time.Time) (*trust.Proposal, error) {
	next, err := draft(in, now)
	if err != nil {
		return nil, err
	}
	if w.FromConfig {
		next.Name, next.Servers, next.NonceMode = in.Config.Name, in.Config.Public.Devices, in.Config.ChannelBinding == config.BindingNonce
	}
	next.Signers, next.TimeKeys = union(next.Signers, w.Signers), union(next.TimeKeys, w.TimeKeys)
	for _, name := range w.Drop {
		list := &next.Signers
		i, err := find(next.Signers, name)
		if err == nil && i < 0 {
			list = &next.TimeKeys
			i, err = find(next.TimeKeys, name)
		}
		if err != nil {
			return nil, err
		}
		if i < 0 {
			return nil, installation.Hint(fmt.Errorf("no signer and no time key has the fingerprint %s", name), "hallmarkd trust show lists them")
		}
		*list = slices.Delete(slices.Clone(*list), i, i+1)
	}
	if w.Threshold > 0 {
		next.Threshold = w.Threshold
	} else if len(next.Signers) > 0 && next.Threshold == 0 {
		return nil, installation.Hint(errors.New("how many of the signers must sign?"), "as in --threshold 2")
	}
	if len(next.Signers) == 0 {
		next.Threshold = 0
	}
	return propose(in, next)
}

func union(list, more [][]byte) [][]byte {
	list = slices.Clone(list)
	for _, one := range more {
		if !trust.Lists(list, one) {
			list = append(list, one)
		}
	}
	return list
}

// shortest is the least that one must give of a fingerprint, in hexadecimal digits.
const shortest = 8

// find finds what has a fingerprint that begins so; -1 if nothing has.
func find(list [][]byte, name string) (int, error) {
	at := -1
	for i, der := range list {
		if len(name) < shortest || !strings.HasPrefix(trust.NameOf(der), strings.ToLower(name)) {
			continue
		}
		if at >= 0 {
			return -1, fmt.Errorf("more than one has a fingerprint that begins with %s", name)
		}
		at = i
	}
	return at, nil
}

// Added is what AddRoot has made.
type Added struct {
	// Issuer is the name of the new issuing CA, Root its root's certificate; RootKey where
	// the root's key was written, empty if that was done earlier.
	Issuer   string
	Root     *x509.Certificate
	RootKey  string
	Proposal *trust.Proposal
}

// Known are the issuers on record.
type Known interface {
	Issuers(ctx context.Context) ([]string, error)
}

// AddRoot makes the next root of a line with an issuing CA, and proposes that it be
// trusted. The root's key is written to rootOut; the server never needs it. A CA that was
// made before and is not trusted yet is proposed again. A name that one on record had is not
// given again: its lists and answers would be taken for the other's.
func AddRoot(ctx context.Context, in *installation.Installation, known Known, line, rootOut string, now time.Time) (made Added, err error) {
	if err := installation.CheckKeys(rootOut); err != nil {
		return made, err
	}
	next, err := draft(in, now)
	if err != nil {
		return made, err
	}
	if i := waiting(in, line, next); i != nil {
		made.Issuer, made.Root = i.Name, i.Root
		*installation.RootList(&next, line) = append(slices.Clone(installation.Roots(&next, line)), i.Root.Raw)
		made.Proposal, err = propose(in, next)
		return made, err
	}
	s, err := installation.ReadSuccession(in.Config)
	if err != nil {
		return made, err
	}
	taken, err := known.Issuers(ctx)
	if err != nil {
		return made, err
	}
	for made.Issuer = s.Next(line); slices.Contains(taken, made.Issuer); {
		made.Issuer = profile.Successor(made.Issuer)
	}
	f, err := found(in, made.Issuer, rootOut, now)
	if err != nil {
		return made, err
	}
	made.Root, made.RootKey = f.Root, installation.KeysIn(rootOut).Where(profile.RootOf(made.Issuer))
	s.Added = append(s.Added, installation.Successor{Name: made.Issuer, Certificate: certificateFile(made.Issuer), Key: issuerKeys(in).Of(made.Issuer)})
	if err := s.Write(in.Config); err != nil {
		return made, err
	}
	*installation.RootList(&next, line) = append(slices.Clone(installation.Roots(&next, line)), f.Root.Raw)
	var signers []crypto.Signer
	if line == profile.Infrastructure {
		signers = append(signers, f.RootSigner)
	}
	made.Proposal, err = propose(in, next, signers...)
	return made, err
}

// waiting is an issuer of a line that was made and that no bundle has listed yet; nil if
// there is none.
func waiting(in *installation.Installation, line string, next wire.Bundle) *installation.Issuer {
	for _, i := range in.Issuers {
		listed := trust.Lists(installation.Roots(&next, line), i.Root.Raw)
		if profile.LineOf(i.Name) == line && !listed && !in.Trust.Listed(i.Root.Raw) {
			return &i
		}
	}
	return nil
}

func certificateFile(issuer string) string { return filepath.Join("issuers", issuer+".pem") }

func issuerKeys(in *installation.Installation) installation.Keys {
	return installation.Keys{URI: in.Config.IssuerKeys, Dir: in.Config.Dir}
}

// found makes a root and its issuer and writes everything of them, keys first.
func found(in *installation.Installation, name, rootOut string, now time.Time) (ca.Founded, error) {
	if path, ok := in.Config.KeyFile(issuerKeys(in).Of(name)); ok {
		// A key that is left from an attempt that was cut off has certified nothing. One that is
		// elsewhere may be another installation's.
		if _, inside := in.Config.Inside(path); inside {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return ca.Founded{}, err
			}
		}
	}
	if err := durable.MkdirAll(filepath.Join(in.Config.Dir, "issuers"), 0o700); err != nil {
		return ca.Founded{}, err
	}
	root, rootKeys := profile.RootOf(name), installation.KeysIn(rootOut)
	founded, err := ca.Found(ca.Founding{Organisation: in.Config.Name, BaseURL: in.Config.Public.Status, Names: []string{name}, Now: now,
		Key: func(which string) (crypto.Signer, error) {
			if which == root {
				return rootKeys.Make(root)
			}
			return issuerKeys(in).Make(name)
		}})
	if errors.Is(err, fs.ErrExist) {
		err = installation.Hint(err, "name another folder with --root-out; a key that is left from an attempt that was cut off can be deleted")
	}
	if err != nil {
		return ca.Founded{}, err
	}
	f := founded[0]
	for path, contents := range map[string][]byte{
		filepath.Join(in.Config.Dir, certificateFile(name)): installation.CertificatesPEM(f.Certificate.Raw, f.Root.Raw),
		filepath.Join(in.Config.Trust.Roots, root+".crt"):   f.Root.Raw,
		filepath.Join(in.Config.Trust.Roots, root+".crl"):   f.RootCRL,
	} {
		if err := durable.ReplaceForOwner(path, contents, 0o600); err != nil {
			return ca.Founded{}, err
		}
	}
	return f, nil
}
