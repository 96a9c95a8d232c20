package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Access says who may use a unix socket besides root and the user that the agent runs as: names,
// or numbers for ids unknown to this system, such as a container's.
type Access struct {
	Users  []string `json:"users,omitempty"`
	Groups []string `json:"groups,omitempty"`
}

// oPath is O_PATH (open(2)), which package syscall lacks.
const oPath = 0x200000

// maxPath is the longest path of a socket (sockaddr_un, unix(7)).
const maxPath = 107

// address parses Listen. TCP must be on a loopback address: any other would lend the identity to
// the network.
func (t Tunnel) address() (network, address string, err error) {
	network, address, err = onDevice(t.Listen)
	switch {
	case err != nil:
	case network == "":
		err = errors.New("a socket that others on the network reach would lend them the device's identity: listen on unix:PATH, 127.0.0.1:PORT or [::1]:PORT")
	case network == "tcp" && len(t.Users)+len(t.Groups) > 0:
		err = errors.New("only a unix socket can tell users and groups apart: listen on unix:PATH")
	}
	return network, address, err
}

// onDevice parses unix:PATH or LOOPBACK:PORT; network is empty if the text is neither.
func onDevice(text string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || len(path) > maxPath {
			return "", "", fmt.Errorf("the path of a socket is absolute and has at most %d bytes", maxPath)
		}
		return "unix", path, nil
	}
	host, port, err := net.SplitHostPort(text)
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); err != nil || port == "" || ip == nil || !ip.IsLoopback() {
		return "", "", nil
	}
	return "tcp", net.JoinHostPort(host, port), nil
}

// socket is an open listener and who may use it.
type socket struct {
	net.Listener
	gate gate
}

func (t Tunnel) open() (*socket, error) {
	network, address, err := t.address()
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		l, err := net.Listen(network, address)
		return &socket{Listener: l}, err
	}
	g, err := t.Access.gate()
	if err != nil {
		return nil, err
	}
	if err := removeStale(address); err != nil {
		return nil, err
	}
	// The mode is right from the start: bind creates the file with the mode of the socket. A
	// umask would also affect the files of the state folder.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		err := c.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	l, err := private.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	if err := g.hand(address); err != nil {
		l.Close()
		return nil, err
	}
	return &socket{l, g}, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("another program listens on %s", path)
	}
	return os.Remove(path)
}

// gate is the access control of a unix socket. The zero value, for TCP, admits everybody.
type gate struct {
	unix          bool
	users, groups []int // beside root and ourselves
}

func (a Access) gate() (g gate, err error) {
	g.unix = true
	g.users, err = numbers("user", a.Users, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return g, err
	}
	g.groups, err = numbers("group", a.Groups, func(name string) (string, error) {
		u, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return u.Gid, nil
	})
	return g, err
}

// numbers are the ids of users or groups; a name may be a number.
func numbers(noun string, names []string, lookup func(name string) (string, error)) (ids []int, err error) {
	for _, name := range names {
		id, err := strconv.ParseUint(name, 10, 31)
		if err != nil {
			var text string
			if text, err = lookup(name); err == nil {
				id, err = strconv.ParseUint(text, 10, 31)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", noun, name, err)
		}
		ids = append(ids, int(id))
	}
	return ids, nil
}

// hand restricts the socket's file to those who may use it, as far as owner, group and mode can
// express that. If they cannot, or the process may not change them, everybody may connect, and
// only admit decides. If others can write to the folder, the path may by now lead to any file of
// the system, so only a socket of ours is changed.
func (g gate) hand(path string) error {
	if len(g.users)+len(g.groups) == 0 {
		return nil
	}
	fd, err := syscall.Open(path, oPath|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFSOCK || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s was replaced by something else: others may write to its folder", path)
	}
	path = fmt.Sprintf("/proc/self/fd/%d", fd) // leads to the file that was checked, not to a name
	owner, group, mode := -1, -1, fs.FileMode(0o600)
	switch {
	case len(g.users) <= 1 && len(g.groups) <= 1:
		if len(g.users) == 1 {
			owner = g.users[0]
		}
		if len(g.groups) == 1 {
			group, mode = g.groups[0], 0o660
		}
		err := os.Chown(path, owner, group)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrPermission) {
			return err
		}
		fallthrough
	default:
		mode = 0o666
	}
	return os.Chmod(path, mode)
}

// admit returns who has connected, or why the peer is refused. The kernel has recorded the peer's
// user and primary group at connect (SO_PEERCRED, unix(7)); its other groups are looked up.
func (g gate) admit(c net.Conn) (who string, err error) {
	if !g.unix {
		return c.RemoteAddr().String(), nil
	}
	peer, err := credentials(c.(*net.UnixConn))
	if err != nil {
		return "", err
	}
	uid, gid := int(peer.Uid), int(peer.Gid)
	who = fmt.Sprintf("user %d (process %d)", uid, peer.Pid)
	if uid == 0 || uid == os.Geteuid() || slices.Contains(g.users, uid) || slices.Contains(g.groups, gid) {
		return who, nil
	}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && len(g.groups) > 0 {
		ids, _ := u.GroupIds()
		if slices.ContainsFunc(g.groups, func(id int) bool { return slices.Contains(ids, strconv.Itoa(id)) }) {
			return who, nil
		}
	}
	return "", fmt.Errorf("%s of group %d may not use this socket", who, gid)
}

func credentials(c *net.UnixConn) (*syscall.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	return peer, errors.Join(err, failed)
}
