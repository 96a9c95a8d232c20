package state

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// Files are the operations that change a state folder. The power may fail between any two, and
// what was not synced by then may be lost.
type Files interface {
	// Mkdir makes a folder.
	Mkdir(path string) error
	// Create makes a file that must not exist.
	Create(path string, mode os.FileMode) (interface {
		io.WriteCloser
		Sync() error
	}, error)
	// Symlink makes path a symbolic link to target.
	Symlink(target, path string) error
	// Rename atomically replaces what is at one path by what is at another.
	Rename(from, to string) error
	// Remove removes a file or a link.
	Remove(path string) error
	// RemoveAll removes what is at path, if there is anything.
	RemoveAll(path string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(path string) error
}

// disk is Files on disk. Modes are set regardless of the umask, since other programs read the
// certificates. What root makes is given to the folder's owner, since the agent may run as a user
// of its own while root works in its folder by hand or from an updater.
type disk struct{}

func (disk) Mkdir(path string) error { return durable.MkdirForOwner(path, 0o755) }

func (disk) Create(path string, mode os.FileMode) (interface {
	io.WriteCloser
	Sync() error
}, error) {
	return create(path, os.O_WRONLY, mode)
}

// create makes a file that must not exist.
func create(path string, flags int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(mode), durable.HandOver(f)); err != nil {
		f.Close()
		return nil, errors.Join(err, os.Remove(path))
	}
	return f, nil
}

func (disk) Symlink(target, path string) error { return os.Symlink(target, path) }
func (disk) Rename(from, to string) error      { return os.Rename(from, to) }
func (disk) Remove(path string) error          { return os.Remove(path) }
func (disk) RemoveAll(path string) error       { return os.RemoveAll(path) }
func (disk) SyncDir(path string) error         { return durable.Sync(path) }

// steps are compound operations on Files.
type steps struct{ Files }

// mkdir makes a folder, emptying one that a crash left half-written.
func (s steps) mkdir(path string) error {
	if err := s.RemoveAll(path); err != nil {
		return err
	}
	return s.Mkdir(path)
}

// write makes a file with contents and syncs it.
func (s steps) write(path string, data []byte, mode os.FileMode) error {
	f, err := s.Create(path, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// replace atomically writes a file with contents, synced, where another may be.
func (s steps) replace(path string, data []byte, mode os.FileMode) error {
	staged := path + ".new"
	if err := s.Remove(staged); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.write(staged, data, mode); err != nil {
		if left := s.Remove(staged); !errors.Is(left, os.ErrNotExist) { // a full disk needs the room
			err = errors.Join(err, left)
		}
		return err
	}
	return s.Rename(staged, path)
}

// link makes path a symbolic link to target, atomically replacing what was there.
func (s steps) link(target, path string) error {
	staged := path + ".new"
	if err := s.Remove(staged); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.Symlink(target, staged); err != nil {
		return err
	}
	return s.Rename(staged, path)
}

// HeldError: another process has locked the folder.
type HeldError struct {
	// Dir is the folder, PID the process that holds it; 0 if unknown.
	Dir string
	PID int
	// Command is its command line; empty if unknown.
	Command string
	// Agent: it is the folder's agent, and does not finish by itself.
	Agent bool
}

func (e *HeldError) Error() string {
	switch {
	case e.PID == 0:
		return fmt.Sprintf("another hallmark-device is using %s", e.Dir)
	case e.Command == "":
		return fmt.Sprintf("another hallmark-device (process %d) is using %s", e.PID, e.Dir)
	}
	return fmt.Sprintf("process %d (%s) is using %s", e.PID, e.Command, e.Dir)
}

// Names of locks. Changes hold lockFile while they last; a running agent holds agentFile, so that
// there is only one and people can still act by hand.
const (
	lockFile  = "lock"
	agentFile = "agent.lock"
)

// SettingsFile is the path of the settings in use.
func (d *Dir) SettingsFile() string { return filepath.Join(d.path, currentLink, settingsFile) }

// Lock makes the folder if needed and locks it for the calling process, until release is called
// or the process ends. The error is *HeldError if another process has locked it.
func (d *Dir) Lock() (release func(), err error) { return d.lock(lockFile) }

// LockAgent is Lock for the folder's agent.
func (d *Dir) LockAgent() (release func(), err error) { return d.lock(agentFile) }

// Holder is the process that holds the folder for a change, or else its agent; nil if there is
// none.
func (d *Dir) Holder() *HeldError {
	for _, name := range []string{lockFile, agentFile} {
		f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		// A shared lock disturbs nobody: alone waits for it to end.
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
			return d.holder(f)
		}
		syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	}
	return nil
}

// maxHolder bounds how much of a holder's command line is written and read, in bytes.
const maxHolder = 256

// make makes the folder, and those above it, if they are missing.
func (d *Dir) make() error {
	var above []string
	for at := filepath.Clean(d.path); ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
			break
		}
		above = append(above, filepath.Dir(at))
	}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return err
	}
	for _, folder := range above {
		if err := d.fs.SyncDir(folder); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dir) lock(name string) (release func(), err error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	// No link is followed: others who can write to the folder could have us truncate any file.
	// The mode is 0600: whoever can read a file can lock it (flock(2)), and so lock out the agent
	// for ever.
	path := filepath.Join(d.path, name)
	f, err := create(path, os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		f, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	}
	if errors.Is(err, syscall.EROFS) && name == agentFile {
		// A worn-out disk must not keep the agent from lending the identity to other programs.
		if there, e := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0); e == nil {
			f, err = there, nil
		}
	}
	if err != nil {
		return nil, err
	}
	f.Chmod(0o600) // one that an earlier version made
	if err := alone(f); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		return nil, d.holder(f)
	}
	// This is only to tell people who holds the lock.
	f.Truncate(0)
	f.WriteAt(fmt.Appendf(nil, "%d\n%.*s\n", os.Getpid(), maxHolder, commandLine()), 0)
	return func() {
		// Closing alone would leave the lock with a process that is just being forked.
		syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		f.Close()
	}, nil
}

// alone locks a file for the calling process alone. Whoever shares the lock only asks who has it
// (Holder), and is waited for.
func alone(f *os.File) (err error) {
	for range 1000 {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil {
			return err
		}
		syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		time.Sleep(time.Millisecond)
	}
	return err
}

// holder reads who holds a lock.
func (d *Dir) holder(f *os.File) *HeldError {
	text := make([]byte, 2*maxHolder)
	n, _ := f.ReadAt(text, 0)
	number, command, _ := strings.Cut(string(text[:n]), "\n")
	pid, _ := strconv.Atoi(number)
	return &HeldError{d.path, pid, strings.TrimSpace(command), filepath.Base(f.Name()) == agentFile}
}

// commandLine is the command and its verb; the rest may hold a ticket.
func commandLine() string {
	words := []string{filepath.Base(os.Args[0])}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		words = append(words, os.Args[1])
	}
	return strings.Join(words, " ")
}
