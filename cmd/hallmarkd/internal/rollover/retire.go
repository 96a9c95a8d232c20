package rollover

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Retiring is a root that is to be trusted no more.
type Retiring struct {
	Line string            `json:"line"`
	Root *x509.Certificate `json:"-"`
	// Issuers are the names of those that it certified.
	Issuers []string `json:"issuers"`
	// Stranded are the devices, operators and relays on record that would be refused and
	// could not help themselves.
	Stranded []string `json:"stranded"`
	// Returning counts the devices that would be refused with a certificate that they hold
	// and get another by themselves when they next ask for one.
	Returning int `json:"returning"`
}

// Retire says whom it would strand to trust a root no more. The root is named by its
// issuer or by the beginning of its fingerprint.
func Retire(ctx context.Context, in *installation.Installation, store record.Inventory, name string, now time.Time) (Retiring, error) {
	b := in.Trust.Bundle()
	r, err := retiring(in, &b, name)
	if err != nil {
		return r, err
	}
	for _, line := range profile.Issuers() {
		if used := in.Issuer(line); bytes.Equal(used.Root.Raw, r.Root.Raw) {
			return r, installation.Hint(fmt.Errorf("%s issues under this root", used.Name), "put another issuer to use first: hallmarkd trust activate --help")
		}
	}
	switch r.Line {
	case profile.Operational:
		err = r.refused(ctx, store, profile.LDevID, in, now)
	case profile.Manufacturing:
		err = r.refused(ctx, store, profile.IDevID, in, now)
	default:
		err = r.lockedOut(ctx, store)
	}
	return r, err
}

// Propose proposes to trust the root no more.
func (r Retiring) Propose(in *installation.Installation, now time.Time) (*trust.Proposal, error) {
	next, err := draft(in, now)
	if err != nil {
		return nil, err
	}
	list := installation.RootList(&next, r.Line)
	*list = slices.DeleteFunc(slices.Clone(*list), func(der []byte) bool { return bytes.Equal(der, r.Root.Raw) })
	return propose(in, next)
}

func retiring(in *installation.Installation, b *wire.Bundle, name string) (r Retiring, err error) {
	for _, line := range profile.Issuers() {
		at, err := find(installation.Roots(b, line), name)
		if err != nil {
			return r, err
		}
		for i, der := range installation.Roots(b, line) {
			issued := slices.ContainsFunc(in.Issuers, func(one installation.Issuer) bool { return one.Name == name && bytes.Equal(one.Root.Raw, der) })
			if i == at || issued {
				r.Line = line
				if r.Root, err = x509.ParseCertificate(der); err != nil {
					return r, err
				}
			}
		}
	}
	if r.Root == nil {
		return r, installation.Hint(fmt.Errorf("trust bundle %d lists no root %q", b.Number, name), "hallmarkd trust show lists roots, by issuer and fingerprint")
	}
	for _, i := range in.Issuers {
		if bytes.Equal(i.Root.Raw, r.Root.Raw) {
			r.Issuers = append(r.Issuers, i.Name)
		}
	}
	return r, nil
}

// good selects certificates of a profile that count.
func good(kind profile.Kind) *record.Selector {
	return &record.Selector{Op: record.OpAnd, Args: []*record.Selector{
		{Op: record.OpEqual, Field: "profile", Value: string(kind)},
		{Op: record.OpEqual, Field: "status", Value: "good"},
	}}
}

// newest gives, by device or operator, the newest certificate of a profile that counts.
func newest(ctx context.Context, store record.Inventory, kind profile.Kind) (map[string]record.Certificate, error) {
	all := map[string]record.Certificate{}
	for cursor := ""; ; {
		page, next, err := store.Certificates(ctx, good(kind), record.Page{Limit: 1000, After: cursor})
		if err != nil {
			return nil, err
		}
		for _, c := range page {
			holder := c.Device + c.Principal
			if _, newer := all[holder]; !newer {
				all[holder] = c
			}
		}
		if cursor = next; cursor == "" {
			return all, nil
		}
	}
}

// refused counts the devices whose newest certificate the root is behind. A working
// certificate is got again by the IDevID; an IDevID by whom a TPM's maker or a list
// vouches for, by any TPM while its working certificate is in force, and by others only if
// an administrator grants it (provisioner/decide).
func (r *Retiring) refused(ctx context.Context, store record.Inventory, kind profile.Kind, in *installation.Installation, now time.Time) error {
	held, err := newest(ctx, store, kind)
	if err != nil {
		return err
	}
	births, err := newest(ctx, store, profile.IDevID)
	if err != nil {
		return err
	}
	for id, c := range held {
		if !slices.Contains(r.Issuers, c.Issuer) {
			continue
		}
		d, err := store.Device(ctx, id)
		if err != nil {
			return err
		}
		birth, born := births[id]
		counts := born && !slices.Contains(r.Issuers, birth.Issuer) && in.Pins(profile.Manufacturing)[birth.Issuer] != nil
		inForce := kind == profile.IDevID && d.Assurance.Hardware && now.Before(d.Expires)
		if d.Assurance.Certified || d.Assurance.Registered || counts || inForce {
			r.Returning++
		} else {
			r.Stranded = append(r.Stranded, d.Name())
		}
	}
	slices.Sort(r.Stranded)
	return nil
}

// lockedOut finds operators and relays whose certificates the root is behind. Devices
// follow the bundles.
func (r *Retiring) lockedOut(ctx context.Context, store record.Inventory) error {
	for _, kind := range []profile.Kind{profile.Operator, profile.Relay} {
		held, err := newest(ctx, store, kind)
		if err != nil {
			return err
		}
		for name, c := range held {
			if slices.Contains(r.Issuers, c.Issuer) {
				r.Stranded = append(r.Stranded, string(kind)+":"+name)
			}
		}
	}
	slices.Sort(r.Stranded)
	return nil
}
