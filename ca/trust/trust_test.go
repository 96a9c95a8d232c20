package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRoot(t testing.TB) Root {
	t.Helper()
	key := newKey(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Infrastructure"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return Root{c, key}
}

func spki(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newBundle(t testing.TB, timeKey *ecdsa.PrivateKey, roots ...Root) wire.Bundle {
	b := wire.Bundle{Number: 1, Name: "Acme", Created: now, Servers: []string{"https://a:8443"}, TimeKeys: [][]byte{spki(t, timeKey)}}
	for _, r := range roots {
		b.Infrastructure = append(b.Infrastructure, r.Certificate.Raw)
	}
	b.Operational, b.Manufacturing = b.Infrastructure, b.Infrastructure
	return b
}

func TestBundleAndTimeReachTheDevice(t *testing.T) {
	old, next, timeKey := newRoot(t), newRoot(t), newKey(t)
	signed, err := Sign(newBundle(t, timeKey, old, next), old, next)
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.MarshalIndent(signed, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(file, next.Certificate, timeKey)
	if err != nil {
		t.Fatal(err)
	}
	newest, number := s.Newest()
	for _, root := range []Root{old, next} {
		b, err := wire.OpenBundle(newest, pin(root.Certificate))
		if err != nil || b.Number != number || b.Name != s.Bundle().Name {
			t.Errorf("a device that pins %s: %+v %v", root.Certificate.Subject, b, err)
		}
	}
	nonce := []byte("sixteen octets..")
	answer, err := s.SignTime(nonce, now)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := answer.Open(nonce, s.Bundle().TimeKeys); err != nil || !got.Equal(now) {
		t.Error(got, err)
	}
	for _, n := range []int{0, 15, 65} {
		if _, err := s.SignTime(make([]byte, n), now); err == nil {
			t.Errorf("a nonce of %d bytes was signed", n)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	root, timeKey := newRoot(t), newKey(t)
	good := newBundle(t, timeKey, root)
	empty := good
	empty.Servers = nil
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bundle wire.Bundle
		roots  []Root
	}{
		"no root":                   {good, nil},
		"a bundle without servers":  {empty, []Root{root}},
		"a root that is not listed": {good, []Root{root, newRoot(t)}},
		"a key of another root":     {good, []Root{{root.Certificate, newKey(t)}}},
		"a key of another kind":     {good, []Root{{root.Certificate, rsaKey}}},
		"a right and a wrong key":   {good, []Root{root, {root.Certificate, newKey(t)}}},
	} {
		if _, err := Sign(c.bundle, c.roots...); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	root, timeKey := newRoot(t), newKey(t)
	signed, err := Sign(newBundle(t, timeKey, root), root)
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		file []byte
		root *x509.Certificate
		key  *ecdsa.PrivateKey
		want string
	}{
		{"another root", file, newRoot(t).Certificate, timeKey, "same installation"},
		{"another time key", file, root.Certificate, newKey(t), "does not list"},
		{"not JSON", []byte("x"), root.Certificate, timeKey, "JSON"},
		{"an unknown key", append([]byte(`{"more":1,`), file[1:]...), root.Certificate, timeKey, "more"},
	} {
		if _, err := New(c.file, c.root, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
