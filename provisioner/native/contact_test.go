package native_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/wire"
)

// A device's own certificates, within their validity, and nothing else may poll and renew.
func TestWhoMayRenew(t *testing.T) {
	var ahead atomic.Int64
	i := install(t, settings{now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
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
		"of another CA, alike":     {i.forged(t, u.LDevID), 0, wire.CodeUnauthorised},
		"a server's":               {i.foundation.server, 0, wire.CodeUnauthorised},
		"IDevID, years afterwards": {u.IDevID, 3000 * day, ""},
	} {
		ahead.Store(int64(c.ahead))
		if _, err := u.Poll(c.shown); code(err) != c.want {
			t.Errorf("%s: polling: %v", name, err)
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

// forged is the same certificate but for its key and the key that signed it.
func (i *installation) forged(t *testing.T, original tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template, err := x509.ParseCertificate(original.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	parent := x509.Certificate{RawSubject: template.RawIssuer, SubjectKeyId: template.AuthorityKeyId, PublicKey: key.Public()}
	der, err := x509.CreateCertificate(rand.Reader, template, &parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
