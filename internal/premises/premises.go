// Package premises founds installations for tests. CAs, record, pipeline and listener are
// the real ones; what is missing is the process around them.
package premises

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/softkey"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/cas"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/session"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

const day = 24 * time.Hour

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Found makes the named issuers, or all, whose keys are in memory. Status is served at base.
func Found(base string, now time.Time, names ...string) ([]ca.Founded, error) {
	return ca.Found(ca.Founding{Organisation: "Acme", BaseURL: base, Names: names, Now: now,
		Key: func(string) (crypto.Signer, error) { return newKey() }})
}

// Issuers lets those who were founded sign, in software.
func Issuers(ctx context.Context, founded ...ca.Founded) (all []ca.Issuer, err error) {
	for _, f := range founded {
		service, err := cas.New(ctx, cas.Options{Type: cas.SoftCAS, Chain: []*x509.Certificate{f.Certificate, f.Root}, Signer: f.Signer})
		if err != nil {
			return nil, err
		}
		all = append(all, ca.Issuer{Name: f.Name, Certificate: f.Certificate, Root: f.Root, CAS: service})
	}
	return all, nil
}

// Pipeline completes a configuration that has Authority, Issuers and Now: it believes keys
// in software and TPMs of these makers, simulated ones too.
func Pipeline(c provisioner.Config, store record.Store, secret []byte, makers ...[]byte) (*provisioner.Service, error) {
	trusted, err := vendorca.New(makers)
	if err != nil {
		return nil, err
	}
	if c.Sessions, err = session.New(secret); err != nil {
		return nil, err
	}
	if c.Permissions, err = factory.NewPermissions(secret); err != nil {
		return nil, err
	}
	c.Store, c.Suspender = store, suspender{store, c.Now}
	c.Verifier = attest.Verifiers{attest.KindTPM2: tpm2.New(func() *vendorca.Set { return trusted }, true), attest.KindSoftKey: softkey.Verifier{}}
	c.SessionLife, c.LDevIDLife, c.Log = 5*time.Minute, 30*day, slog.New(slog.DiscardHandler)
	return provisioner.New(c)
}

// suspender suspends; what relying parties are told is ca/status's matter.
type suspender struct {
	record.Revocations
	now func() time.Time
}

func (s suspender) Suspend(ctx context.Context, device string, e record.Event) ([]record.Shard, error) {
	return s.Revocations.Suspend(ctx, device, s.now(), e)
}

// Listen serves devices as hallmarkd does, at https://127.0.0.1 and a port. Each connection
// is shown a certificate for a day around its time, by the issuer of then.
func Listen(handler http.Handler, then func() (ca.Founded, time.Time)) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		own, err := certificate(then())
		return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true, Certificates: []tls.Certificate{own}}, err
	}}
	server.StartTLS()
	return server
}

func certificate(issuer ca.Founded, now time.Time) (tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(day),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, issuer.Certificate, key.Public(), issuer.Signer)
	return tls.Certificate{Certificate: [][]byte{der, issuer.Certificate.Raw}, PrivateKey: key}, err
}

// SelfSigned is a plain certificate of a server with that name, or at 127.0.0.1, and the pool
// in which it is its own root. It holds for a day.
func SelfSigned(name string) (tls.Certificate, *x509.CertPool, error) {
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(day),
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool, nil
}

// Ticket lets a device into the default lot within an hour of now; change, unless nil, may
// say otherwise. Root is the infrastructure's.
func Ticket(ctx context.Context, store record.Factory, by *factory.Permissions, server string, root *x509.Certificate, now time.Time, change func(*record.Ticket)) (*wire.Permission, error) {
	p := &wire.Permission{Kind: wire.KindTicket, ID: by.NewID(), Server: server, Root: sha256.Sum256(root.Raw)}
	p.Secret = by.Secret(p.Kind, p.ID)
	t := record.Ticket{ID: p.ID, Lot: record.DefaultLot, Created: now, Expires: now.Add(time.Hour)}
	if change != nil {
		change(&t)
	}
	return p, store.CreateTickets(ctx, []record.Ticket{t}, record.Event{Time: now, Actor: "test", Verb: "ticket.created"})
}
