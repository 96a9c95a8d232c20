package server

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// However few files the process may open, a flood on one listener leaves some to the others
// and to the record, and one host has no more than a quarter of a listener.
func TestPlaces(t *testing.T) {
	for files, want := range map[uint64]int{1 << 20: 4096, 20_000: 4096, 1024: 224, 256: 32, 100: 4, 1<<64 - 1: 4096} {
		if got := places(4, files); got != want {
			t.Errorf("%d files: %d places, want %d", files, got, want)
		}
	}
	if files := openFiles(); files < 64 {
		t.Errorf("%d files", files)
	}
}

// One host that holds all the connections it can get leaves places for others.
func TestOneHostDoesNotTakeAllPlaces(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLimit(inner, 8)
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func(from byte) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, from)}, Timeout: 30 * time.Second}
		c, err := d.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial(2)
	dial(2)
	for range 8 {
		c := dial(2)
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
			t.Fatalf("the third connection of a host with two: %v", err)
		}
	}
	greedy := []net.Conn{<-accepted, <-accepted}
	dial(3)
	select {
	case <-accepted:
	case <-time.After(30 * time.Second):
		t.Fatal("another host waits")
	}
	greedy[0].Close()
	dial(2)
	select {
	case <-accepted:
	case <-time.After(30 * time.Second):
		t.Fatal("a place that was given back is not given out")
	}
}

// What is not plain HTTP/1.1 is turned away by every listener, and takes nobody with it.
func TestHostileRequests(t *testing.T) {
	in := found(t)
	start(t, in)
	long := strings.Repeat("a", 64<<10)
	for name, c := range map[string]struct {
		request string
		want    []int // status of each answer; the connection may end instead of the last
	}{
		"64 KiB of header":   {"GET /v1/trust HTTP/1.1\r\nHost: x\r\nX-Long: " + long + "\r\n\r\n", []int{431}},
		"a long path":        {"GET /" + long + " HTTP/1.1\r\nHost: x\r\n\r\n", []int{431}},
		"two lengths":        {"POST /v1/time HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", []int{400}},
		"no host":            {"GET /v1/trust HTTP/1.1\r\n\r\n", []int{400}},
		"two hosts":          {"GET /v1/trust HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", []int{400}},
		"HTTP/2 in the open": {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400}},
		"a broken chunk":     {"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", []int{400}},
		"an unknown coding":  {"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", []int{501}},
		"length and chunks":  {"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/trust HTTP/1.1\r\nHost: x\r\n\r\n", []int{400, 200}},
		"two in a row":       {"GET /v1/trust HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/other HTTP/1.1\r\nHost: x\r\n\r\n", []int{200, 404}},
		"an endless body":    {"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", len(long), long), 40), []int{413}},
		"a line in a header": {"GET /v1/trust HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", []int{400}},
		"a tunnel":           {"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n", []int{404}},
		"everything":         {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", []int{200}},
		"another URL":        {"GET http://elsewhere/v1/other HTTP/1.1\r\nHost: x\r\n\r\n", []int{404}},
	} {
		conn, err := tls.Dial("tcp", in.Config.Listen.Devices, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		go io.WriteString(conn, c.request)
		r := bufio.NewReader(conn)
		for n, want := range c.want {
			answer, err := http.ReadResponse(r, nil)
			if err != nil {
				if n == 0 || n < len(c.want)-1 {
					t.Errorf("%s: %v", name, err)
				}
				break
			}
			io.Copy(io.Discard, answer.Body)
			if answer.StatusCode != want {
				t.Errorf("%s: answer %d is %s, want %d", name, n+1, answer.Status, want)
			}
		}
		conn.Close()
	}
	if code, _ := get(t, caller(in, nil), in.Config.Public.Devices[0]+wire.PathTrust); code != http.StatusOK {
		t.Errorf("afterwards: %d", code)
	}
}

// Whatever is asked of the status listener, it gives out nothing but status.
func TestStatusListenerTricks(t *testing.T) {
	in := found(t)
	start(t, in)
	for _, path := range []string{
		"/ca/../../keys/server.secret", "/ca/..%2f..%2fkeys%2fserver.secret", "/ca/%2e%2e/operational.crt", "/ca/operational.crt/", "/ca//operational.crt",
		"/ca/operational.crt%00.pem", "/crl/operational/-1.crl", "/crl/operational/01.crl", "/crl/operational/99999999999999999999.crl", "/crl/../ca/operational.crt",
		"/crl/operational/1.crl/../../../keys", "/hallmark.yaml", "/debug/pprof/", "/metrics", "//metrics", "/v1/trust", "/.", "/healthz/",
	} {
		conn, err := net.Dial("tcp", in.Config.Listen.Status)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path) // as it stands: no client cleans it
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		body, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != http.StatusNotFound || len(body) > 100 {
			t.Errorf("%s: %s, %d bytes", path, answer.Status, len(body))
		}
		conn.Close()
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH", "TRACE", "POST"} {
		request, err := http.NewRequest(method, in.Config.Public.Status+"/ca/operational.crt", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := (&http.Client{Timeout: time.Minute}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, answer.Status)
		}
	}
}
