package feed

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/ca/status/reply"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

const (
	// life is nextUpdate − thisUpdate of a document: as a CRL's.
	life = 7 * 24 * time.Hour
	// resignAfter is the age at which an unchanged document is made again.
	resignAfter = time.Hour
	// buildTimeout bounds the making of a document.
	buildTimeout = 2 * time.Minute
	// denyListEvery and filterEvery are the shortest intervals at which a document is made again,
	// however much changes: a filter reads every certificate that has not expired.
	denyListEvery = time.Second
	filterEvery   = time.Minute
	// settled is the age at which a certificate is certainly on record: notBefore lies up to five
	// minutes before its issue (ca), which takes at most a minute, and the clocks of replicas
	// differ by less than the rest. A filter covers only older ones.
	settled = 10 * time.Minute
	// slow is by how much a relying party's clock may be behind: a document holds what is denied
	// until it has ended there as well.
	slow = time.Hour
)

// document is a deny-list or filter, made on request and cached while it is current.
type document struct {
	issuer, kind string
	build        func(ctx context.Context, issuer string, now time.Time) (data []byte, number int64, err error)
	settle       time.Duration // 0 means denyListEvery

	mu     sync.Mutex // held while it is made; concurrent requests share the result
	data   []byte
	etag   string
	number int64
	made   time.Time
}

// get returns a document that contains everything on record, except for changes in the last
// denyListEvery or filterEvery.
func (d *document) get(ctx context.Context, last int64, now time.Time) (data []byte, etag string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	age := now.Sub(d.made)
	if d.data != nil && age >= 0 && (age < max(d.settle, denyListEvery) || d.number >= last && age < resignAfter) {
		return d.data, d.etag, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildTimeout)
	defer cancel()
	data, number, err := d.build(ctx, d.issuer, now)
	if err != nil {
		return nil, "", err
	}
	d.data, d.etag, d.number, d.made = data, reply.Tag(data), number, now
	return d.data, d.etag, nil
}

func (f *Feed) denyList(ctx context.Context, issuer string, now time.Time) ([]byte, int64, error) {
	var denials []denylist.Denial
	var bad error
	number, err := f.Store.Denied(ctx, issuer, now.Add(-slow), func(r record.Revoked) {
		serial, err := denylist.ParseSerial(r.Serial)
		if err != nil {
			bad = err
		}
		denials = append(denials, denylist.Denial{Serial: serial, Since: r.Since, Reason: r.Reason})
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, 0, err
	}
	slices.SortFunc(denials, func(a, b denylist.Denial) int { return bytes.Compare(a.Serial[:], b.Serial[:]) })
	seal, d, err := f.seal(ctx, issuer, number, now)
	if err != nil {
		return nil, 0, err
	}
	data, err := denylist.SealList(seal, d, slices.Values(denials))
	return data, number, err
}

func (f *Feed) filter(ctx context.Context, issuer string, now time.Time) ([]byte, int64, error) {
	var denied, good []denylist.Serial
	var bad error
	number, err := f.Store.Standing(ctx, issuer, now.Add(-slow), func(text string, isDenied bool) {
		serial, err := denylist.ParseSerial(text)
		switch {
		case err != nil:
			bad = err
		case isDenied:
			denied = append(denied, serial)
		default:
			good = append(good, serial)
		}
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, 0, err
	}
	seal, d, err := f.seal(ctx, issuer, number, now)
	if err != nil {
		return nil, 0, err
	}
	data, err := denylist.SealFilter(seal, d, now.Add(-settled), denied, good)
	return data, number, err
}

// seal returns the signer and the header of a document made now.
func (f *Feed) seal(ctx context.Context, issuer string, number int64, now time.Time) (s denylist.Seal, d denylist.Document, err error) {
	s.Issuer = f.Issuers[issuer]
	if s.Responder, s.Key, err = f.Responder(ctx, issuer); err != nil {
		return s, d, err
	}
	d = denylist.Document{Number: number, Issuer: issuer, Time: now.UTC().Truncate(time.Second)}
	d.NextUpdate = d.Time.Add(life)
	if end := s.Responder.NotAfter; d.NextUpdate.After(end) {
		d.NextUpdate = end
	}
	return s, d, nil
}
