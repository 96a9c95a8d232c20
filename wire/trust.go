package wire

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Bundle is what a device is told to trust, numbered so that it never goes back.
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
	// NonceMode says that a proxy ends TLS: bindings use a server nonce. A device
	// remembers it and cannot be talked into or out of it by the connection.
	NonceMode bool `json:"nonce_mode,omitempty"`
}

// SignedBundle is a Bundle's exact JSON with signatures by infrastructure roots.
type SignedBundle struct {
	Bundle     []byte            `json:"bundle"`
	Signatures []BundleSignature `json:"signatures"`
}

// BundleSignature is ASN.1 ECDSA over SHA-256 of the string "hallmark-trust-1" and
// the bundle's bytes.
type BundleSignature struct {
	// Root is the hex SHA-256 of the signing root certificate (DER).
	Root      string `json:"root"`
	Signature []byte `json:"signature"`
}

// BundleContext precedes the bundle in what is signed.
const BundleContext = "hallmark-trust-1"

// Bounds of a bundle: what is over them is refused by both ends. MaxBundle is in
// bytes of Bundle's JSON and leaves room for its base64 in MaxMessage; maxListed
// bounds each list, so that a roll-over of every root and key at once still fits.
const (
	MaxBundle = 40 << 10
	maxListed = 16
)

// BundleDigest is what an infrastructure root signs: SHA-256 over BundleContext and
// the bundle's exact bytes.
func BundleDigest(bundle []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(BundleContext))
	h.Write(bundle)
	return [32]byte(h.Sum(nil))
}

// OpenBundle gives the bundle inside s if at least one signature on it is by an
// infrastructure root that pinned accepts, by the SHA-256 of its certificate (DER).
// That root must itself be listed in the bundle: a root that is being retired signs
// the bundles that still name it. Keys that this version does not know are passed
// over, so that an older device can follow a newer server; a malformed list is not.
//
// The caller compares Number with the one it holds. No time enters: the clock may be
// what the bundle is needed for.
func OpenBundle(s SignedBundle, pinned func(sha256 [32]byte) bool) (Bundle, error) {
	if len(s.Bundle) > MaxBundle || len(s.Signatures) > maxListed {
		return Bundle{}, ErrTooLarge
	}
	if err := checkKeys(s.Bundle); err != nil {
		return Bundle{}, fmt.Errorf("trust bundle: %w", err)
	}
	var b Bundle
	if err := json.Unmarshal(s.Bundle, &b); err != nil {
		return Bundle{}, fmt.Errorf("trust bundle: not the expected JSON: %w", err)
	}
	if !s.signedByPinned(b.Infrastructure, pinned) {
		return Bundle{}, errors.New("trust bundle: not signed by a root that is trusted here")
	}
	if err := b.Validate(); err != nil {
		return Bundle{}, fmt.Errorf("trust bundle: %w", err)
	}
	return b, nil
}

// signedByPinned reports whether one of roots is pinned and signed s. Only a pinned
// certificate is parsed, so a stranger's bytes reach no further than SHA-256.
func (s SignedBundle) signedByPinned(roots [][]byte, pinned func([32]byte) bool) bool {
	if len(roots) > maxListed {
		return false
	}
	digest := BundleDigest(s.Bundle)
	for _, der := range roots {
		sum := sha256.Sum256(der)
		if !pinned(sum) {
			continue
		}
		root, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		key, ok := root.PublicKey.(*ecdsa.PublicKey)
		if !ok {
			continue
		}
		name := hex.EncodeToString(sum[:])
		for _, sig := range s.Signatures {
			if sig.Root == name && ecdsa.VerifyASN1(key, digest[:], sig.Signature) {
				return true
			}
		}
	}
	return false
}

// Validate says what is wrong with a bundle's contents, signatures apart: every root
// must be a CA certificate, every time key an ECDSA key, every server an https URL,
// no list longer than it may be, and none that a device needs empty.
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
	return nil
}

// Open gives the time in a if one of keys (SubjectPublicKeyInfo, DER: Bundle.TimeKeys)
// signed it together with nonce, the one that was sent.
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
