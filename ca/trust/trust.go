// Package trust makes and serves what devices are told to trust: a numbered bundle of
// roots, time keys and server addresses, signed by an infrastructure root whose key is
// then put away; and the time, signed by a key that the bundle lists.
//
// Its promise: what it hands out passes the device's own check (wire.OpenBundle,
// wire.TimeAnswer.Open), because it runs that check first.
package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Root is an infrastructure root with its key, present only while a bundle is signed.
type Root struct {
	Certificate *x509.Certificate
	Signer      crypto.Signer
}

// Sign makes a bundle's exact bytes and signs them with every root given. A root that
// is being retired signs next to its successor, so that devices which know only the
// one or only the other follow. Each signer must be listed in b.Infrastructure.
func Sign(b wire.Bundle, roots ...Root) (wire.SignedBundle, error) {
	if err := b.Validate(); err != nil {
		return wire.SignedBundle{}, fmt.Errorf("trust bundle: %w", err)
	}
	bundle, err := json.Marshal(b)
	if err != nil {
		return wire.SignedBundle{}, fmt.Errorf("trust bundle: %w", err)
	}
	signed := wire.SignedBundle{Bundle: bundle}
	digest := wire.BundleDigest(bundle)
	for _, root := range roots {
		signature, err := root.Signer.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return wire.SignedBundle{}, fmt.Errorf("trust bundle: signing with %s: %w", root.Certificate.Subject, err)
		}
		signed.Signatures = append(signed.Signatures, wire.BundleSignature{
			Root: fingerprint(root.Certificate.Raw), Signature: signature,
		})
	}
	for _, root := range roots { // each signature must be enough by itself
		if _, err := wire.OpenBundle(signed, pin(root.Certificate)); err != nil {
			return wire.SignedBundle{}, fmt.Errorf("the signature of %s: %w", root.Certificate.Subject, err)
		}
	}
	if len(roots) == 0 {
		return wire.SignedBundle{}, errors.New("trust bundle: no root to sign it with")
	}
	return signed, nil
}

// Service gives out one signed bundle and the signed time.
type Service struct {
	signed wire.SignedBundle
	bundle wire.Bundle
	answer []byte // the signed bundle as it is sent
	clock  TimeSigner
	now    func() time.Time
}

// New checks that the bundle in file (the JSON of wire.SignedBundle) is signed by root,
// the infrastructure root of this installation, and lists timeKey.
func New(file []byte, root *x509.Certificate, timeKey crypto.Signer, now func() time.Time) (*Service, error) {
	s := &Service{now: now}
	if err := wire.DecodeBytes(file, &s.signed); err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	var err error
	if s.bundle, err = wire.OpenBundle(s.signed, pin(root)); err != nil {
		return nil, fmt.Errorf("%w (hint: the bundle file and the infrastructure root must come from the same installation)", err)
	}
	if s.clock, err = NewTimeSigner(timeKey); err != nil {
		return nil, err
	}
	if _, err := s.Time(make([]byte, wire.MinNonce)); err != nil {
		return nil, fmt.Errorf("the time key is not the one in the trust bundle: %w", err)
	}
	s.answer, err = json.Marshal(s.signed)
	return s, err
}

// Signed is the bundle as devices fetch it.
func (s *Service) Signed() wire.SignedBundle { return s.signed }

// Bundle is its content.
func (s *Service) Bundle() wire.Bundle { return s.bundle }

// Number is the bundle's number.
func (s *Service) Number() int64 { return s.bundle.Number }

// Time answers a nonce with the present time; see TimeSigner.Sign.
func (s *Service) Time(nonce []byte) (wire.TimeAnswer, error) {
	a, err := s.clock.Sign(nonce, s.now())
	if err != nil {
		return wire.TimeAnswer{}, err
	}
	_, err = a.Open(nonce, s.bundle.TimeKeys)
	return a, err
}

// TimeSigner signs the time with a time key.
type TimeSigner struct {
	key  crypto.Signer
	name string
}

// NewTimeSigner takes an ECDSA key.
func NewTimeSigner(key crypto.Signer) (TimeSigner, error) {
	if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
		return TimeSigner{}, errors.New("the time key is not an ECDSA key")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return TimeSigner{}, fmt.Errorf("the time key: %w", err)
	}
	return TimeSigner{key: key, name: fingerprint(spki)}, nil
}

// ErrNonce means that a nonce is not of 16 to 64 bytes.
var ErrNonce = fmt.Errorf("the nonce must have %d to %d bytes", wire.MinNonce, wire.MaxNonce)

// Sign binds now to the nonce that somebody who has no clock made up. ErrNonce if it is
// too short to be fresh or longer than there is a use for.
func (t TimeSigner) Sign(nonce []byte, now time.Time) (wire.TimeAnswer, error) {
	if len(nonce) < wire.MinNonce || len(nonce) > wire.MaxNonce {
		return wire.TimeAnswer{}, ErrNonce
	}
	a := wire.TimeAnswer{Unix: now.Unix(), Key: t.name}
	digest := wire.TimeMessage(nonce, a.Unix)
	var err error
	if a.Signature, err = t.key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		return wire.TimeAnswer{}, fmt.Errorf("signing the time: %w", err)
	}
	return a, nil
}

func pin(root *x509.Certificate) func([32]byte) bool {
	pinned := sha256.Sum256(root.Raw)
	return func(sum [32]byte) bool { return sum == pinned }
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
