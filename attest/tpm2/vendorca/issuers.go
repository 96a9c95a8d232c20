package vendorca

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"sync"
	"time"
)

// issuers caches the intermediates that were found to issue EK certificates under an anchor:
// thousands of chips bring the same one, and its own signature need not be verified each time. A
// device must still send it, so that the verdict never depends on which devices came before.
type issuers struct {
	lock  sync.RWMutex
	known map[[sha256.Size]byte]issuer // by the certificate's DER
}

// issuer is an intermediate that has been verified up to an anchor.
type issuer struct {
	itself *x509.CertPool
	// from and to bound the time in which every certificate from here up to the anchor is valid.
	from, to time.Time
}

// maxIssuers is far above the 150 or so intermediates that all makers publish. Some chips
// (Intel's) bring one of their own, so the cache may fill up, and then starts again.
const maxIssuers = 512

// issued reports whether c was issued by an intermediate that was sent, is cached, and now has a
// valid path to its anchor.
func (s *issuers) issued(c *x509.Certificate, sent [][]byte, now time.Time) bool {
	n := 0
	for der := range certificates(sent) {
		if n++; n > maxHelpers {
			break
		}
		s.lock.RLock()
		i, ok := s.known[sha256.Sum256(der)]
		s.lock.RUnlock()
		if !ok || now.Before(i.from) || now.After(i.to) {
			continue
		}
		if _, err := c.Verify(under(i.itself, now)); err == nil {
			return true
		}
	}
	return false
}

// remember caches the issuer of a verified chain: certificate, issuer, …, anchor.
func (s *issuers) remember(chain []*x509.Certificate) {
	if slices.ContainsFunc(chain[1:], constrains) {
		return
	}
	i := issuer{x509.NewCertPool(), chain[1].NotBefore, chain[1].NotAfter}
	i.itself.AddCert(chain[1])
	for _, c := range chain[2:] {
		if c.NotBefore.After(i.from) {
			i.from = c.NotBefore
		}
		if c.NotAfter.Before(i.to) {
			i.to = c.NotAfter
		}
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.known == nil || len(s.known) >= maxIssuers {
		s.known = map[[sha256.Size]byte]issuer{}
	}
	s.known[sha256.Sum256(chain[1].Raw)] = i
}

// constrains reports whether a CA certificate restricts those below it by more than a path length
// (RFC 5280 §6.1.4): then each of them must be verified along the whole path.
func constrains(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(x pkix.Extension) bool {
		return slices.ContainsFunc(constraints, x.Id.Equal)
	})
}

// nameConstraints, policyMappings, policyConstraints, inhibitAnyPolicy (RFC 5280 §4.2.1).
var constraints = []asn1.ObjectIdentifier{{2, 5, 29, 30}, {2, 5, 29, 33}, {2, 5, 29, 36}, {2, 5, 29, 54}}
