// Package proxy lends the device's identity to programs that need not know about it: they speak
// plain TCP to a local socket, and the far side sees mutual TLS with the device's key.
//
// New connections show the newest certificate; existing ones are not affected by a renewal. A
// unix socket admits only the users and groups that are configured, so that a container can have
// an identity without a TPM. The end of each direction is passed on separately, nothing is read
// before the other side has taken what came before, and a cut-off connection never looks like an
// orderly end.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/device"
)

// Dialer makes the connections to the far side (device.Identity).
type Dialer interface {
	Dial(ctx context.Context, c device.Connection) (*tls.Conn, error)
}

// Tunnel is a local socket and the server to which it leads.
type Tunnel struct {
	// Listen is unix:PATH, or HOST:PORT with a loopback address.
	Listen string `json:"listen"`
	// To, Name, Roots and ALPN are as in device.Connection.
	To    string   `json:"to"`
	Name  string   `json:"name,omitempty"`
	Roots string   `json:"roots,omitempty"`
	ALPN  []string `json:"alpn,omitempty"`
	Access
	// Limit is how many connections may be open at once, while others wait; 0 means DefaultLimit.
	Limit int `json:"limit,omitempty"`
}

// Bounds of Limit.
const (
	DefaultLimit = 128
	maxLimit     = 4096
)

// Proxy is a set of tunnels and sites, and what makes their connections.
type Proxy struct {
	Dialer  Dialer
	Tunnels []Tunnel
	// Server serves the Sites.
	Server Server
	Sites  []Site
	// Report receives problems, Trace each begin and end of a connection; either may be nil. They
	// must be safe for concurrent use.
	Report, Trace func(line string)
	// rejudged replaces the constant unless 0.
	rejudged time.Duration
}

// Check validates a tunnel without opening it.
func (t Tunnel) Check() error {
	if t.To == "" {
		return errors.New("where it leads is missing: to, a HOST:PORT")
	}
	if _, port, err := net.SplitHostPort(t.To); err != nil || port == "" {
		return fmt.Errorf("%q is not HOST:PORT", t.To)
	}
	if t.Limit < 0 || t.Limit > maxLimit {
		return fmt.Errorf("%d connections at once: 1 to %d", t.Limit, maxLimit)
	}
	_, _, err := t.address()
	return err
}

// Run opens the sockets and serves them until ctx ends, when it cuts the connections. On an
// error, a socket that cannot be opened, nothing was served.
func (p *Proxy) Run(ctx context.Context) error {
	var open []net.Listener
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	if len(p.Tunnels)+len(p.Sites) == 0 {
		return errors.New("there is nothing to listen on")
	}
	var starts []func()
	for _, t := range p.Tunnels {
		if err := t.Check(); err != nil {
			return fmt.Errorf("%s: %w", t.Listen, err)
		}
		s, err := t.open()
		if err != nil {
			return fmt.Errorf("%s: %w", t.Listen, err)
		}
		open = append(open, s)
		log := &journal{name: t.Listen, report: p.Report}
		starts = append(starts, func() {
			serve(ctx, s, limit(t.Limit), log, func(local net.Conn) { p.carry(ctx, t, s.gate, local.(stream), log) })
		})
	}
	for _, s := range p.Sites {
		l, config, err := p.openSite(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Listen, err)
		}
		open = append(open, l)
		log := &journal{name: s.Listen, report: p.Report}
		starts = append(starts, func() {
			serve(ctx, l, limit(s.Limit), log, func(c net.Conn) { p.admit(ctx, s, config, c, log) })
		})
	}
	var serving sync.WaitGroup
	for _, start := range starts {
		serving.Go(start)
	}
	serving.Wait()
	return nil
}

func limit(n int) int {
	if n == 0 {
		return DefaultLimit
	}
	return n
}

// acceptPause is the pause after a failed accept, as when the process has no file descriptors
// left.
const acceptPause = 100 * time.Millisecond

// serve calls handle for each connection until ctx ends, at most limit at once: the rest wait in
// the kernel's backlog.
func serve(ctx context.Context, l net.Listener, limit int, log *journal, handle func(net.Conn)) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var standing sync.WaitGroup
	defer standing.Wait()
	slots := make(chan struct{}, limit)
	for {
		select {
		case slots <- struct{}{}:
		default:
			log.problem("%d connections stand, which is the limit: more have to wait", limit)
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			log.problem("%v", err)
			time.Sleep(acceptPause)
			<-slots
			continue
		}
		standing.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			handle(conn)
		})
	}
}

// carry serves one connection of a local program.
func (p *Proxy) carry(ctx context.Context, t Tunnel, g gate, local stream, log *journal) {
	who, err := g.admit(local)
	if err != nil {
		log.problem("%v", err)
		cut(local)
		return
	}
	far, err := p.Dialer.Dial(ctx, device.Connection{To: t.To, Name: t.Name, Roots: t.Roots, ALPN: t.ALPN})
	if err != nil {
		if ctx.Err() == nil {
			log.problem("%v", err)
		}
		cut(local)
		return
	}
	defer far.Close()
	p.trace("%s: %s connected to %s, %s", t.Listen, who, t.To, tls.VersionName(far.ConnectionState().Version))
	p.stand(ctx, local, far, who, t.To, log)
}

// stand joins both ends of a connection of who until it or ctx ends; distant names the far end.
func (p *Proxy) stand(ctx context.Context, local stream, far *tls.Conn, who, distant string, log *journal) {
	begun := time.Now()
	stop := context.AfterFunc(ctx, func() { cut(local); cut(far) })
	sent, received, err := join(local, far)
	if stop() && err != nil {
		log.problem("%s: %v", distant, err)
	}
	p.trace("%s: %s ended after %v, %d bytes sent, %d received", log.name, who, time.Since(begun).Round(time.Millisecond), sent, received)
}

func (p *Proxy) trace(format string, args ...any) {
	if p.Trace != nil {
		p.Trace(fmt.Sprintf(format, args...))
	}
}

const (
	// repeatAfter is for how long a repeated problem is counted before it is reported again.
	repeatAfter = time.Minute
	// maxTold is how many problems of one socket are reported in that time.
	maxTold = 10
)

// journal reports the problems of one socket, and keeps retrying programs and strangers at an
// open port from filling the log.
type journal struct {
	name   string
	report func(string)

	mu    sync.Mutex
	last  string
	at    time.Time
	more  int       // how often last was repeated
	since time.Time // when counting told and untold began
	told  int
	// untold counts the problems beyond maxTold.
	untold int
}

func (j *journal) problem(format string, args ...any) {
	if j.report == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	j.mu.Lock()
	defer j.mu.Unlock()
	if text == j.last && time.Since(j.at) < repeatAfter {
		j.more++
		return
	}
	if j.more > 0 {
		j.report(fmt.Sprintf("%s: %s (%d times more)", j.name, j.last, j.more))
	}
	if time.Since(j.since) >= repeatAfter {
		if j.untold > 0 {
			j.report(fmt.Sprintf("%s: %d problems more", j.name, j.untold))
		}
		j.since, j.told, j.untold = time.Now(), 0, 0
	}
	j.more = 0
	if j.told++; j.told > maxTold {
		j.last = ""
		j.untold++
		return
	}
	j.last, j.at = text, time.Now()
	j.report(j.name + ": " + text)
}
