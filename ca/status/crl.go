package status

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status/crl"
	"github.com/hallmark-pki/hallmark/record"
)

// ErrUnpublished: the change is on record and OCSP shows it, but a CRL could not be signed or
// stored. Run keeps trying.
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

// signers is how many lists are signed at a time: while one waits for the disk others use the
// processor, and their writes share a commit.
const signers = 8

// Publish signs and stores the shards' CRLs and returns when they are being served. They contain
// everything recorded before the call. Concurrent calls for one shard share a signing. A failure
// of one shard does not stop the others; Run repairs it later. Shards of an issuer that is not here
// are left out (Unsigned): whoever waited for their lists would wait for ever.
func (s *Service) Publish(ctx context.Context, shards ...record.Shard) error {
	var all sync.WaitGroup
	places, failed := make(chan struct{}, signers), make([]error, len(shards))
	done := map[record.Shard]bool{}
	for n, name := range shards {
		if done[name] || !s.Signs(name.Issuer) {
			continue
		}
		done[name] = true
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			sh, err := s.shard(name)
			if err == nil {
				err = s.publish(ctx, sh)
			}
			failed[n] = err
		})
	}
	all.Wait()
	select {
	case s.published <- struct{}{}:
	default:
	}
	return errors.Join(failed...)
}

// shard returns the state of a shard of one of our issuers. Callers must know that the record has
// the shard, so that strangers cannot fill the map.
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

// publish returns when a signing that started after the call has succeeded: its own, or that of
// another caller that held the lock before it.
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

// signShard signs and stores one list. If the record holds a greater number than memory (after a
// start, or from another replica), it reads that and exceeds it.
func (s *Service) signShard(ctx context.Context, sh *shard) error {
	const attempts = 3
	var err error
	for range attempts {
		if sh.newest.Load() == nil || errors.Is(err, record.ErrConflict) {
			if err = s.load(ctx, sh); err != nil {
				return err
			}
		}
		var signed record.CRL
		if signed, err = s.sign(ctx, sh); err != nil {
			return err
		}
		if err = s.store.PublishCRL(ctx, signed); err == nil {
			l := newList(signed, sh.newest.Load())
			sh.newest.Store(l)
			sh.asked.Store(s.now().UnixNano())
			l.Compress() // now, so that no request waits for it
			return nil
		}
		if !errors.Is(err, record.ErrConflict) {
			return err
		}
	}
	return err
}

// load reads the record's newest list into memory if it is newer. That there is none is not an
// error.
func (s *Service) load(ctx context.Context, sh *shard) error {
	stored, err := s.store.NewestCRL(ctx, sh.Shard)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return err
	}
	sh.asked.Store(s.now().UnixNano())
	if err != nil {
		return nil
	}
	for {
		held := sh.newest.Load()
		if held != nil && held.Sequence >= stored.Sequence {
			return nil
		}
		if sh.newest.CompareAndSwap(held, newList(stored, held)) {
			return nil
		}
	}
}

// sign makes the next list of a shard. The shard's lock is held until the list is stored, so that
// of two lists of one process the one with the greater number has all changes of the other.
// Processes that sign the same shard need a lease between them.
func (s *Service) sign(ctx context.Context, sh *shard) (record.CRL, error) {
	now := s.now()
	var before int64
	if held := sh.newest.Load(); held != nil {
		before = held.Sequence
	}
	// An entry stays for the life of a list after its certificate expired, so that it appears in
	// a list signed after that (RFC 5280 §3.3), even after days of downtime.
	revoked, shows, err := s.store.RevokedIn(ctx, sh.Shard, now, crlLife)
	if err != nil {
		return record.CRL{}, err
	}
	l := crl.List{Point: profile.CRLURL(s.base, sh.Issuer, sh.Number), Entries: make([]crl.Entry, len(revoked))}
	for n, r := range revoked {
		l.Entries[n] = crl.Entry(r)
	}
	return s.issuers[sh.Issuer].signList(l, record.CRL{Shard: sh.Shard, Shows: shows}, before, now)
}

// signList sets a list's number and dates, signs it and checks the result. It may change l.Entries.
func (i *issuer) signList(l crl.List, c record.CRL, before int64, now time.Time) (record.CRL, error) {
	// The time exceeds all numbers that were lost in a restore from a backup.
	c.Sequence = max(now.UnixMilli(), before+1)
	c.ThisUpdate = now.UTC().Truncate(time.Second)
	c.NextUpdate = c.ThisUpdate.Add(crlLife)
	l.Number, l.ThisUpdate, l.NextUpdate = c.Sequence, c.ThisUpdate.Add(-backdate), c.NextUpdate
	for n, e := range l.Entries {
		if e.Since.After(l.ThisUpdate) { // a list knows of nothing after its thisUpdate (RFC 5280 §5.1.2.4)
			l.Entries[n].Since = l.ThisUpdate
		}
	}
	var err error
	if c.DER, err = l.Sign(i.Certificate, i.Signer); err != nil {
		return record.CRL{}, err
	}
	return c, i.check(c.DER, len(l.Entries))
}

// check verifies the finished list with code that did not write it: what a key service signed
// wrongly must not replace a good list.
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
