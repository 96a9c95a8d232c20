package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/internal/origin"
)

// crowd is a semaphore for handshakes. When a whole fleet connects at once the rest wait in
// the order of their arrival: a thousand handshakes that share the processor would all be
// late, and leave nothing for the requests on connections that are open already.
type crowd chan struct{}

// enter takes a place until ctx, the handshake's context, ends, and for handshakePlace at
// most: a slow device must not keep others waiting.
func (c crowd) enter(ctx context.Context) error {
	select {
	case c <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	leave := sync.OnceFunc(func() { <-c })
	time.AfterFunc(handshakePlace, leave)
	context.AfterFunc(ctx, leave)
	return nil
}

// places is how many connections each listener may have if the process may open so many
// files: a flood on one must leave files for the others and for the record.
func places(listeners int, files uint64) int {
	return max(hostShare, int(min(maxConnections, (max(files, ownFiles)-ownFiles)/uint64(listeners))))
}

// openFiles is how many files the process may open.
func openFiles() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return r.Cur // Go has raised it as far as it may
}

// limit accepts no more connections than it has places: the rest wait in the kernel's queue,
// and memory stays bounded. A host that exceeds its share is disconnected.
type limit struct {
	net.Listener
	places  chan struct{}
	perHost int
	mu      sync.Mutex
	hosts   map[netip.Prefix]int
	refuse  func()        // closes refused
	refused chan struct{} // closed when Accept has returned its last connection
	close   func()        // closes closing
	closing chan struct{} // closed when no more connections are wanted
}

func newLimit(socket net.Listener, places int) *limit {
	l := &limit{Listener: socket, places: make(chan struct{}, places), perHost: places / hostShare, hosts: map[netip.Prefix]int{}, refused: make(chan struct{}), closing: make(chan struct{})}
	l.refuse = sync.OnceFunc(func() { close(l.refused) })
	l.close = sync.OnceFunc(func() { close(l.closing) })
	return l
}

// Close ends Accept, also where no place is free.
func (l *limit) Close() error {
	l.close()
	return l.Listener.Close()
}

func (l *limit) Accept() (net.Conn, error) {
	for {
		select {
		case l.places <- struct{}{}:
		case <-l.closing:
			l.refuse()
			return nil, net.ErrClosed
		}
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.places
			if errors.Is(err, os.ErrDeadlineExceeded) { // door.Close
				l.refuse()
			}
			return nil, err
		}
		host := origin.Of(c.RemoteAddr().String())
		if l.count(host, 1) <= l.perHost {
			return &limited{Conn: c, free: sync.OnceFunc(func() { l.count(host, -1); <-l.places })}, nil
		}
		l.count(host, -1)
		c.Close()
		<-l.places
	}
}

func (l *limit) count(host netip.Prefix, by int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[host] += by
	n := l.hosts[host]
	if n == 0 {
		delete(l.hosts, host)
	}
	return n
}

type limited struct {
	net.Conn
	free func()
}

func (c *limited) Close() error {
	defer c.free()
	return c.Conn.Close()
}
