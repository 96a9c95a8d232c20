package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// backdate is how long before its issue a certificate begins, at most a tenth of its
// life, for relying parties whose clocks are slow.
const backdate = 5 * time.Minute

// prepare decides everything about a certificate and has it signed by a throw-away key.
func (a *Authority) prepare(ctx context.Context, j *job) error {
	shard, err := j.issuer.place(ctx, a.store, a.capacity)
	if err != nil {
		return err
	}
	now := a.now().UTC()
	j.placement = a.placement(j, shard, now)
	if j.template, err = profile.Template(j.Profile, j.Content, j.placement); err != nil {
		return err
	}
	j.row = record.Certificate{
		Issuer: j.issuer.Name, Serial: profile.SerialText(j.placement.Serial),
		Profile: string(j.Profile), Device: j.Device, Operator: j.id.operator,
		Subject: j.template.Subject.String(), Shard: shard, Key: j.id.key,
		NotBefore: j.template.NotBefore, NotAfter: j.template.NotAfter,
		Intended: now, Predecessor: j.Predecessor,
	}
	j.rehearsed, err = j.issuer.rehearsal.sign(j.template)
	return err
}

// lint inspects the exact certificate while a mistake is still free, with zlint and
// with the profile's own check, and makes its signed part the intent.
func (a *Authority) lint(j *job) error {
	if err := a.lints.check(string(j.Profile), j.rehearsed); err != nil {
		return err
	}
	prepared, err := profile.Check(j.Profile, j.Content, j.placement, j.rehearsed)
	if err != nil {
		return err
	}
	j.row.TBS = prepared.RawTBSCertificate
	return nil
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

// rehearsal signs what an issuer is about to sign with a key that is worth nothing, so
// that the exact certificate can be inspected before the issuer's key is asked.
type rehearsal struct {
	parent *x509.Certificate // the issuer's, but for the key
	key    crypto.Signer
}

// newRehearsal makes a throw-away key of the same algorithm as the issuer's: the
// algorithm's name is part of what is signed.
func newRehearsal(issuer *x509.Certificate) (rehearsal, error) {
	var key crypto.Signer
	var err error
	switch k := issuer.PublicKey.(type) {
	case *ecdsa.PublicKey:
		key, err = ecdsa.GenerateKey(k.Curve, rand.Reader)
	case *rsa.PublicKey:
		key, err = rsa.GenerateKey(rand.Reader, k.N.BitLen())
	default:
		err = errors.New("its key must be ECDSA or RSA")
	}
	if err != nil {
		return rehearsal{}, err
	}
	parent := *issuer
	parent.PublicKey = key.Public()
	return rehearsal{&parent, key}, nil
}

func (r rehearsal) sign(template *x509.Certificate) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, r.parent, template.PublicKey, r.key)
}
