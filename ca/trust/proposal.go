package trust

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// Proposal is a bundle that is being signed: the bundle that it is to follow, and the signatures
// that it has so far. It is passed around among the holders of keys, who see what it changes.
type Proposal struct {
	// Base is the bundle in use, Next the one that shall follow it.
	Base wire.SignedBundle `json:"base"`
	Next wire.SignedBundle `json:"next"`

	base, next wire.Bundle
}

// Propose makes an unsigned proposal for the bundle that follows base. It sets the number of
// next.
func Propose(base wire.SignedBundle, next wire.Bundle) (*Proposal, error) {
	b, err := wire.ReadBundle(base)
	if err != nil {
		return nil, err
	}
	if next.Number = b.Number + 1; next.Number > wire.MaxSteps {
		return nil, fmt.Errorf("devices follow %d bundles and no more", wire.MaxSteps)
	}
	if next.Created.Before(b.Created) {
		return nil, fmt.Errorf("this machine's clock is behind: trust bundle %d was made at %s", b.Number, b.Created)
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	text, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	if len(text) > wire.MaxBundle {
		return nil, fmt.Errorf("the bundle has %d bytes, devices take %d", len(text), wire.MaxBundle)
	}
	return &Proposal{Base: base, Next: wire.SignedBundle{Bundle: text}, base: b, next: next}, nil
}

// MaxProposal bounds a proposal's file: two bundles with their signatures, in base64.
const MaxProposal = 3 * wire.MaxMessage

// ReadProposal parses what Write wrote, and trusts none of its signatures.
func ReadProposal(text []byte) (*Proposal, error) {
	if len(text) > MaxProposal {
		return nil, wire.ErrTooLarge
	}
	p := new(Proposal)
	err := wire.DecodeBytes(text, p)
	if err == nil {
		p.base, err = wire.ReadBundle(p.Base)
	}
	if err == nil {
		err = wire.DecodeBytes(p.Next.Bundle, &p.next)
	}
	if err == nil {
		err = p.next.Validate()
	}
	if err == nil && p.next.Number != p.base.Number+1 {
		err = fmt.Errorf("bundle %d does not follow %d", p.next.Number, p.base.Number)
	}
	if err != nil {
		return nil, fmt.Errorf("this is not a proposal for a trust bundle: %w", err)
	}
	return p, nil
}

// Write returns the proposal's file.
func (p *Proposal) Write() ([]byte, error) {
	text, err := json.MarshalIndent(p, "", "  ")
	return append(text, '\n'), err
}

// Bundles are the contents of Base and Next.
func (p *Proposal) Bundles() (base, next wire.Bundle) { return p.base, p.next }

// Key is a key whose signature counts for a proposal.
type Key struct {
	// Name identifies its signatures (wire.BundleSignature.Signer), Public is the key.
	Name   string
	Public crypto.PublicKey
	// Root is set for an infrastructure root.
	Root *x509.Certificate
}

// keysOf are the keys that sign for a bundle: its signers or, if it has none, its roots.
func keysOf(b wire.Bundle) (all []Key) {
	if len(b.Signers) == 0 {
		return rootsOf(b)
	}
	for _, der := range b.Signers {
		if key, err := x509.ParsePKIXPublicKey(der); err == nil {
			all = append(all, Key{fingerprint(der), key, nil})
		}
	}
	return all
}

func rootsOf(b wire.Bundle) (all []Key) {
	for _, der := range b.Infrastructure {
		if root, err := x509.ParseCertificate(der); err == nil {
			all = append(all, Key{fingerprint(der), root.PublicKey, root})
		}
	}
	return all
}

// ahead is how far a proposal's time may be ahead of the signer's clock.
const ahead = 24 * time.Hour

// Timely refuses a proposal made after now: devices that follow it would never again accept an
// earlier time, and so no certificate.
func (p *Proposal) Timely(now time.Time) error {
	if p.next.Created.After(now.Add(ahead)) {
		return fmt.Errorf("the proposal says that it was made at %s, and it is %s: devices would take every certificate for one that has ended; propose again, with the right clock",
			p.next.Created.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return nil
}

// Sign adds the signatures that a key can give: as one of the keys that sign for either bundle,
// and as an infrastructure root of the next. It returns in which roles it signed.
func (p *Proposal) Sign(signer crypto.Signer, now time.Time) (as []Key, err error) {
	if err := p.Timely(now); err != nil {
		return nil, err
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, errors.New("this is not a key that signs trust bundles")
	}
	digest := wire.BundleDigest(p.Next.Bundle)
	for _, key := range slices.Concat(keysOf(p.base), keysOf(p.next), rootsOf(p.next)) {
		if !public.Equal(key.Public) || slices.ContainsFunc(as, func(k Key) bool { return k.Name == key.Name }) {
			continue
		}
		signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return nil, err
		}
		p.Next.Signatures = slices.DeleteFunc(p.Next.Signatures, func(s wire.BundleSignature) bool { return s.Signer == key.Name })
		p.Next.Signatures = append(p.Next.Signatures, wire.BundleSignature{Signer: key.Name, Signature: signature})
		as = append(as, key)
	}
	if len(as) == 0 {
		return nil, fmt.Errorf("this key has no say in trust bundle %d: neither it nor bundle %d names it", p.next.Number, p.base.Number)
	}
	return as, nil
}

// Merge adds the signatures of another copy of the same proposal, and drops those of either that
// do not verify.
func (p *Proposal) Merge(other *Proposal) error {
	if !bytes.Equal(p.Next.Bundle, other.Next.Bundle) {
		return errors.New("the proposals are not the same: one was changed after it had been signed")
	}
	p.Next.Signatures = append(p.Next.Signatures, other.Next.Signatures...)
	p.Next.Signatures = p.good()
	return nil
}

// Missing lists the signatures that a proposal lacks, a line each; none if it can be published.
func (p *Proposal) Missing() (lines []string) {
	for _, b := range []wire.Bundle{p.base, p.next} {
		signed, want := p.Next.Signed(b)
		if signed >= want {
			continue
		}
		what := "keys"
		if len(b.Signers) == 0 {
			what = "infrastructure roots"
		}
		lines = append(lines, fmt.Sprintf("%d of the %s that bundle %d names must sign, %d did; not yet: %s", want, what, b.Number, signed, names(p.silent(keysOf(b)))))
	}
	// A new device that pins the new root begins with the bundle that this root signed.
	var fresh []Key
	for _, root := range rootsOf(p.next) {
		if !Lists(p.base.Infrastructure, root.Root.Raw) {
			fresh = append(fresh, root)
		}
	}
	for _, root := range p.silent(fresh) {
		lines = append(lines, fmt.Sprintf("the new infrastructure root must sign: %s", names([]Key{root})))
	}
	return lines
}

// silent are the keys that have not signed.
func (p *Proposal) silent(keys []Key) []Key {
	return slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return p.signedBy(k) })
}

func (p *Proposal) signedBy(k Key) bool {
	alone := wire.SignedBundle{Bundle: p.Next.Bundle}
	for _, s := range p.Next.Signatures {
		if s.Signer == k.Name {
			alone.Signatures = append(alone.Signatures, s)
		}
	}
	if k.Root != nil {
		n, _ := alone.Signed(wire.Bundle{Infrastructure: [][]byte{k.Root.Raw}})
		return n == 1
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	n, _ := alone.Signed(wire.Bundle{Signers: [][]byte{der}})
	return err == nil && n == 1
}

func names(keys []Key) string {
	var all []string
	for _, k := range keys {
		all = append(all, k.String())
	}
	return strings.Join(all, ", ")
}

// String is the beginning of the fingerprint and, of a root, its subject.
func (k Key) String() string {
	if k.Root == nil {
		return k.Name[:16]
	}
	return fmt.Sprintf("%s (%s)", k.Name[:16], plain.Line(k.Root.Subject.CommonName))
}

// Signed is the bundle that devices follow; an error if signatures are missing.
func (p *Proposal) Signed() (wire.SignedBundle, error) {
	if lines := p.Missing(); len(lines) > 0 {
		return wire.SignedBundle{}, errors.New(lines[0])
	}
	signed := wire.SignedBundle{Bundle: p.Next.Bundle, Signatures: p.good()}
	_, err := p.base.Follow(signed)
	return signed, err
}

// good are the signatures that verify, one for each key.
func (p *Proposal) good() (good []wire.BundleSignature) {
	for _, k := range slices.Concat(keysOf(p.base), keysOf(p.next), rootsOf(p.next)) {
		for _, s := range p.Next.Signatures {
			one := Proposal{Next: wire.SignedBundle{Bundle: p.Next.Bundle, Signatures: []wire.BundleSignature{s}}}
			if s.Signer == k.Name && one.signedBy(k) && !slices.ContainsFunc(good, func(t wire.BundleSignature) bool { return t.Signer == s.Signer }) {
				good = append(good, s)
			}
		}
	}
	return good
}

// Change is one thing that a bundle adds or removes.
type Change struct {
	// What is "operational root", "signer", …; Name says which, and Gone that it is removed.
	What, Name string
	Gone       bool
}

// String is the change in words.
func (c Change) String() string {
	if c.Gone {
		return "no more: " + c.What + " " + c.Name
	}
	return "new: " + c.What + " " + c.Name
}

// Changes lists what the proposal changes.
func (p *Proposal) Changes() (all []Change) {
	compare := func(what string, before, after [][]byte, name func([]byte) string) {
		for _, one := range after {
			if !Lists(before, one) {
				all = append(all, Change{what, name(one), false})
			}
		}
		for _, one := range before {
			if !Lists(after, one) {
				all = append(all, Change{what, name(one), true})
			}
		}
	}
	b, n := p.base, p.next
	compare("infrastructure root", b.Infrastructure, n.Infrastructure, NameOf)
	compare("operational root", b.Operational, n.Operational, NameOf)
	compare("manufacturing root", b.Manufacturing, n.Manufacturing, NameOf)
	compare("time key", b.TimeKeys, n.TimeKeys, NameOf)
	compare("signer", b.Signers, n.Signers, NameOf)
	verbatim := func(text []byte) string { return plain.Line(string(text)) }
	compare("server", texts(b.Servers), texts(n.Servers), verbatim)
	compare("name", [][]byte{[]byte(b.Name)}, [][]byte{[]byte(n.Name)}, verbatim)
	value := func(v any) [][]byte {
		if text := fmt.Append(nil, v); len(text) > 0 && string(text) != "0" {
			return [][]byte{text}
		}
		return nil // a bundle without signers has no threshold
	}
	compare("threshold", value(b.Threshold), value(n.Threshold), verbatim)
	compare("nonce mode", value(b.NonceMode), value(n.NonceMode), verbatim)
	return all
}

// Listing is the whole content of the proposed bundle, a line each. Unlike Changes it does not
// depend on the base that the proposal claims, which devices need not have.
func (p *Proposal) Listing() (lines []string) {
	for _, c := range (&Proposal{next: p.next}).Changes() {
		if !c.Gone {
			lines = append(lines, c.What+" "+c.Name)
		}
	}
	return append(lines, "made at "+p.next.Created.Format(time.RFC3339)+": no device believes in an earlier time")
}

func texts(all []string) (out [][]byte) {
	for _, s := range all {
		out = append(out, []byte(s))
	}
	return out
}

// NameOf identifies a root (a certificate) or key (SubjectPublicKeyInfo) to people: the SHA-256
// of its DER and, of a root, its common name.
func NameOf(der []byte) string {
	sum := sha256.Sum256(der)
	if root, err := x509.ParseCertificate(der); err == nil {
		return fmt.Sprintf("%x (%s)", sum, plain.Line(root.Subject.CommonName))
	}
	return fmt.Sprintf("%x", sum)
}
