package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Whoever shows the way to a trust bundle step by step, and none that leads anywhere, does not
// keep a device for longer than a connection lasts.
func TestStepsComeToAnEnd(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	var conn *connection
	asked := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 5 {
			conn.until = time.Now() // its time is up
		}
		if r.URL.RawQuery == "" {
			fmt.Fprint(w, "{}")
			return
		}
		json.NewEncoder(w).Encode(wire.TrustSteps{Bundles: make([]wire.SignedBundle, 1), Newest: wire.MaxSteps})
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	defer s.Close()
	c, err := New(Config{Servers: []string{s.URL}, Pins: [][32]byte{{1}}, Proxy: Direct})
	if err != nil {
		t.Fatal(err)
	}
	if conn, err = c.dial(t.Context(), s.URL, nil, false); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if left := time.Until(conn.until); left <= exchangeTimeout || left > maxConnection {
		t.Errorf("%v are left", left)
	}
	var lost *NetworkError
	if err := c.fetchTrust(conn); !errors.As(err, &lost) || lost.Code != CodeLost || asked != 5 {
		t.Errorf("%v after %d", err, asked)
	}
}
