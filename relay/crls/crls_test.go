package crls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire/denylist"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// issuer signs lists.
type issuer struct {
	testing.TB
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newIssuer(t testing.TB) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Issuer"}, NotBefore: now, NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{t, key, certificate}
}

func (i issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.certificate.Raw}))
}

// list is one in PEM, of a shard, made at a time and good for a day.
func (i issuer) list(number int64, shard string, made time.Time, entries ...x509.RevocationListEntry) string {
	i.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: made, NextUpdate: made.Add(24 * time.Hour),
		RevokedCertificateEntries: entries,
		ExtraExtensions:           []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte(shard)}}}, i.certificate, i.key)
	if err != nil {
		i.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func entry(serial int64, reason int) x509.RevocationListEntry {
	return x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: now, ReasonCode: reason}
}

// Lists are read together: what one denies is denied, and the first end is that of all.
func TestRead(t *testing.T) {
	i := newIssuer(t)
	text := i.list(7, "a", now, entry(5, 1), entry(6, reasonRemove)) + i.list(3, "b", now.Add(-time.Hour), entry(9, 6))
	l, err := Read([]byte(text), []*x509.Certificate{i.certificate}, nil, now)
	if err != nil || !l.Made.Equal(now.Add(-time.Hour)) || !l.Until.Equal(now.Add(23*time.Hour)) {
		t.Fatalf("%+v, %v", l, err)
	}
	if serial := func(n byte) denylist.Serial { return denylist.Serial{15: n} }; len(l.Denied) != 2 || !l.Denied[serial(5)] || !l.Denied[serial(9)] {
		t.Errorf("denied: %v", l.Denied)
	}
	var numbers []int64
	for _, n := range l.Numbers {
		numbers = append(numbers, n.Int64())
	}
	if slices.Sort(numbers); !slices.Equal(numbers, []int64{3, 7}) {
		t.Errorf("numbers: %v", numbers)
	}
}

func TestRefusals(t *testing.T) {
	i, other := newIssuer(t), newIssuer(t)
	good := i.list(7, "a", now)
	l, err := Read([]byte(good), []*x509.Certificate{i.certificate}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	known := l.Numbers
	for _, c := range []struct{ text, says string }{
		{"", "there is none"},
		{good + "x", "more in the answer than lists"},
		{strings.Replace(good, "M", "!", 1) + good, "more in the answer than lists"},
		// Go passes over it, and OpenSSL takes it for a root to trust.
		{good + strings.ReplaceAll(i.pem(), "CERTIFICATE-----", "CERTIFICATE-----\x80"), "more in the answer than lists"},
		{good + other.list(1, "b", now), "not signed by its issuer"},
		{good + i.list(1, "b", now.Add(-25*time.Hour)), "one ended on"},
		{good + i.list(1, "b", now.Add(skew+time.Second)), "is the clock right?"},
		{i.list(6, "a", now), "number 6 came after 7"},
		{good + good, "two of the same"},
	} {
		if _, err := Read([]byte(c.text), []*x509.Certificate{i.certificate}, known, now); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, not %q", err, c.says)
		}
	}
	if _, err := Read([]byte(i.list(6, "b", now)), []*x509.Certificate{i.certificate}, known, now); err != nil {
		t.Errorf("another shard: %v", err)
	}
}

// What nobody signed is not parsed: 256 MiB of it would be five gigabytes.
func TestUnsignedIsNotParsed(t *testing.T) {
	i := newIssuer(t)
	entries := make([]x509.RevocationListEntry, 10_000)
	for n := range entries {
		entries[n] = entry(int64(n+1), 1)
	}
	block, _ := pem.Decode([]byte(i.list(7, "a", now, entries...)))
	block.Bytes[len(block.Bytes)-1] ^= 1
	text := pem.EncodeToMemory(block)
	if n := testing.AllocsPerRun(1, func() {
		if _, err := Read(text, []*x509.Certificate{i.certificate}, nil, now); err == nil {
			t.Error("believed")
		}
	}); n > float64(len(entries)) {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRead: whatever a server answers, only what its issuer signed is believed.
func FuzzRead(f *testing.F) {
	i := newIssuer(f)
	f.Add([]byte(i.list(1, "a", now)))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Read(text, []*x509.Certificate{i.certificate}, nil, now)
		if err == nil && (len(l.Numbers) == 0 || l.Until.IsZero() || len(l.Denied) > 0) {
			t.Fatalf("%+v", l)
		}
	})
}
