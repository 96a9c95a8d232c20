// Package party is relying parties' half of the server: operators invite them, and their
// relays fetch certificates, follow the feed and report what is enforced.
//
// A relay speaks on the machines' listener and is recognised by a certificate of the
// profile "relay", which nothing else accepts; a report is believed for the one name that
// the certificate bears.
package party

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/hallmark-pki/hallmark/admin/credential"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Store is what relays' requests ask of the record.
type Store interface {
	record.RelyingParties
	// Status is record.Revocations.Status, Note record.Audit.Note.
	Status(ctx context.Context, issuer, serial string) (record.Certificate, error)
	Note(ctx context.Context, es ...record.Event) error
}

// Status ends certificates and publishes that before it returns (ca/status.Service).
type Status interface {
	RevokePrincipal(ctx context.Context, name string, reason int, e record.Event) (shards []record.Shard, err error)
}

// Issuer makes relays' certificates.
type Issuer interface {
	// IssueRelay gives the chain (DER, leaf first, without the root) for a key that the
	// relay was shown to hold.
	IssueRelay(ctx context.Context, party string, key crypto.PublicKey, e record.Event) (chain [][]byte, err error)
}

// Config is what a Service is made of; every field is needed.
type Config struct {
	Store       Store
	Status      Status
	Issuer      Issuer
	Permissions credential.Permissions
	// Issuers are those whose relay certificates may speak here.
	Issuers profile.Pins
	// Root is the SHA-256 of the infrastructure root, Server the https URL of the machines'
	// listener: invitations carry them.
	Root   [32]byte
	Server string
	// Bundle gives the newest signed trust bundle.
	Bundle func() wire.SignedBundle
	// Since gives the bundles that follow a number (ca/trust.Service.Since); nil: none but the newest.
	Since func(after int64) wire.TrustSteps
	// Followed are the names of the issuers that the feed speaks of.
	Followed func() []string
	// Newest is the number of the newest change in the feed (record.Changes.LastChange).
	Newest func(ctx context.Context) (int64, error)
	// Feed serves the stream for as long as still reports true; with nil, the documents
	// (ca/status/feed.Feed.Handler).
	Feed func(still func(context.Context) bool) http.Handler
	// Lists serves the CRLs and CA certificates that the status listener serves as well,
	// here over a connection that is warm.
	Lists http.Handler
	Now   func() time.Time
	Log   *slog.Logger
}

// Service answers relays, and operators who ask about them.
type Service struct {
	Config
	streams streams
}

// New checks that nothing is missing.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Status == nil || c.Issuer == nil || c.Permissions == nil || len(c.Issuers) == 0 ||
		c.Root == [32]byte{} || c.Bundle == nil || c.Followed == nil || c.Newest == nil || c.Feed == nil || c.Lists == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("party: a part is missing")
	}
	if _, err := wire.ServerURL(c.Server); err != nil {
		return nil, err
	}
	return &Service{Config: c}, nil
}

// callers says whose certificates may speak here.
func (s *Service) callers() *credential.Pin {
	return &credential.Pin{
		Profile: profile.Relay, Noun: "relay", Issuers: s.Issuers, Status: s.Store.Status, Now: s.Now,
		Recovery: "an operator lets it in again: hallmark relying-party invite NAME",
		Disabled: func(ctx context.Context, name string) (time.Time, error) {
			p, err := s.Store.RelyingParty(ctx, name)
			return p.Disabled, err
		},
	}
}

// Handler serves relays. The listener requests client certificates over TLS 1.3 without
// session tickets and leaves judging them to this package.
func (s *Service) Handler() http.Handler {
	lists := func(context.Context, *gate.Call) (any, error) { return s.unhurried(s.Lists), nil }
	g := gate.Gate{Kind: "relay", Authenticate: s.callers().Recognise, Note: s.Store.Note, Now: s.Now, Log: s.Log}
	return g.Handler([]gate.Route{
		{Pattern: "POST " + wire.PathRelayAccept, Handle: s.issuance().Accept, Open: true},
		{Pattern: "POST " + wire.PathRelayRenewal, Handle: s.issuance().Renew},
		{Pattern: "POST " + wire.PathRelayReport, Handle: s.report},
		{Pattern: "GET " + wire.PathRelayTrust, Handle: func(context.Context, *gate.Call) (any, error) {
			return wire.RelayTrust{Bundle: s.Bundle(), Steps: s.steps(), Issuers: s.Followed()}, nil
		}},
		{Pattern: "GET " + wire.PathChanges, Handle: s.follow},
		{Pattern: "GET " + wire.PathFeed + "/", Handle: func(context.Context, *gate.Call) (any, error) { return s.unhurried(s.Feed(nil)), nil }},
		{Pattern: "GET /crl/", Handle: lists},
		{Pattern: "GET /ca/", Handle: lists},
	})
}

// longest is how long a relay waits at most: for 256 MiB, at 0.5 Mbit/s after the first minute.
const longest = time.Minute + 256<<20/62_500*time.Second

// unhurried replaces the listener's limit on how long an answer may take to be written. A relay holds a
// connection no longer than that with it, and it could hold one with a stream.
func (s *Service) unhurried(lists http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetWriteDeadline(s.Now().Add(longest)); err != nil {
			s.Log.Error("a list is cut off on a slow line", "error", err)
		}
		lists.ServeHTTP(w, r)
	})
}

// maxSteps bounds the bytes of bundles that lead to the newest.
const maxSteps = 512 << 10

// steps are the bundles that lead to the newest; none if they are too many, or not kept.
func (s *Service) steps() (all []wire.SignedBundle) {
	size := 0
	for after := int64(0); s.Since != nil; {
		next := s.Since(after)
		for _, b := range next.Bundles {
			size += len(b.Bundle)
		}
		if len(next.Bundles) == 0 || size > maxSteps {
			return nil
		}
		all = append(all, next.Bundles...)
		last, err := wire.ReadBundle(all[len(all)-1])
		if err != nil || last.Number >= next.Newest {
			return all
		}
		after = last.Number
	}
	return nil
}

// Routes are for operators.
func (s *Service) Routes() []gate.Route {
	return []gate.Route{
		{Pattern: "GET " + wire.PathRelyingParties, Handle: s.list},
		{Pattern: "POST " + wire.PathRelyingParties, Handle: s.invite},
		{Pattern: "POST " + wire.PathRelyingParties + "/{name}/disable", Handle: s.disable},
	}
}

// partyName is what may stand in a relay's certificate.
var partyName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,31}$`)
