package device_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/page"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// serveNames changes a model's names for the web pages of its devices.
func (i *installation) serveNames(t *testing.T, model, names string) {
	t.Helper()
	m := must[record.Model](t)(i.store.Model(t.Context(), model))
	m.ServeNames = names
	if err := i.store.SetModel(t.Context(), m.Name, func(have *record.Model) (record.Event, error) {
		*have = m
		return record.Event{Time: time.Now(), Actor: "test", Verb: "model.changed"}, nil
	}); err != nil {
		t.Fatal(err)
	}
}

// owner is a CA of the device's owner, with a file of its certificate.
type owner struct {
	certificate *x509.Certificate
	pair        tls.Certificate
	file        string
	lists       []string // that clients' certificates name
}

func newOwner(t *testing.T) owner {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	o := owner{must[*x509.Certificate](t)(x509.ParseCertificate(der)), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, filepath.Join(t.TempDir(), "owner.pem"), nil}
	if err := os.WriteFile(o.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

// client is a certificate for a person, which ends after a while.
func (o owner) client(t *testing.T, life time.Duration, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), ExtKeyUsage: []x509.ExtKeyUsage{usage}, CRLDistributionPoints: o.lists}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, o.certificate, key.Public(), o.pair.PrivateKey))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (u *unit) page(t *testing.T) *x509.Certificate {
	t.Helper()
	chain := u.load(t).Page
	if len(chain) == 0 {
		return nil
	}
	return must[*x509.Certificate](t)(x509.ParseCertificate(chain[0]))
}

// A device gets a certificate for the names that its model gives it, and no other.
func TestPageCertificate(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	u := i.unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	if u.page(t) != nil {
		t.Fatal("a certificate for a page that nobody has named")
	}
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	defer identity.Close()
	server := page.Server{Identity: identity}
	if _, err := server.ServerTLSConfig(page.Operators, page.FailOpen); !errors.Is(err, page.ErrNone) {
		t.Errorf("%v", err)
	}
	i.serveNames(t, record.DefaultModel, "{serial}.local,unit-{serial}.example.com")
	u.renew(t, "ldevid")
	shown, set := u.page(t), u.load(t)
	working := must[*x509.Certificate](t)(x509.ParseCertificate(set.LDevID[0]))
	if !slices.Equal(shown.DNSNames, []string{"sn-1.local", "unit-sn-1.example.com"}) || !bytes.Equal(shown.RawSubjectPublicKeyInfo, working.RawSubjectPublicKeyInfo) ||
		!shown.NotAfter.Equal(working.NotAfter) || !slices.Equal(shown.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("%+v", shown)
	}
	if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now())); s.Page == nil || !slices.Equal(s.Page.Names, shown.DNSNames) {
		t.Errorf("%+v", s.Page)
	}
	// It speaks for the page and for nothing else: it renews nothing.
	set.LDevID = set.Page
	if err := state.At(u.dir).Save(set); err != nil {
		t.Fatal(err)
	}
	u.renew(t, "idevid")
	i.serveNames(t, record.DefaultModel, "")
	u.renew(t, "ldevid")
	if u.page(t) != nil {
		t.Error("the page's certificate outlives its names")
	}
	i.serveNames(t, record.DefaultModel, "{serial}.local")
	u.renew(t, "ldevid")
	if _, err := server.ServerTLSConfig(page.Operators, ""); err == nil {
		t.Error("it was not said what is to happen")
	}
	for _, clients := range []string{"", device.SystemRoots, device.InfrastructureRoots, "/nonexistent"} {
		if _, err := server.ServerTLSConfig(clients, page.FailOpen); err == nil {
			t.Errorf("open to %q", clients)
		}
	}
	// A serial number that no DNS name can hold.
	odd := i.unit(t).enrolled(t, "SN_2")
	odd.renew(t, "idevid")
	if odd.page(t) != nil {
		t.Error("another name than its own")
	}
}

// A power cut between a renewal and its swap keeps page and working certificate together.
func TestPageAfterAPowerCut(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file").enrolled(t, "SN-1")
	u.serveNames(t, "lamp", "{serial}.local")
	u.renew(t, "idevid")
	before := u.page(t)
	u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != wire.PathPoll {
			return false
		}
		u.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	if _, err := device.Renew(t.Context(), u.options()); err == nil {
		t.Fatal("the renewal went through")
	}
	u.refuse = nil
	if !u.page(t).Equal(before) {
		t.Error("the page is ahead of its key")
	}
	must[device.Result](t)(device.Poll(t.Context(), u.options()))
	set := u.load(t)
	working := must[*x509.Certificate](t)(x509.ParseCertificate(set.LDevID[0]))
	if page := u.page(t); page.Equal(before) || !bytes.Equal(page.RawSubjectPublicKeyInfo, working.RawSubjectPublicKeyInfo) || len(set.FreshPage) != 0 {
		t.Errorf("%+v", page)
	}
}

// Whoever has no certificate of the owner's does not get in, and the page follows renewals.
func TestPageServes(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.serveNames(t, record.DefaultModel, "{serial}.local")
	u.renew(t, "idevid")
	o, stranger := newOwner(t), newOwner(t)
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	defer identity.Close()
	server := page.Server{Identity: identity}
	listen := func(clients, fail string) string {
		l := must[net.Listener](t)(tls.Listen("tcp", "127.0.0.1:0", must[*tls.Config](t)(server.ServerTLSConfig(clients, fail))))
		t.Cleanup(func() { l.Close() })
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				go func() {
					defer c.Close()
					line := make([]byte, 64)
					for n, err := c.Read(line); err == nil; n, err = c.Read(line) {
						c.Write(line[:n])
					}
				}()
			}
		}()
		return l.Addr().String()
	}
	roots := x509.NewCertPool()
	roots.AddCert(u.operational)
	visit := func(address string, with *tls.Certificate, version uint16) (*tls.Conn, error) {
		config := &tls.Config{RootCAs: roots, ServerName: "sn-1.local", MaxVersion: version}
		if with != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return with, nil }
		}
		c, err := tls.Dial("tcp", address, config)
		if err == nil {
			_, err = c.Write([]byte("hello\n"))
		}
		if err == nil {
			_, err = c.Read(make([]byte, 6))
		}
		return c, err
	}
	// The list of the owner's CA says that its clients' serial number was revoked.
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(2), RevocationTime: time.Now()}}}
	der := must[[]byte](t)(x509.CreateRevocationList(rand.Reader, list, o.certificate, o.pair.PrivateKey.(crypto.Signer)))
	lists := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(der) }))
	defer lists.Close()
	stolen, away := o, o
	stolen.lists, away.lists = []string{lists.URL}, []string{"http://127.0.0.1:1/none"}
	owners, operators, strict := listen(o.file, page.FailOpen), listen(page.Operators, page.FailOpen), listen(o.file, page.FailClosed)
	good, ended, other := o.client(t, time.Hour, x509.ExtKeyUsageClientAuth), o.client(t, -time.Minute, x509.ExtKeyUsageClientAuth), stranger.client(t, time.Hour, x509.ExtKeyUsageClientAuth)
	revoked, unknown := stolen.client(t, time.Hour, x509.ExtKeyUsageClientAuth), away.client(t, time.Hour, x509.ExtKeyUsageClientAuth)
	machine := o.client(t, time.Hour, x509.ExtKeyUsageServerAuth)
	itself := tls.Certificate{Certificate: u.load(t).LDevID, PrivateKey: must[*device.Credential](t)(identity.Credential()).Signer()}
	for _, c := range []struct {
		name, address string
		with          *tls.Certificate
		version       uint16
		in            bool
	}{
		{"the owner's", owners, &good, 0, true}, {"the owner's, TLS 1.2", owners, &good, tls.VersionTLS12, true}, {"TLS 1.1", owners, &good, tls.VersionTLS11, false},
		{"none", owners, nil, 0, false}, {"none, TLS 1.2", owners, nil, tls.VersionTLS12, false}, {"one that has ended", owners, &ended, 0, false},
		{"another CA's", owners, &other, 0, false}, {"a server's", owners, &machine, 0, false}, {"a device's", owners, &itself, 0, false},
		{"one that was revoked", owners, &revoked, 0, false}, {"one that was revoked, TLS 1.2", owners, &revoked, tls.VersionTLS12, false}, {"one whose list is not to be had", owners, &unknown, 0, true},
		{"one that was revoked, fail closed", strict, &revoked, 0, false}, {"one whose list is not to be had, fail closed", strict, &unknown, 0, false}, {"one that names no list, fail closed", strict, &good, 0, false},
		{"the owner's, where operators are meant", operators, &good, 0, false}, {"a device's, where operators are meant", operators, &itself, 0, false},
	} {
		conn, err := visit(c.address, c.with, c.version)
		if (err == nil) != c.in {
			t.Errorf("%s: %v", c.name, err)
		}
		if conn != nil {
			conn.Close()
		}
	}
	standing, err := visit(owners, &good, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer standing.Close()
	u.renew(t, "ldevid")
	next, err := visit(owners, &good, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	old, fresh := standing.ConnectionState().PeerCertificates[0], next.ConnectionState().PeerCertificates[0]
	if fresh.Equal(old) || !fresh.Equal(u.page(t)) {
		t.Error("the renewed certificate is not shown")
	}
	if said := speak(t, standing); !strings.Contains(said, "hello") {
		t.Errorf("the connection that stands: %q", said)
	}
}
