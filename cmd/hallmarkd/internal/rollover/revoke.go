package rollover

import (
	"context"
	"crypto"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/record"
)

// RevokeIssuer has the root of an issuer, whose key signer holds, name it on its CRL, and
// gives the root's name. An issuer that is in use is refused.
func RevokeIssuer(ctx context.Context, in *installation.Installation, note Noter, name string, signer crypto.Signer, reason int, now time.Time) (root string, err error) {
	at := slices.IndexFunc(in.Issuers, func(i installation.Issuer) bool { return i.Name == name })
	if at < 0 {
		return "", installation.Hint(fmt.Errorf("there is no issuer %q", name), "hallmarkd trust show lists them")
	}
	line := profile.LineOf(name)
	if in.Issuer(line).Name == name {
		return "", installation.Hint(fmt.Errorf("%s issues: every certificate of its line would be refused, and none could take its place", name),
			"put its successor to use first: hallmarkd trust add-root %s, publish, activate", line)
	}
	root = profile.RootOf(name)
	list, err := ca.RevokeIssuer(in.Roots[at].CRL, in.Issuers[at].Root, in.Issuers[at].Certificate, signer, reason, now)
	if err != nil {
		return "", fmt.Errorf("%s: %w", root, err)
	}
	if err := durable.Replace(filepath.Join(in.Config.Trust.Roots, root+".crl"), list, 0o600); err != nil {
		return "", err
	}
	return root, note.Note(ctx, record.Event{Time: now, Actor: "host", Verb: "issuer.listed", Object: name, Detail: map[string]string{"root": root}})
}
