// Package feed pushes changes of certificates' status to relying parties, and hands out
// the signed documents to begin from: a deny-list and a filter (wire/denylist).
//
// Its promise: a change is announced when the CRL that shows it is out, whoever made
// it; a follower that resumes after the last number it was told misses nothing; one that
// is barred hears nothing of what happens from then on; and no follower, however slow,
// costs the others anything.
package feed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

const (
	// poll is how often the record is asked for changes of other processes, and for those
	// that their makers did not live to publish.
	poll = 250 * time.Millisecond
	// grace is how long whoever made a change may take to publish its CRL before it is
	// published here. A CRL is signed within a second of a change, and one signing shows
	// all that happened meanwhile.
	grace = 500 * time.Millisecond
	// page is how many changes are read, and told, at a time; handful how many to one
	// follower that catches up, for each has those bytes to itself.
	page    = 1000
	handful = 100
	// publishTimeout bounds a publication.
	publishTimeout = 30 * time.Second
)

// Lists is where CRLs are published; ca/status.
type Lists interface {
	// Publish signs lists anew and returns when they are being served.
	Publish(ctx context.Context, shards ...record.Shard) error
	// Shows is the number of the last change that the list being served knows.
	Shows(shard record.Shard) int64
	// Published is sent to after a publication.
	Published() <-chan struct{}
}

// Config is what a Feed is made of. All but Log is required.
type Config struct {
	Store record.Changes
	Lists Lists
	// Issuers are those that relying parties trust, by name.
	Issuers map[string]*x509.Certificate
	// Responder gives an issuer's OCSP responder and its key, which sign the documents.
	Responder func(ctx context.Context, issuer string) (*x509.Certificate, crypto.Signer, error)
	Now       func() time.Time
	// Log receives what failed and is being tried again; nil discards it.
	Log *slog.Logger
}

// Feed announces changes. Its methods may be called concurrently.
type Feed struct {
	Config
	documents map[string]*document // by path below wire.PathFeed

	mu        sync.Mutex
	position  int64 // what was announced
	followers map[*follower]bool
	stopped   bool
}

// New begins after the last change on record: what happened before is in the documents.
func New(ctx context.Context, c Config) (*Feed, error) {
	if c.Store == nil || c.Lists == nil || c.Responder == nil || c.Now == nil || len(c.Issuers) == 0 {
		return nil, errors.New("feed: store, lists, issuers, responder and clock are all needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Feed{Config: c, documents: map[string]*document{}, followers: map[*follower]bool{}}
	for name := range c.Issuers {
		if err := wire.CheckIssuerName(name); err != nil {
			return nil, fmt.Errorf("feed: %w", err)
		}
		f.documents[name] = &document{issuer: name, kind: wire.DenyListType, build: f.denyList}
		f.documents[name+"/filter"] = &document{issuer: name, kind: wire.FilterType, build: f.filter, settle: filterEvery}
	}
	var err error
	if f.position, err = c.Store.LastChange(ctx); err != nil {
		return nil, fmt.Errorf("feed: %w", err)
	}
	return f, nil
}

// Run announces changes until ctx ends, and then lets all followers go.
func (f *Feed) Run(ctx context.Context) {
	defer f.stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var waiting int64   // the oldest change that is not announced
	var since time.Time // when it was first seen
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.Lists.Published():
		case <-tick.C:
		}
		oldest, err := f.advance(ctx, waiting != 0 && f.Now().Sub(since).Abs() >= grace)
		if oldest != waiting {
			waiting, since = oldest, f.Now()
		}
		if err != nil && !failing && ctx.Err() == nil {
			f.Log.Error("changes of status cannot be announced; it is being tried again", "error", err)
		}
		failing = err != nil
	}
}

// advance announces, in order, what is on record and on its list. What is not on its list
// is put there if it is due, or waited for: its number is returned, 0 if there is none.
func (f *Feed) advance(ctx context.Context, due bool) (waiting int64, err error) {
	for {
		f.mu.Lock()
		after := f.position
		f.mu.Unlock()
		changes, err := f.Store.Changes(ctx, after, page)
		if err != nil || len(changes) == 0 {
			return 0, err
		}
		if due {
			f.publish(ctx, changes)
			due = false
		} else if n := slices.IndexFunc(changes, f.unlisted); n >= 0 {
			waiting, changes = changes[n].Number, changes[:n]
		}
		if len(changes) > 0 {
			if err := f.announce(changes); err != nil {
				return 0, err
			}
		}
		if waiting != 0 {
			return waiting, nil
		}
	}
}

// unlisted reports whether a change is not on its list yet. One of a certificate that has
// ended need not be (RFC 5280 §3.3).
func (f *Feed) unlisted(c record.Change) bool {
	return f.Lists.Shows(record.Shard{Issuer: c.Issuer, Number: c.Shard}) < c.Number && !c.NotAfter.Before(f.Now())
}

// publish makes good what the maker of a change did not do, or not yet. If it fails the
// change is announced all the same: better a relying party refuses a device than
// waits for a list.
func (f *Feed) publish(ctx context.Context, changes []record.Change) {
	var shards []record.Shard // Publish signs each once
	for _, c := range changes {
		if f.unlisted(c) {
			shards = append(shards, record.Shard{Issuer: c.Issuer, Number: c.Shard})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := f.Lists.Publish(ctx, shards...); err != nil && ctx.Err() == nil {
		f.Log.Error("changes of status are announced before their CRL", "error", err)
	}
}

// announce tells all followers, and drops those that have not taken what came before.
func (f *Feed) announce(changes []record.Change) error {
	text, err := f.encode(changes)
	if err != nil {
		return err
	}
	others := func(c record.Change) bool { return f.Issuers[c.Issuer] == nil }
	what := news{text, slices.ContainsFunc(changes, others)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.position = changes[len(changes)-1].Number
	for who := range f.followers {
		select {
		case who.news <- what:
		default:
			f.leave(who)
		}
	}
	return nil
}

// encode gives the events for changes of our issuers. The last says how far they reach,
// so that a follower also learns of numbers that were none of its business.
func (f *Feed) encode(changes []record.Change) ([]byte, error) {
	var text bytes.Buffer
	for _, c := range changes {
		if f.Issuers[c.Issuer] == nil {
			continue
		}
		if err := event(&text, wire.EventChange, c.Number, change(c)); err != nil {
			return nil, err
		}
	}
	last := changes[len(changes)-1].Number
	err := event(&text, wire.EventCurrent, last, wire.Position{Number: last})
	return text.Bytes(), err
}

// event writes one server-sent event (WHATWG HTML §9.2.5). JSON has no line breaks.
func event(w *bytes.Buffer, name string, id int64, data any) error {
	text, err := json.Marshal(data)
	fmt.Fprintf(w, "event: %s\nid: %d\ndata: %s\n\n", name, id, text)
	return err
}

func change(c record.Change) wire.Change {
	w := wire.Change{Number: c.Number, Issuer: c.Issuer, Serial: c.Serial, Device: c.Device, Name: commonName(c.Subject), Successor: c.Successor,
		Status: wire.StatusGood, Expires: c.NotAfter}
	if c.Fingerprint != [32]byte{} {
		w.Fingerprint = hex.EncodeToString(c.Fingerprint[:])
	}
	if c.Revoked.IsZero() {
		return w
	}
	w.Status, w.Reason, w.Since = wire.StatusRevoked, wire.ReasonWord(c.Reason), c.Revoked
	if c.Reason == record.ReasonHold {
		w.Status = wire.StatusHold
	}
	return w
}

// commonName is the value that a subject begins with, as crypto/x509/pkix writes it
// (RFC 2253 §2.4); empty if it begins with another.
func commonName(subject string) string {
	rest, ok := strings.CutPrefix(subject, "CN=")
	if !ok {
		return ""
	}
	var name strings.Builder
	for i := 0; i < len(rest) && rest[i] != ',' && rest[i] != '+'; i++ {
		if rest[i] == '\\' && i+1 < len(rest) {
			i++
		}
		name.WriteByte(rest[i])
	}
	return name.String()
}

// news is an announcement. With doubt, the certificate by which a follower is known may be
// among what changed.
type news struct {
	text  []byte
	doubt bool
}

// follower is one open stream. news is closed when it is dropped.
type follower struct{ news chan news }

// behind is how many announcements a follower may have before it. All followers share
// their bytes.
const behind = 64

// maxFollowers bounds the open streams.
const maxFollowers = 8192

// follow adds a follower and says from where on it will be told.
func (f *Feed) follow() (who *follower, position int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || len(f.followers) >= maxFollowers {
		return nil, 0, false
	}
	who = &follower{make(chan news, behind)}
	f.followers[who] = true
	return who, f.position, true
}

// leave ends a stream; f.mu is held.
func (f *Feed) leave(who *follower) {
	if f.followers[who] {
		delete(f.followers, who)
		close(who.news)
	}
}

func (f *Feed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for who := range f.followers {
		f.leave(who)
	}
}
