// Package disk keeps files that others read at any moment: one is replaced whole or not at
// all, and by one process alone.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// maxFile bounds what is read from disk, in bytes.
const maxFile = 512 << 20

// Lock makes the file at path, which stays, and holds it until unlock is called or the
// process ends. It fails with taken if another holds it.
func Lock(path string, taken error) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%w; fuser %s shows which it is", taken, path)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Read gives a regular file of at most 512 MiB.
func Read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a file, or too large", path)
	}
	return os.ReadFile(path)
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

// Beside lists the regular files PATH.SUFFIX whose suffix matches.
func Beside(path string, suffix *regexp.Regexp) (paths []string) {
	entries, _ := os.ReadDir(filepath.Dir(path)) // who writes there sees what is wrong
	for _, e := range entries {
		end, beside := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if beside && e.Type().IsRegular() && suffix.MatchString(end) {
			paths = append(paths, path+"."+end)
		}
	}
	return paths
}

// LockAll is Lock for the files that stand beside others, as .NAME.lock.
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

// Replace replaces a file so that a reader, or a power cut, finds the old or the new
// contents and never a mixture, and a full disk the old. It keeps the file's mode and
// owner, else everybody may read it: there is nothing secret in a list.
func Replace(path string, contents []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".hallmark-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
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
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(path))
}
