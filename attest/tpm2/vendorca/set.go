package vendorca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Set is the TPM makers' certificates that an operator imported, each of them a trust anchor: a
// root, or an intermediate whose root is unpublished or signs with SHA-1. It never changes its
// answers once made; the cache only saves work. A nil Set trusts nobody.
type Set struct {
	pool    *x509.CertPool
	anchors []*x509.Certificate
	issuers issuers
	name    string
}

// New makes a Set of DER certificates. The Set is usable even if err is not nil: err
// then lists the certificates that cannot be anchors and were left out.
func New(ders [][]byte) (*Set, error) {
	s := &Set{pool: x509.NewCertPool()}
	var errs []error
	for i, der := range ders {
		c, err := parse(der)
		if err == nil {
			err = authority(c)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("TPM maker's certificate %d: %w", i+1, err))
			continue
		}
		s.pool.AddCert(c)
		s.anchors = append(s.anchors, c)
	}
	s.name = nameOf(s.anchors)
	return s, errors.Join(errs...)
}

// nameOf is the same for the same certificates, in whatever order.
func nameOf(anchors []*x509.Certificate) string {
	var sums [][]byte
	for _, c := range anchors {
		sum := sha256.Sum256(c.Raw)
		sums = append(sums, sum[:])
	}
	slices.SortFunc(sums, bytes.Compare)
	all := sha256.Sum256(bytes.Join(sums, nil))
	return hex.EncodeToString(all[:8])
}

// Name tells a Set from one with other anchors; empty for nil.
func (s *Set) Name() string {
	if s == nil {
		return ""
	}
	return s.name
}

// Len is the number of anchors.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.anchors)
}

// authority says why a certificate cannot issue others (RFC 5280 §4.2.1.9, §4.2.1.3;
// a self-issued version 1 certificate counts as a root, as in crypto/x509).
func authority(c *x509.Certificate) error {
	switch {
	case c.Version < 3 && !bytes.Equal(c.RawSubject, c.RawIssuer), c.Version == 3 && !(c.BasicConstraintsValid && c.IsCA):
		return fmt.Errorf("%q is not a CA certificate", c.Subject)
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("the key of %q may not sign certificates", c.Subject)
	}
	return nil
}

// maxHelpers bounds how many CA certificates of one device are considered.
const maxHelpers = 8

// Verify says whether the certificate was issued under an anchor, with the help of CA
// certificates that the device sent, each element one or several. The error is one sentence for
// an operator that names the missing issuer and says what to do next. The caller checks the
// certificate itself (its dates, its purpose, its key).
func (s *Set) Verify(ek EK, sent [][]byte, now time.Time) error {
	if s.Len() > 0 && s.issuers.issued(ek.Certificate, sent, now) {
		return nil
	}
	helpers := parseHelpers(sent)
	if s.Len() > 0 {
		// Without helpers first: an anchor is nearly always the issuer, and x509 would
		// check the same signature twice on its way through an equal helper.
		options := under(s.pool, now)
		if _, err := ek.Certificate.Verify(options); err == nil {
			return nil
		}
		if len(helpers) > 0 {
			options.Intermediates = x509.NewCertPool()
			for _, h := range path(ek.Certificate, helpers) {
				options.Intermediates.AddCert(h)
			}
			if chains, err := ek.Certificate.Verify(options); err == nil {
				s.issuers.remember(chains[0])
				return nil
			}
		}
	}
	return s.explain(ek, helpers, now)
}

// path picks the helpers that lead upwards from c, one for each name, so that each helper's key
// is used once. crypto/x509 would try every certificate of the right name at every step, up to a
// hundred signatures, and the device chooses what it sends.
func path(c *x509.Certificate, helpers []*x509.Certificate) (up []*x509.Certificate) {
	for {
		if slices.ContainsFunc(up, func(u *x509.Certificate) bool { return bytes.Equal(u.RawSubject, c.RawIssuer) }) {
			return up // a loop, or a root: nothing new is above
		}
		i := slices.IndexFunc(helpers, func(h *x509.Certificate) bool {
			return bytes.Equal(h.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(h) == nil
		})
		if i < 0 {
			return up
		}
		c = helpers[i]
		up = append(up, c)
	}
}

func under(roots *x509.CertPool, now time.Time) x509.VerifyOptions {
	return x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
}

// unreasonable reports a key too weak to prove anything or so large that verifying with it
// invites abuse: the device chooses what it sends. Some makers' intermediates have P-521 keys,
// which take five times as long as P-384 to verify with; the operator imports those.
func unreasonable(c *x509.Certificate) bool {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() < 2048 || key.N.BitLen() > 4096
	case *ecdsa.PublicKey:
		return key.Curve.Params().BitSize > 384
	}
	return true
}

// explain follows issuer names upwards and says where the chain breaks.
func (s *Set) explain(ek EK, helpers []*x509.Certificate, now time.Time) error {
	c := ek.Certificate
	for range maxHelpers {
		if anchor := s.named(c.RawIssuer); anchor != nil {
			return explainBroken(c, anchor, now)
		}
		i := slices.IndexFunc(helpers, func(h *x509.Certificate) bool {
			return bytes.Equal(h.RawSubject, c.RawIssuer) && !bytes.Equal(h.Raw, c.Raw)
		})
		if i < 0 {
			break
		}
		if c = helpers[i]; now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return fmt.Errorf("the intermediate %q in the TPM is valid from %s to %s; check the server's clock, or ask the maker for a newer one",
				c.Subject, c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly))
		}
	}
	return fmt.Errorf("no certificate of the issuer %q is imported; get it from %s and run: hallmark vendorca import FILE", c.Issuer, ek.publisher())
}

func (s *Set) named(subject []byte) *x509.Certificate {
	if s == nil {
		return nil
	}
	for _, a := range s.anchors {
		if bytes.Equal(a.RawSubject, subject) {
			return a
		}
	}
	return nil
}

// explainBroken says why c, which names an imported anchor as its issuer, is not trusted.
func explainBroken(c, anchor *x509.Certificate, now time.Time) error {
	var insecure x509.InsecureAlgorithmError
	err := c.CheckSignatureFrom(anchor)
	switch {
	case errors.As(err, &insecure) && c.IsCA:
		return fmt.Errorf("%q is signed with %v, which proves nothing any more; if you trust that certificate itself, run: hallmark vendorca import FILE", c.Subject, c.SignatureAlgorithm)
	case errors.As(err, &insecure):
		return fmt.Errorf("the EK certificate is signed with %v, which proves nothing any more; register the EK in the lot's list instead", c.SignatureAlgorithm)
	case err != nil:
		return fmt.Errorf("the imported certificate of %q did not sign this certificate; if the maker has several of that name, import them all with: hallmark vendorca import FILE", c.Issuer)
	case now.After(anchor.NotAfter):
		return fmt.Errorf("the imported certificate of %q expired on %s; ask the maker for a newer one and run: hallmark vendorca import FILE", c.Issuer, anchor.NotAfter.Format(time.DateOnly))
	}
	return fmt.Errorf("the chain through the imported certificate of %q breaks X.509's rules; ask the maker for the certificates that belong to this TPM", c.Issuer)
}

// publisher says where the maker publishes its certificates, as far as we know.
func (e EK) publisher() string {
	if m := makers[e.Maker]; m.publishes != "" {
		return fmt.Sprintf("%s (%s)", m.name, m.publishes)
	}
	return "the TPM's maker (see docs/tpm-makers.md)"
}
