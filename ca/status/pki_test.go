package status

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// Revoke ends a device as operators do.
func (s *Service) Revoke(ctx context.Context, device string, reason int, why string, e record.Event) ([]record.Shard, error) {
	shards, err := s.store.Revoke(ctx, device, s.now(), reason, why, e)
	return s.PublishChange(ctx, shards, err)
}

// Restore lets a device in again as operators do.
func (s *Service) Restore(ctx context.Context, device string, e record.Event) ([]record.Shard, error) {
	shards, err := s.store.Restore(ctx, device, s.now(), e)
	return s.PublishChange(ctx, shards, err)
}

// memory is a Store for one issuer's certificates, with a switch for
// failure. The real stores pass record/recordtest; what is tested here is what the
// service does with their answers.
type memory struct {
	mu      sync.Mutex
	certs   map[string]record.Certificate // by serial
	crls    map[record.Shard]record.CRL
	shards  []record.Shard
	fail    error            // what every verb returns, if set
	failCRL error            // what PublishCRL returns, if set
	listed  int              // calls of Shards
	last    int64            // change
	changed map[string]int64 // by serial, its last change
	stored  int              // lists stored
}

func newMemory() *memory {
	return &memory{certs: map[string]record.Certificate{}, crls: map[record.Shard]record.CRL{}, changed: map[string]int64{}}
}

func (m *memory) lock() func() { m.mu.Lock(); return m.mu.Unlock }

func (m *memory) set(change func(m *memory)) { defer m.lock()(); change(m) }

func (m *memory) open(number int64) {
	m.set(func(m *memory) { m.shards = append(m.shards, record.Shard{Issuer: "operational", Number: number}) })
}

// change applies f to the certificates of a device or operator and names the shards of
// those that f changed.
func (m *memory) change(match func(record.Certificate) bool, f func(*record.Certificate) bool) ([]record.Shard, error) {
	defer m.lock()()
	if m.fail != nil {
		return nil, m.fail
	}
	var shards []record.Shard
	for serial, c := range m.certs {
		if s := (record.Shard{Issuer: c.Issuer, Number: c.Shard}); match(c) {
			before := c
			if f(&c); c.Revoked != before.Revoked || c.Reason != before.Reason {
				m.last++
				m.changed[serial] = m.last
			}
			m.certs[serial] = c
			if !slices.Contains(shards, s) {
				shards = append(shards, s)
			}
		}
	}
	return shards, nil
}

func ofDevice(device string) func(record.Certificate) bool {
	return func(c record.Certificate) bool { return c.Device == device }
}

func revoke(at time.Time, reason int) func(*record.Certificate) bool {
	return func(c *record.Certificate) bool {
		if !c.Revoked.IsZero() && c.Reason != record.ReasonHold {
			return false
		}
		if c.Revoked.IsZero() {
			c.Revoked = at
		}
		c.Reason = reason
		return true
	}
}

func (m *memory) Revoke(_ context.Context, device string, at time.Time, reason int, _ string, _ record.Event) ([]record.Shard, error) {
	return m.change(ofDevice(device), revoke(at, reason))
}

func (m *memory) RevokePrincipal(_ context.Context, operator string, at time.Time, reason int, _ record.Event) ([]record.Shard, error) {
	return m.change(func(c record.Certificate) bool { return c.Principal == operator }, revoke(at, reason))
}

func (m *memory) Suspend(_ context.Context, device string, at time.Time, _ record.Event) ([]record.Shard, error) {
	return m.change(ofDevice(device), func(c *record.Certificate) bool {
		return c.Revoked.IsZero() && revoke(at, record.ReasonHold)(c)
	})
}

func (m *memory) Restore(_ context.Context, device string, _ time.Time, _ record.Event) ([]record.Shard, error) {
	return m.change(ofDevice(device), func(c *record.Certificate) bool {
		held := c.Reason == record.ReasonHold
		c.Revoked, c.Reason = time.Time{}, 0
		return held
	})
}

func (m *memory) Status(_ context.Context, issuer, serial string) (record.Certificate, error) {
	defer m.lock()()
	c, ok := m.certs[serial]
	if !ok || c.Issuer != issuer {
		return c, cmp.Or(m.fail, record.ErrNotFound)
	}
	return c, m.fail
}

func (m *memory) RevokedIn(_ context.Context, s record.Shard, now time.Time, keep time.Duration) ([]record.Revoked, int64, error) {
	defer m.lock()()
	var list []record.Revoked
	for serial, c := range m.certs {
		if c.Issuer == s.Issuer && c.Shard == s.Number && !c.Revoked.IsZero() && !c.NotAfter.Add(keep).Before(now) {
			list = append(list, record.Revoked{Serial: serial, Since: c.Revoked, Reason: c.Reason})
		}
	}
	slices.SortFunc(list, func(a, b record.Revoked) int { return cmp.Compare(a.Serial, b.Serial) })
	return list, m.last, m.fail
}

func (m *memory) LastChange(context.Context) (int64, error) { defer m.lock()(); return m.last, m.fail }

func (m *memory) SkipChanges(context.Context, int64) error { return errors.ErrUnsupported }

func (m *memory) Changes(_ context.Context, after int64, limit int) ([]record.Change, error) {
	defer m.lock()()
	var list []record.Change
	for serial, number := range m.changed {
		if c := m.certs[serial]; number > after {
			list = append(list, record.Change{Number: number, Issuer: c.Issuer, Serial: serial, Shard: c.Shard, NotAfter: c.NotAfter, Revoked: c.Revoked, Reason: c.Reason})
		}
	}
	slices.SortFunc(list, func(a, b record.Change) int { return cmp.Compare(a.Number, b.Number) })
	return list[:min(limit, len(list))], m.fail
}

func (m *memory) Denied(_ context.Context, issuer string, now time.Time, each func(record.Revoked)) (int64, error) {
	defer m.lock()()
	for serial, c := range m.certs {
		if c.Issuer == issuer && !c.Revoked.IsZero() && !c.NotAfter.Before(now) {
			each(record.Revoked{Serial: serial, Since: c.Revoked, Reason: c.Reason})
		}
	}
	return m.last, m.fail
}

func (m *memory) Standing(context.Context, string, time.Time, func(string, bool)) (int64, error) {
	return 0, errors.ErrUnsupported
}

func (m *memory) Shards(_ context.Context, issuer string, _ time.Time) ([]record.Shard, error) {
	defer m.lock()()
	m.listed++
	var list []record.Shard
	for _, s := range m.shards {
		if s.Issuer == issuer {
			list = append(list, s)
		}
	}
	return list, m.fail
}

func (m *memory) PublishCRL(ctx context.Context, crl record.CRL) error {
	defer m.lock()()
	if err := cmp.Or(m.fail, m.failCRL, ctx.Err()); err != nil {
		return err
	}
	if crl.Sequence <= m.crls[crl.Shard].Sequence {
		return fmt.Errorf("sequence: %w", record.ErrConflict)
	}
	m.stored++
	m.crls[crl.Shard] = crl
	return nil
}

func (m *memory) NewestCRL(_ context.Context, s record.Shard) (record.CRL, error) {
	defer m.lock()()
	crl, ok := m.crls[s]
	if !ok {
		return crl, cmp.Or(m.fail, record.ErrNotFound)
	}
	return crl, m.fail
}

// pki is a root, an issuer, its OCSP responder and a service over them.
type pki struct {
	testing.TB
	store                   *memory
	service                 *Service
	url                     string
	root, issuer, responder *x509.Certificate
	rootKey, key, ocspKey   *ecdsa.PrivateKey
	rootCRL                 []byte
	clock                   *clock
}

// clock is the service's; tests move it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) Add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

func newPKI(t testing.TB) *pki {
	p := &pki{TB: t, store: newMemory(), clock: &clock{now: time.Now().Truncate(time.Second)}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.service.Handler().ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	p.url = server.URL
	p.certify()
	p.service = p.newService()
	return p
}

func (p *pki) certify() {
	now := p.clock.Now()
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: newSerial(),
			NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	p.rootKey, p.key, p.ocspKey = newKey(p), newKey(p), newKey(p)
	p.root = p.sign(ca("Root"), nil, p.rootKey, p.rootKey)
	issuer := ca("Issuer")
	issuer.CRLDistributionPoints = []string{p.url + "/crl/operational-root/0.crl"}
	p.issuer = p.sign(issuer, p.root, p.key, p.rootKey)
	p.responder = p.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "OCSP"}, SerialNumber: newSerial(),
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 1, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		ExtraExtensions: []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}},
	}, p.issuer, p.ocspKey, p.key)
	var err error
	p.rootCRL, err = x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1),
		ThisUpdate: now.Add(-time.Minute), NextUpdate: now.AddDate(9, 0, 0)}, p.root, p.rootKey)
	p.must(err)
}

func (p *pki) newService() *Service {
	s, err := New(p.config())
	p.must(err)
	return s
}

func (p *pki) config() Config {
	return Config{
		Store: p.store, BaseURL: p.url, Now: p.clock.Now,
		Issuers: []Issuer{{Name: "operational", Certificate: p.issuer, Signer: p.key}},
		Roots:   []Root{{Name: "operational-root", Certificate: p.root, CRL: p.rootCRL}},
		Responder: func(context.Context, string) (*x509.Certificate, crypto.Signer, error) {
			return p.responder, p.ocspKey, nil
		},
	}
}

// leaf issues and records a certificate of a device in a shard.
func (p *pki) leaf(device string, shard int64) *x509.Certificate {
	serial := newSerial()
	c := p.sign(&x509.Certificate{Subject: pkix.Name{CommonName: device}, SerialNumber: serial,
		NotBefore: p.clock.Now().Add(-time.Hour), NotAfter: p.clock.Now().AddDate(0, 1, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		CRLDistributionPoints: []string{profile.CRLURL(p.url, "operational", shard)},
		SubjectKeyId:          serial.Bytes(),
	}, p.issuer, newKey(p), p.key)
	p.record(device, shard, serial, func(*record.Certificate) {})
	return c
}

func (p *pki) record(device string, shard int64, serial *big.Int, with func(*record.Certificate)) {
	c := record.Certificate{Issuer: "operational", Serial: fmt.Sprintf("%032x", serial), Device: device, Shard: shard,
		NotAfter: p.clock.Now().AddDate(0, 1, 0), Issued: p.clock.Now(), DER: []byte{0x30}}
	with(&c)
	p.store.set(func(m *memory) {
		m.certs[c.Serial] = c
		if s := (record.Shard{Issuer: "operational", Number: shard}); !slices.Contains(m.shards, s) {
			m.shards = append(m.shards, s)
		}
	})
}

func (p *pki) sign(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	if parent == nil {
		parent = template
	}
	if template.IsCA {
		point, err := key.PublicKey.Bytes()
		p.must(err)
		id := sha1.Sum(point)
		template.SubjectKeyId = id[:]
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	p.must(err)
	c, err := x509.ParseCertificate(der)
	p.must(err)
	return c
}

func (p *pki) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func newKey(p *pki) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p.must(err)
	return key
}

// newSerial is 16 octets, the first not above 0x7f.
func newSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b)
}

var background = context.Background()

func (p *pki) shard(n int64) record.Shard { return record.Shard{Issuer: "operational", Number: n} }

// crl fetches and parses a shard's list.
func (p *pki) crl(n int64) *x509.RevocationList {
	p.Helper()
	der := p.get(fmt.Sprintf("/crl/operational/%d.crl", n), http.StatusOK)
	list, err := x509.ParseRevocationList(der)
	p.must(err)
	p.must(list.CheckSignatureFrom(p.issuer))
	return list
}

func (p *pki) get(path string, want int) []byte {
	p.Helper()
	r := httptest.NewRecorder()
	p.service.Handler().ServeHTTP(r, httptest.NewRequest("GET", path, nil))
	if r.Code != want {
		p.Fatalf("GET %s: %d %s, want %d", path, r.Code, r.Body, want)
	}
	return r.Body.Bytes()
}

func lists(l *x509.RevocationList, serial *big.Int) (reason int, ok bool) {
	for _, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(serial) == 0 {
			return e.ReasonCode, true
		}
	}
	return 0, false
}
