// Package trust makes and serves what devices are told to trust: a numbered bundle of
// roots, time keys and server addresses, signed by an infrastructure root whose key is
// then put away; and the time, signed by a key that the bundle lists.
//
// Its promise: what it hands out passes the device's own checks (wire.OpenBundle,
// wire.TimeAnswer.Open). Only provisioner/native puts it on the network.
package trust

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	if len(roots) == 0 {
		return wire.SignedBundle{}, errors.New("trust bundle: no root to sign it with")
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
		alone := []wire.BundleSignature{{Root: fingerprint(root.Certificate.Raw), Signature: signature}}
		if _, err := wire.OpenBundle(wire.SignedBundle{Bundle: bundle, Signatures: alone}, pin(root.Certificate)); err != nil {
			return wire.SignedBundle{}, fmt.Errorf("the signature of %s: %w", root.Certificate.Subject, err)
		}
		signed.Signatures = append(signed.Signatures, alone...)
	}
	return signed, nil
}

// Service gives out one signed bundle and the signed time.
type Service struct {
	signed  wire.SignedBundle
	bundle  wire.Bundle
	timeKey crypto.Signer
	keyName string
}

// New checks that the bundle in file (the JSON of wire.SignedBundle) is signed by root,
// the infrastructure root of this installation, and lists timeKey.
func New(file []byte, root *x509.Certificate, timeKey crypto.Signer) (*Service, error) {
	s := &Service{timeKey: timeKey}
	if err := wire.DecodeBytes(file, &s.signed); err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	var err error
	if s.bundle, err = wire.OpenBundle(s.signed, pin(root)); err != nil {
		return nil, fmt.Errorf("%w (hint: the bundle file and the infrastructure root must come from the same installation)", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(timeKey.Public())
	if err != nil {
		return nil, fmt.Errorf("time key: %w", err)
	}
	if !slices.ContainsFunc(s.bundle.TimeKeys, func(listed []byte) bool { return bytes.Equal(listed, spki) }) {
		return nil, errors.New("the trust bundle does not list this time key: devices would not believe it (hint: use the key that was made with the bundle)")
	}
	s.keyName = fingerprint(spki)
	return s, nil
}

// Newest is the bundle as devices fetch it, and its number.
func (s *Service) Newest() (wire.SignedBundle, int64) { return s.signed, s.bundle.Number }

// Bundle is its content.
func (s *Service) Bundle() wire.Bundle { return s.bundle }

// SignTime binds now to a nonce that somebody without a clock made up. It has 16 to 64
// bytes: fewer would not be fresh, and for more there is no use.
func (s *Service) SignTime(nonce []byte, now time.Time) (wire.TimeAnswer, error) {
	if len(nonce) < wire.MinNonce || len(nonce) > wire.MaxNonce {
		return wire.TimeAnswer{}, fmt.Errorf("the nonce must have %d to %d bytes", wire.MinNonce, wire.MaxNonce)
	}
	a := wire.TimeAnswer{Unix: now.Unix(), Key: s.keyName}
	digest := wire.TimeMessage(nonce, a.Unix)
	var err error
	if a.Signature, err = s.timeKey.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
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
