package status

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/ca/status/ocsp"
	"github.com/hallmark-pki/hallmark/ca/status/reply"
	"github.com/hallmark-pki/hallmark/record"
)

// verdict is what the record says of a certificate, comparable with ==.
type verdict struct {
	status ocsp.Status
	since  int64 // Unix seconds, if revoked
	reason int
}

// answer is a signed OCSP answer.
type answer struct {
	verdict
	der                    []byte
	etag, modified         string // as in HTTP
	thisUpdate, nextUpdate time.Time
	request                ocsp.Request
	issuer                 *issuer
	asOf                   int64 // the last change for which the verdict is known to hold
	asked                  bool  // since it was signed
}

// answerOCSP answers a request; der is never nil, and unsigned for an error. only reports an
// answer for this client alone, which must not be cached.
func (s *Service) answerOCSP(ctx context.Context, request []byte) (a answer, only bool) {
	r, err := ocsp.ParseRequest(request)
	if err != nil {
		return answer{der: ocsp.Malformed}, true
	}
	// The answer about another CA's certificate is not "unknown", for which this responder has no
	// authority (RFC 6960 §2.3, RFC 9919 §3.2.3).
	i := s.byHash[issuerKey(r.Hash, r.NameHash, r.KeyHash)]
	if i == nil {
		return answer{der: ocsp.Unauthorized}, true
	}
	for _, m := range r.More { // one signature cannot speak for two issuers
		if s.byHash[issuerKey(m.Hash, m.NameHash, m.KeyHash)] != i {
			return answer{der: ocsp.Unauthorized}, true
		}
	}
	if len(r.More) > 0 {
		a, err = s.together(ctx, i, r, s.now())
	} else {
		a, err = s.current(ctx, i, r, s.now())
	}
	switch {
	case errors.Is(err, errUnreadable):
		s.log.Error("OCSP: the record cannot be read", "error", err)
		return answer{der: ocsp.TryLater}, true
	case err != nil:
		s.log.Error("OCSP: an answer could not be signed", "issuer", i.Name, "error", err)
		return answer{der: ocsp.InternalError}, true
	}
	return a, r.Nonce != nil || len(r.More) > 0 || a.status == ocsp.Unknown
}

var errUnreadable = errors.New("no verdict")

// current returns the answer that holds now: a cached one, or one that is signed, and cached
// unless it is for this client alone. Answers about unknown serial numbers are not cached: a
// stranger could push the useful ones out with them.
func (s *Service) current(ctx context.Context, i *issuer, r ocsp.Request, now time.Time) (answer, error) {
	// Read before the verdict, so that a change in between is noticed next time.
	last, err := s.store.LastChange(ctx)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	var kept answer
	if r.Nonce == nil {
		kept, _ = s.answers.get(string(r.CertID))
	}
	if kept.der != nil && kept.asOf == last && kept.fresh(now) {
		return kept, nil
	}
	v, err := s.verdict(ctx, i.Name, r)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if kept.der == nil || kept.verdict != v || !kept.fresh(now) {
		if kept, err = s.signAnswer(ctx, i, r, now, v); err != nil {
			return answer{}, err
		}
	}
	kept.asOf = last
	if r.Nonce == nil && v.status != ocsp.Unknown {
		s.answers.put(string(r.CertID), kept)
	}
	return kept, nil
}

// together signs one answer about several certificates. It is not cached: nobody else asks for
// the same set.
func (s *Service) together(ctx context.Context, i *issuer, r ocsp.Request, now time.Time) (answer, error) {
	vs := make([]verdict, 0, ocsp.MaxCertificates)
	for _, one := range append([]ocsp.Request{r}, r.More...) {
		v, err := s.verdict(ctx, i.Name, one)
		if err != nil {
			return answer{}, fmt.Errorf("%w: %w", errUnreadable, err)
		}
		vs = append(vs, v)
	}
	return s.signAnswer(ctx, i, r, now, vs...)
}

// signAhead signs again the cached answers that are in demand and will soon be too old.
func (s *Service) signAhead(ctx context.Context) (failed error) {
	for _, a := range s.answers.aging(s.now().Add(ahead - resignAfter)) {
		v, err := s.verdict(ctx, a.issuer.Name, a.request)
		if err == nil {
			a, err = s.signAnswer(ctx, a.issuer, a.request, s.now(), v)
		}
		if err != nil {
			failed = fmt.Errorf("OCSP answers: %w", err)
			continue
		}
		a.asOf = -1 // so that the verdict is checked once more
		s.answers.put(string(a.request.CertID), a)
	}
	return failed
}

// verdict queries the record. An intent that is not completed is unknown, not good: there is no
// such certificate yet, and if the process died while signing it, it will be revoked and never
// issued.
func (s *Service) verdict(ctx context.Context, issuer string, r ocsp.Request) (verdict, error) {
	if r.Serial.BitLen() > 128 {
		return verdict{status: ocsp.Unknown}, nil // ours have 16 octets
	}
	var serial [16]byte
	c, err := s.store.Status(ctx, issuer, hex.EncodeToString(r.Serial.FillBytes(serial[:])))
	switch {
	case errors.Is(err, record.ErrNotFound):
		return verdict{status: ocsp.Unknown}, nil
	case err != nil:
		return verdict{}, err
	case !c.Revoked.IsZero():
		return verdict{status: ocsp.Revoked, since: c.Revoked.Unix(), reason: c.Reason}, nil
	case c.Issued.IsZero():
		return verdict{status: ocsp.Unknown}, nil
	}
	return verdict{status: ocsp.Good}, nil
}

// signAnswer signs an answer with a verdict for each certificate of the request.
func (s *Service) signAnswer(ctx context.Context, i *issuer, r ocsp.Request, now time.Time, vs ...verdict) (answer, error) {
	certificate, key, err := s.responder(ctx, i.Name)
	if err != nil {
		return answer{}, err
	}
	if err := ocsp.CheckResponder(certificate, key, i.Certificate, now); err != nil {
		return answer{}, err
	}
	// A copy of what signAhead needs: the CertID points into the request, which may be much
	// longer.
	kept := ocsp.Request{CertID: bytes.Clone(r.CertID), Serial: r.Serial}
	a := answer{verdict: vs[0], thisUpdate: now.UTC().Truncate(time.Second), request: kept, issuer: i}
	a.modified = a.thisUpdate.Format(http.TimeFormat)
	life := ocspLife
	if slices.ContainsFunc(vs, func(v verdict) bool { return v.status == ocsp.Unknown }) {
		life = cacheFor // the certificate may be issued at any moment
	}
	a.nextUpdate = a.thisUpdate.Add(life)
	if a.nextUpdate.After(certificate.NotAfter) {
		a.nextUpdate = certificate.NotAfter
	}
	response := vs[0].of(r)
	response.ThisUpdate, response.NextUpdate, response.Nonce = a.thisUpdate, a.nextUpdate, r.Nonce
	for n, m := range r.More {
		response.More = append(response.More, vs[n+1].of(m))
	}
	a.der, err = response.Sign(certificate, key)
	a.etag = reply.Tag(a.der)
	return a, err
}

// of is the response with this verdict for the certificate of a request.
func (v verdict) of(r ocsp.Request) ocsp.Response {
	return ocsp.Response{CertID: r.CertID, Status: v.status, Since: time.Unix(v.since, 0), Reason: v.reason}
}

// fresh reports whether an answer may still be served: younger than resignAfter, not past
// nextUpdate, and not from the future of a clock that was set back.
func (a answer) fresh(now time.Time) bool {
	return !now.Before(a.thisUpdate) && now.Before(a.thisUpdate.Add(resignAfter)) && now.Before(a.nextUpdate)
}

// answersKept bounds each of the two generations: together some 50 MB.
const answersKept = 32 << 10

// answers caches signed answers by CertID in two generations: when the young one is full the old
// one is dropped, with everything that was not asked for meanwhile.
type answers struct {
	mu         sync.Mutex
	young, old map[string]answer
}

func (k *answers) get(id string) (answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, young := k.young[id]
	if young && a.asked {
		return a, true
	}
	ok := young
	if !young {
		a, ok = k.old[id]
	}
	if ok {
		a.asked = true
		k.add(id, a)
	}
	return a, ok
}

// aging are the answers in demand that were signed before a time.
func (k *answers) aging(before time.Time) (all []answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.young { // what is in demand is in this generation
		if a.asked && a.thisUpdate.Before(before) {
			all = append(all, a)
		}
	}
	return all
}

func (k *answers) put(id string, a answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.add(id, a)
}

func (k *answers) add(id string, a answer) {
	if _, is := k.young[id]; !is && len(k.young) >= answersKept || k.young == nil {
		k.young, k.old = make(map[string]answer), k.young
	}
	k.young[id] = a
}
