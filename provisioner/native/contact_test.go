package native_test

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// A device's own certificates, within their validity, and nothing else may poll and renew.
func TestWhoMayRenew(t *testing.T) {
	var ahead atomic.Int64
	now := time.Now() // and stays it, or midnight may fall between an answer and a look at it
	i := install(t, settings{now: func() time.Time { return now.Add(time.Duration(ahead.Load())) }})
	u := i.unit(t, simtpm.Options{})
	id, err := u.Enrol(i.ticket(t, nil), "SN-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Renew(u.IDevID); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		shown tls.Certificate
		ahead time.Duration
		want  string
	}{
		"LDevID":                   {u.LDevID, 0, ""},
		"LDevID that has run out":  {u.LDevID, 31 * day, wire.CodeCertificateExpired},
		"LDevID of tomorrow":       {u.LDevID, -day, wire.CodeCertificateExpired},
		"AK's":                     {tls.Certificate{Certificate: id.AK, PrivateKey: u.TPM.AK}, 0, wire.CodeUnauthorised},
		"of another CA, alike":     {forged(t, u.LDevID, nil), 0, wire.CodeUnauthorised},
		"of this CA, not recorded": {forged(t, u.LDevID, i.signer(t, profile.Operational)), 0, wire.CodeCertificateUnknown},
		"a server's":               {i.foundation.server, 0, wire.CodeUnauthorised},
		"IDevID, years afterwards": {u.IDevID, 3000 * day, ""},
	} {
		ahead.Store(int64(c.ahead))
		_, err := u.Poll(c.shown)
		if code(err) != c.want {
			t.Errorf("%s: polling: %v", name, err)
		}
		if today := now.Add(c.ahead).UTC().Format(time.DateOnly); c.want == wire.CodeCertificateExpired && !strings.Contains(err.Error(), today) {
			t.Errorf("%s: nobody learns that the server's clock says %s: %v", name, today, err)
		}
		if c.want == "" {
			continue // whether it renews, other tests say
		}
		if _, err := u.Renew(c.shown); code(err) != c.want {
			t.Errorf("%s: renewing: %v", name, err)
		}
	}
	ahead.Store(int64(31 * day))
	if _, err := u.Renew(u.IDevID); err != nil {
		t.Errorf("and its IDevID: %v", err)
	}
}

// A working certificate lives for thirty days, or for what its model says.
func TestLifeOfAWorkingCertificate(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	for _, life := range []time.Duration{0, 7 * 24 * time.Hour} {
		m, err := i.store.Model(t.Context(), record.DefaultModel)
		if err != nil {
			t.Fatal(err)
		}
		m.LDevIDLifetime = life
		if err := i.store.SetModel(t.Context(), m.Name, func(have *record.Model) (record.Event, error) {
			*have = m
			return record.Event{Time: time.Now(), Actor: "test", Verb: "model.changed"}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Renew(u.IDevID); err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(u.LDevID.Certificate[0])
		if want := cmp.Or(life, 30*24*time.Hour) - time.Second; err != nil || c.NotAfter.Sub(c.NotBefore) != want {
			t.Errorf("a model that says %v: %v, %v", life, c.NotAfter.Sub(c.NotBefore), err)
		}
	}
}

// signer is an issuer's key.
func (i *installation) signer(t *testing.T, issuer string) crypto.Signer {
	t.Helper()
	n := slices.IndexFunc(i.founded, func(f ca.Founded) bool { return f.Name == issuer })
	if n < 0 {
		t.Fatal("no issuer", issuer)
	}
	return i.founded[n].Signer
}

// forged is the same certificate for another key: with another serial number and signed by
// the issuer's key, or, if that is nil, with the same one and signed by a key of its own.
func forged(t *testing.T, original tls.Certificate, issuer crypto.Signer) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template, err := x509.ParseCertificate(original.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if issuer != nil {
		template.SerialNumber = profile.NewSerial()
	} else {
		issuer = key
	}
	parent := x509.Certificate{RawSubject: template.RawIssuer, SubjectKeyId: template.AuthorityKeyId, PublicKey: issuer.Public()}
	der, err := x509.CreateCertificate(rand.Reader, template, &parent, key.Public(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
