package status

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// ErrUnpublished: the change stands in the record and OCSP shows it, but a CRL could
// not be signed or stored. Run goes on trying.
var ErrUnpublished = errors.New("recorded, and shown by OCSP, but the CRL could not be published yet; it is being tried again")

// shard is one CRL of one issuer.
type shard struct {
	record.Shard
	newest atomic.Pointer[list]
	// asked is when the record was last asked for the newest list (Unix nanoseconds).
	asked atomic.Int64
	// behind: something changed since the newest list was signed.
	behind atomic.Bool
	// started counts signings; one that starts after a change was recorded shows it.
	started atomic.Int64

	mu        sync.Mutex // held while signing
	succeeded int64      // the number of the last signing that succeeded
}

// Publish signs and stores the shards' CRLs anew and returns when they are being
// served. Whatever was recorded before the call is in them. Many calls at once for one
// shard share a signing. A failure of one shard does not keep back the others; Run
// repairs it later.
func (s *Service) Publish(ctx context.Context, shards ...record.Shard) error {
	var failed error
	done := map[record.Shard]bool{}
	for _, name := range shards {
		if done[name] {
			continue
		}
		done[name] = true
		sh, err := s.shard(name)
		if err == nil {
			err = s.publish(ctx, sh)
		}
		failed = errors.Join(failed, err)
	}
	select {
	case s.published <- struct{}{}:
	default:
	}
	return failed
}

// shard gives the state of a shard of one of our issuers. Callers have made sure that
// the record has such a shard, so that strangers cannot fill the map.
func (s *Service) shard(name record.Shard) (*shard, error) {
	if s.issuers[name.Issuer] == nil {
		return nil, fmt.Errorf("status: CRL of %q: not an issuer here", name.Issuer)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shards[name]
	if sh == nil {
		sh = &shard{Shard: name}
		s.shards[name] = sh
	}
	return sh, nil
}

// publish returns when a signing that started after the call has succeeded: its own,
// or that of another caller that waited at the same door.
func (s *Service) publish(ctx context.Context, sh *shard) error {
	sh.behind.Store(true)
	before := sh.started.Load()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.succeeded > before {
		return nil
	}
	number := sh.started.Add(1)
	sh.behind.Store(false) // a change from now on sets it again
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := s.signShard(ctx, sh); err != nil {
		sh.behind.Store(true)
		select {
		case s.wake <- struct{}{}:
		default:
		}
		return fmt.Errorf("status: CRL %s/%d: %w", sh.Issuer, sh.Number, err)
	}
	sh.succeeded = number
	return nil
}

// signShard signs and stores one list. If the record holds a newer number than the one
// in memory (after a start, or from another replica) it is read and passed.
func (s *Service) signShard(ctx context.Context, sh *shard) error {
	const attempts = 3
	var err error
	for range attempts {
		if sh.newest.Load() == nil || errors.Is(err, record.ErrConflict) {
			if err = s.load(ctx, sh); err != nil {
				return err
			}
		}
		var crl record.CRL
		if crl, err = s.sign(ctx, sh); err != nil {
			return err
		}
		if err = s.store.PublishCRL(ctx, crl); err == nil {
			sh.newest.Store(newList(crl, sh.newest.Load()))
			sh.asked.Store(s.now().UnixNano())
			return nil
		}
		if !errors.Is(err, record.ErrConflict) {
			return err
		}
	}
	return err
}

// load brings the record's newest list into memory if it is newer; none is no error.
func (s *Service) load(ctx context.Context, sh *shard) error {
	crl, err := s.store.NewestCRL(ctx, sh.Shard)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return err
	}
	sh.asked.Store(s.now().UnixNano())
	if err != nil {
		return nil
	}
	for {
		held := sh.newest.Load()
		if held != nil && held.Sequence >= crl.Sequence {
			return nil
		}
		if sh.newest.CompareAndSwap(held, newList(crl, held)) {
			return nil
		}
	}
}

// sign makes the next list of a shard. The shard's lock is held from here until the
// list is stored: of two lists of one process, the one with the greater number knows at
// least as much. Processes that sign the same shard need a lease between them.
func (s *Service) sign(ctx context.Context, sh *shard) (record.CRL, error) {
	now := s.now()
	number := now.UnixMilli() // after a restore from a backup, greater than what was lost
	if held := sh.newest.Load(); held != nil {
		number = max(number, held.Sequence+1)
	}
	// An entry stays for a list's whole life after its certificate expired, so that it
	// appears in a list signed after that (RFC 5280 §3.3), even if we are down for days.
	revoked, shows, err := s.store.RevokedIn(ctx, sh.Shard, now, crlLife)
	if err != nil {
		return record.CRL{}, err
	}
	crl := record.CRL{Shard: sh.Shard, Sequence: number, Shows: shows,
		ThisUpdate: now.UTC().Truncate(time.Second)}
	crl.NextUpdate = crl.ThisUpdate.Add(crlLife)
	crl.DER, err = s.issuers[sh.Issuer].signCRL(crl, revoked, profile.CRLURL(s.base, sh.Issuer, sh.Number))
	return crl, err
}

func (i *issuer) signCRL(crl record.CRL, revoked []record.Revoked, uri string) ([]byte, error) {
	entries := make([]x509.RevocationListEntry, len(revoked))
	for n, r := range revoked {
		serial, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("the record holds the serial number %q", r.Serial)
		}
		// ReasonCode 0 is left out by crypto/x509, as RFC 5280 §5.3.1 wants it.
		entries[n] = x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.Since, ReasonCode: r.Reason}
	}
	point, err := issuingDistributionPoint(uri)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(crl.Sequence), ThisUpdate: crl.ThisUpdate, NextUpdate: crl.NextUpdate,
		RevokedCertificateEntries: entries, ExtraExtensions: []pkix.Extension{point},
	}, i.Certificate, i.Signer)
	if err != nil {
		return nil, err
	}
	return der, i.check(der, len(entries))
}

// check looks at the finished list once more: a key service that signs with another
// key, or garbage, must not replace a good list.
func (i *issuer) check(der []byte, entries int) error {
	parsed, err := x509.ParseRevocationList(der)
	if err != nil {
		return fmt.Errorf("the signed list: %w", err)
	}
	if err := parsed.CheckSignatureFrom(i.Certificate); err != nil {
		return fmt.Errorf("the signed list: %w", err)
	}
	if len(parsed.RevokedCertificateEntries) != entries {
		return fmt.Errorf("the signed list has %d entries, want %d", len(parsed.RevokedCertificateEntries), entries)
	}
	return nil
}

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// issuingDistributionPoint is critical (RFC 5280 §5.2.5): without it one shard would
// pass for the whole list. It names the shard by the URI that its certificates carry
// and covers end-entity certificates alone, the only kind that our issuers sign.
func issuingDistributionPoint(uri string) (pkix.Extension, error) {
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // distributionPoint
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // fullName
				b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(uri)) })
			})
		})
		b.AddASN1(cbasn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddUint8(0xff) }) // onlyContainsUserCerts
	})
	value, err := b.Bytes()
	return pkix.Extension{Id: oidIssuingDistributionPoint, Critical: true, Value: value}, err
}
