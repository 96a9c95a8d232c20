// Package feed pushes changes of certificates' status to relying parties, and serves the signed
// documents to begin from: a deny-list and a filter (wire/denylist).
//
// Its promise: a change is announced when the CRL with it is published, whichever process made
// it; a follower that resumes after the last number it received misses nothing; one that is
// barred receives nothing from then on; and no follower, however slow, delays the others.
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
	// poll is how often the record is asked for changes by other processes, and for those whose
	// process died before publishing.
	poll = 250 * time.Millisecond
	// grace is how long the process that made a change may take to publish its CRL before it is
	// published here. A CRL is signed within a second of a change, and one signing covers all
	// changes meanwhile.
	grace = 500 * time.Millisecond
	// page is how many changes are read and announced at a time; handful how many are sent at a
	// time to a follower that catches up, whose bytes are not shared.
	page    = 1000
	handful = 100
	// publishTimeout bounds a publication.
	publishTimeout = 30 * time.Second
)

// Lists is where CRLs are published; ca/status.
type Lists interface {
	// Publish signs lists and returns when they are being served.
	Publish(ctx context.Context, shards ...record.Shard) error
	// Signs reports whether an issuer is here, and so its lists.
	Signs(issuer string) bool
	// Shows is the number of the last change in the list being served.
	Shows(shard record.Shard) int64
	// Published receives a value after each publication.
	Published() <-chan struct{}
}

// Config is what a Feed is made of. All but Log is required.
type Config struct {
	Store record.Changes
	Lists Lists
	// Issuers are the issuers that relying parties trust, by name.
	Issuers map[string]*x509.Certificate
	// Responder returns an issuer's OCSP responder and its key, which sign the documents.
	Responder func(ctx context.Context, issuer string) (*x509.Certificate, crypto.Signer, error)
	Now       func() time.Time
	// Log receives failures, which are retried; nil discards them.
	Log *slog.Logger
}

// Feed announces changes. Its methods may be called concurrently.
type Feed struct {
	Config
	documents map[string]*document // by path below wire.PathFeed

	mu        sync.Mutex
	position  int64 // the last change announced
	followers map[*follower]bool
	stopped   bool
}

// New makes a Feed that begins after the last change on record: earlier changes are in the
// documents.
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

// Run announces changes until ctx ends, and then ends all streams.
func (f *Feed) Run(ctx context.Context) {
	defer f.stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var waiting int64   // the oldest change that is not announced yet
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

// advance announces, in order, the changes that are on record and on their list. A change that is
// not on its list is published if due; otherwise its number is returned, or 0 if there is none.
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

// unlisted reports whether a change is missing from its list. That of an expired certificate need
// not be there (RFC 5280 §3.3), and that of an issuer that was lost never is.
func (f *Feed) unlisted(c record.Change) bool {
	return f.Lists.Signs(c.Issuer) && f.Lists.Shows(record.Shard{Issuer: c.Issuer, Number: c.Shard}) < c.Number && !c.NotAfter.Before(f.Now())
}

// publish publishes what the process that made a change has not. If it fails the change is
// announced all the same: refusing a device is better than waiting for a list.
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

// announce sends changes to all followers, and drops those that are too far behind.
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

// encode returns the events for changes of our issuers. The last event says how far they reach,
// so that a follower also passes the numbers of other issuers' changes.
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

// commonName is the CN at the beginning of a subject as crypto/x509/pkix writes it (RFC 2253
// §2.4); empty if the subject begins with another attribute.
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

// news is an announcement. doubt: one of the changed certificates may be a follower's own.
type news struct {
	text  []byte
	doubt bool
}

// follower is one open stream. news is closed when it is dropped.
type follower struct{ news chan news }

// behind is how many announcements a follower may be behind. All followers share their bytes.
const behind = 64

// maxFollowers bounds the open streams.
const maxFollowers = 8192

// follow adds a follower and returns the position after which it receives news.
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
