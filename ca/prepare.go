package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
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
	placement := a.placement(j, shard, now)
	template, err := profile.Template(j.Profile, j.Content, placement)
	if err != nil {
		return err
	}
	if j.wanted, err = profile.Expect(j.Profile, j.Content, placement); err != nil {
		return err
	}
	j.row = record.Certificate{
		Issuer: j.issuer.Name, Serial: profile.SerialText(placement.Serial),
		Profile: string(j.Profile), Device: j.Device, Operator: j.id.operator,
		Subject: template.Subject.String(), Shard: shard, Key: j.id.key, KeyAlgorithm: profile.KeyAlgorithm(j.Content.Key),
		NotBefore: template.NotBefore, NotAfter: template.NotAfter,
		Intended: now, Predecessor: j.Predecessor,
	}
	j.rehearsed, err = j.issuer.rehearsal.sign(template)
	return err
}

// lint inspects the exact certificate while a mistake is still free, with the profile's
// own check and with zlint, and makes its signed part the intent.
func (a *Authority) lint(j *job) (err error) {
	if j.prepared, err = j.wanted.Check(j.rehearsed); err != nil {
		return err
	}
	j.row.TBS = j.prepared.RawTBSCertificate
	return a.lints.check(string(j.Profile), j.rehearsed)
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

// sign makes the certificate of a template. x509.CreateCertificate builds what is to be
// signed and is then stopped: it would also verify a signature that proves nothing, in
// three times the time that it takes to make.
func (r rehearsal) sign(template *x509.Certificate) ([]byte, error) {
	s := &stop{Signer: r.key}
	if _, err := x509.CreateCertificate(rand.Reader, template, r.parent, template.PublicKey, s); !errors.Is(err, errStop) {
		return nil, fmt.Errorf("build what is to be signed: %w", err)
	}
	return profile.Assemble(s.tbs, s.signature)
}

// stop signs what it is given, keeps both, and ends whatever its caller was about.
type stop struct {
	crypto.Signer
	tbs, signature []byte
}

var errStop = errors.New("signed; stop here")

// SignMessage makes stop a crypto.MessageSigner, which sees more than a digest.
func (s *stop) SignMessage(random io.Reader, tbs []byte, o crypto.SignerOpts) (_ []byte, err error) {
	s.tbs = tbs
	if s.signature, err = crypto.SignMessage(s.Signer, random, tbs, o); err != nil {
		return nil, err
	}
	return nil, errStop
}
