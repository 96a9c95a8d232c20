package rollover

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/record"
)

// RevokeIssuer has the root of an issuer, whose key signer holds, name it on its CRL, and
// gives the root's name. An issuer that is in use is refused.
func RevokeIssuer(ctx context.Context, in *installation.Installation, note Teller, name string, signer crypto.Signer, reason int, now time.Time) (root string, err error) {
	at, err := revocable(in, name)
	if err != nil {
		return "", err
	}
	root = profile.RootOf(name)
	untold, err := listedUntold(ctx, in, note, at)
	if err != nil {
		return "", err
	}
	if slices.Contains(untold, name) { // it was cut off
		return root, note.Note(ctx, listed(name, root, now))
	}
	list, err := ca.RevokeIssuer(in.Roots[at].CRL, in.Issuers[at].Root, in.Issuers[at].Certificate, signer, reason, now)
	if err != nil {
		return "", fmt.Errorf("%s: %w", root, err)
	}
	if err := replaceList(in, root, list); err != nil {
		return "", err
	}
	return root, note.Note(ctx, listed(name, root, now))
}

// UnsignedRevocation is the list that RevokeIssuer would have signed
// (ca.UnsignedRevocation). Nothing changes.
func UnsignedRevocation(in *installation.Installation, name string, reason int, now time.Time) (*x509.RevocationList, error) {
	at, err := revocable(in, name)
	if err != nil {
		return nil, err
	}
	list, err := ca.UnsignedRevocation(in.Roots[at].CRL, in.Issuers[at].Root, in.Issuers[at].Certificate, reason, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", profile.RootOf(name), err)
	}
	return list, nil
}

// Imported is what a list that was signed elsewhere says.
type Imported struct {
	Root string
	List *x509.RevocationList
	// Named are the issuers that it names and the one before did not.
	Named []string
}

// ImportList puts a root's CRL (PEM or DER) that was signed elsewhere in the place of the
// one in use, if it may follow it (ca.ReadRootCRL) and names no issuer that is in use.
func ImportList(ctx context.Context, in *installation.Installation, note Teller, text []byte, now time.Time) (done Imported, err error) {
	given, at, err := signerOf(in, text)
	if err != nil {
		return done, err
	}
	done.Root = in.Roots[at].Name
	if done.Named, err = listedUntold(ctx, in, note, at); err != nil {
		return done, err
	}
	told, err := importIsTold(ctx, note, done.Root, given.Number.String())
	if err != nil {
		return done, err
	}
	if done.List = given; told || !bytes.Equal(given.Raw, in.Roots[at].CRL) { // else it was cut off
		if err := takeList(in, at, text, &done, now); err != nil {
			return done, err
		}
	}
	events := []record.Event{{Time: now, Actor: "host", Verb: record.VerbImported, Object: done.Root,
		Detail: map[string]string{"number": done.List.Number.String(), "until": done.List.NextUpdate.UTC().Format(time.RFC3339)}}}
	for _, name := range done.Named {
		events = append(events, listed(name, done.Root, now))
	}
	return done, note.Note(ctx, events...)
}

// takeList puts a list in its place, and adds to done.Named whom it names for the first time.
func takeList(in *installation.Installation, at int, text []byte, done *Imported, now time.Time) (err error) {
	if done.List, err = ca.ReadRootCRL(text, in.Roots[at].CRL, in.Roots[at].Certificate, now); err != nil {
		return installation.Hint(fmt.Errorf("%s: %w", done.Root, err), "hallmarkd issuer revoke ISSUER --unsigned FILE makes what may be signed")
	}
	before, err := x509.ParseRevocationList(in.Roots[at].CRL)
	if err != nil {
		return err
	}
	was := namedBy(in, at, before)
	for _, name := range namedBy(in, at, done.List) {
		if slices.Contains(was, name) {
			continue
		}
		if _, err := revocable(in, name); err != nil {
			return err
		}
		done.Named = append(done.Named, name)
	}
	return replaceList(in, done.Root, done.List.Raw)
}

// namedBy lists the issuers that a root's list names.
func namedBy(in *installation.Installation, at int, list *x509.RevocationList) (names []string) {
	for _, i := range in.Issuers {
		if _, named := ca.Listed(list, i.Certificate); named && bytes.Equal(i.Root.Raw, in.Roots[at].Certificate.Raw) {
			names = append(names, i.Name)
		}
	}
	return names
}

// listedUntold lists the issuers that a root's list in use names and the audit does not.
func listedUntold(ctx context.Context, in *installation.Installation, by Teller, at int) (names []string, err error) {
	list, err := x509.ParseRevocationList(in.Roots[at].CRL)
	if err != nil {
		return nil, err
	}
	for _, name := range namedBy(in, at, list) {
		if told, err := listedIsTold(ctx, by, name); err != nil {
			return nil, err
		} else if !told {
			names = append(names, name)
		}
	}
	return names, nil
}

// signerOf reads a list and finds the root that has signed it.
func signerOf(in *installation.Installation, text []byte) (list *x509.RevocationList, at int, err error) {
	if list, err = ca.ParseRootCRL(text); err != nil {
		return nil, -1, err
	}
	at = slices.IndexFunc(in.Roots, func(r status.Root) bool {
		return bytes.Equal(r.Certificate.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(r.Certificate) == nil
	})
	if at < 0 {
		return nil, -1, fmt.Errorf("no root of this installation has signed the list, whose issuer is %s", list.Issuer)
	}
	return list, at, nil
}

// revocable finds an issuer, unless it is in use.
func revocable(in *installation.Installation, name string) (at int, err error) {
	if at, err = in.Find(name); err != nil {
		return at, err
	}
	line := profile.LineOf(name)
	if in.Issuer(line).Name == name {
		return at, installation.Hint(fmt.Errorf("%s issues: every certificate of its line would be refused, and none could take its place", name),
			"put its successor to use first: hallmarkd trust add-root %s, publish, activate", line)
	}
	return at, nil
}

func replaceList(in *installation.Installation, root string, list []byte) error {
	return durable.ReplaceForOwner(filepath.Join(in.Config.Trust.Roots, root+".crl"), list, 0o600)
}

// listed is the event of an issuer that its root's list names from now on.
func listed(name, root string, now time.Time) record.Event {
	return record.Event{Time: now, Actor: "host", Verb: record.VerbListed, Object: name, Detail: map[string]string{"root": root}}
}
