package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// backdate is how long before its issue a certificate begins, limited to a tenth of its life, for
// relying parties whose clocks are slow.
const backdate = 5 * time.Minute

// early is how far the clock may be behind the issuer's notBefore, since the clock may have been
// corrected after founding. One that is further behind was lost, as by a dead battery, and its
// certificates would have expired before the issuer begins.
const early = 24 * time.Hour

// prepare decides everything about a certificate and writes it twice: as the template from which
// the CAS builds it, and as the bytes that must result, which are the intent.
func (a *Authority) prepare(ctx context.Context, j *job) error {
	shard, err := j.issuer.place(ctx, a.store, a.capacity)
	if err != nil {
		return err
	}
	now := a.now().UTC()
	if begins := j.issuer.Certificate.NotBefore; now.Before(begins.Add(-early)) {
		return fmt.Errorf("here it is %s, and its issuer began on %s: is this machine's clock right?", now.Format(time.DateOnly), begins.Format(time.DateOnly))
	}
	placement := a.placement(j, shard, now)
	if j.prepared, err = profile.Template(j.Profile, j.Content, placement); err != nil {
		return err
	}
	if j.expected, err = profile.Expect(j.Profile, j.Content, placement); err != nil {
		return err
	}
	j.prepared.RawTBSCertificate = j.expected.TBS()
	j.row = record.Certificate{
		Issuer: j.issuer.Name, Serial: profile.SerialText(placement.Serial),
		Profile: string(j.Profile), Device: j.Device, Principal: j.id.principal,
		Subject: j.prepared.Subject.String(), Shard: shard, Key: j.id.key, KeyAlgorithm: profile.KeyAlgorithm(j.Content.Key),
		NotBefore: j.prepared.NotBefore, NotAfter: j.prepared.NotAfter, TBS: j.expected.TBS(),
		Intended: now, Predecessor: j.Predecessor,
	}
	return nil
}

// lint inspects the exact certificate before the issuer's key is used: the intent with a
// worthless signature.
func (a *Authority) lint(j *job) error {
	specimen, err := profile.Assemble(j.expected.TBS(), j.issuer.specimen)
	if err != nil {
		return err
	}
	return a.lints.check(string(j.Profile), specimen)
}

func (a *Authority) placement(j *job, shard int64, now time.Time) profile.Placement {
	before := backdate
	if life := j.Content.Lifetime; life != 0 {
		before = min(before, life/10)
	}
	begin := now.Add(-before).Truncate(time.Second)
	if issuer := j.issuer.Certificate.NotBefore; begin.Before(issuer) {
		begin = issuer
	}
	return profile.Placement{
		Serial: profile.NewSerial(), NotBefore: begin,
		Issuer: j.issuer.Certificate, Organisation: a.organisation,
		CRL:  profile.CRLURL(a.baseURL, j.issuer.Name, shard),
		OCSP: profile.OCSPURL(a.baseURL),
		CA:   profile.CAURL(a.baseURL, j.issuer.Name),
	}
}

// specimenSignature is made by a throw-away key of the issuer's algorithm. In what is linted it
// stands in for the issuer's; nobody verifies it.
func specimenSignature(issuer crypto.PublicKey) ([]byte, error) {
	key, err := throwAwayKey(issuer)
	if err != nil {
		return nil, err
	}
	nothing := sha256.Sum256(nil)
	return key.Sign(rand.Reader, nothing[:], crypto.SHA256)
}

func throwAwayKey(like crypto.PublicKey) (crypto.Signer, error) {
	switch k := like.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.GenerateKey(k.Curve, rand.Reader)
	case *rsa.PublicKey:
		return rsa.GenerateKey(rand.Reader, k.N.BitLen())
	}
	return nil, errors.New("its key must be ECDSA or RSA")
}
