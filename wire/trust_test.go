package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

type testRoot struct {
	der []byte
	key *ecdsa.PrivateKey
}

func newRoot(t testing.TB, isCA bool) testRoot {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: isCA, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return testRoot{der, key}
}

func (r testRoot) sign(t testing.TB, bundle []byte) BundleSignature {
	t.Helper()
	digest := BundleDigest(bundle)
	signature, err := ecdsa.SignASN1(rand.Reader, r.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(r.der)
	return BundleSignature{Signer: hex.EncodeToString(sum[:]), Signature: signature}
}

func (r testRoot) spki(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(r.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pinnedTo(roots ...testRoot) func([32]byte) bool {
	return func(sum [32]byte) bool {
		for _, r := range roots {
			if sha256.Sum256(r.der) == sum {
				return true
			}
		}
		return false
	}
}

func newBundle(t testing.TB, roots ...testRoot) Bundle {
	b := Bundle{Number: 3, Name: "Acme", Created: time.Unix(1_800_000_000, 0).UTC(), Servers: []string{"https://a:8443"}}
	for _, r := range roots {
		b.Infrastructure = append(b.Infrastructure, r.der)
	}
	b.Operational, b.Manufacturing = b.Infrastructure[:1], b.Infrastructure[:1]
	b.TimeKeys = [][]byte{roots[0].spki(t)}
	return b
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOpenBundle(t *testing.T) {
	one, two, stranger := newRoot(t, true), newRoot(t, true), newRoot(t, true)
	bundle := marshal(t, newBundle(t, one, two))
	signed := SignedBundle{Bundle: bundle, Signatures: []BundleSignature{one.sign(t, bundle), two.sign(t, bundle)}}
	for name, pinned := range map[string]func([32]byte) bool{"old root": pinnedTo(one), "new root": pinnedTo(two)} {
		b, err := OpenBundle(signed, pinned)
		if err != nil || b.Number != 3 || b.Name != "Acme" {
			t.Errorf("%s: %+v %v", name, b, err)
		}
	}
	if _, err := OpenBundle(signed, pinnedTo(stranger)); err == nil {
		t.Error("opened by a device that pins another root")
	}
	newer := append(bundle[:len(bundle)-1:len(bundle)-1], `,"later":{"a":1}}`...)
	if _, err := OpenBundle(SignedBundle{newer, []BundleSignature{one.sign(t, newer)}}, pinnedTo(one)); err != nil {
		t.Error("a newer server's bundle:", err)
	}

	refuse := func(name string, s SignedBundle) {
		t.Helper()
		if b, err := OpenBundle(s, pinnedTo(one)); err == nil || b.Number != 0 {
			t.Errorf("%s: opened", name)
		}
	}
	refuse("no signature", SignedBundle{Bundle: bundle})
	refuse("another's signature", SignedBundle{bundle, []BundleSignature{two.sign(t, bundle)}})
	wrong := two.sign(t, bundle)
	wrong.Signer = one.sign(t, bundle).Signer
	refuse("another's signature under the root's name", SignedBundle{bundle, []BundleSignature{wrong}})
	sum := sha256.Sum256(bundle)
	plain, _ := ecdsa.SignASN1(rand.Reader, one.key, sum[:])
	refuse("a signature without the context", SignedBundle{bundle, []BundleSignature{{wrong.Signer, plain}}})
	apart := marshal(t, newBundle(t, two))
	refuse("the root is not in the bundle", SignedBundle{apart, []BundleSignature{one.sign(t, apart)}})
	twice := append(bundle[:len(bundle)-1:len(bundle)-1], `,"number":4}`...)
	refuse("a key twice", SignedBundle{twice, []BundleSignature{one.sign(t, twice)}})
	for i := range bundle { // no byte of it can change
		changed := bytes.Clone(bundle)
		changed[i] ^= 1
		refuse("a changed byte", SignedBundle{changed, signed.Signatures})
	}
	large := SignedBundle{Bundle: make([]byte, MaxBundle+1)}
	if _, err := OpenBundle(large, pinnedTo(one)); !errors.Is(err, ErrTooLarge) {
		t.Error("too large:", err)
	}
	if _, err := OpenBundle(SignedBundle{bundle, make([]BundleSignature, 2*maxListed+1)}, pinnedTo(one)); !errors.Is(err, ErrTooLarge) {
		t.Error("too many signatures:", err)
	}
	if full := marshal(t, SignedBundle{Bundle: make([]byte, MaxBundle), Signatures: signed.Signatures}); len(full) > MaxMessage {
		t.Errorf("the largest bundle makes a message of %d bytes", len(full))
	}
}

func TestBundleContents(t *testing.T) {
	one, leaf := newRoot(t, true), newRoot(t, false)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := newBundle(t, one).Validate(); err != nil {
		t.Fatal(err)
	}
	many := make([][]byte, maxListed+1)
	for i := range many {
		many[i] = one.der
	}
	for name, change := range map[string]func(*Bundle){
		"no number":            func(b *Bundle) { b.Number = 0 },
		"no date":              func(b *Bundle) { b.Created = time.Time{} },
		"no operational root":  func(b *Bundle) { b.Operational = nil },
		"too many roots":       func(b *Bundle) { b.Manufacturing = many },
		"a leaf for a root":    func(b *Bundle) { b.Infrastructure = append(b.Infrastructure, leaf.der) },
		"garbage for a root":   func(b *Bundle) { b.Operational = [][]byte{{1}} },
		"no time key":          func(b *Bundle) { b.TimeKeys = nil },
		"an RSA time key":      func(b *Bundle) { b.TimeKeys = [][]byte{rsaDER} },
		"garbage for a key":    func(b *Bundle) { b.TimeKeys = [][]byte{{1}} },
		"no server":            func(b *Bundle) { b.Servers = nil },
		"a server by http":     func(b *Bundle) { b.Servers = []string{"http://a"} },
		"too many servers":     func(b *Bundle) { b.Servers = slices.Repeat([]string{"https://a"}, maxListed+1) },
		"a server with a path": func(b *Bundle) { b.Servers = append(b.Servers, "https://a/b") },
	} {
		b := newBundle(t, one)
		change(&b)
		if b.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
		text := marshal(t, b)
		if _, err := OpenBundle(SignedBundle{text, []BundleSignature{one.sign(t, text)}}, pinnedTo(one)); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestTimeAnswer(t *testing.T) {
	key, other := newRoot(t, true), newRoot(t, true)
	nonce := []byte("0123456789abcdef")
	sum := sha256.Sum256(key.spki(t))
	sign := func(nonce []byte, unix int64) TimeAnswer {
		digest := TimeMessage(nonce, unix)
		signature, err := ecdsa.SignASN1(rand.Reader, key.key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return TimeAnswer{Unix: unix, Key: hex.EncodeToString(sum[:]), Signature: signature}
	}
	keys := [][]byte{other.spki(t), key.spki(t)}
	a := sign(nonce, 1_800_000_000)
	if got, err := a.Open(nonce, keys); err != nil || got.Unix() != 1_800_000_000 {
		t.Fatal(got, err)
	}
	later := a
	later.Unix++
	named := a
	named.Key = strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		a     TimeAnswer
		nonce []byte
		keys  [][]byte
	}{
		"another time":       {later, nonce, keys},
		"another nonce":      {a, []byte("0123456789abcdeX"), keys},
		"another key":        {a, nonce, keys[:1]},
		"another key's name": {named, nonce, keys},
		"a short nonce":      {sign(nonce[:15], 1), nonce[:15], keys},
		"a long nonce":       {sign(make([]byte, 65), 1), make([]byte, 65), keys},
	} {
		if got, err := c.a.Open(c.nonce, c.keys); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzOpenBundle: whatever a stranger sends, nothing opens without the pinned root's key.
func FuzzOpenBundle(f *testing.F) {
	root := newRoot(f, true)
	bundle := marshal(f, newBundle(f, root))
	signature := root.sign(f, bundle)
	f.Add(bundle, signature.Signer, signature.Signature)
	f.Fuzz(func(t *testing.T, text []byte, name string, signature []byte) {
		b, err := OpenBundle(SignedBundle{text, []BundleSignature{{name, signature}}}, pinnedTo(root))
		if err == nil && !bytes.Equal(text, bundle) {
			t.Fatalf("opened %+v", b)
		}
	})
}

// signKey signs as one of a bundle's Signers.
func (r testRoot) signKey(t testing.TB, bundle []byte) BundleSignature {
	t.Helper()
	s := r.sign(t, bundle)
	sum := sha256.Sum256(r.spki(t))
	s.Signer = hex.EncodeToString(sum[:])
	return s
}

// A bundle is followed if as many keys as the one before asks for, and as many as it
// asks for itself, signed it, and by nothing less.
func TestFollow(t *testing.T) {
	root, next := newRoot(t, true), newRoot(t, true)
	a, b, c, d := newRoot(t, true), newRoot(t, true), newRoot(t, true), newRoot(t, true)
	first := newBundle(t, root)
	// From the root's key alone to two of three keys of their own.
	second := first
	second.Number++
	second.Signers, second.Threshold = [][]byte{a.spki(t), b.spki(t), c.spki(t)}, 2
	// To other keys, and another root.
	third := second
	third.Number++
	third.Infrastructure = [][]byte{next.der}
	third.Signers = [][]byte{b.spki(t), c.spki(t), d.spki(t)}
	lower, same, far := first, second, third
	lower.Number--
	far.Number++
	roots := func(who ...testRoot) func([]byte) []BundleSignature {
		return func(text []byte) (all []BundleSignature) {
			for _, r := range who {
				all = append(all, r.sign(t, text))
			}
			return all
		}
	}
	keys := func(who ...testRoot) func([]byte) []BundleSignature {
		return func(text []byte) (all []BundleSignature) {
			for _, r := range who {
				all = append(all, r.signKey(t, text))
			}
			return all
		}
	}
	both := func(x, y func([]byte) []BundleSignature) func([]byte) []BundleSignature {
		return func(text []byte) []BundleSignature { return append(x(text), y(text)...) }
	}
	for _, k := range []struct {
		name     string
		from, to Bundle
		sign     func([]byte) []BundleSignature
		want     string // part of the error; empty: followed
	}{
		{"to keys of their own", first, second, both(roots(root), keys(a, c)), ""},
		{"by the old key only", first, second, roots(root), "signed by 0 of its own keys, want 2"},
		{"by the new keys only", first, second, keys(a, b, c), "signed by 0 of the keys that bundle 3 names, want 1"},
		{"by too few of the new", first, second, both(roots(root), keys(a)), "signed by 1 of its own keys, want 2"},
		{"by one of the new twice", first, second, both(roots(root), keys(a, a)), "signed by 1 of its own keys, want 2"},
		{"to other keys", second, third, keys(b, c), ""},
		{"by the old keys only, overlapping", second, third, keys(a, b), "signed by 1 of its own keys"},
		{"by the new keys only, overlapping", second, third, keys(c, d), "signed by 1 of the keys that bundle 4 names"},
		{"by two of each", second, third, keys(a, b, d), ""},
		{"by the roots, which sign no more", second, third, roots(root, next), "signed by 0 of the keys"},
		{"a lower number", first, lower, roots(root), "bundle 2 does not follow 3"},
		{"the same number", second, same, keys(a, b), "bundle 4 does not follow 4"},
		{"a step left out", second, far, keys(b, c), "bundle 6 does not follow 4"},
	} {
		text := marshal(t, k.to)
		got, err := k.from.Follow(SignedBundle{text, k.sign(text)})
		if k.want == "" && (err != nil || got.Number != k.to.Number) {
			t.Errorf("%s: %v", k.name, err)
		}
		if k.want != "" && (err == nil || !strings.Contains(err.Error(), k.want) || got.Number != 0) {
			t.Errorf("%s: %v, want %q", k.name, err, k.want)
		}
	}
	// A newcomer with the new root's fingerprint begins where that root signed.
	text := marshal(t, third)
	if _, err := OpenBundle(SignedBundle{text, both(roots(next), keys(b, c))(text)}, pinnedTo(next)); err != nil {
		t.Error(err)
	}
	if _, err := OpenBundle(SignedBundle{text, roots(next)(text)}, pinnedTo(next)); err == nil {
		t.Error("opened without the bundle's own signers")
	}
	// One key under two root certificates is one key.
	twin := root
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "twin"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, root.key.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	twin.der = der
	text = marshal(t, newBundle(t, root, twin))
	if n, _ := (SignedBundle{text, roots(root, twin)(text)}).Signed(newBundle(t, root, twin)); n != 1 {
		t.Errorf("one key counts %d times", n)
	}
}

func TestSigners(t *testing.T) {
	root, key := newRoot(t, true), newRoot(t, true)
	for name, change := range map[string]func(*Bundle){
		"no threshold":             func(b *Bundle) { b.Signers = [][]byte{key.spki(t)} },
		"a threshold out of reach": func(b *Bundle) { b.Signers, b.Threshold = [][]byte{key.spki(t)}, 2 },
		"below nothing":            func(b *Bundle) { b.Signers, b.Threshold = [][]byte{key.spki(t)}, -1 },
		"without signers":          func(b *Bundle) { b.Threshold = 1 },
		"the same twice":           func(b *Bundle) { b.Signers, b.Threshold = [][]byte{key.spki(t), key.spki(t)}, 2 },
		"garbage":                  func(b *Bundle) { b.Signers, b.Threshold = [][]byte{{1}}, 1 },
		"too many":                 func(b *Bundle) { b.Signers, b.Threshold = make([][]byte, maxListed+1), 1 },
	} {
		b := newBundle(t, root)
		change(&b)
		if b.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzFollow: whatever a server that lacks the offline keys sends, nothing follows.
func FuzzFollow(f *testing.F) {
	root, key := newRoot(f, true), newRoot(f, true)
	b := newBundle(f, root)
	b.Signers, b.Threshold = [][]byte{key.spki(f)}, 1
	next := b
	next.Number++
	text := marshal(f, next)
	s := key.signKey(f, text)
	f.Add(text, s.Signer, s.Signature)
	f.Fuzz(func(t *testing.T, changed []byte, name string, signature []byte) {
		got, err := b.Follow(SignedBundle{changed, []BundleSignature{{name, signature}}})
		if err == nil && !bytes.Equal(changed, text) {
			t.Fatalf("followed to %+v", got)
		}
	})
}
