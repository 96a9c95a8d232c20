package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/proxy"
	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/internal/premises"
)

// keyholder dials with a key in memory: what the TPM adds is tested beside the TPM.
type keyholder struct {
	identity tls.Certificate
	roots    *x509.CertPool
}

func (k *keyholder) Dial(ctx context.Context, c device.Connection) (*tls.Conn, error) {
	return device.DialTLS(ctx, c.To, &tls.Config{RootCAs: k.roots, Certificates: []tls.Certificate{k.identity}, ServerName: c.Name, NextProtos: c.ALPN})
}

func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	own, pool, err := premises.SelfSigned("far")
	if err != nil {
		t.Fatal(err)
	}
	return own, pool
}

// stage is a proxy in front of a TLS server.
type stage struct {
	dialer  *keyholder
	far     string
	mu      sync.Mutex
	said    []string
	stopped chan error
}

// serve runs a far side that demands a client certificate and hands each connection to f.
func newStage(t testing.TB, f func(*tls.Conn)) *stage {
	t.Helper()
	pair, pool := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true, NextProtos: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				f(conn.(*tls.Conn))
			}()
		}
	}()
	return &stage{dialer: &keyholder{pair, pool}, far: l.Addr().String()}
}

// run opens tunnels to the far side and returns when they are open.
func (s *stage) run(t testing.TB, tunnels ...proxy.Tunnel) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	for i := range tunnels {
		if tunnels[i].To == "" {
			tunnels[i].To = s.far
		}
		tunnels[i].Name = "far"
	}
	s.stopped = make(chan error, 1)
	p := &proxy.Proxy{Dialer: s.dialer, Tunnels: tunnels, Report: func(line string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.said = append(s.said, line)
	}}
	go func() { s.stopped <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-s.stopped; err != nil {
			t.Error(err)
		}
	})
	for _, tunnel := range tunnels {
		await(t, func() bool {
			c, err := dial(tunnel.Listen)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
}

func (s *stage) heard(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(strings.Join(s.said, "\n"), text)
}

func await(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}

func dial(listen string) (net.Conn, error) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		return net.Dial("unix", path)
	}
	return net.Dial("tcp", listen)
}

func mustDial(t testing.TB, listen string) net.Conn {
	t.Helper()
	c, err := dial(listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

func freeAddress(t testing.TB) string {
	t.Helper()
	port, err := ports.Free(18000, 1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// folder is one that other users can enter, with a short name.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "px")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func echo(c *tls.Conn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// Bytes go both ways, and the end of one direction is passed on while the other goes on.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *tls.Conn) {
		text, err := io.ReadAll(c) // the end of the request
		fmt.Fprintf(c, "%s|%v|%s|%d certificates", text, err, c.ConnectionState().NegotiatedProtocol, len(c.ConnectionState().PeerCertificates))
		c.CloseWrite()
	})
	unix, tcp := "unix:"+folder(t)+"/s", freeAddress(t)
	s.run(t, proxy.Tunnel{Listen: unix, ALPN: []string{"mqtt"}}, proxy.Tunnel{Listen: tcp, ALPN: []string{"mqtt"}})
	for _, listen := range []string{unix, tcp} {
		c := mustDial(t, listen)
		io.WriteString(c, "request")
		c.(interface{ CloseWrite() error }).CloseWrite()
		if answer, err := io.ReadAll(c); err != nil || string(answer) != "request|<nil>|mqtt|1 certificates" {
			t.Errorf("%s: %q, %v", listen, answer, err)
		}
	}
}

// A server that closes without close_notify once the program has ended, as nginx does, is no problem to
// report; one that does so before is. The program is told of both.
func TestCutOffAfterTheProgramEnded(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{true, false} {
		s := newStage(t, func(c *tls.Conn) {
			io.ReadFull(c, make([]byte, len("request"))) // TCP answers what is closed unread with a reset
			if first {
				io.Copy(io.Discard, c)
			}
			c.NetConn().Close()
		})
		listen := freeAddress(t)
		s.run(t, proxy.Tunnel{Listen: listen})
		c := mustDial(t, listen)
		io.WriteString(c, "request")
		if first {
			c.(interface{ CloseWrite() error }).CloseWrite()
		}
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("first %v: the program was told %v", first, err)
		}
		if heard := func() bool { return s.heard("cut off") }; first && heard() {
			t.Errorf("reported: %q", s.said)
		} else if !first {
			await(t, heard)
		}
	}
}

// relay carries connections, the nth of which it cuts after so many bytes from the server.
func relay(t *testing.T, to string, after []int64) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for i := 0; ; i++ {
			n := after[min(i, len(after)-1)] // a look whether the proxy is up may cost more than one
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer s.Close()
				go io.Copy(s, c)
				io.Copy(c, io.LimitReader(s, n))
			}()
		}
	}()
	return l.Addr().String()
}

// What both sides have finished takes up no file any more.
func TestBothEndsAreClosed(t *testing.T) {
	t.Parallel()
	over := make(chan error, 4)
	s := newStage(t, func(c *tls.Conn) {
		if text, _ := io.ReadAll(c); len(text) == 0 {
			return // of run, which looks whether the socket is open
		}
		c.CloseWrite()
		inner := c.NetConn()
		inner.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := inner.Read(make([]byte, 1))
		over <- err
	})
	listen := freeAddress(t)
	s.run(t, proxy.Tunnel{Listen: listen})
	c := mustDial(t, listen)
	defer c.Close()
	io.WriteString(c, "request")
	c.(*net.TCPConn).CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	if err := <-over; err != io.EOF {
		t.Errorf("the far side still has its connection: %v", err)
	}
}

// A connection that is cut after any byte does not look finished to the local program.
func TestCutAfterEachByte(t *testing.T) {
	t.Parallel()
	const answer = "the answer"
	s := newStage(t, func(c *tls.Conn) {
		io.WriteString(c, answer)
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	var after []int64
	for n := range int64(2500) {
		after = append(after, n)
	}
	listen := freeAddress(t)
	s.run(t, proxy.Tunnel{Listen: listen, To: relay(t, s.far, append([]int64{0}, after...))})
	whole, cutOff := 0, 0
	for _, n := range after {
		var got []byte
		c, err := dial(listen)
		if err == nil { // so quick a reset is that of connect
			c.SetDeadline(time.Now().Add(time.Minute))
			got, err = io.ReadAll(c)
			c.Close()
		}
		switch {
		case err == nil && string(got) == answer:
			whole++
		case errors.Is(err, syscall.ECONNRESET) && strings.HasPrefix(answer, string(got)):
			cutOff++
		default:
			t.Fatalf("cut after %d bytes: %q, %v", n, got, err)
		}
	}
	if whole == 0 || cutOff < 100 {
		t.Fatalf("%d whole, %d cut off", whole, cutOff)
	}
}

// A program that breaks off is not taken by the far side for one that has finished.
func TestLocalReset(t *testing.T) {
	t.Parallel()
	arrived, ended := make(chan bool), make(chan error, 1)
	s := newStage(t, func(c *tls.Conn) {
		first := make([]byte, 4)
		if _, err := io.ReadFull(c, first); err == nil {
			close(arrived)
			_, err = io.Copy(io.Discard, c)
			ended <- err
		}
	})
	listen := freeAddress(t)
	s.run(t, proxy.Tunnel{Listen: listen})
	c := mustDial(t, listen).(*net.TCPConn)
	io.WriteString(c, "half")
	<-arrived // what is on its way a reset takes with it
	c.SetLinger(0)
	c.Close()
	if err := <-ended; err == nil {
		t.Fatal("the far side saw a clean end")
	}
}

// A far side that does not read holds back the program that writes to it, in bounded
// memory, and nobody else; nothing is lost when it goes on.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	goOn := make(chan bool)
	const size = 64 << 20
	s := newStage(t, func(c *tls.Conn) {
		kind := make([]byte, 1)
		if _, err := io.ReadFull(c, kind); err != nil {
			return
		}
		if kind[0] == 's' {
			<-goOn
			n, err := io.Copy(io.Discard, c)
			fmt.Fprint(c, n, err)
			c.CloseWrite()
			return
		}
		echo(c)
	})
	listen := "unix:" + folder(t) + "/s"
	s.run(t, proxy.Tunnel{Listen: listen})
	slow := mustDial(t, listen)
	var written int
	done := make(chan error, 1)
	go func() {
		slow.Write([]byte("s"))
		for block := make([]byte, 1<<16); written < size; written += len(block) {
			if _, err := slow.Write(block); err != nil {
				done <- err
				return
			}
		}
		done <- slow.(*net.UnixConn).CloseWrite()
	}()
	time.Sleep(500 * time.Millisecond)
	select {
	case <-done:
		t.Fatal("64 MiB were taken although nobody reads")
	default:
	}
	quick := mustDial(t, listen)
	io.WriteString(quick, "q hello")
	quick.(*net.UnixConn).CloseWrite()
	if answer, err := io.ReadAll(quick); err != nil || string(answer) != " hello" {
		t.Fatalf("%q, %v", answer, err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(slow); err != nil || string(answer) != fmt.Sprint(size, error(nil)) {
		t.Fatalf("%q, %v", answer, err)
	}
}

// Beyond the limit programs wait until there is room.
func TestLimit(t *testing.T) {
	t.Parallel()
	s := newStage(t, echo)
	listen := "unix:" + folder(t) + "/s"
	s.run(t, proxy.Tunnel{Listen: listen, Limit: 2})
	answers := func(c net.Conn, within time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(within))
		_, err := io.ReadFull(c, make([]byte, 5))
		return err == nil
	}
	var standing []net.Conn
	for range 3 {
		c := mustDial(t, listen)
		io.WriteString(c, "hello")
		standing = append(standing, c)
	}
	if !answers(standing[0], time.Minute) || !answers(standing[1], time.Minute) || answers(standing[2], 200*time.Millisecond) {
		t.Fatal("want two served and one waiting")
	}
	await(t, func() bool { return s.heard("2 connections stand, which is the limit") })
	standing[0].Close()
	if !answers(standing[2], time.Minute) {
		t.Fatal("the third is not served although there is room")
	}
}

// A far side that is not there, and one that does not take the certificate, are said,
// once however often it happens.
func TestProblemsAreSaid(t *testing.T) {
	t.Parallel()
	s := newStage(t, echo)
	nobody, strict := freeAddress(t), freeAddress(t)
	pair, pool := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go io.Copy(c, c)
		}
	}()
	s.dialer.roots = pool
	s.run(t, proxy.Tunnel{Listen: nobody, To: freeAddress(t)}, proxy.Tunnel{Listen: strict, To: l.Addr().String()})
	for range 5 {
		for _, listen := range []string{nobody, strict} {
			c, err := dial(listen)
			if err == nil {
				_, err = io.ReadAll(c)
				c.Close()
			}
			if err == nil {
				t.Error("the local program sees a clean end")
			}
		}
	}
	await(t, func() bool { return s.heard("connection refused") && s.heard("remote error: tls") })
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.said) > 4 {
		t.Errorf("said too often: %q", s.said)
	}
}

// A socket is open to those who are named, and to nobody else.
func TestAccess(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("only root can be somebody else: the stranger is tested by CI, which is root")
	}
	const stranger, group = 65534, 65533
	s := newStage(t, func(c *tls.Conn) {
		io.CopyN(c, c, int64(len("GET / HTTP/1.1")))
		c.CloseWrite()
	})
	dir := folder(t)
	open := func(name string, a proxy.Access) proxy.Tunnel {
		return proxy.Tunnel{Listen: "unix:" + filepath.Join(dir, name), Access: a}
	}
	s.run(t, open("own", proxy.Access{}),
		open("user", proxy.Access{Users: []string{strconv.Itoa(stranger)}}),
		open("group", proxy.Access{Groups: []string{strconv.Itoa(group)}}),
		open("several", proxy.Access{Users: []string{"daemon", "65532"}, Groups: []string{"daemon"}}))
	if info, err := os.Stat(filepath.Join(dir, "own")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a socket for nobody else is open to others: %v, %v", info.Mode(), err)
	}
	as := func(uid, gid uint32, name string) bool {
		if os.Geteuid() != 0 {
			uid, gid = uint32(os.Geteuid()), uint32(os.Getegid())
		}
		// Anything that speaks to a unix socket: it gets its request back.
		c := exec.Command("curl", "-sS", "-m", "60", "--http0.9", "--unix-socket", filepath.Join(dir, name), "http://localhost/")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, NoSetGroups: os.Geteuid() != 0}}
		c.Dir = "/"
		out, _ := c.Output()
		return bytes.Contains(out, []byte("GET / HTTP/1.1"))
	}
	for _, c := range []struct {
		uid, gid uint32
		socket   string
		admitted bool
	}{
		{0, 0, "own", true}, {stranger, group, "own", false},
		{stranger, 1, "user", true}, {65531, group, "user", false}, {0, 0, "user", true},
		{65531, group, "group", true}, {stranger, 65530, "group", false},
		{65532, 65530, "several", true}, {1, 65530, "several", true}, {65531, 1, "several", true}, {stranger, group, "several", false},
	} {
		if got := as(c.uid, c.gid, c.socket); got != (c.admitted || os.Geteuid() != 0) {
			t.Errorf("user %d of group %d at %s: admitted %v", c.uid, c.gid, c.socket, got)
		}
	}
	if os.Geteuid() == 0 && !s.heard("user 65534 (process ") {
		t.Errorf("the stranger at an open door is not reported: %q", s.said)
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	s := newStage(t, echo)
	dir := folder(t)
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := net.Listen("unix", dir+"/live")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	for _, bad := range []proxy.Tunnel{
		{Listen: "unix:" + dir + "/file"}, {Listen: "unix:" + dir + "/live"}, {Listen: "unix:" + dir + "/missing/s"},
		{Listen: "unix:relative"}, {Listen: "unix:/" + strings.Repeat("x", 200)}, {Listen: "unix:"},
		{Listen: "0.0.0.0:0"}, {Listen: "192.0.2.1:1883"}, {Listen: ":1883"}, {Listen: "1883"}, {Listen: "127.0.0.1:"}, {Listen: ""},
		{Listen: "127.0.0.1:0", Access: proxy.Access{Users: []string{"root"}}},
		{Listen: "unix:" + dir + "/s", Access: proxy.Access{Users: []string{"no-such-user"}}},
		{Listen: "unix:" + dir + "/s", Access: proxy.Access{Groups: []string{"no-such-group"}}},
		{Listen: "127.0.0.1:0", To: "nowhere"}, {Listen: "127.0.0.1:0", Limit: -1}, {Listen: "127.0.0.1:0", Limit: 1 << 20},
	} {
		if bad.To == "" {
			bad.To = s.far
		}
		p := proxy.Proxy{Dialer: s.dialer, Tunnels: []proxy.Tunnel{bad}}
		if err := p.Run(t.Context()); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
	if err := (&proxy.Proxy{Dialer: s.dialer}).Run(t.Context()); err == nil {
		t.Error("a proxy for nothing")
	}
	// What a killed process left is in nobody's way.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/stale", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	await(t, func() bool { // whatever another test starts has it open until it runs its program
		c, err := dial("unix:" + dir + "/stale")
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	s.run(t, proxy.Tunnel{Listen: "unix:" + dir + "/stale"})
}

// Who stops the proxy cuts the connections that stand, and leaves no socket behind.
func TestStop(t *testing.T) {
	t.Parallel()
	s := newStage(t, echo)
	path := folder(t) + "/s"
	ctx, cancel := context.WithCancel(t.Context())
	p := proxy.Proxy{Dialer: s.dialer, Tunnels: []proxy.Tunnel{{Listen: "unix:" + path, To: s.far, Name: "far"}}}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	await(t, func() bool { // a socket has its name a moment before it listens
		c, err := dial("unix:" + path)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	c := mustDial(t, "unix:"+path)
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection still stands")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
