package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/config"
)

// Doors are the sockets of a server, and the locks of its installation. They stay between one
// Run and the next: who knocks meanwhile waits, and is not turned away; who looks for the
// server ([Reload]) finds it. The zero value has none open yet.
type Doors struct {
	open   map[string]*net.TCPListener
	locks  map[string]func() // by path; they unlock
	served bool
}

// Served reports whether the last Run came as far as to serve.
func (d *Doors) Served() bool { return d.served }

// lock takes the locks at some paths, and gives up what it held besides.
func (d *Doors) lock(paths ...string) error {
	held := map[string]func(){}
	for _, path := range paths {
		unlock := d.locks[path]
		if unlock == nil {
			var err error
			if unlock, err = lock(path); err != nil {
				for path, fresh := range held {
					if d.locks[path] == nil {
						fresh()
					}
				}
				return err
			}
		}
		held[path] = unlock
	}
	for path, unlock := range d.locks {
		if held[path] == nil {
			unlock()
		}
	}
	d.locks = held
	return nil
}

// door is one that a server closes behind itself without giving up the address.
type door struct{ *net.TCPListener }

func (d door) Close() error { return d.SetDeadline(time.Unix(1, 0)) }

// listening opens sockets whose connections end when the other end has acknowledged nothing
// for unacknowledged: of one that vanished the kernel would otherwise keep what it was
// sent for a quarter of an hour, and a relay that lost its network comes again and again.
var listening = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
	const userTimeout = 18 // TCP_USER_TIMEOUT (RFC 5482), tcp(7), in milliseconds
	if failed := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(unacknowledged/time.Millisecond))
	}); failed != nil {
		return failed
	}
	return err
}}

// openAll opens what listeners need, before the first request: a port that is taken is an
// error, not half a server. What none of them needs is closed.
func (d *Doors) openAll(all []listener, c *config.Config) (sockets []net.Listener, err error) {
	needed := map[string]*net.TCPListener{}
	for _, l := range all {
		socket := d.open[l.address]
		if socket == nil {
			opened, err := listening.Listen(context.Background(), "tcp", l.address)
			if err != nil {
				for address, fresh := range needed {
					if d.open[address] == nil {
						fresh.Close()
					}
				}
				return nil, installation.Hint(fmt.Errorf("listener for %s: %w", l.name, err), "stop what listens there (ss -ltnp shows it), or change listen.%s in %s", l.name, c.File)
			}
			socket = opened.(*net.TCPListener)
		}
		needed[l.address] = socket
		if err := socket.SetDeadline(time.Time{}); err != nil {
			return nil, err
		}
		sockets = append(sockets, door{socket})
	}
	for address, socket := range d.open {
		if needed[address] == nil {
			socket.Close()
		}
	}
	d.open = needed
	return sockets, nil
}

// Close gives up the addresses and the locks.
func (d *Doors) Close() {
	for _, socket := range d.open {
		socket.Close()
	}
	d.open = nil
	d.lock() // fails for none
}

// lock keeps a second server from the same installation, and from the same record if it has a
// configuration of its own: it would revoke what the first is about to sign
// (ca.Authority.Recover). The lock ends with the process.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// Whoever has something to tell the server, or asks for it, holds the lock for a moment (Reload).
	for deadline := time.Now().Add(time.Second); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, installation.Hint(errors.New("another hallmarkd serves this installation"), "stop it first; its process ID is in %s", path)
		}
		return nil, err
	}
	// This is for Reload; the lock itself is the kernel's.
	if err := writePID(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

const lockFile = "serve.lock"

// writePID writes first and cuts off what is left of an older number then: a server that
// takes its own place is never nameless.
func writePID(f *os.File) error {
	n, err := f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	return errors.Join(err, f.Truncate(int64(n)))
}

// Reload tells the server of an installation's folder, if one runs here, to read it again,
// and gives its process ID; 0 if none runs.
func Reload(dir string) (pid int, err error) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return 0, nil // nobody holds it
	} else if !errors.Is(err, syscall.EWOULDBLOCK) {
		return 0, err
	}
	if _, err := fmt.Fscan(f, &pid); err != nil || pid < 2 {
		return 0, fmt.Errorf("%s does not name the server's process", f.Name())
	}
	return pid, syscall.Kill(pid, syscall.SIGHUP)
}
