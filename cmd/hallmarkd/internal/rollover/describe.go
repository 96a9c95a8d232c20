package rollover

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
)

// Description is the bundle in use, and what is proposed.
type Description struct {
	Number int64 `json:"number"`
	// SHA256 is that of the bundle, by which keyholders tell it from another of its number.
	SHA256    string    `json:"sha256"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	Roots     []Root    `json:"roots"`
	Servers   []string  `json:"servers"`
	NonceMode bool      `json:"nonce_mode,omitempty"`
	// TimeKeys, Signers and SignedBy are fingerprints. Without Signers any one of the
	// infrastructure roots signs the next bundle.
	TimeKeys  []string `json:"time_keys"`
	Signers   []string `json:"signers,omitempty"`
	Threshold int      `json:"threshold,omitempty"`
	SignedBy  []string `json:"signed_by"`
	// First is the number of the oldest bundle that is kept: a device that has one before
	// it cannot follow.
	First    int64             `json:"first"`
	Proposal *ProposedRollover `json:"proposal,omitempty"`
}

// Root is one root that devices are told of.
type Root struct {
	Line        string    `json:"line"`
	Fingerprint string    `json:"fingerprint"`
	Subject     string    `json:"subject"`
	NotAfter    time.Time `json:"not_after"`
	// Issuer is the CA under it here, InUse whether that is the one that issues.
	Issuer string `json:"issuer,omitempty"`
	InUse  bool   `json:"in_use"`
}

// ProposedRollover is a proposal in words.
type ProposedRollover struct {
	Number int64 `json:"number"`
	// After is the SHA-256 of the bundle that the proposal says is in use: Changes are true
	// if it is. Listing is all that the proposed bundle lists, whatever is in use.
	After   string   `json:"after"`
	Changes []string `json:"changes"`
	Listing []string `json:"listing"`
	// Missing are the signatures that it lacks; none if it can be published.
	Missing []string `json:"missing"`
}

// Describe describes an installation's trust bundle.
func Describe(in *installation.Installation) (Description, error) {
	b := in.Trust.Bundle()
	newest, _ := in.Trust.Newest()
	d := Description{Number: b.Number, SHA256: fingerprint(newest.Bundle), Name: b.Name, Created: b.Created, Servers: b.Servers, NonceMode: b.NonceMode, Threshold: b.Threshold,
		SignedBy: in.Trust.SignedBy(), First: in.Trust.First()}
	for _, line := range profile.Issuers() {
		for _, der := range installation.Roots(&b, line) {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return d, err
			}
			root := Root{Line: line, Fingerprint: fingerprint(der), Subject: c.Subject.CommonName, NotAfter: c.NotAfter}
			if i := slices.IndexFunc(in.Issuers, func(i installation.Issuer) bool { return bytes.Equal(i.Root.Raw, der) }); i >= 0 {
				root.Issuer, root.InUse = in.Issuers[i].Name, in.Issuer(line).Name == in.Issuers[i].Name
			}
			d.Roots = append(d.Roots, root)
		}
	}
	for _, der := range b.TimeKeys {
		d.TimeKeys = append(d.TimeKeys, fingerprint(der))
	}
	for _, der := range b.Signers {
		d.Signers = append(d.Signers, fingerprint(der))
	}
	p, err := Pending(in)
	if err == nil {
		proposed := DescribeProposal(p)
		d.Proposal = &proposed
	} else if !errors.Is(err, ErrNoProposal) {
		return d, err
	}
	return d, nil
}

// DescribeProposal describes a proposal.
func DescribeProposal(p *trust.Proposal) ProposedRollover {
	_, next := p.Bundles()
	d := ProposedRollover{Number: next.Number, After: fingerprint(p.Base.Bundle), Listing: p.Listing(), Missing: p.Missing()}
	for _, c := range p.Changes() {
		d.Changes = append(d.Changes, c.String())
	}
	return d
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// String is for people.
func (d Description) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Trust bundle %d of %s, made %s\n  sha256          %s\n", d.Number, d.Name, d.Created.Format(time.RFC3339), d.SHA256)
	for _, r := range d.Roots {
		use := "does not issue"
		if r.InUse {
			use = "issues"
		}
		fmt.Fprintf(&b, "  %-15s %s  %s, until %s; %s %s\n", r.Line, r.Fingerprint[:16], r.Subject, r.NotAfter.Format(time.DateOnly), r.Issuer, use)
	}
	for _, key := range d.TimeKeys {
		fmt.Fprintf(&b, "  time key        %s\n", key[:16])
	}
	for _, server := range d.Servers {
		fmt.Fprintf(&b, "  server          %s\n", server)
	}
	if d.NonceMode {
		b.WriteString("  a proxy ends TLS: bindings use a server nonce\n")
	}
	for _, key := range d.Signers {
		fmt.Fprintf(&b, "  signer          %s\n", key[:16])
	}
	if d.Threshold > 0 {
		fmt.Fprintf(&b, "  %d of %d signers sign the next\n", d.Threshold, len(d.Signers))
	} else {
		b.WriteString("  an infrastructure root signs the next\n")
	}
	fmt.Fprintf(&b, "  bundles from %d on are kept for devices that slept\n", d.First)
	if d.Proposal != nil {
		b.WriteString("\n" + d.Proposal.String())
	}
	return b.String()
}

// String is for people.
func (p ProposedRollover) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Proposed as trust bundle %d. If bundle %d, the one in use, has SHA-256 %s, this changes:\n", p.Number, p.Number-1, p.After)
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "  %s\n", c)
	}
	b.WriteString("Whoever signs it signs all of this:\n")
	for _, line := range p.Listing {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	if len(p.Missing) == 0 {
		b.WriteString("Enough keys have signed it.\n")
	} else {
		fmt.Fprintf(&b, "Signatures are missing:\n  %s\n", strings.Join(p.Missing, "\n  "))
	}
	return b.String()
}

// String is for people.
func (r Retiring) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is behind %s.\n", r.Root.Subject.CommonName, strings.Join(r.Issuers, ", "))
	if r.Returning > 0 {
		fmt.Fprintf(&b, "Devices with certificates under it, which get others by themselves when they next ask: %d.\n", r.Returning)
	}
	if len(r.Stranded) == 0 {
		b.WriteString("Nobody on record is stranded without it.\n\n")
		return b.String()
	}
	fmt.Fprintf(&b, "%d on record are stranded without it:\n", len(r.Stranded))
	for _, name := range r.Stranded {
		fmt.Fprintf(&b, "  %s\n", name)
	}
	b.WriteString("\n")
	return b.String()
}
