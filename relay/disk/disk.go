// Package disk keeps files that others read at any moment: one is replaced whole or not at
// all, and by one process alone.
package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// maxFile bounds what is read from disk, in bytes.
const maxFile = 512 << 20

// glance is longer than Locked keeps its lock.
const glance = time.Second

// Lock makes the file at path, which stays, and holds it until unlock is called or the
// process ends. It fails with taken if another holds it.
func Lock(path string, taken error) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is no folder: make it first", filepath.Dir(path))
	}
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(glance); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%w; fuser %s shows which it is", taken, path)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Locked reports whether a process holds the lock at path; others that ask do not count.
func Locked(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Read gives a regular file of at most 512 MiB.
func Read(path string) ([]byte, error) {
	f, size, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := make([]byte, size)
	_, err = io.ReadFull(f, text)
	return text, err
}

// Holds reports whether a regular file has these contents.
func Holds(path string, contents []byte) bool {
	f, size, err := open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	if size != int64(len(contents)) {
		return false
	}
	part := make([]byte, 32<<10)
	for len(contents) > 0 {
		n, err := f.Read(part)
		if err != nil || n > len(contents) || !bytes.Equal(part[:n], contents[:n]) {
			return false
		}
		contents = contents[n:]
	}
	return true
}

// open follows no link and waits for no pipe: the folder may be another user's.
func open(path string) (f *os.File, size int64, err error) {
	if f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		err = fmt.Errorf("%s is not a file, or too large", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// ReadAll gives the contents, by path, of the files that can be read.
func ReadAll(paths []string) map[string][]byte {
	all := map[string][]byte{}
	for _, path := range paths {
		if text, err := Read(path); err == nil {
			all[path] = text
		}
	}
	return all
}

// Beside lists the files of later issuers, PATH.ISSUER.
func Beside(path string) (paths []string) {
	entries, _ := os.ReadDir(filepath.Dir(path)) // whoever reads or writes PATH reports what is wrong
	for _, e := range entries {
		issuer, beside := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if beside && !e.IsDir() && successor.MatchString(issuer) {
			paths = append(paths, path+"."+issuer)
		}
	}
	return paths
}

// successor is the name of a later issuer.
var successor = regexp.MustCompile(`^operational-[0-9]+$`)

// LockAll is Lock for the lock files beside paths, .NAME.lock.
func LockAll(paths []string, taken func(path string) error) (unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, free := range held {
			free()
		}
	}
	for _, path := range paths {
		dir, name := filepath.Split(path)
		free, err := Lock(dir+"."+name+".lock", taken(path))
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, free)
	}
	return unlock, nil
}

// Replace replaces a file so that a reader, or a power cut, finds the old or the new contents and
// never a mixture; on a full disk the old stay. It keeps the file's mode and owner; a new file
// everybody may read, since there is nothing secret in a list. A link itself is replaced, not its
// target. The caller holds the lock of the file or of its folder.
func Replace(path string, contents []byte) error {
	dir, name := filepath.Split(path)
	beside := dir + "." + name + ".new" // the same each time: what a power cut left is not for ever
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(beside) // fails once it is renamed
	mode := fs.FileMode(0o644)
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		mode = info.Mode().Perm()
		if s, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			if err := f.Chown(int(s.Uid), int(s.Gid)); err != nil {
				return errors.Join(err, f.Close())
			}
		}
	}
	_, err = f.Write(contents)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(path))
}
