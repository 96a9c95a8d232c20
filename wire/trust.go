package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Bundle is what a device must trust, numbered so that it can never be rolled back.
type Bundle struct {
	Number  int64     `json:"number"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// Infrastructure, Operational and Manufacturing are the roots (DER).
	Infrastructure [][]byte `json:"infrastructure"`
	Operational    [][]byte `json:"operational"`
	Manufacturing  [][]byte `json:"manufacturing"`
	// TimeKeys are SubjectPublicKeyInfo (DER) of the keys that may sign the time.
	TimeKeys [][]byte `json:"time_keys"`
	// Servers are the https URLs of the device listener, best first.
	Servers []string `json:"servers"`
	// NonceMode says that a proxy terminates TLS: bindings use a server nonce. A device stores
	// it, and no connection can change it.
	NonceMode bool `json:"nonce_mode,omitempty"`
	// Signers are SubjectPublicKeyInfo (DER) of the offline keys that sign bundles, and Threshold
	// is how many of them must. Without Signers any one of the infrastructure roots signs.
	Signers   [][]byte `json:"signers,omitempty"`
	Threshold int      `json:"threshold,omitempty"`
}

// SignedBundle is a Bundle's exact JSON with its signatures.
type SignedBundle struct {
	Bundle     []byte            `json:"bundle"`
	Signatures []BundleSignature `json:"signatures"`
}

// BundleSignature is ASN.1 ECDSA over SHA-256 of the string "hallmark-trust-1" and
// the bundle's bytes.
type BundleSignature struct {
	// Signer is the hex SHA-256 of the signing root certificate or, for one of
	// Bundle.Signers, of its SubjectPublicKeyInfo (DER).
	Signer    string `json:"root"`
	Signature []byte `json:"signature"`
}

// TrustSteps answers GET [PathTrust]?after=N: the bundles N+1, N+2, … in order, as many
// as fit into an answer.
type TrustSteps struct {
	Bundles []SignedBundle `json:"bundles"`
	// Newest is the number of the newest bundle there is.
	Newest int64 `json:"newest"`
}

// BundleContext precedes the bundle in what is signed.
const BundleContext = "hallmark-trust-1"

// Bounds of a bundle, enforced by both ends. MaxBundle is in bytes of Bundle's JSON and leaves
// room for its base64 in MaxMessage; maxListed bounds each list, and lets a roll-over of every
// root and key at once still fit.
const (
	MaxBundle = 40 << 10
	maxListed = 16
	// MaxSteps bounds how many bundles an installation ever makes and a device follows: one a
	// month for 85 years.
	MaxSteps = 1024
)

// BundleDigest is what is signed: SHA-256 over BundleContext and the bundle's exact bytes.
func BundleDigest(bundle []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(BundleContext))
	h.Write(bundle)
	return [32]byte(h.Sum(nil))
}

// ReadBundle returns the bundle inside s if it is well formed and signed by as many of its own
// signers as it requires. That says nothing about who they are: the caller must have verified it
// with a pin or an earlier bundle. Unknown JSON keys are ignored, so that an older device can
// follow a newer server.
//
// Nothing here depends on the time: the bundle may be needed to learn it.
func ReadBundle(s SignedBundle) (Bundle, error) {
	b, err := s.parse()
	if err != nil {
		return Bundle{}, err
	}
	if err := b.Validate(); err != nil {
		return Bundle{}, fmt.Errorf("trust bundle: %w", err)
	}
	if signed, want := s.Signed(b); signed < want {
		return Bundle{}, fmt.Errorf("trust bundle %d: signed by %d of its own keys, want %d", b.Number, signed, want)
	}
	return b, nil
}

// OpenBundle is ReadBundle for a caller that knows only a root's fingerprint: an infrastructure
// root that pinned accepts, by the SHA-256 of its certificate (DER), must also be listed in the
// bundle and have signed it.
func OpenBundle(s SignedBundle, pinned func(sha256 [32]byte) bool) (Bundle, error) {
	b, err := s.parse()
	if err != nil {
		return Bundle{}, err
	}
	// Only a pinned certificate is parsed before a signature has been verified: untrusted bytes
	// reach only SHA-256.
	if s.count(b.roots(pinned)) == 0 {
		return Bundle{}, errors.New("trust bundle: not signed by a root that is trusted here")
	}
	return ReadBundle(s)
}

// Follow opens the bundle inside s as the successor of b: its number is the next, and it is
// signed by as many keys of b, and of its own, as each requires. So the holder of an old bundle
// can follow any number of them, one at a time, and never backwards (The Update Framework,
// specification 1.0.34, §5.3.4 and §5.3.5).
func (b Bundle) Follow(s SignedBundle) (Bundle, error) {
	next, err := s.parse()
	if err != nil {
		return Bundle{}, err
	}
	if next.Number != b.Number+1 {
		return Bundle{}, fmt.Errorf("trust bundle %d does not follow %d", next.Number, b.Number)
	}
	if signed, want := s.Signed(b); signed < want {
		return Bundle{}, fmt.Errorf("trust bundle %d: signed by %d of the keys that bundle %d names, want %d", next.Number, signed, b.Number, want)
	}
	return ReadBundle(s)
}

// Signed counts the keys of b, which need not be the bundle inside s, that signed s, and returns
// how many b requires. A key counts once, however often it is listed or signed.
func (s SignedBundle) Signed(b Bundle) (signed, want int) {
	if len(b.Signers) == 0 {
		return s.count(b.roots(func([32]byte) bool { return true })), 1
	}
	var all []signer
	for _, der := range b.Signers {
		if key, err := ecdsaKey(der); err == nil {
			all = append(all, signer{sha256.Sum256(der), key})
		}
	}
	return s.count(all), b.Threshold
}

// parse parses the bundle inside s, unverified.
func (s SignedBundle) parse() (Bundle, error) {
	if len(s.Bundle) > MaxBundle || len(s.Signatures) > 2*maxListed {
		return Bundle{}, ErrTooLarge
	}
	var b Bundle
	if err := json.Unmarshal(s.Bundle, &b); err != nil {
		return Bundle{}, fmt.Errorf("trust bundle: not the expected JSON: %w", err)
	}
	if err := checkKeys(s.Bundle); err != nil {
		return Bundle{}, fmt.Errorf("trust bundle: %w", err)
	}
	return b, nil
}

// signer is a key that may sign bundles, with the fingerprint that identifies its signatures.
type signer struct {
	sum [32]byte
	key *ecdsa.PublicKey
}

// roots are the infrastructure roots that accept accepts, as signers.
func (b Bundle) roots(accept func(sha256 [32]byte) bool) []signer {
	if len(b.Infrastructure) > maxListed {
		return nil
	}
	var all []signer
	for _, der := range b.Infrastructure {
		sum := sha256.Sum256(der)
		if !accept(sum) {
			continue
		}
		root, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		if key, ok := root.PublicKey.(*ecdsa.PublicKey); ok {
			all = append(all, signer{sum, key})
		}
	}
	return all
}

// count is how many different keys among signers signed s.
func (s SignedBundle) count(signers []signer) int {
	digest := BundleDigest(s.Bundle)
	var good []*ecdsa.PublicKey
	for _, who := range signers {
		if slices.ContainsFunc(good, func(key *ecdsa.PublicKey) bool { return key.Equal(who.key) }) {
			continue
		}
		name := hex.EncodeToString(who.sum[:])
		for _, sig := range s.Signatures {
			if sig.Signer == name && ecdsa.VerifyASN1(who.key, digest[:], sig.Signature) {
				good = append(good, who.key)
				break
			}
		}
	}
	return len(good)
}

// Validate checks a bundle's contents, without signatures: every root must be a CA certificate,
// every time key an ECDSA key, every server an https URL, no list too long, and none empty that a
// device needs.
func (b Bundle) Validate() error {
	if b.Number < 1 || b.Created.IsZero() {
		return errors.New("no number or no date of creation")
	}
	for name, roots := range map[string][][]byte{
		"infrastructure": b.Infrastructure, "operational": b.Operational, "manufacturing": b.Manufacturing,
	} {
		if len(roots) == 0 || len(roots) > maxListed {
			return fmt.Errorf("%d %s roots, want 1 to %d", len(roots), name, maxListed)
		}
		for _, der := range roots {
			if c, err := x509.ParseCertificate(der); err != nil || !c.BasicConstraintsValid || !c.IsCA {
				return fmt.Errorf("one of the %s roots is not a CA certificate", name)
			}
		}
	}
	if len(b.TimeKeys) == 0 || len(b.TimeKeys) > maxListed {
		return fmt.Errorf("%d time keys, want 1 to %d", len(b.TimeKeys), maxListed)
	}
	for _, der := range b.TimeKeys {
		if _, err := ecdsaKey(der); err != nil {
			return fmt.Errorf("time key: %w", err)
		}
	}
	if len(b.Servers) == 0 || len(b.Servers) > maxListed {
		return fmt.Errorf("%d servers, want 1 to %d", len(b.Servers), maxListed)
	}
	for _, server := range b.Servers {
		if _, err := ServerURL(server); err != nil {
			return fmt.Errorf("server %q: %w", server, err)
		}
	}
	return b.validateSigners()
}

func (b Bundle) validateSigners() error {
	if len(b.Signers) > maxListed {
		return fmt.Errorf("%d signers, want at most %d", len(b.Signers), maxListed)
	}
	if len(b.Signers) == 0 && b.Threshold != 0 || len(b.Signers) > 0 && (b.Threshold < 1 || b.Threshold > len(b.Signers)) {
		return fmt.Errorf("a threshold of %d with %d signers", b.Threshold, len(b.Signers))
	}
	for i, der := range b.Signers {
		if _, err := ecdsaKey(der); err != nil {
			return fmt.Errorf("signer: %w", err)
		}
		if slices.ContainsFunc(b.Signers[:i], func(other []byte) bool { return bytes.Equal(other, der) }) {
			return errors.New("the same signer twice")
		}
	}
	return nil
}

// Open returns the time in a if one of keys (SubjectPublicKeyInfo, DER: Bundle.TimeKeys) signed
// it together with nonce, the one that was sent.
func (a TimeAnswer) Open(nonce []byte, keys [][]byte) (time.Time, error) {
	if len(nonce) < MinNonce || len(nonce) > MaxNonce {
		return time.Time{}, fmt.Errorf("nonce of %d bytes, want %d to %d", len(nonce), MinNonce, MaxNonce)
	}
	digest := TimeMessage(nonce, a.Unix)
	for _, der := range keys {
		sum := sha256.Sum256(der)
		if hex.EncodeToString(sum[:]) != a.Key {
			continue
		}
		key, err := ecdsaKey(der)
		if err == nil && ecdsa.VerifyASN1(key, digest[:], a.Signature) {
			return time.Unix(a.Unix, 0).UTC(), nil
		}
	}
	return time.Time{}, errors.New("the time is not signed by a key of the trust bundle")
}

// MinNonce and MaxNonce bound TimeRequest.Nonce, in bytes.
const (
	MinNonce = 16
	MaxNonce = 64
)

func ecdsaKey(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	return key, nil
}
