package provisioner

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"

	"github.com/hallmark-pki/hallmark/ca/profile"
)

// memory is a cache of profile.Pins.Recognise, so that a returning device costs no verification.
// It never changes an answer: it holds the SHA-256 of a whole certificate, signature included,
// and which of the pinned issuers signed it.
type memory struct {
	pins profile.Pins
	mu   sync.Mutex
	met  map[[sha256.Size]byte]string // issuer's name
}

// maxMet bounds the cache to a few MiB; when full it is emptied.
const maxMet = 1 << 16

// newMemory makes a cache for a fixed set of issuers.
func newMemory(p profile.Pins) *memory { return &memory{pins: p, met: map[[sha256.Size]byte]string{}} }

// recognise is profile.Pins.Recognise.
func (m *memory) recognise(c *x509.Certificate) (issuer string, kind profile.Kind, ok bool) {
	m.mu.Lock()
	issuer, ok = m.met[sha256.Sum256(c.Raw)]
	m.mu.Unlock()
	if ok {
		kind, _ = profile.Of(c)
		return issuer, kind, true
	}
	if issuer, kind, ok = m.pins.Recognise(c); ok {
		m.remember(c, issuer)
	}
	return issuer, kind, ok
}

// remember caches that issuer signed c, which the caller must have verified, as the CA does when
// it issues.
func (m *memory) remember(c *x509.Certificate, issuer string) {
	if m.pins[issuer] == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.met) >= maxMet {
		clear(m.met)
	}
	m.met[sha256.Sum256(c.Raw)] = issuer
}
