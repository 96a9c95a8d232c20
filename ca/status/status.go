// Package status tells relying parties which certificates are still good: CRLs (RFC 5280 §5), in
// shards, whole and as deltas, OCSP (RFC 6960, RFC 9919) and the CA certificates, over plain
// HTTP.
//
// Its promise: when Suspend, RevokePrincipal or PublishChange returns nil, everybody who asks sees
// the change, but for certificates of an issuer that was lost (Unsigned). The record is the truth; a
// CRL is a signed copy of one shard of it, and an OCSP answer is served only while it agrees
// with it. If the record cannot be read, the last CRLs are still served, and OCSP says "try
// later" rather than yesterday's "good".
package status

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status/ocsp"
	"github.com/hallmark-pki/hallmark/ca/status/reply"
	"github.com/hallmark-pki/hallmark/record"
)

// Times used throughout the package.
const (
	// crlLife is nextUpdate − thisUpdate: after an outage of more than a weekend relying parties
	// still have a valid list. It is below the 10 days that the CA/Browser Forum's baseline
	// requirements allow (4.9.7).
	crlLife = 7 * 24 * time.Hour
	// resignAfter is the age at which a CRL or a cached OCSP answer is signed again; an answer in
	// demand is signed ahead of that, so that nobody has to wait for it.
	resignAfter = time.Hour
	ahead       = 5 * time.Minute
	// backdate is how long before it is signed a CRL begins: for OpenSSL with a clock that is a
	// second slow, a list of now would not be valid yet, and nobody would get in. OCSP clients
	// have a tolerance of their own.
	backdate = 5 * time.Minute
	// ocspLife is nextUpdate − thisUpdate of an OCSP answer, for the same reason.
	ocspLife = crlLife
	// cacheFor is how long an HTTP cache may serve an answer without asking, and so what it may
	// add to the time between a revocation and its effect.
	cacheFor = time.Minute
	// LateAfter is the age of a CRL at which a server counts as unhealthy.
	LateAfter = 6 * time.Hour
	// askAgain is how long a CRL is served from memory before the record is asked
	// whether another replica has published a newer one.
	askAgain = 5 * time.Second
	// storeTimeout bounds one signing with its reads and its write, wholeTimeout that of a
	// list over an issuer.
	storeTimeout = 30 * time.Second
	wholeTimeout = 2 * time.Minute
)

// Store is what the package needs of the record.
type Store interface {
	record.Revocations
	record.Changes
}

// Config is what a Service is made of. All but Roots and Log is required.
type Config struct {
	Store Store
	// Issuers are the issuers whose certificates have their status served here.
	Issuers []Issuer
	// Roots certify the issuers; their keys are offline, so their CRLs are made at founding.
	Roots []Root
	// Responder returns the OCSP responder's certificate, issued by issuer, and its key (ECDSA
	// P-256). It is called for every answer that is signed, so it may rotate them.
	Responder func(ctx context.Context, issuer string) (*x509.Certificate, crypto.Signer, error)
	// BaseURL is the http URL in front of /crl, /ocsp and /ca in certificates.
	BaseURL string
	Now     func() time.Time
	// Log receives failures, which are retried; nil discards them.
	Log *slog.Logger
}

// Issuer is an issuing CA with its key. Certificate needs cRLSign and a subject key identifier,
// and Signer must be its key.
type Issuer struct {
	Name        string
	Certificate *x509.Certificate
	Signer      crypto.Signer
}

// Root is a root certificate and the CRL over its issuers that it signed (DER).
type Root struct {
	Name        string
	Certificate *x509.Certificate
	CRL         []byte
}

// Service publishes status. Its methods may be called concurrently.
type Service struct {
	store     Store
	responder func(context.Context, string) (*x509.Certificate, crypto.Signer, error)
	base      string
	now       func() time.Time
	log       *slog.Logger

	issuers      map[string]*issuer
	byHash       map[string]*issuer     // OCSP: hash, name hash and key hash, concatenated
	rootLists    map[record.Shard]*list // never change
	certificates map[string][]byte      // DER by file name, issuers and roots
	answers      answers
	files        sync.Map      // the results of file, by name
	wake         chan struct{} // tells Run that a publication failed
	published    chan struct{} // tells the feed that one succeeded

	mu     sync.Mutex
	shards map[record.Shard]*shard
}

type issuer struct {
	Issuer
	root   *list // of the issuer's root, if that is among Roots
	whole  whole
	mu     sync.Mutex
	opened map[int64]bool // shards that have a list, as of asked
	asked  time.Time
}

// New checks that keys, certificates and root CRLs belong together. It signs nothing;
// Run does.
func New(c Config) (*Service, error) {
	base, err := profile.BaseURL(c.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	if c.Store == nil || c.Responder == nil || c.Now == nil || len(c.Issuers) == 0 {
		return nil, errors.New("status: store, issuers, responder and clock are all needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		store: c.Store, responder: c.Responder, base: base, now: c.Now, log: c.Log,
		issuers: map[string]*issuer{}, byHash: map[string]*issuer{},
		rootLists: map[record.Shard]*list{}, certificates: map[string][]byte{},
		wake: make(chan struct{}, 1), published: make(chan struct{}, 1), shards: map[record.Shard]*shard{},
	}
	for _, i := range c.Issuers {
		if err := s.addIssuer(i); err != nil {
			return nil, fmt.Errorf("status: issuer %q: %w", i.Name, err)
		}
	}
	for _, r := range c.Roots {
		if err := s.addRoot(r); err != nil {
			return nil, fmt.Errorf("status: root %q: %w", r.Name, err)
		}
	}
	return s, nil
}

func (s *Service) addIssuer(i Issuer) error {
	if err := s.addCertificate(i.Name, i.Certificate); err != nil {
		return err
	}
	key, ok := i.Certificate.PublicKey.(*ecdsa.PublicKey)
	if !ok || i.Signer == nil || !key.Equal(i.Signer.Public()) {
		return errors.New("the key is not the certificate's ECDSA key")
	}
	if i.Certificate.KeyUsage&x509.KeyUsageCRLSign == 0 || len(i.Certificate.SubjectKeyId) == 0 {
		return errors.New("the certificate lacks cRLSign or a subject key identifier (RFC 5280 §4.2.1.2, §4.2.1.3)")
	}
	added := &issuer{Issuer: i}
	s.issuers[i.Name] = added
	for _, hash := range ocsp.Hashes {
		name, key, err := ocsp.IssuerHashes(i.Certificate, hash)
		if err != nil {
			return err
		}
		s.byHash[issuerKey(hash, name, key)] = added
	}
	return nil
}

func (s *Service) addRoot(r Root) error {
	if err := s.addCertificate(r.Name, r.Certificate); err != nil {
		return err
	}
	crl, err := x509.ParseRevocationList(r.CRL)
	if err != nil {
		return fmt.Errorf("its CRL: %w", err)
	}
	if err := crl.CheckSignatureFrom(r.Certificate); err != nil {
		return fmt.Errorf("its CRL: %w", err)
	}
	l := newList(record.CRL{DER: r.CRL, ThisUpdate: crl.ThisUpdate, NextUpdate: crl.NextUpdate}, nil)
	s.rootLists[record.Shard{Issuer: r.Name}] = l
	for _, i := range s.issuers {
		if bytes.Equal(i.Certificate.RawIssuer, r.Certificate.RawSubject) {
			i.root = l
		}
	}
	return nil
}

func (s *Service) addCertificate(name string, c *x509.Certificate) error {
	file := name + ".crt"
	switch {
	case name == "" || name != url.PathEscape(name):
		return errors.New("the name does not fit into a URL")
	case c == nil:
		return errors.New("no certificate")
	case s.certificates[file] != nil:
		return errors.New("the name is taken")
	}
	s.certificates[file] = c.Raw
	return nil
}

func issuerKey(hash crypto.Hash, name, key []byte) string {
	return strconv.Itoa(int(hash)) + string(name) + string(key)
}

// Age is the age of the oldest CRL being served, 0 if there is none: how far behind a relying
// party may be. It does not count shards that have not been asked for since the start nor reached
// by Run.
func (s *Service) Age() (oldest time.Duration) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shards {
		if l := sh.newest.Load(); l != nil {
			oldest = max(oldest, now.Sub(l.ThisUpdate))
		}
	}
	return oldest
}

// Published receives a value after each publication: changes before it may be announced.
func (s *Service) Published() <-chan struct{} { return s.published }

// Shows is the number of the last change (record.Changes) in the shard's list as served here; 0
// if there is no list yet.
func (s *Service) Shows(name record.Shard) int64 {
	s.mu.Lock()
	sh := s.shards[name]
	s.mu.Unlock()
	if sh != nil {
		if l := sh.newest.Load(); l != nil {
			return l.Shows
		}
	}
	return 0
}

// list is a CRL as it is served.
type list struct {
	record.CRL
	reply.Body
}

func newList(crl record.CRL, before *list) *list {
	l := &list{CRL: crl, Body: reply.New(crl.DER, crl.ThisUpdate)}
	if before != nil && before.ThisUpdate.Equal(crl.ThisUpdate) {
		l.Modified = time.Time{}
	}
	return l
}
