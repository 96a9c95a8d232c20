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

// Doors are the listening sockets of a server and the locks of its installation. They outlive
// a Run: a client that connects while the server reloads waits instead of being refused, and
// [Reload] still finds the server. The zero value has nothing open.
type Doors struct {
	open   map[string]*net.TCPListener
	locks  map[string]func() // by path; they unlock
	served bool
}

// Served reports whether the last Run got as far as serving.
func (d *Doors) Served() bool { return d.served }

// lock makes d hold the locks at these paths and no others.
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

// door is a listener whose Close ends Accept and keeps the socket open for the next Run.
type door struct{ *net.TCPListener }

func (d door) Close() error { return d.SetDeadline(time.Unix(1, 0)) }

// listening opens sockets whose connections end when the peer has acknowledged nothing for the
// time unacknowledged. The kernel would otherwise retransmit to a peer that vanished for a
// quarter of an hour, and a relay with a bad network reconnects again and again.
var listening = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
	const userTimeout = 18 // TCP_USER_TIMEOUT (RFC 5482), tcp(7), in milliseconds
	if failed := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout, int(unacknowledged/time.Millisecond))
	}); failed != nil {
		return failed
	}
	return err
}}

// openAll opens the listeners' sockets before the first request, so that a port in use is an
// error and not half a server. Sockets that none of them needs are closed.
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
				return nil, notListening(err, l.name, c.File)
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

// Close closes the sockets and releases the locks.
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

// writePID truncates only after writing, so that the file names a process even while a server
// that reloads writes its number again.
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

// notListening is the error of a listener that cannot be opened, with what to do next.
func notListening(err error, name, file string) error {
	next := "stop what listens there (ss -ltnp shows it), or change listen.%s in %s"
	if errors.Is(err, fs.ErrPermission) {
		next = "a port below 1024 is for root: change listen.%s in %s and forward it to the one chosen, or let systemd give CAP_NET_BIND_SERVICE in AmbientCapabilities= and CapabilityBoundingSet="
	}
	return installation.Hint(fmt.Errorf("listener for %s: %w", name, err), next, name, file)
}
