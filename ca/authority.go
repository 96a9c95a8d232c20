package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// DefaultShardCapacity is how many certificates share one CRL, unless configured otherwise: even
// with all of them revoked it stays under 1 MiB, the smallest limit known among gateways.
const DefaultShardCapacity = 16384

// shardBlock is how many places of a shard are reserved at a time. At most that many are lost in
// a restart, and only one issuance in that many needs a further transaction.
const shardBlock = 256

// CAS signs certificates (ca/cas). prepared is the template as for crypto/x509, and
// prepared.RawTBSCertificate exactly what must be signed. The result is DER, whose signature the
// CAS need not verify.
type CAS interface {
	Sign(prepared *x509.Certificate) ([]byte, error)
}

// Issuer is one issuing CA.
type Issuer struct {
	// Name is its name in URLs and in the record (profile.LineOf).
	Name string
	// Certificate is its certificate, Root that of the root that signed it.
	Certificate, Root *x509.Certificate
	// CAS signs with its key.
	CAS CAS
}

// Config is what an Authority is made of.
type Config struct {
	Store record.Issuance
	// Issuers are all issuers whose certificates are in use; the first of each line issues.
	Issuers []Issuer
	// BaseURL is where CRLs, OCSP and CA certificates are served: "http://HOST:PORT".
	BaseURL string
	// Organisation is the maker's name in every subject.
	Organisation string
	// ShardCapacity is the most certificates that share a CRL; 0 means DefaultShardCapacity.
	ShardCapacity int64
	// Now is the clock.
	Now func() time.Time
}

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	store        record.Issuance
	issuers      map[string]*issuer
	inUse        map[string]*issuer // by line
	lints        *linter
	baseURL      string
	organisation string
	capacity     int64
	now          func() time.Time

	mu   sync.Mutex
	busy map[identity]chan struct{} // closed when it is no longer busy
}

// issuer is an Issuer with what issuing needs.
type issuer struct {
	Issuer
	chain    [][]byte // DER, without the root
	specimen []byte   // a signature by a throw-away key

	mu    sync.Mutex
	shard int64
	left  int64 // places in shard that are reserved and not used
}

// New checks a configuration and makes an Authority. Call Recover before the first Issue.
func New(c Config) (*Authority, error) {
	base, err := profile.BaseURL(c.BaseURL)
	if err != nil {
		return nil, err
	}
	if err := profile.CheckOrganisation(c.Organisation); err != nil {
		return nil, err
	}
	if c.Store == nil || c.Now == nil || len(c.Issuers) == 0 || c.ShardCapacity < 0 {
		return nil, errors.New("a CA needs a record, a clock, issuers and a shard capacity that is not negative")
	}
	lints, err := newLinter()
	if err != nil {
		return nil, err
	}
	a := &Authority{
		store: c.Store, issuers: map[string]*issuer{}, inUse: map[string]*issuer{}, lints: lints, baseURL: base,
		organisation: c.Organisation, capacity: c.ShardCapacity, now: c.Now, busy: map[identity]chan struct{}{},
	}
	if a.capacity == 0 {
		a.capacity = DefaultShardCapacity
	}
	for _, i := range c.Issuers {
		if a.issuers[i.Name] != nil {
			return nil, fmt.Errorf("issuer %q is configured twice", i.Name)
		}
		if a.issuers[i.Name], err = newIssuer(i); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", i.Name, err)
		}
		if line := profile.LineOf(i.Name); a.inUse[line] == nil {
			a.inUse[line] = a.issuers[i.Name]
		}
	}
	return a, nil
}

func newIssuer(i Issuer) (*issuer, error) {
	if profile.LineOf(i.Name) == "" {
		return nil, fmt.Errorf("the name must be one of %v, or one with -2, -3, … behind it", profile.Issuers())
	}
	if i.Certificate == nil || i.Root == nil || i.CAS == nil {
		return nil, errors.New("it needs a certificate, its root's and a signer")
	}
	if err := profile.CheckSignature(i.Certificate, i.Root); err != nil {
		return nil, fmt.Errorf("the certificate is not its root's: %w", err)
	}
	if len(i.Certificate.SubjectKeyId) == 0 || i.Certificate.KeyUsage&x509.KeyUsageCertSign == 0 || !i.Certificate.IsCA {
		return nil, errors.New("the certificate is not that of a CA")
	}
	specimen, err := specimenSignature(i.Certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	return &issuer{Issuer: i, chain: [][]byte{i.Certificate.Raw}, specimen: specimen}, nil
}

// Issuers lists the configured issuers' names, sorted.
func (a *Authority) Issuers() []string { return slices.Sorted(maps.Keys(a.issuers)) }

// place takes one place in the issuer's open CRL shard.
func (i *issuer) place(ctx context.Context, store record.Issuance, capacity int64) (int64, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.left == 0 {
		// A restart must not waste the whole of a small shard, as in tests.
		want := max(1, min(shardBlock, capacity/16))
		shard, given, err := store.ReserveShard(ctx, i.Name, want, capacity)
		if err != nil {
			return 0, fmt.Errorf("reserve a place in a CRL shard: %w", err)
		}
		if given < 1 {
			return 0, errors.New("the record gave no place in a CRL shard")
		}
		i.shard, i.left = shard, given
	}
	i.left--
	return i.shard, nil
}

// giveBack returns an unused place.
func (i *issuer) giveBack(shard int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.shard == shard {
		i.left++
	}
}
