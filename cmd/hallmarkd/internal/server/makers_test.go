package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// overtaken is a record that has been asked, and is overtaken before it has answered.
type overtaken struct {
	record.Store
	listed   []record.Authority
	overtake func()
}

func (s *overtaken) Authorities(context.Context) ([]record.Authority, error) {
	listed := s.listed
	if overtake := s.overtake; overtake != nil {
		s.overtake = nil
		overtake()
	}
	return listed, nil
}

// Of two changes of TPM makers at once, the one that was read first and is through last does not
// bring back what the other has taken out.
func TestMakerTakenOutStaysOut(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	store := &overtaken{listed: []record.Authority{{DER: der}}}
	m := &makers{store: store, log: slog.New(slog.DiscardHandler)}
	if err := m.reload(t.Context()); err != nil || m.set.Load().Len() != 1 {
		t.Fatalf("%d makers, %v", m.set.Load().Len(), err)
	}
	before := m.set.Load().Name()
	store.overtake = func() {
		store.listed = nil
		m.changed()
	}
	m.changed()
	if n := m.set.Load().Len(); n != 0 || m.set.Load().Name() == before {
		t.Errorf("%d makers are trusted, and none is on record", n)
	}
}
