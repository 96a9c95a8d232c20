package client

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Direct in place of a proxy's URL means no proxy, whatever the environment says.
const Direct = "direct"

// maxProxyHeader bounds a proxy's answer to CONNECT, in bytes.
const maxProxyHeader = 16 << 10

// proxies says through which HTTP proxy servers are reached.
type proxies struct {
	url     *url.URL // nil: none
	ambient bool     // from the environment; not for this host itself
	except  []string // as in NO_PROXY
}

// newProxies parses a proxy's URL, http://[NAME:PASSWORD@]HOST:PORT; empty means HTTPS_PROXY and
// NO_PROXY from the environment, in upper or lower case.
func newProxies(text string, environment func(string) string) (proxies, error) {
	var p proxies
	source := "the proxy"
	if text == Direct {
		return p, nil
	}
	if text == "" {
		p.ambient = true
		for _, name := range []string{"https_proxy", "HTTPS_PROXY"} {
			if text = environment(name); text != "" {
				source = name
				break
			}
		}
		except := environment("no_proxy")
		if except == "" {
			except = environment("NO_PROXY")
		}
		p.except = strings.FieldsFunc(except, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if text == "" {
		return p, nil
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text // as curl and others accept it
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		// The error does not repeat the text: it may hold a password.
		return p, fmt.Errorf("%s is not of the form http://[NAME:PASSWORD@]HOST:PORT, nor %q", source, Direct)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "80")
	}
	p.url = u
	return p, nil
}

// uses reports whether HOST:PORT is reached through the proxy.
func (p proxies) uses(address string) bool {
	if p.url == nil || !p.ambient {
		return p.url != nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	ip, _ := netip.ParseAddr(host)
	if host == "localhost" || ip.IsLoopback() {
		return false
	}
	for _, pattern := range p.except {
		if excepts(strings.ToLower(pattern), strings.ToLower(host), address, ip.Unmap()) {
			return false
		}
	}
	return true
}

// excepts matches one entry of NO_PROXY against a host: "*", a network, an address, or a name,
// which includes the names below it; with a port only for that port.
func excepts(pattern, host, address string, ip netip.Addr) bool {
	if pattern == "*" || strings.EqualFold(pattern, address) {
		return true
	}
	if network, err := netip.ParsePrefix(pattern); err == nil {
		return ip.IsValid() && network.Contains(ip)
	}
	if listed, err := netip.ParseAddr(strings.Trim(pattern, "[]")); err == nil {
		return listed.Unmap() == ip
	}
	name := strings.TrimPrefix(strings.TrimPrefix(pattern, "*"), ".")
	return name != "" && (host == name || strings.HasSuffix(host, "."+name))
}

// connect asks the proxy for a tunnel to address (RFC 9110 §9.3.6), whose name the proxy
// resolves.
func (p proxies) connect(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
	conn, err := dialer.DialContext(ctx, "tcp", p.url.Host)
	if err != nil {
		return nil, fmt.Errorf("the proxy %s: %w", p.url.Host, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	tunnel, err := p.tunnel(conn, address)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("the proxy %s: %w", p.url.Host, err)
	}
	return tunnel, conn.SetDeadline(time.Time{})
}

// errProxyAuth: 407 (RFC 9110 §15.5.8), or 401, which tinyproxy answers to a wrong password.
var errProxyAuth = errors.New("it wants a name and password, or others")

func (p proxies) tunnel(conn net.Conn, address string) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	authorization := ""
	if p.url.User != nil {
		password, _ := p.url.User.Password()
		authorization = "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.url.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: hallmark-device\r\n%s\r\n", address, address, authorization); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(&io.LimitedReader{R: conn, N: maxProxyHeader})
	answer, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	switch {
	case answer.StatusCode == http.StatusProxyAuthRequired, answer.StatusCode == http.StatusUnauthorized:
		return nil, errProxyAuth
	case answer.StatusCode/100 != 2:
		return nil, fmt.Errorf("it answered %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	case reader.Buffered() > 0:
		return nil, errors.New("it said more than it was asked") // in TLS the client speaks first
	}
	return conn, nil
}

// proxyCode is the code for a failure of connect.
func proxyCode(err error) string {
	if errors.Is(err, errProxyAuth) {
		return CodeProxyAuth
	}
	return CodeProxy
}
