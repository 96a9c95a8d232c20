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

// finish bounds what happens after the intent is recorded, which the caller's hanging
// up does not stop: a certificate that was begun is better finished than voided.
const finish = 15 * time.Second

// job is one request on its way to a certificate.
type job struct {
	Request
	id          identity
	issuer      *issuer
	prepared    *x509.Certificate  // the template that it is built from
	expected    profile.Expected   // by the half of the profile that did not make the template
	row         record.Certificate // the intent, then the result
	signed      []byte             // DER, as the CAS returned it
	certificate *x509.Certificate  // as it was looked at
	again       bool
}

// identity is what at most one certificate is issued for at a time.
type identity struct {
	issuer, profile, device, operator string
	key                               [32]byte // SHA-256 of the SubjectPublicKeyInfo
}

// Issue signs the certificates asked for, all or none, and returns them in the order of
// the requests. E is the audit event written with them; if all had been issued before,
// nothing changes and nothing is written.
//
// The same device (or operator), profile and key asking again gets the same certificate
// until it is [Due], for an answer may be lost, unless it shows that very certificate
// (Request.Predecessor). What the first of several requests is given anew, the others are
// too. If Issue fails when the intent was recorded already, the error is a [*VoidedError] that names
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

// check holds the requests against the profiles.
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
	id := identity{i.Name, string(r.Profile), r.Device, r.Content.Operator, sha256.Sum256(key)}
	return &job{Request: r, id: id, issuer: i}, nil
}

// hold waits until no other call issues for the same identities, and then keeps others
// waiting until release: of two askers for one certificate the second finds the first's.
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

// take marks the identities as busy until done is closed; if one is busy already, it
// marks none and returns the other's done.
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

// intend records the intents, but not of what was issued before and is not due, and
// returns those that are to be signed. That so much is prepared for nothing is the price
// of looking in the transaction that records: nearly always there is nothing to find.
func (a *Authority) intend(ctx context.Context, jobs []*job) (todo []*job, err error) {
	var given []*x509.Certificate
	var earlier []*record.Certificate
	now := a.now()
	err = a.store.Intend(ctx, rows(jobs), func(found []*record.Certificate) []bool {
		given, earlier = make([]*x509.Certificate, len(jobs)), found
		stand := make([]bool, len(jobs))
		for n, j := range jobs {
			// What is asked for beside a certificate that is made anew is made anew as well.
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
		// Not before: whoever reserves places holds the issuer's lock, and waits for the record.
		j.issuer.giveBack(j.row.Shard)
		j.row, j.certificate, j.again = *earlier[n], given[n], true
	}
	return todo, nil
}

// standing reads the certificate that was issued before; nil if there is none, or if another
// is to be made: it is due, its issuer has been succeeded, it is damaged, or the asker has
// shown it, so that its answer was not lost.
func (j *job) standing(earlier *record.Certificate, now time.Time) *x509.Certificate {
	if earlier == nil || now.After(Due(earlier.NotBefore, earlier.NotAfter)) || earlier.Issuer != j.issuer.Name || earlier.Serial == j.Predecessor {
		return nil
	}
	c, _ := x509.ParseCertificate(earlier.DER)
	return c
}

// Due is when two thirds of a certificate's life are over: until then Issue gives the
// same one again, from then on whoever holds it asks for the next.
func Due(notBefore, notAfter time.Time) time.Time {
	life := notAfter.Sub(notBefore) // at most 292 years: twice that would overflow
	return notBefore.Add(life - life/3)
}

// sign asks the issuer's key.
func (j *job) sign() (err error) {
	j.signed, err = j.issuer.CAS.Sign(j.prepared)
	return err
}

// lookAgain believes nothing of what came back: it must be the recorded intent to the
// byte, which the CAS did not build, read well, and bear the issuer's signature.
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
		j.row.TBS = nil // as the record has it now: the DER holds it
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
