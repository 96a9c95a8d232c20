package relay

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/relay/bundle"
	"github.com/hallmark-pki/hallmark/relay/crls"
	"github.com/hallmark-pki/hallmark/relay/disk"
	"github.com/hallmark-pki/hallmark/relay/fetch"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// source is what is known of one issuer's certificates.
type source struct {
	denied map[denylist.Serial]bool
	told   int // how many of them only the stream denies
	// made is when the deny-list behind denied was made, until when it ends.
	made, until time.Time
	documents   map[string]document // by path: what was fetched, for If-None-Match
}

// document is an answer that was verified.
type document struct {
	etag  string
	body  []byte
	until time.Time
	made  time.Time
	// number is the feed's; -1 if the document does not say.
	number int64
	// For CRLs: what they deny, and their numbers; taken is when they were fetched.
	denied  map[denylist.Serial]bool
	numbers crls.Numbers
	taken   time.Time
}

func newSource() *source {
	return &source{denied: map[denylist.Serial]bool{}, documents: map[string]document{}}
}

// apply applies a change. The stream is not signed, so it can only deny: see confirmLifts.
func (s *source) apply(c wire.Change) {
	if x := serialOf(c); c.Denied() && !s.denied[x] {
		s.denied[x] = true
		s.told++
	}
}

// serialOf reads what wire.DecodeChange has checked.
func serialOf(c wire.Change) denylist.Serial {
	x, _ := denylist.ParseSerial(c.Serial)
	return x
}

const (
	maxCRLs = 256 << 20
	pathCRL = "/crl/"
)

var errEnded = errors.New("the lists ended before all had come")

// fetch fetches a document unless it is the one that is known. It ends when the lists that stand do:
// then expire has something to do.
func (r *Relay) fetch(ctx context.Context, path string, known document, limit int64) (body []byte, etag string, err error) {
	if left := r.state.Until.Sub(r.Now()); left > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, left, errEnded)
		defer cancel()
	}
	body, etag, err = fetch.Get(ctx, r.Send, path, known.etag, limit)
	if err == nil && etag != "" && etag == known.etag {
		body = known.body
	}
	return body, etag, err
}

// fetchTrust takes the operational roots from the trust bundle, and keeps them in the folder
// for the program's use.
func (r *Relay) fetchTrust(ctx context.Context) error {
	body, _, err := r.fetch(ctx, wire.PathRelayTrust, document{}, fetch.MaxSmall)
	if err != nil {
		return err
	}
	var trust wire.RelayTrust
	if err := json.Unmarshal(body, &trust); err != nil {
		return fmt.Errorf("trust bundle: %w", err)
	}
	newest, err := bundle.Take(r.Dir, trust, func(sum [32]byte) bool { return slices.Contains(r.Pinned, sum) })
	if err != nil {
		return err
	}
	if newest.Number < r.state.Bundle {
		return fmt.Errorf("trust bundle %d is older than %d, which is known here", newest.Number, r.state.Bundle)
	}
	var text []byte
	for _, der := range newest.Operational {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	path := filepath.Join(r.Dir, rootsFile)
	if !disk.Holds(path, text) {
		if err := disk.Replace(path, text); err != nil {
			return err
		}
	}
	r.state.Bundle = newest.Number
	if err := r.loadRoots(); err != nil {
		return err
	}
	return r.follows(trust.Issuers)
}

// follows sets the issuers whose lists are followed. The server's names are not signed, so they can
// only add: an issuer stays until its root is no longer trusted.
func (r *Relay) follows(named []string) error {
	maps.DeleteFunc(r.state.Issuers, func(_ string, der []byte) bool {
		_, err := r.signers(der)
		return err != nil
	})
	issuers := slices.AppendSeq(slices.Clone(named), maps.Keys(r.state.Issuers))
	slices.Sort(issuers)
	issuers = slices.Compact(issuers)
	if len(named) == 0 || len(issuers) > wire.MaxFollowed {
		return errors.New("the server names no issuers, or too many")
	}
	for _, name := range issuers {
		if err := wire.CheckIssuerName(name); err != nil {
			return err
		}
		if r.sources[name] == nil {
			r.sources[name] = newSource()
		}
	}
	r.issuers = issuers
	maps.DeleteFunc(r.sources, func(name string, _ *source) bool { return !slices.Contains(issuers, name) })
	return nil
}

// rootsFile is the file, in the relay's folder, of what relying parties trust.
const rootsFile = "relying-parties.pem"

// loadRoots reads the roots that the last contact left; before the first there are none.
func (r *Relay) loadRoots() error {
	path := filepath.Join(r.Dir, rootsFile)
	text, err := disk.Read(path)
	r.roots, r.trusted = x509.NewCertPool(), text
	if err == nil && !r.roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("%s is damaged: remove it and try again", path)
	}
	return nil
}

// fetchList fetches the signed deny-list and starts from it.
func (r *Relay) fetchList(ctx context.Context, name string, s *source) (int64, error) {
	d, err := r.denyList(ctx, name, s)
	if err != nil {
		return 0, err
	}
	l, err := denylist.OpenList(d.body, r.roots, r.Now())
	if err != nil {
		return 0, err
	}
	s.denied, s.told = make(map[denylist.Serial]bool, l.Len()), 0
	for denial := range l.All() {
		s.denied[denial.Serial] = true
	}
	s.made, s.until = l.Time, l.NextUpdate
	r.state.Made[name], r.state.Issuers[name] = l.Time, l.Authority().Raw
	return l.Number, nil
}

// confirmLifts fetches the signed deny-list if a pending change lets a certificate in again, and says
// which if the list does not show that yet.
func (r *Relay) confirmLifts(ctx context.Context, name string, s *source) (missing string, err error) {
	for _, c := range r.pending {
		if c.Issuer == name && !c.Denied() && s.denied[serialOf(c)] {
			denied := s.denied
			number, err := r.fetchList(ctx, name, s)
			if err != nil {
				return "", fmt.Errorf("deny-list of %s: %w", name, err)
			}
			if number < r.seen {
				s.denied, missing = denied, "the server's deny-list does not show the change of certificate "+c.Serial+" yet"
			}
			return missing, nil
		}
	}
	return "", nil
}

// denyList fetches and verifies the deny-list.
func (r *Relay) denyList(ctx context.Context, name string, s *source) (document, error) {
	return r.signed(ctx, wire.PathFeed+"/"+name, name, s, r.state.Made[name], func(body []byte) (d denylist.Document, err error) {
		l, err := denylist.OpenList(body, r.roots, r.Now())
		if err == nil {
			d = l.Document
		}
		return d, err
	})
}

// filter fetches and verifies the filter.
func (r *Relay) filter(ctx context.Context, name string, s *source) (document, error) {
	path := wire.PathFeed + "/" + name + "/filter"
	d, err := r.signed(ctx, path, name, s, r.state.Made[path], func(body []byte) (d denylist.Document, err error) {
		f, err := denylist.OpenFilter(body, r.roots, r.Now())
		if err == nil {
			d = f.Document
		}
		return d, err
	})
	if err == nil {
		r.state.Made[path] = d.made
	}
	return d, err
}

// signed fetches a document and verifies it with open. One that was made before the known one is an
// old copy that somebody repeats.
func (r *Relay) signed(ctx context.Context, path, name string, s *source, made time.Time, open func([]byte) (denylist.Document, error)) (document, error) {
	known := s.documents[path]
	body, etag, err := r.fetch(ctx, path, known, denylist.MaxDocument)
	switch {
	case err != nil:
		return known, err
	case etag != "" && etag == known.etag:
		return known, r.lasts(known.until)
	}
	d, err := open(body)
	switch {
	case err != nil:
		return known, err
	case d.Issuer != name:
		return known, fmt.Errorf("it is of issuer %s", d.Issuer)
	case d.Time.Before(made):
		return known, fmt.Errorf("it was made on %s, before the one that is known here", d.Time.Format(time.RFC3339))
	}
	if err := r.lasts(d.NextUpdate); err != nil {
		return known, err
	}
	s.documents[path] = document{etag: etag, body: body, until: d.NextUpdate, made: d.Time, number: d.Number}
	return s.documents[path], nil
}

// lasts refuses what has ended, even if the server says that it has not changed: it would reopen
// files that were closed at its end.
func (r *Relay) lasts(until time.Time) error {
	if r.Now().After(until) {
		return fmt.Errorf("it ended on %s: somebody in between repeats old answers, or the clock here is wrong", until.Format(time.RFC3339))
	}
	return nil
}

// refreshEvery is how often the program takes up CRLs that were only signed anew: a reload
// may end connections.
const refreshEvery = time.Hour

// crls fetches and verifies all lists of an issuer and its root.
func (r *Relay) crls(ctx context.Context, name string, s *source) (document, error) {
	path := pathCRL + name + ".pem"
	known := s.documents[path]
	body, etag, err := r.fetch(ctx, path, known, maxCRLs)
	if err != nil || etag != "" && etag == known.etag {
		return known, err
	}
	signers, err := r.signers(r.state.Issuers[name])
	if err != nil {
		return known, err
	}
	lists, err := crls.Read(body, signers, r.state.Numbers, r.Now())
	if err != nil {
		return known, fmt.Errorf("CRLs of %s: %w", name, err)
	}
	maps.Copy(r.state.Numbers, lists.Numbers)
	d := document{body: body, number: -1, made: lists.Made, until: lists.Until, denied: lists.Denied, numbers: lists.Numbers, taken: r.Now()}
	if d.taken.Sub(known.taken) < refreshEvery && maps.Equal(d.denied, known.denied) && maps.EqualFunc(d.numbers, known.numbers, func(_, _ *big.Int) bool { return true }) {
		d = known
	}
	d.etag = etag
	s.documents[path] = d
	return d, nil
}

// signers are an issuer and the root that relying parties have for it: one of them must have signed a
// list. The issuer's certificate comes from its deny-list, which is signed.
func (r *Relay) signers(issuer []byte) ([]*x509.Certificate, error) {
	c, err := x509.ParseCertificate(issuer)
	if err != nil {
		return nil, err
	}
	chains, err := c.Verify(x509.VerifyOptions{Roots: r.roots, CurrentTime: c.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}
