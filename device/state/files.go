package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// files are the operations that change a state folder, in the order that a power cut
// may interrupt. Tests put their own here to cut between any two.
type files interface {
	// mkdir makes a folder, emptying one that a crash left half-written.
	mkdir(path string) error
	// write makes a file with contents and syncs it.
	write(path string, data []byte, mode os.FileMode) error
	// replace puts a file with contents, synced, where another may be, at once.
	replace(path string, data []byte, mode os.FileMode) error
	// link makes path a symbolic link to target, replacing what was there at once.
	link(target, path string) error
	// syncDir makes the folder's entries durable.
	syncDir(path string) error
	// remove removes a folder.
	remove(path string) error
}

type disk struct{}

func (disk) mkdir(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o755)
}

func (disk) write(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func (d disk) replace(path string, data []byte, mode os.FileMode) error {
	staged := path + ".new"
	if err := os.Remove(staged); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := d.write(staged, data, mode); err != nil {
		return errors.Join(err, os.Remove(staged)) // a full disk needs the room
	}
	return os.Rename(staged, path)
}

func (disk) link(target, path string) error {
	staged := path + ".new"
	if err := os.Remove(staged); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, staged); err != nil {
		return err
	}
	return os.Rename(staged, path)
}

func (disk) syncDir(path string) error { return durable.SyncDir(path) }

func (disk) remove(path string) error { return os.RemoveAll(path) }

// HeldError: another agent is at work in the folder.
type HeldError struct {
	// Dir is the folder, PID the process that holds it; 0 if unknown.
	Dir string
	PID int
	// Command is its command line; empty if unknown.
	Command string
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

// Names of locks. Changes take lockFile for as long as they last; an agent that runs on
// has agentFile, so that there is one of it and people can still act by hand.
const (
	lockFile  = "lock"
	agentFile = "agent.lock"
)

// Lock makes the folder if needed and takes it for the calling process, until release
// is called or the process ends. The error is *HeldError if another process has it.
func (d *Dir) Lock() (release func(), err error) { return d.lock(lockFile) }

// LockAgent is Lock for the one agent that looks after the folder.
func (d *Dir) LockAgent() (release func(), err error) { return d.lock(agentFile) }

// Holder says who holds the folder for a change, or else looks after it; nil if nobody.
func (d *Dir) Holder() *HeldError {
	for _, name := range []string{lockFile, agentFile} {
		f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		// A shared lock disturbs nobody for longer than this.
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
			return d.holder(f)
		}
		syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	}
	return nil
}

// maxHolder bounds what is kept and read of a holder's command line, in bytes.
const maxHolder = 256

func (d *Dir) lock(name string) (release func(), err error) {
	if _, err := os.Stat(d.path); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return nil, err
		}
		if err := d.fs.syncDir(filepath.Dir(filepath.Clean(d.path))); err != nil {
			return nil, err
		}
	}
	// Whoever else may write in the folder shall not have another file emptied by us.
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		return nil, d.holder(f)
	}
	// This is for the person who asks who it is; the lock itself is the kernel's.
	f.Truncate(0)
	f.WriteAt(fmt.Appendf(nil, "%d\n%.*s\n", os.Getpid(), maxHolder, commandLine()), 0)
	return func() {
		// Closing alone leaves the lock with a process that is just being forked.
		syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		f.Close()
	}, nil
}

// holder reads who has taken a lock.
func (d *Dir) holder(f *os.File) *HeldError {
	text := make([]byte, 2*maxHolder)
	n, _ := f.ReadAt(text, 0)
	number, command, _ := strings.Cut(string(text[:n]), "\n")
	pid, _ := strconv.Atoi(number)
	return &HeldError{d.path, pid, strings.TrimSpace(command)}
}

// commandLine is the command and its verb: what follows may be a ticket.
func commandLine() string {
	words := []string{filepath.Base(os.Args[0])}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		words = append(words, os.Args[1])
	}
	return strings.Join(words, " ")
}
