package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/device"
)

const (
	// recordSize is how much is read at once: one TLS record (RFC 8446 §5.1).
	recordSize = 16 << 10
	// lingering is the idle timeout of a half-closed connection. One that is open both ways has
	// none.
	lingering = 5 * time.Minute
)

// stream is a connection whose directions end separately: TCP, a unix socket, TLS.
type stream interface {
	net.Conn
	CloseWrite() error
}

// join copies both ways until both directions have ended, passing on the end of each. The error
// is one of the far side, which cuts off the local program as well; a local program that goes
// away early is not an error.
func join(local, far stream) (sent, received int64, err error) {
	j := joint{local: local, far: far}
	var back sync.WaitGroup
	back.Go(func() { received = j.carry(local, far) })
	sent = j.carry(far, local)
	back.Wait()
	return sent, received, j.failed
}

type joint struct {
	local, far stream
	// half: one direction has ended.
	half atomic.Bool
	// finished: the local program has ended its direction.
	finished atomic.Bool
	once     sync.Once
	failed   error
}

// carry copies src to dst to its end.
func (j *joint) carry(dst, src stream) (n int64) {
	from, err := j.copy(dst, src, &n)
	if err == nil {
		if src == j.local {
			j.finished.Store(true)
		}
		j.half.Store(true)
		// For the read that is pending in the other direction.
		dst.SetReadDeadline(time.Now().Add(lingering))
		from, err = dst, dst.CloseWrite()
	}
	if err == nil {
		return n
	}
	j.once.Do(func() {
		// nginx answers close_notify by closing without one, after every request of a program that closes
		// first: nothing is wrong then, and a program that still reads sees the reset.
		if from == j.far && !(j.finished.Load() && errors.Is(err, device.ErrCutOff)) {
			j.failed = err
		}
		cut(j.local)
		cut(j.far)
	})
	return n
}

// copy copies until src ends; from is the side that failed.
func (j *joint) copy(dst, src stream, n *int64) (from stream, err error) {
	buffer := make([]byte, recordSize)
	for {
		if j.half.Load() {
			src.SetReadDeadline(time.Now().Add(lingering))
			dst.SetWriteDeadline(time.Now().Add(lingering))
		}
		read, err := src.Read(buffer)
		if read > 0 {
			written, err := dst.Write(buffer[:read])
			*n += int64(written)
			if err != nil {
				return dst, err
			}
		}
		if err == io.EOF { // TLS that ends without close_notify is io.ErrUnexpectedEOF
			return nil, nil
		}
		if err != nil {
			return src, err
		}
	}
}

// cut ends a connection in a way that the peer can tell from an orderly end: without close_notify
// (RFC 8446 §6.1), and with a reset in TCP.
func cut(c net.Conn) {
	for {
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = inner.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}
