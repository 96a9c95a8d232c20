package premises

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"path/filepath"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// TB is what a Site asks of a testing.TB.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
	Context() context.Context
	TempDir() string
}

// Site is a record, one issuer of working certificates, and the service that publishes its
// lists: as much of an installation as relying parties see.
type Site struct {
	t       TB
	Store   *sqlite.Store
	Status  *status.Service
	Issuer  ca.Founded
	devices int

	responder    *x509.Certificate
	responderKey crypto.Signer
}

// OpenSite opens one for the length of a test.
func OpenSite(t TB) *Site {
	t.Helper()
	s := &Site{t: t}
	var err error
	s.Store, err = sqlite.Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), sqlite.Options{})
	s.must(err)
	t.Cleanup(func() { s.Store.Close() })
	founded, err := Found("http://pki.example", time.Now().Add(-time.Hour), profile.Operational)
	s.must(err)
	s.Issuer = founded[0]
	s.appoint()
	s.Status, err = status.New(status.Config{Store: s.Store, BaseURL: "http://pki.example", Now: time.Now, Responder: s.Responder,
		Issuers: []status.Issuer{{Name: s.Issuer.Name, Certificate: s.Issuer.Certificate, Signer: s.Issuer.Signer}},
		Roots:   []status.Root{{Name: profile.RootOf(s.Issuer.Name), Certificate: s.Issuer.Root, CRL: s.Issuer.RootCRL}}})
	s.must(err)
	return s
}

func (s *Site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// appoint makes the OCSP responder, which is on no list and not in the record.
func (s *Site) appoint() {
	key, err := newKey()
	s.must(err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * day),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}}, s.Issuer.Certificate, key.Public(), s.Issuer.Signer)
	s.must(err)
	s.responder, err = x509.ParseCertificate(der)
	s.must(err)
	s.responderKey = key
}

// Responder is as status.Config and feed.Config want it.
func (s *Site) Responder(context.Context, string) (*x509.Certificate, crypto.Signer, error) {
	return s.responder, s.responderKey, nil
}

// Happened is a line of audit.
func Happened(verb string) record.Event {
	return record.Event{Time: time.Now(), Actor: "host", Verb: verb}
}

// Device records a device with certificates that live so long, one to each place in a shard
// of 16. Their serial numbers are in lower case.
func (s *Site) Device(certificates int, life time.Duration) (id string, serials []string) {
	s.t.Helper()
	s.devices++
	id = fmt.Sprint("device-", s.devices)
	sum, now := sha256.Sum256([]byte(id)), time.Now()
	_, err := s.Store.Admit(s.t.Context(), record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: record.Device{ID: id, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: id, State: record.StateActive,
			EKs:    []record.EK{{Fingerprint: sum, Name: sum[:], Public: sum[:]}},
			AKName: sum[:], AKPublic: sum[:], Key: sum, Enrolled: now, Seen: now}, Event: Happened("device.enrolled")}, nil
	})
	s.must(err)
	for range certificates {
		serials = append(serials, s.issue(id, life))
	}
	return id, serials
}

func (s *Site) issue(device string, life time.Duration) string {
	s.t.Helper()
	shard, _, err := s.Store.ReserveShard(s.t.Context(), s.Issuer.Name, 1, 16)
	s.must(err)
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x3f | 0x40
	now := time.Now()
	c := record.Certificate{Issuer: s.Issuer.Name, Serial: fmt.Sprintf("%x", b), Profile: record.ProfileLDevID, Device: device, Subject: "CN=acme-" + device + ",O=Acme",
		Shard: shard, NotBefore: now, NotAfter: now.Add(life), TBS: []byte{0x30, 0}, Intended: now}
	s.must(s.Store.Intend(s.t.Context(), []record.Certificate{c}, nil))
	c.DER, c.Issued = []byte{0x30, 0}, now
	s.must(s.Store.Complete(s.t.Context(), []record.Certificate{c}, Happened("certificate.issued")))
	return c.Serial
}

// Suspend puts a device on hold.
func (s *Site) Suspend(device string) {
	s.t.Helper()
	_, err := s.Status.Suspend(s.t.Context(), device, Happened("device.suspended"))
	s.must(err)
}

// Restore lifts the hold.
func (s *Site) Restore(device string) {
	s.t.Helper()
	shards, err := s.Store.Restore(s.t.Context(), device, time.Now(), Happened("device.restored"))
	s.must(err)
	s.must(s.Status.Publish(s.t.Context(), shards...))
}

// Newest is the number of the newest change.
func (s *Site) Newest() int64 {
	s.t.Helper()
	n, err := s.Store.LastChange(s.t.Context())
	s.must(err)
	return n
}
