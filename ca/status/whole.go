package status

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status/crl"
	"github.com/hallmark-pki/hallmark/ca/status/reply"
	"github.com/hallmark-pki/hallmark/record"
)

// Two lists cover all certificates of an issuer, whatever their shard, for relying parties that
// cannot follow shards: the complete one, and the delta to it (RFC 5280 §5.2.4). They grow with
// what is revoked, so they are signed when somebody asks and something has changed, not with
// every change; and between two signings there is a pause of nine times the duration of the
// first, at most a second.

// kind is one of the two. The record keeps the newest number of both under complete, and the base
// of deltas under basis, as shard numbers that no shard has. The lists themselves are not stored:
// they can be signed at any time.
type kind int64

const (
	complete kind = -1
	basis    kind = -2
	delta    kind = -3
)

// maxDelta is how many changes a delta holds. With more, a new base is made.
const maxDelta = 10_000

// whole holds the lists over an issuer.
type whole struct {
	complete, delta atomic.Pointer[list]

	mu     sync.Mutex       // held while one is signed; concurrent requests share the result
	ready  <-chan time.Time // when the next may be; nil for at once
	loaded bool             // number and bases were read from the record
	number int64            // the last that was given: both kinds share a sequence (RFC 5280 §5.2.3)
	// bases are complete lists, one a day, without their DER. Deltas are relative to the first,
	// so that a holder of any unexpired complete list can use them.
	bases []record.CRL
}

// wholeList returns a list over an issuer that contains everything on record.
func (s *Service) wholeList(ctx context.Context, i *issuer, k kind) (*list, error) {
	kept, sign := &i.whole.complete, s.signComplete
	if k == delta {
		kept, sign = &i.whole.delta, s.signDelta
	}
	last, err := s.store.LastChange(ctx)
	if l := kept.Load(); err == nil && !l.holds(last, s.now()) {
		err = s.inTurn(ctx, i, func(ctx context.Context) error {
			if kept.Load().holds(last, s.now()) {
				return nil // a concurrent request has done it
			}
			return sign(ctx, i)
		})
	}
	l := kept.Load()
	if err != nil && l != nil {
		s.log.Warn("a list cannot be signed; the last one is served", "issuer", i.Name, "error", err)
		err = nil
	}
	return l, err
}

// holds reports whether a list may still be served.
func (l *list) holds(last int64, now time.Time) bool {
	return l != nil && l.Shows >= last && !now.Before(l.ThisUpdate) && now.Before(l.ThisUpdate.Add(resignAfter))
}

// inTurn signs one list at a time, with pauses, even if ctx is cancelled: others are waiting.
func (s *Service) inTurn(ctx context.Context, i *issuer, sign func(context.Context) error) error {
	w := &i.whole
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ready != nil {
		<-w.ready
		w.ready = nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wholeTimeout)
	defer cancel()
	begun := s.now()
	defer func() { w.ready = time.After(min(9*s.now().Sub(begun), time.Second)) }()
	if !w.loaded {
		if err := s.loadNumbers(ctx, i); err != nil {
			return err
		}
	}
	err := sign(ctx)
	if errors.Is(err, record.ErrConflict) { // another replica was faster
		if err = s.loadNumbers(ctx, i); err == nil {
			err = sign(ctx)
		}
	}
	return err
}

func (s *Service) loadNumbers(ctx context.Context, i *issuer) error {
	w := &i.whole
	for _, k := range []kind{complete, basis} {
		stored, err := s.store.NewestCRL(ctx, record.Shard{Issuer: i.Name, Number: int64(k)})
		switch {
		case errors.Is(err, record.ErrNotFound):
		case err != nil:
			return err
		case k == complete:
			w.number = max(w.number, stored.Sequence)
		default: // no unexpired list of any replica is older
			newer := slices.DeleteFunc(slices.Clone(w.bases), func(b record.CRL) bool { return b.Sequence <= stored.Sequence })
			w.bases = append([]record.CRL{stored}, newer...)
		}
	}
	w.loaded = true
	return nil
}

func (s *Service) signComplete(ctx context.Context, i *issuer) error {
	now := s.now()
	l := crl.List{Freshest: profile.DeltaURL(s.base, i.Name)}
	shows, err := s.store.Denied(ctx, i.Name, now.Add(-crlLife), func(r record.Revoked) { l.Entries = append(l.Entries, crl.Entry(r)) })
	if err != nil {
		return err
	}
	signed, err := s.signWhole(ctx, i, l, shows, now)
	if err != nil {
		return err
	}
	if err := s.remember(ctx, i, signed, now); err != nil {
		return err
	}
	i.whole.complete.Store(newList(signed, i.whole.complete.Load()))
	return nil
}

// signWhole makes the next list in an issuer's sequence. Its number is recorded before the list
// is served.
func (s *Service) signWhole(ctx context.Context, i *issuer, l crl.List, shows int64, now time.Time) (record.CRL, error) {
	signed, err := i.signList(l, record.CRL{Shows: shows}, i.whole.number, now)
	if err != nil {
		return signed, err
	}
	if err := s.store.PublishCRL(ctx, numbered(signed, i, complete)); err != nil {
		return signed, err
	}
	i.whole.number = signed.Sequence
	return signed, nil
}

// numbered is what the record keeps of such a list.
func numbered(c record.CRL, i *issuer, k kind) record.CRL {
	c.Shard, c.DER = record.Shard{Issuer: i.Name, Number: int64(k)}, []byte{}
	return c
}

// remember keeps one complete list a day as a base, and drops the bases that nobody needs: once
// the second has expired, every unexpired list is newer than the first.
func (s *Service) remember(ctx context.Context, i *issuer, c record.CRL, now time.Time) error {
	bases := i.whole.bases
	if n := len(bases); n == 0 || c.ThisUpdate.Sub(bases[n-1].ThisUpdate).Abs() >= 24*time.Hour {
		bases = append(slices.Clip(bases), numbered(c, i, basis))
	}
	for len(bases) > 1 && now.After(bases[1].NextUpdate) {
		bases = bases[1:]
	}
	if len(i.whole.bases) == 0 || bases[0].Sequence != i.whole.bases[0].Sequence {
		if err := s.store.PublishCRL(ctx, bases[0]); err != nil {
			return err
		}
	}
	i.whole.bases = bases
	return nil
}

func (s *Service) signDelta(ctx context.Context, i *issuer) error {
	w := &i.whole
	if len(w.bases) == 0 {
		if err := s.signComplete(ctx, i); err != nil {
			return err
		}
	}
	now := s.now()
	entries, shows, err := s.since(ctx, i, w.bases[0].Shows, now)
	if errors.Is(err, errTooMany) {
		w.bases = nil
		if err := s.signComplete(ctx, i); err != nil {
			return err
		}
		entries, shows, err = s.since(ctx, i, w.bases[0].Shows, now)
	}
	if err != nil {
		return err
	}
	signed, err := s.signWhole(ctx, i, crl.List{Base: w.bases[0].Sequence, Entries: entries}, shows, now)
	if err != nil {
		return err
	}
	w.delta.Store(newList(signed, w.delta.Load()))
	return nil
}

var errTooMany = errors.New("too much has changed for a delta")

// since lists what changed after a change: what is now revoked or on hold, and what is good
// again, as removeFromCRL (RFC 5280 §5.3.1), whether or not the base contains it.
func (s *Service) since(ctx context.Context, i *issuer, after int64, now time.Time) (entries []crl.Entry, shows int64, err error) {
	shows, err = s.store.LastChange(ctx) // read first: later changes may be missed
	if err != nil {
		return nil, 0, err
	}
	changes, err := s.store.Changes(ctx, after, maxDelta)
	if err == nil && len(changes) == maxDelta {
		err = errTooMany
	}
	for _, c := range changes {
		if c.Issuer != i.Name || c.NotAfter.Before(now.Add(-crlLife)) {
			continue
		}
		e := crl.Entry{Serial: c.Serial, Since: c.Revoked, Reason: c.Reason}
		if c.Revoked.IsZero() {
			e.Since, e.Reason = now, crl.ReasonRemoved
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b crl.Entry) int { return strings.Compare(a.Serial, b.Serial) })
	return entries, shows, err
}

// file is all that a relying party with OpenSSL needs, which fetches no lists itself: those of an
// issuer and of its root. As they cover all shards, a device is not refused because its
// certificate is the first of a new shard.
type file struct {
	of []*list
	*list
}

// relyingParties is the file over all issuers of working certificates: whoever fetches it every
// minute has the next CA's list when that begins to issue.
const relyingParties = "relying-parties"

func (s *Service) file(ctx context.Context, name string) (*list, error) {
	var lists []*list
	for _, issuer := range slices.Sorted(maps.Keys(s.issuers)) {
		if issuer != name && (name != relyingParties || profile.LineOf(issuer) != profile.Operational) {
			continue
		}
		l, err := s.wholeList(ctx, s.issuers[issuer], complete)
		if err != nil {
			return nil, err
		}
		lists = append(lists, s.issuers[issuer].root, l)
	}
	if len(lists) == 0 {
		return nil, record.ErrNotFound
	}
	if kept, ok := s.files.Load(name); ok && slices.Equal(kept.(file).of, lists) {
		return kept.(file).list, nil
	}
	var text bytes.Buffer
	for _, l := range lists {
		if l != nil {
			pem.Encode(&text, &pem.Block{Type: "X509 CRL", Bytes: l.DER}) // to memory
		}
	}
	made := &list{Body: reply.New(text.Bytes(), time.Time{})} // two lists may change in one second
	s.files.Store(name, file{lists, made})
	return made, nil
}
