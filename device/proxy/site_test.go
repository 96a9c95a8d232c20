package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device/proxy"
)

// page serves with a key in memory, and admits the holders of that key alone, unless they are refused.
type page struct {
	*keyholder
	refusal func() error
}

func (p page) ServerTLSConfig(clients, fail string) (*tls.Config, error) {
	if clients != "owners" || fail != "open" {
		return nil, fmt.Errorf("clients are %q", clients)
	}
	config := &tls.Config{Certificates: []tls.Certificate{p.identity}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.roots,
		VerifyConnection: func(c tls.ConnectionState) error {
			if len(c.VerifiedChains) == 0 {
				return errors.New("no chain")
			}
			return p.refusal()
		}}
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config, nil }}, nil
}

// program is a local program that counts who reaches it.
func program(t *testing.T, network, address string, f func(net.Conn)) (string, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	reached := new(atomic.Int64)
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			reached.Add(1)
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().String(), reached
}

// runSites serves until the test ends, and gives what the proxy says.
func runSites(t *testing.T, sites ...proxy.Site) (keys *keyholder, heard func(string) bool) {
	t.Helper()
	return runJudged(t, admitted, sites...)
}

func admitted() error { return nil }

// runJudged also judges clients by refusal.
func runJudged(t *testing.T, refusal func() error, sites ...proxy.Site) (keys *keyholder, heard func(string) bool) {
	t.Helper()
	pair, pool := certificate(t)
	keys = &keyholder{pair, pool}
	for i := range sites {
		sites[i].Clients = "owners"
	}
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var said []string
	p := &proxy.Proxy{Server: page{keys, refusal}, Sites: sites, Report: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, line)
	}}
	p.Rejudge(10 * time.Millisecond)
	stopped := make(chan error, 1)
	go func() { stopped <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	for _, s := range sites {
		await(t, func() bool {
			c, err := net.Dial("tcp", s.Listen)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return keys, func(text string) bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(strings.Join(said, "\n"), text)
	}
}

func TestSite(t *testing.T) {
	t.Parallel()
	upper := func(c net.Conn) {
		text, _ := io.ReadAll(c)
		io.WriteString(c, strings.ToUpper(string(text)))
	}
	tcp, reached := program(t, "tcp", "127.0.0.1:0", upper)
	path := folder(t) + "/program"
	program(t, "unix", path, upper)
	rude, _ := program(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, "half")
		c.(*net.TCPConn).SetLinger(0)
	})
	sites := []proxy.Site{{Listen: freeAddress(t), To: tcp}, {Listen: freeAddress(t), To: "unix:" + path}, {Listen: freeAddress(t), To: rude}, {Listen: freeAddress(t), To: "unix:" + path + "-none"}}
	keys, heard := runSites(t, sites...)
	config := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: keys.roots, ServerName: "far", Certificates: certificates}
	}
	visit := func(s proxy.Site) (string, error) {
		c, err := tls.Dial("tcp", s.Listen, config(keys.identity))
		if err != nil {
			return "", err
		}
		defer c.Close()
		_, err = io.WriteString(c, "hello\n")
		if err = errors.Join(err, c.CloseWrite()); err != nil {
			return "", err // a reset that has been told once is an end to who reads
		}
		text, err := io.ReadAll(c)
		return string(text), err
	}
	// The end of one direction goes through while the other goes on.
	for _, s := range sites[:2] {
		if text, err := visit(s); err != nil || text != "HELLO\n" {
			t.Errorf("%s: %q, %v", s.To, text, err)
		}
	}
	if text, err := visit(sites[2]); err == nil {
		t.Errorf("a program that breaks off looks as if it had finished: %q", text)
	}
	if _, err := visit(sites[3]); err == nil {
		t.Error("a program that is not there looks as if it had answered")
	}
	await(t, func() bool { return heard("no such file") })
	// A stranger never reaches the program.
	before := reached.Load()
	other, _ := certificate(t)
	for name, c := range map[string]*tls.Config{"no certificate": config(), "another's": config(other)} {
		conn, err := tls.Dial("tcp", sites[0].Listen, c)
		if err == nil {
			_, err := io.WriteString(conn, "hello\n")
			text, failed := io.ReadAll(conn)
			if errors.Join(err, failed) == nil {
				t.Errorf("%s: %q", name, text)
			}
			conn.Close()
		}
	}
	if reached.Load() != before {
		t.Error("a stranger reached the program")
	}
	await(t, func() bool { return heard("127.0.0.1: tls: client didn't provide a certificate") })
}

// A connection that stands ends when its client would be let in no more, and no other does.
func TestSiteJudgesClientsAgain(t *testing.T) {
	t.Parallel()
	echo, _ := program(t, "tcp", "127.0.0.1:0", func(c net.Conn) { io.Copy(c, c) })
	var judged atomic.Int64
	var revoked atomic.Bool
	site := proxy.Site{Listen: freeAddress(t), To: echo}
	keys, heard := runJudged(t, func() error {
		judged.Add(1)
		if revoked.Load() {
			return errors.New("the certificate was revoked")
		}
		return nil
	}, site)
	c, err := tls.Dial("tcp", site.Listen, &tls.Config{RootCAs: keys.roots, ServerName: "far", Certificates: []tls.Certificate{keys.identity}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	says := func() error {
		if _, err := io.WriteString(c, "x"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	if err := says(); err != nil {
		t.Fatal(err)
	}
	begun := judged.Load()
	await(t, func() bool { return judged.Load() >= begun+3 })
	if err := says(); err != nil {
		t.Errorf("a good client's connection: %v", err)
	}
	revoked.Store(true)
	if _, err := io.ReadFull(c, make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a revoked client's connection: %v", err)
	}
	await(t, func() bool { return heard("is ended: the certificate was revoked") })
}

// A stranger who knocks in ever new ways does not fill the log.
func TestStrangersAreToldOnce(t *testing.T) {
	t.Parallel()
	local, _ := program(t, "tcp", "127.0.0.1:0", func(net.Conn) {})
	site := proxy.Site{Listen: freeAddress(t), To: local}
	var lines atomic.Int64
	pair, pool := certificate(t)
	site.Clients = "owners"
	p := &proxy.Proxy{Server: page{&keyholder{pair, pool}, admitted}, Sites: []proxy.Site{site}, Report: func(string) { lines.Add(1) }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for i := range 100 {
		await(t, func() bool {
			c, err := net.Dial("tcp", site.Listen)
			if err != nil {
				return false
			}
			defer c.Close()
			// Two complaints in turn: not TLS, and a version that is too old.
			c.Write([]byte([]string{"GET / HTTP/1.0\r\n\r\n", "\x16\x03\x00\x00\x05\x01\x00\x00\x01\x00"}[i%2]))
			io.Copy(io.Discard, c)
			return true
		})
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := lines.Load(); n == 0 || n > 40 {
		t.Errorf("%d lines for a hundred strangers", n)
	}
}

func TestSitesThatCannotBe(t *testing.T) {
	t.Parallel()
	pair, pool := certificate(t)
	taken, _ := program(t, "tcp", "127.0.0.1:0", func(net.Conn) {})
	for _, bad := range []proxy.Site{
		{Listen: "443", To: "127.0.0.1:80"}, {Listen: "", To: "127.0.0.1:80"}, {Listen: "127.0.0.1:", To: "127.0.0.1:80"}, {Listen: "unix:/x", To: "127.0.0.1:80"},
		{Listen: ":0", To: ""}, {Listen: ":0", To: "192.0.2.1:80"}, {Listen: ":0", To: "example.com:80"}, {Listen: ":0", To: "127.0.0.1"}, {Listen: ":0", To: "127.0.0.1:"},
		{Listen: ":0", To: "unix:relative"}, {Listen: ":0", To: "unix:/" + strings.Repeat("x", 200)}, {Listen: ":0", To: "127.0.0.1:80", Limit: -1},
		{Listen: ":0", To: "127.0.0.1:80", Clients: "strangers"}, {Listen: taken, To: "127.0.0.1:80"},
	} {
		if bad.Clients == "" {
			bad.Clients = "owners"
		}
		p := &proxy.Proxy{Server: page{&keyholder{pair, pool}, admitted}, Sites: []proxy.Site{bad}}
		if err := p.Run(t.Context()); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
	if err := (&proxy.Proxy{Sites: []proxy.Site{{Listen: ":0", To: "127.0.0.1:80"}}}).Run(t.Context()); err == nil {
		t.Error("a site without a certificate")
	}
}
