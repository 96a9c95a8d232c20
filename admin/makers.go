package admin

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/makers"
)

func (s *Service) authorities(ctx context.Context, _ *gate.Call) (any, error) {
	all, err := s.Store.Authorities(ctx)
	return view.List(all, "", s.showAuthority), err
}

func (s *Service) importAuthorities(ctx context.Context, c *gate.Call) (any, error) {
	var in makers.NewAuthorities
	if err := c.Read(&in); err != nil {
		return nil, err
	}
	if n := len(in.Certificates); n < 1 || n > wire.MaxAuthorities {
		return nil, gate.Invalid("", "1 to %d certificates at a time", wire.MaxAuthorities)
	}
	known, err := s.fingerprints(ctx)
	if err != nil {
		return nil, err
	}
	var rows []record.Authority
	var out []makers.Authority
	var added []string // fingerprints
	for i, der := range in.Certificates {
		certificates, skipped := s.ReadAuthorities(der)
		if len(certificates) != 1 || skipped != 0 || len(certificates[0].Raw) != len(der) {
			return nil, gate.Invalid("", "certificate %d is not a CA certificate", i+1)
		}
		sum := sha256.Sum256(der)
		row := record.Authority{Fingerprint: hex.EncodeToString(sum[:]), DER: der, Added: c.Now, AddedBy: c.Caller.Name}
		shown := authorityOf(row, certificates[0])
		if shown.New = !known[row.Fingerprint]; shown.New {
			added = append(added, row.Fingerprint)
		}
		known[row.Fingerprint] = true
		rows, out = append(rows, row), append(out, shown)
	}
	// Each is a root of trust: the audit names every new one.
	e := c.Event("vendorca.imported", strings.Join(added, " "))
	e.Detail["count"] = strconv.Itoa(len(added))
	if _, err := s.Store.AddAuthorities(ctx, rows, e); err != nil {
		return nil, err
	}
	s.Changed()
	return wire.List[makers.Authority]{Items: out}, nil
}

func (s *Service) fingerprints(ctx context.Context) (map[string]bool, error) {
	all, err := s.Store.Authorities(ctx)
	known := make(map[string]bool, len(all))
	for _, a := range all {
		known[a.Fingerprint] = true
	}
	return known, err
}

// shortest is how many digits of a fingerprint name a certificate at least.
const shortest = 8

func (s *Service) removeAuthority(ctx context.Context, c *gate.Call) (any, error) {
	prefix := strings.ToLower(strings.ReplaceAll(c.Request.PathValue("fingerprint"), ":", ""))
	if len(prefix) < shortest {
		return nil, gate.Invalid("", "at least %d digits of the fingerprint", shortest)
	}
	all, err := s.Store.Authorities(ctx)
	if err != nil {
		return nil, err
	}
	var found []record.Authority
	for _, a := range all {
		if strings.HasPrefix(a.Fingerprint, prefix) {
			found = append(found, a)
		}
	}
	switch len(found) {
	case 0:
		return nil, gate.Refuse(http.StatusNotFound, wire.CodeNotFound, "hallmark vendorca list shows those there are", "no imported certificate has a fingerprint that begins with %q", prefix)
	case 1:
	default:
		return nil, gate.Refuse(http.StatusConflict, wire.CodeAmbiguous, "write more of it", "%d fingerprints begin with %q", len(found), prefix)
	}
	shown := s.showAuthority(found[0])
	e := c.Event("vendorca.removed", found[0].Fingerprint)
	e.Detail["subject"] = shown.Subject
	if err := s.Store.RemoveAuthority(ctx, found[0].Fingerprint, e); err != nil {
		return nil, err
	}
	s.Changed()
	return shown, nil
}

// showAuthority shows a recorded certificate; one that can no longer be read is shown
// by its fingerprint alone, so that it can be removed.
func (s *Service) showAuthority(a record.Authority) makers.Authority {
	if certificates, _ := s.ReadAuthorities(a.DER); len(certificates) == 1 {
		return authorityOf(a, certificates[0])
	}
	return authorityOf(a, &x509.Certificate{})
}

func authorityOf(a record.Authority, c *x509.Certificate) makers.Authority {
	return makers.Authority{Fingerprint: a.Fingerprint, Subject: c.Subject.String(), Issuer: c.Issuer.String(),
		NotAfter: c.NotAfter, Added: a.Added, AddedBy: a.AddedBy}
}
