package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

const device1 = "aaaaaaaaaaaaaaaaaaaaaaaaaa"

const baseURL = "http://ca.example:8445"

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var founded = sync.OnceValues(func() ([]ca.Founded, error) { return premises.Found(baseURL, time.Now()) })

// foundation is one set of CAs for all tests.
func foundation(t testing.TB) []ca.Founded {
	t.Helper()
	all, err := founded()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// authority is a CA over the store; change may alter its configuration.
func authority(t testing.TB, store record.Issuance, change ...func(*ca.Config)) *ca.Authority {
	t.Helper()
	issuers, err := premises.Issuers(t.Context(), foundation(t)...)
	if err != nil {
		t.Fatal(err)
	}
	c := ca.Config{Store: store, BaseURL: baseURL, Organisation: "Acme", Now: time.Now, Issuers: issuers}
	for _, f := range change {
		f(&c)
	}
	a, err := ca.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// newStore is a real record that holds device1 and the operator anna.
func newStore(t testing.TB) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	now := time.Now()
	d := record.Device{
		ID: device1, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: "SN_0001", State: record.StateActive,
		EKs: []record.EK{{Fingerprint: [32]byte{1}, Name: []byte("ek"), Public: []byte("ek")}}, AKName: []byte("ak"), AKPublic: []byte("ak"),
		Enrolled: now, Seen: now,
	}
	if _, err := s.Admit(t.Context(), record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: d, Event: event()}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.RecoverOperator(t.Context(), "anna", now, event()); err != nil {
		t.Fatal(err)
	}
	return s
}

func event() record.Event {
	return record.Event{Time: time.Now(), Actor: "ticket:t1", Verb: "device.enrolled", Object: "default:SN_0001"}
}

// ekCertificate is a TPM maker's certificate of an endorsement key.
func ekCertificate(t testing.TB) []byte {
	t.Helper()
	maker := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(0x00f1e2d3), NotAfter: time.Date(2049, 1, 1, 0, 0, 0, 0, time.UTC),
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "TPM maker"}, SubjectKeyId: []byte{0xab, 0xcd, 0xef, 0x01}}, newKey(t).Public(), maker)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func chip(t testing.TB) *profile.TPM {
	return &profile.TPM{Maker: "STM", EKCertificate: ekCertificate(t), EKFingerprint: sha256.Sum256([]byte("ek"))}
}

// requests is one request of every kind.
func requests(t testing.TB) []ca.Request {
	tpm := chip(t)
	device := profile.Content{Model: record.DefaultModel, Serial: "SN_0001"}
	with := func(c profile.Content, change func(*profile.Content)) profile.Content {
		c.Key = newKey(t).Public()
		change(&c)
		return c
	}
	return []ca.Request{
		{Profile: profile.IDevID, Device: device1, Content: with(device, func(c *profile.Content) { c.TPM = tpm })},
		{Profile: profile.AK, Device: device1, Content: with(device, func(c *profile.Content) { c.TPM = tpm })},
		{Profile: profile.LDevID, Device: device1, Content: with(device, func(c *profile.Content) { c.Lifetime = 30 * 24 * time.Hour })},
		{Profile: profile.Server, Content: with(profile.Content{}, func(c *profile.Content) {
			c.DNSNames, c.IPs, c.Lifetime = []string{"ca.example"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, 90*24*time.Hour
		})},
		{Profile: profile.Operator, Content: with(profile.Content{}, func(c *profile.Content) { c.Principal, c.Lifetime = "anna", 90*24*time.Hour })},
		{Profile: profile.OCSP, Issuer: profile.Operational, Content: with(profile.Content{}, func(c *profile.Content) { c.Lifetime = 30 * 24 * time.Hour })},
		{Profile: profile.Relay, Content: with(profile.Content{}, func(c *profile.Content) { c.Principal, c.Lifetime = "anna", 90*24*time.Hour })},
		{Profile: profile.Proof, Issuer: profile.Operational, Content: with(profile.Content{}, func(c *profile.Content) { c.Code, c.Lifetime = "8f3a2c1d9e7b4a60", 24*time.Hour })},
		{Profile: profile.DeviceServer, Device: device1, Content: with(device, func(c *profile.Content) { c.DNSNames, c.Lifetime = []string{"sn-1.local"}, 30*24*time.Hour })},
	}
}
