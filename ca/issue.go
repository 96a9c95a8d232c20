package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// finish bounds what happens after the intent is recorded, which cancelling the caller's context
// does not stop: finishing a certificate is better than voiding it.
const finish = 15 * time.Second

// job is one request on its way to a certificate.
type job struct {
	Request
	id          identity
	issuer      *issuer
	prepared    *x509.Certificate  // the template that it is built from
	expected    profile.Expected   // written apart from the template
	row         record.Certificate // the intent, then the result
	signed      []byte             // DER, as the CAS returned it
	certificate *x509.Certificate  // parsed from signed
	again       bool
}

// identity is what at most one call at a time issues for.
type identity struct {
	issuer, profile, device, principal string
	key                                [32]byte // SHA-256 of the SubjectPublicKeyInfo
}

// Issue signs the requested certificates, all or none, and returns them in the order of the
// requests. e is the audit event recorded with them; if all had been issued before, nothing
// changes and nothing is recorded.
//
// The same device (or principal), profile and key get the same certificate again until it is
// [Due], since an answer may be lost, unless that very certificate authenticated the request
// (Request.Predecessor). If the first of several requests gets a new certificate, so do the
// others. If Issue fails after the intent was recorded, the error is a [*VoidedError] that names
// the CRL shards to publish.
func (a *Authority) Issue(ctx context.Context, e record.Event, reqs ...Request) ([]Issued, error) {
	jobs, err := a.check(reqs)
	if err != nil {
		return nil, err
	}
	release, err := a.hold(ctx, jobs)
	if err != nil {
		return nil, err
	}
	defer release()
	for _, j := range jobs {
		if err := a.prepare(ctx, j); err != nil {
			return nil, fmt.Errorf("prepare the %s certificate: %w", j.Profile, err)
		}
		if err := a.lint(j); err != nil {
			return nil, fmt.Errorf("the %s certificate would be wrong: %w", j.Profile, err)
		}
	}
	todo, err := a.intend(ctx, jobs)
	if err != nil {
		return nil, fmt.Errorf("record the intent to sign: %w", err)
	}
	if len(todo) == 0 {
		return answers(jobs), nil
	}
	// From here on certificates may exist. Whatever happens, the record must say so.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	for _, j := range todo {
		if err := j.sign(); err != nil {
			return nil, a.void(ctx, e, todo, fmt.Errorf("sign the %s certificate: %w", j.Profile, err))
		}
		if err := j.lookAgain(); err != nil {
			return nil, a.void(ctx, e, todo, fmt.Errorf("the signed %s certificate is wrong: %w", j.Profile, err))
		}
	}
	if err := a.record(ctx, e, todo); err != nil {
		return nil, a.void(ctx, e, todo, fmt.Errorf("record the certificate: %w", err))
	}
	return answers(jobs), nil
}

// check validates the requests against their profiles.
func (a *Authority) check(reqs []Request) ([]*job, error) {
	if len(reqs) == 0 {
		return nil, errors.New("nothing was asked for")
	}
	var jobs []*job
	seen := map[identity]bool{}
	for _, r := range reqs {
		j, err := a.newJob(r)
		if err != nil {
			return nil, err
		}
		if seen[j.id] {
			return nil, fmt.Errorf("the same %s certificate was asked for twice", r.Profile)
		}
		seen[j.id] = true
		jobs = append(jobs, j)
	}
	return jobs, nil
}

func (a *Authority) newJob(r Request) (*job, error) {
	if err := r.Content.Validate(r.Profile); err != nil {
		return nil, err
	}
	name := profile.IssuerOf(r.Profile)
	i := a.inUse[name]
	switch {
	case name == "":
		name, i = r.Issuer, a.issuers[r.Issuer]
	case r.Issuer != "":
		return nil, fmt.Errorf("a %s certificate is always signed by issuer %q; the request must not name one", r.Profile, name)
	}
	if i == nil {
		return nil, fmt.Errorf("there is no issuer %q for a %s certificate; configured are %v", name, r.Profile, a.Issuers())
	}
	if (r.Device != "") != (r.Content.Model != "") {
		return nil, fmt.Errorf("a %s certificate needs the device's ID in the record if, and only if, it is a device's", r.Profile)
	}
	key, err := x509.MarshalPKIXPublicKey(r.Content.Key)
	if err != nil {
		return nil, err
	}
	id := identity{i.Name, string(r.Profile), r.Device, r.Content.Principal, sha256.Sum256(key)}
	return &job{Request: r, id: id, issuer: i}, nil
}

// hold waits until no other call issues for the same identities, and then makes others wait until
// release: of two callers asking for one certificate, the second finds that of the first.
func (a *Authority) hold(ctx context.Context, jobs []*job) (release func(), err error) {
	done := make(chan struct{})
	for {
		other := a.take(jobs, done)
		if other == nil {
			return func() { a.give(jobs); close(done) }, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another who asks for the same certificate: %w", ctx.Err())
		}
	}
}

// take marks the identities as busy until done is closed; if one is busy already, it marks none
// and returns that one's channel.
func (a *Authority) take(jobs []*job, done chan struct{}) (other chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range jobs {
		if other := a.busy[j.id]; other != nil {
			return other
		}
	}
	for _, j := range jobs {
		a.busy[j.id] = done
	}
	return nil
}

func (a *Authority) give(jobs []*job) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range jobs {
		delete(a.busy, j.id)
	}
}

// intend records the intents, except of certificates that were issued before and are not due, and
// returns those that are to be signed. The preparation is wasted if there was an earlier
// certificate, which is rare; only the recording transaction can tell.
func (a *Authority) intend(ctx context.Context, jobs []*job) (todo []*job, err error) {
	var given []*x509.Certificate
	var earlier []*record.Certificate
	now := a.now()
	err = a.store.Intend(ctx, rows(jobs), func(found []*record.Certificate) []bool {
		given, earlier = make([]*x509.Certificate, len(jobs)), found
		stand := make([]bool, len(jobs))
		for n, j := range jobs {
			// If the first certificate is new, so are the others.
			if stand[0] || n == 0 {
				given[n] = j.standing(found[n], now)
				stand[n] = given[n] != nil
			}
		}
		return stand
	})
	if err != nil {
		return nil, err
	}
	for n, j := range jobs {
		if given[n] == nil {
			todo = append(todo, j)
			continue
		}
		// Not inside Intend: reserving places holds the issuer's lock while it waits for the
		// record.
		j.issuer.giveBack(j.row.Shard)
		j.row, j.certificate, j.again = *earlier[n], given[n], true
	}
	return todo, nil
}

// standing parses the certificate that was issued before; nil if there is none or a new one must
// be made: it is due, its issuer has been succeeded, it is damaged, or it authenticated this
// request, so that the answer was not lost.
func (j *job) standing(earlier *record.Certificate, now time.Time) *x509.Certificate {
	if earlier == nil || now.After(Due(earlier.NotBefore, earlier.NotAfter)) || earlier.Issuer != j.issuer.Name || earlier.Serial == j.Predecessor {
		return nil
	}
	c, _ := x509.ParseCertificate(earlier.DER)
	return c
}

// Due is when two thirds of a certificate's life are over: until then Issue returns the same one
// again, and from then on its holder renews.
func Due(notBefore, notAfter time.Time) time.Time {
	life := notAfter.Sub(notBefore) // at most 292 years: twice that would overflow
	return notBefore.Add(life - life/3)
}

// sign has the CAS sign.
func (j *job) sign() (err error) {
	j.signed, err = j.issuer.CAS.Sign(j.prepared)
	return err
}

// lookAgain does not trust what came back: it must be exactly the recorded intent, which the CAS
// did not build, must parse, and must bear the issuer's signature.
func (j *job) lookAgain() (err error) {
	if j.certificate, err = j.expected.Check(j.signed); err != nil {
		return err
	}
	return profile.CheckSignature(j.certificate, j.issuer.Certificate)
}

// record completes the intents.
func (a *Authority) record(ctx context.Context, e record.Event, jobs []*job) error {
	for _, j := range jobs {
		j.row.DER, j.row.Issued = j.certificate.Raw, a.now().UTC()
	}
	if err := a.store.Complete(ctx, rows(jobs), e); err != nil {
		return err
	}
	for _, j := range jobs {
		j.row.TBS = nil // as on record: it is part of the DER
	}
	return nil
}

func rows(jobs []*job) []record.Certificate {
	var all []record.Certificate
	for _, j := range jobs {
		all = append(all, j.row)
	}
	return all
}

func answers(jobs []*job) []Issued {
	var all []Issued
	for _, j := range jobs {
		chain := append([][]byte{j.certificate.Raw}, j.issuer.chain...)
		all = append(all, Issued{Certificate: j.certificate, Chain: chain, Record: j.row, Again: j.again})
	}
	return all
}
