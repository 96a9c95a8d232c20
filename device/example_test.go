package device_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/hallmark-pki/hallmark/device"
)

// afterwards ends what examples have begun; TestMain runs it, last first.
var afterwards []func()

// stage is a testing.TB for examples, which have none.
type stage struct {
	testing.TB
	dir string
}

func (s *stage) Helper()                  {}
func (s *stage) Cleanup(f func())         { afterwards = append(afterwards, f) }
func (s *stage) Context() context.Context { return context.Background() }
func (s *stage) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		panic(err)
	}
	return dir
}

// enrolledDevice is a device with a working certificate, and a web server that accepts
// it and says its name.
func enrolledDevice() (o device.Options, address, rootsFile string) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	t := &stage{dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	clients := x509.NewCertPool()
	clients.AddCert(u.operational)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Device", r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.StartTLS()
	t.Cleanup(server.Close)
	rootsFile = filepath.Join(dir, "roots.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(rootsFile, text, 0o600); err != nil {
		panic(err)
	}
	return device.Options{State: u.dir, TPM: u.chip.Spec()}, server.Listener.Addr().String(), rootsFile
}
