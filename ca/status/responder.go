package status

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/ca/status/ocsp"
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
	etag                   string
	thisUpdate, nextUpdate time.Time
}

// answerOCSP turns a request into an answer. The error's answer is unsigned, and der
// is never nil. only reports an answer that is for this asker: it must not be cached.
func (s *Service) answerOCSP(ctx context.Context, request []byte) (a answer, only bool) {
	r, err := ocsp.ParseRequest(request)
	if err != nil {
		return answer{der: ocsp.Malformed}, true
	}
	// A stranger's issuer is not "unknown": that would speak with authority about a CA
	// that is not ours (RFC 6960 §2.3, RFC 9919 §3.2.3).
	i := s.byHash[issuerKey(r.Hash, r.NameHash, r.KeyHash)]
	if i == nil {
		return answer{der: ocsp.Unauthorized}, true
	}
	v, err := s.verdict(ctx, i.Name, r)
	if err != nil {
		s.log.Error("OCSP: the record cannot be read", "error", err)
		return answer{der: ocsp.TryLater}, true
	}
	now := s.now()
	if r.Nonce == nil {
		if kept, ok := s.answers.get(string(r.CertID)); ok && kept.verdict == v && kept.fresh(now) {
			return kept, false
		}
	}
	a, err = s.signAnswer(ctx, i, r, v, now)
	if err != nil {
		s.log.Error("OCSP: an answer could not be signed", "issuer", i.Name, "error", err)
		return answer{der: ocsp.InternalError}, true
	}
	// Unknown serial numbers are without number; keeping their answers would let a
	// stranger push the useful ones out.
	only = r.Nonce != nil || v.status == ocsp.Unknown
	if !only {
		s.answers.put(string(r.CertID), a)
	}
	return a, only
}

// verdict asks the record every time, kept answer or not: that is what makes a
// revocation visible at once on every replica. An intent that is not completed is
// unknown, not good: there is no such certificate yet, and if the process died while
// it was signed, it will be revoked and never handed out.
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

func (s *Service) signAnswer(ctx context.Context, i *issuer, r ocsp.Request, v verdict, now time.Time) (answer, error) {
	certificate, key, err := s.responder(ctx, i.Name)
	if err != nil {
		return answer{}, err
	}
	if err := checkResponder(certificate, key, i.Certificate, now); err != nil {
		return answer{}, err
	}
	a := answer{verdict: v, thisUpdate: now.UTC().Truncate(time.Second)}
	life := ocspLife
	if v.status == ocsp.Unknown {
		life = cacheFor // it may be issued at any moment
	}
	a.nextUpdate = a.thisUpdate.Add(life)
	if a.nextUpdate.After(certificate.NotAfter) {
		a.nextUpdate = certificate.NotAfter
	}
	a.der, err = ocsp.Response{
		CertID: r.CertID, Status: v.status, Since: time.Unix(v.since, 0), Reason: v.reason,
		ThisUpdate: a.thisUpdate, NextUpdate: a.nextUpdate, Nonce: r.Nonce,
	}.Sign(certificate, key)
	a.etag = etag(a.der)
	return a, err
}

// checkResponder holds a responder against RFC 6960 §4.2.2.2: issued by the very CA it
// answers for, for this purpose, and still valid.
func checkResponder(c *x509.Certificate, key crypto.Signer, issuer *x509.Certificate, now time.Time) error {
	switch public, ok := c.PublicKey.(*ecdsa.PublicKey); {
	case !ok || !public.Equal(key.Public()):
		return errors.New("the OCSP responder's certificate is not for its key")
	case !bytes.Equal(c.RawIssuer, issuer.RawSubject) || !bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId):
		return errors.New("the OCSP responder's certificate is not by this issuer")
	case !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return errors.New("the OCSP responder's certificate lacks id-kp-OCSPSigning")
	case now.Before(c.NotBefore) || !now.Before(c.NotAfter):
		return errors.New("the OCSP responder's certificate is not valid now")
	}
	return nil
}

// fresh reports whether an answer may still be given out: younger than resignAfter,
// not past its end, and not from a clock that has since gone back.
func (a answer) fresh(now time.Time) bool {
	return !now.Before(a.thisUpdate) && now.Before(a.thisUpdate.Add(resignAfter)) && now.Before(a.nextUpdate)
}

// answersKept bounds each of the two generations: together some 50 MB.
const answersKept = 32 << 10

// answers keeps signed answers by CertID in two generations: when the young one is
// full the old one is dropped, and with it what nobody asked for meanwhile.
type answers struct {
	mu         sync.Mutex
	young, old map[string]answer
}

func (k *answers) get(id string) (answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a, ok := k.young[id]; ok {
		return a, true
	}
	a, ok := k.old[id]
	if ok {
		k.add(id, a)
	}
	return a, ok
}

func (k *answers) put(id string, a answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.add(id, a)
}

func (k *answers) add(id string, a answer) {
	if len(k.young) >= answersKept || k.young == nil {
		k.young, k.old = make(map[string]answer), k.young
	}
	k.young[id] = a
}
