// Package trust makes and serves what devices must trust: numbered bundles of roots, time keys
// and server addresses, each signed by keys that are kept away from the server; and the time,
// signed by a key that the newest bundle lists.
//
// Its promise: what it returns passes the device's own checks (wire.OpenBundle,
// wire.Bundle.Follow, wire.TimeAnswer.Open). It does no networking.
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

// Sign encodes a bundle and signs it with every root given. A root that is being retired signs
// next to its successor, so that devices which know only one of them follow. Each signer must be
// listed in b.Infrastructure.
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
		alone := []wire.BundleSignature{{Signer: fingerprint(root.Certificate.Raw), Signature: signature}}
		if _, err := wire.OpenBundle(wire.SignedBundle{Bundle: bundle, Signatures: alone}, pin(root.Certificate)); err != nil {
			return wire.SignedBundle{}, fmt.Errorf("the signature of %s: %w", root.Certificate.Subject, err)
		}
		signed.Signatures = append(signed.Signatures, alone...)
	}
	return signed, nil
}

// Service serves the bundles and the signed time.
type Service struct {
	// steps are the bundles that are kept, the newest last, each following the one before it.
	steps   []wire.SignedBundle
	sizes   []int
	bundle  wire.Bundle // the newest
	timeKey crypto.Signer
	keyName string
}

// New checks that the bundle in file (the JSON of wire.SignedBundle) lists root, the
// infrastructure root of this installation, and timeKey, and that each of the earlier bundles,
// oldest first, leads to the next: devices that were offline follow them.
func New(file []byte, root *x509.Certificate, timeKey crypto.Signer, earlier ...[]byte) (*Service, error) {
	s := &Service{timeKey: timeKey}
	for _, text := range append(slices.Clone(earlier), file) {
		if err := s.add(text); err != nil {
			return nil, err
		}
	}
	if !Lists(s.bundle.Infrastructure, root.Raw) {
		return nil, fmt.Errorf("trust bundle %d does not list the infrastructure root (hint: the bundle file and the root must come from the same installation)", s.bundle.Number)
	}
	spki, err := x509.MarshalPKIXPublicKey(timeKey.Public())
	if err != nil {
		return nil, fmt.Errorf("time key: %w", err)
	}
	if !Lists(s.bundle.TimeKeys, spki) {
		return nil, errors.New("the trust bundle does not list this time key: devices would not believe it (hint: use a key that the bundle lists; hallmarkd trust show)")
	}
	s.keyName = fingerprint(spki)
	return s, nil
}

// add appends the bundle that follows the newest.
func (s *Service) add(text []byte) error {
	var signed wire.SignedBundle
	err := wire.DecodeBytes(text, &signed)
	if err != nil {
		return fmt.Errorf("trust bundle: %w", err)
	}
	if len(s.steps) == 0 {
		s.bundle, err = wire.ReadBundle(signed)
	} else {
		s.bundle, err = s.bundle.Follow(signed)
	}
	if err != nil {
		return err
	}
	again, err := json.Marshal(signed)
	if err != nil {
		return err
	}
	s.steps, s.sizes = append(s.steps, signed), append(s.sizes, len(again))
	return nil
}

// Newest is the bundle as devices fetch it, and its number.
func (s *Service) Newest() (wire.SignedBundle, int64) {
	return s.steps[len(s.steps)-1], s.bundle.Number
}

// stepsFrame is the most that wire.TrustSteps adds to its bundles, in bytes.
const stepsFrame = 64

// Since returns the bundles that follow number after, as many as fit into an answer and at least
// one if there are any. They begin with the first bundle that is kept if after is older.
func (s *Service) Since(after int64) wire.TrustSteps {
	answer := wire.TrustSteps{Bundles: []wire.SignedBundle{}, Newest: s.bundle.Number}
	if after >= s.bundle.Number {
		return answer
	}
	size := 0
	for i := max(0, after-s.First()+1); i < int64(len(s.steps)); i++ {
		if size += s.sizes[i] + 1; size > wire.MaxMessage-stepsFrame && len(answer.Bundles) > 0 {
			break
		}
		answer.Bundles = append(answer.Bundles, s.steps[i])
	}
	return answer
}

// Lists reports whether a root (a certificate's DER) or a key is in one of a bundle's lists.
func Lists(list [][]byte, one []byte) bool {
	return slices.ContainsFunc(list, func(other []byte) bool { return bytes.Equal(one, other) })
}

// Listed reports whether any of the bundles that are kept lists a root (DER).
func (s *Service) Listed(root []byte) bool {
	return slices.ContainsFunc(s.steps, func(step wire.SignedBundle) bool {
		b, err := wire.ReadBundle(step)
		return err == nil && Lists(slices.Concat(b.Infrastructure, b.Operational, b.Manufacturing), root)
	})
}

// SignedBy lists the signers of the newest bundle (wire.BundleSignature.Signer).
func (s *Service) SignedBy() (names []string) {
	for _, signature := range s.steps[len(s.steps)-1].Signatures {
		names = append(names, signature.Signer)
	}
	return names
}

// First is the number of the oldest bundle that is kept.
func (s *Service) First() int64 { return s.bundle.Number - int64(len(s.steps)) + 1 }

// Bundle is the content of the newest bundle.
func (s *Service) Bundle() wire.Bundle { return s.bundle }

// SignTime signs now together with the nonce of a device whose clock is not trusted. The nonce
// has 16 to 64 bytes: fewer might repeat, and more are of no use.
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
