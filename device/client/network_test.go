package client_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/wire"
)

// code is the name of a failure, as the client prints it, and the hint that comes with it.
func code(err error) (name, hint string) {
	if e, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		hint = e.Hint()
	}
	if err != nil && strings.HasSuffix(err.Error(), "]") {
		_, name, _ = strings.Cut(err.Error()[strings.LastIndex(err.Error(), " "):], "[")
	}
	return strings.TrimSuffix(name, "]"), hint
}

// listen answers each TCP connection with f.
func listen(t *testing.T, f func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return l.Addr().String()
}

// inFront is an HTTPS server with a certificate of its own in front of whatever h says.
func inFront(t *testing.T, h http.Handler) (url string) {
	t.Helper()
	stranger := newAuthority(t, "inspection", nil, time.Now().Add(-time.Hour))
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{stranger.leaf(t, "proxy", time.Now())}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// forward passes requests on, as a proxy that inspects TLS does.
func forward(t *testing.T, to string) http.Handler {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p := httputil.NewSingleHostReverseProxy(target)
	p.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	p.ErrorLog = log.New(io.Discard, "", 0)
	return p
}

// closed is an address at which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	port, err := ports.Free(19000, 1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// Each thing that can stand between a device and its server has a name of its own, and a
// hint, both for a device that has a trust bundle and for one that knows a fingerprint.
func TestEachFailureHasAName(t *testing.T) {
	portal := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html>Welcome to our Wi-Fi")
	})
	old := tls.VersionTLS12
	for name, c := range map[string]struct {
		// way gives the URL that leads to the server, or elsewhere.
		way func(t *testing.T, s *server) string
		// change changes the server itself.
		change func(*server, *tls.Config)
		proxy  func(t *testing.T) string
		want   string
	}{
		"no such name": {way: func(*testing.T, *server) string { return "https://ca.invalid:8443" }, want: client.CodeDNS},
		"nobody there": {way: func(t *testing.T, _ *server) string { return "https://" + closed(t) }, want: client.CodeUnreachable},
		"hangs up":     {way: func(t *testing.T, _ *server) string { return "https://" + listen(t, func(net.Conn) {}) }, want: client.CodeLost},
		"a portal, plain": {way: func(t *testing.T, _ *server) string {
			s := httptest.NewServer(portal)
			t.Cleanup(s.Close)
			return strings.Replace(s.URL, "http:", "https:", 1)
		}, want: client.CodePortal},
		"a portal with TLS": {way: func(t *testing.T, _ *server) string { return inFront(t, portal) }, want: client.CodePortal},
		"a portal that redirects": {way: func(t *testing.T, _ *server) string {
			return inFront(t, http.RedirectHandler("https://login.example/", http.StatusFound))
		}, want: client.CodePortal},
		"old TLS":          {change: func(_ *server, c *tls.Config) { c.MinVersion, c.MaxVersion = uint16(old), uint16(old) }, want: client.CodeTLS},
		"TLS is inspected": {way: func(t *testing.T, s *server) string { return inFront(t, forward(t, s.url)) }, want: client.CodeIntercepted},
		"another server":   {way: func(t *testing.T, _ *server) string { return start(t, nil).url }, want: client.CodeUnknownCA},
		"another name": {change: func(s *server, c *tls.Config) {
			key := newKey(t)
			leaf := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "server"}, NotBefore: s.now.Add(-time.Hour), NotAfter: s.now.Add(time.Hour), DNSNames: []string{"elsewhere"}}, s.root, key)
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}
		}, want: client.CodeServerName},
		"an old certificate": {change: func(s *server, c *tls.Config) {
			c.Certificates = []tls.Certificate{s.root.leaf(t, "server", s.now.AddDate(0, -3, 0))}
		}, want: client.CodeServerExpired},
		"a time that nobody signed": {change: func(s *server, _ *tls.Config) {
			s.answer[wire.PathTime] = func(w http.ResponseWriter, _ *http.Request) { write(w, s.time(make([]byte, 32))) }
		}, want: client.CodeTime},
		"a proxy that is away": {proxy: func(t *testing.T) string { return "http://" + closed(t) }, want: client.CodeProxy},
		"a proxy that refuses": {proxy: func(t *testing.T) string {
			s := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return s.URL
		}, want: client.CodeProxy},
		"a proxy that hangs up": {proxy: func(t *testing.T) string { return "http://" + listen(t, func(net.Conn) {}) }, want: client.CodeProxy},
		"a proxy that talks too much": {proxy: func(t *testing.T) string {
			return "http://" + listen(t, func(c net.Conn) {
				c.Read(make([]byte, 4096))
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nand more")
				io.Copy(io.Discard, c)
			})
		}, want: client.CodeProxy},
		"nonsense in the answer": {change: func(s *server, _ *tls.Config) {
			s.answer[wire.PathEnrol] = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }
		}, want: client.CodeAnswer},
	} {
		for _, onFile := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/bundle on file %v", name, onFile), func(t *testing.T) {
				s := start(t, c.change)
				clientConfig := func(config *client.Config) {
					if c.way != nil {
						config.Servers = []string{c.way(t, s)}
						s.bundle.Servers = config.Servers
					}
					if onFile {
						config.Trust = s.signed()
					}
					if c.want == client.CodeTime {
						config.Now = at(clocks["1970"])
					}
					config.Proxy = client.Direct
					if c.proxy != nil {
						config.Proxy = c.proxy(t)
					}
				}
				_, err := newClient(t, s, clientConfig).Enrol(t.Context(), wire.Enrol{}, prove, ticket)
				if got, hint := code(err); got != c.want || hint == "" {
					t.Fatalf("%v, want %s", err, c.want)
				}
			})
		}
	}
}

// A connection may be cut off after any byte; what was said until then is not believed,
// and the next attempt works.
func TestCutAfterEachByte(t *testing.T) {
	s := start(t, nil)
	var budget atomic.Int64
	target := strings.TrimPrefix(s.url, "https://")
	address := listen(t, func(c net.Conn) {
		d, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer d.Close()
		go io.Copy(d, c)
		buffer := make([]byte, 4096)
		for {
			n, err := d.Read(buffer)
			left := budget.Add(-int64(n))
			if left < 0 {
				c.Write(buffer[:max(int64(n)+left, 0)])
				return
			}
			if _, failed := c.Write(buffer[:n]); err != nil || failed != nil {
				return
			}
		}
	})
	s.bundle.Servers = []string{"https://" + address}
	known := s.signed()
	for bytes := int64(0); ; bytes += 1 + bytes/64 { // each of the first, then ever fewer
		budget.Store(bytes)
		c, err := client.New(client.Config{Trust: known, Proxy: client.Direct})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Enrol(t.Context(), wire.Enrol{Serial: "<&>"}, prove, ticket)
		if err == nil {
			if answer.Identity == nil || bytes < 1000 {
				t.Fatalf("after %d bytes: %+v", bytes, answer)
			}
			return
		}
		if got, _ := code(err); got != client.CodeLost {
			t.Fatalf("cut after %d bytes: %v", bytes, err)
		}
	}
}

// A server that has no address but an IPv6 one.
func TestIPv6Only(t *testing.T) {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, nil)
	leaf := func() tls.Certificate {
		key := newKey(t)
		c := sign(t, &x509.Certificate{NotBefore: s.now.Add(-time.Hour), NotAfter: s.now.Add(time.Hour), IPAddresses: []net.IP{net.IPv6loopback}}, s.root, key)
		return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
	}
	h := httptest.NewUnstartedServer(s)
	h.Listener.Close()
	h.Listener = l
	h.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{leaf()}}
	h.StartTLS()
	defer h.Close()
	s.url = "https://" + l.Addr().String()
	s.bundle.Servers = []string{s.url}
	c := newClient(t, s, func(c *client.Config) { c.Proxy = client.Direct })
	enrols(t, c)
	if got := c.Memory().Addresses[l.Addr().String()]; got != l.Addr().String() {
		t.Errorf("remembered %q", got)
	}
}

// named is a server under a name that only its certificate knows.
func named(t *testing.T) (s *server, port string) {
	t.Helper()
	s = start(t, func(s *server, c *tls.Config) {
		key := newKey(t)
		leaf := sign(t, &x509.Certificate{NotBefore: s.now.Add(-time.Hour), NotAfter: s.now.Add(time.Hour), DNSNames: []string{"ca.invalid", "localhost"}}, s.root, key)
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}
	})
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	return s, port
}

// When a name cannot be resolved any more, the address at which the server was last
// reached serves; who is found there must be the server as always.
func TestLastGoodAddress(t *testing.T) {
	s, port := named(t)
	s.url = "https://localhost:" + port
	s.bundle.Servers = []string{s.url}
	c := newClient(t, s, func(c *client.Config) { c.Proxy = client.Direct })
	enrols(t, c)
	found := c.Memory()
	if found.Server != s.url || found.Addresses["localhost:"+port] != "127.0.0.1:"+port && found.Addresses["localhost:"+port] != "[::1]:"+port {
		t.Fatalf("remembered %+v", found)
	}
	// The name is gone; what was remembered of it is not.
	s.url = "https://ca.invalid:" + port
	s.bundle.Servers = []string{s.url}
	lost := func(address string) error {
		c := newClient(t, s, func(c *client.Config) {
			c.Proxy, c.Memory = client.Direct, client.Memory{Addresses: map[string]string{"ca.invalid:" + port: address}}
		})
		_, err := c.Enrol(t.Context(), wire.Enrol{Serial: "<&>"}, prove, ticket)
		return err
	}
	if err := lost("127.0.0.1:" + port); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"": client.CodeDNS, closed(t): client.CodeDNS, "nonsense": client.CodeDNS,
		strings.TrimPrefix(inFront(t, http.NotFoundHandler()), "https://"): client.CodeUnknownCA,
	} {
		if err := lost(address); err == nil {
			t.Errorf("%q: enrolled", address)
		} else if got, _ := code(err); got != want {
			t.Errorf("%q: %v, want %s", address, err, want)
		}
	}
}

// The server that answered last is asked first, whatever the order of the bundle.
func TestSeveralServers(t *testing.T) {
	s := start(t, nil)
	away := "https://" + closed(t)
	s.bundle.Servers = []string{away, s.url}
	c := newClient(t, s, func(c *client.Config) { c.Proxy, c.Servers, c.Trust = client.Direct, nil, s.signed() })
	enrols(t, c)
	if c.Memory().Server != s.url {
		t.Fatalf("remembered %+v", c.Memory())
	}
	// A server of ours that refuses is an answer: the next is not asked.
	s.answer[wire.PathEnrol] = func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, wire.CodeQuotaFull, "full") }
	other := start(t, nil)
	s.bundle.Servers = []string{s.url, other.url}
	c = newClient(t, s, func(c *client.Config) { c.Proxy, c.Servers, c.Trust = client.Direct, nil, s.signed() })
	if _, err := c.Enrol(t.Context(), wire.Enrol{}, prove, ticket); err == nil || len(other.requests()) != 0 {
		t.Fatalf("%v, %v", err, other.requests())
	}
}

// A server that is there and does not serve is passed over, and not asked first the next
// time; one that asks for time is obeyed.
func TestServersThatDoNotServe(t *testing.T) {
	for name, does := range map[string]http.HandlerFunc{
		"its proxy has no server": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"hangs up":                func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
		"talks nonsense":          func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") },
		"asks for time": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			refuse(w, http.StatusServiceUnavailable, wire.CodeUnavailable, "many devices ask at once")
		},
	} {
		s := start(t, nil)
		next := httptest.NewUnstartedServer(s)
		next.TLS = &tls.Config{Certificates: []tls.Certificate{s.root.leaf(t, "server", s.now)}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
		next.StartTLS()
		t.Cleanup(next.Close)
		s.bundle.Servers = []string{s.url, next.URL}
		s.answer[wire.PathEnrol] = func(w http.ResponseWriter, r *http.Request) {
			if "https://"+r.Host == s.url {
				does(w, r)
				return
			}
			write(w, wire.Answer{Identity: &wire.Identity{Device: "m:1"}})
		}
		c := newClient(t, s, func(c *client.Config) { c.Proxy, c.Servers, c.Trust = client.Direct, nil, s.signed() })
		_, err := c.Enrol(t.Context(), wire.Enrol{Serial: "<&>"}, prove, ticket)
		if name == "asks for time" {
			if client.RetryAfter(err) != time.Minute || c.Memory().Server != s.url {
				t.Errorf("%s: %v, %+v", name, err, c.Memory())
			}
			continue
		}
		if err != nil || c.Memory().Server != next.URL {
			t.Errorf("%s: %v, %+v", name, err, c.Memory())
		}
	}
}

// Who has not shown to be the server keeps a board waiting, and not for a day.
func TestStrangersRetryAfter(t *testing.T) {
	s := start(t, nil)
	s.answer[wire.PathTrust] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "86400")
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, err := newClient(t, s, nil).Enrol(t.Context(), wire.Enrol{}, prove, ticket)
	if after := client.RetryAfter(err); after <= 0 || after > time.Hour {
		t.Errorf("after %v: %v", after, err)
	}
}

// tinyproxy runs a real proxy that wants a name and a password.
func tinyproxy(t *testing.T) (address string) {
	t.Helper()
	address = closed(t)
	_, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	file := filepath.Join(dir, "tinyproxy.conf")
	text := fmt.Sprintf("Port %s\nListen 127.0.0.1\nTimeout 30\nLogFile \"%s/log\"\nLogLevel Connect\nMaxClients 20\nBasicAuth device s3cret\n", port, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "tinyproxy", "-d", "-c", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return address
		}
	}
	text2, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Fatalf("tinyproxy does not listen: %s", text2)
	return ""
}

// Through a real proxy with a password; without the password, or with another, it says so.
func TestProxyWithPassword(t *testing.T) {
	s, proxy := start(t, nil), tinyproxy(t)
	through := func(user string) error {
		c := newClient(t, s, func(c *client.Config) { c.Proxy = "http://" + user + proxy })
		_, err := c.Enrol(t.Context(), wire.Enrol{Serial: "<&>"}, prove, ticket)
		if err == nil && len(c.Memory().Addresses) > 0 {
			t.Errorf("the proxy's address was remembered as the server's: %+v", c.Memory())
		}
		return err
	}
	if err := through("device:s3cret@"); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"", "device:wrong@", "other:s3cret@"} {
		err := through(user)
		if got, _ := code(err); got != client.CodeProxyAuth || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", user, err)
		}
	}
	// A portal or an inspecting proxy behind it is named as without one.
	s2 := start(t, nil)
	s2.bundle.Servers = []string{inFront(t, forward(t, s2.url))}
	c := newClient(t, s2, func(c *client.Config) { c.Proxy, c.Trust, c.Servers = "http://device:s3cret@"+proxy, s2.signed(), nil })
	_, err := c.Enrol(t.Context(), wire.Enrol{}, prove, ticket)
	if got, _ := code(err); got != client.CodeIntercepted {
		t.Error(err)
	}
}

// Which servers the environment's proxy is for.
func TestProxyFromTheEnvironment(t *testing.T) {
	s := start(t, nil)
	t.Setenv("HTTPS_PROXY", "http://"+closed(t))
	enrols(t, newClient(t, s, nil)) // this host itself is never reached through it
	elsewhere := func() string {
		c, err := client.New(client.Config{Servers: []string{"https://ca.invalid:8443"}, Pins: [][32]byte{sha256.Sum256(nil)}})
		if err != nil {
			t.Fatal(err)
		}
		got, _ := code(c.Connect(t.Context()))
		return got
	}
	if got := elsewhere(); got != client.CodeProxy {
		t.Errorf("got %s", got)
	}
	for _, except := range []string{"*", "ca.invalid", ".invalid", "other, ca.invalid:8443"} {
		t.Setenv("NO_PROXY", except)
		if got := elsewhere(); got != client.CodeDNS {
			t.Errorf("NO_PROXY=%s: %s", except, got)
		}
	}
	t.Setenv("NO_PROXY", "ca.example,192.0.2.0/24,a.invalid:8443")
	if got := elsewhere(); got != client.CodeProxy {
		t.Errorf("got %s", got)
	}
	for _, bad := range []string{"ftp://x", "http://", "http://name:pass@host:1/path", "http://x?y"} {
		t.Setenv("HTTPS_PROXY", bad)
		if _, err := client.New(client.Config{Servers: []string{"https://ca.invalid"}, Pins: [][32]byte{{}}}); err == nil || strings.Contains(err.Error(), "pass@") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
