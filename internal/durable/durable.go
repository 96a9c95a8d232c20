// Package durable puts files in place so that a reader, or a power cut, finds the old
// contents or the new and never a mixture. What has returned without an error is on the
// disk: the contents and the name.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Replace puts a file with contents and a mode where another may be. If it fails the old
// one stands, and nothing is left beside it.
func Replace(path string, contents []byte, mode fs.FileMode) error {
	return replace(path, contents, mode, func(*os.File) error { return nil })
}

// ReplaceForOwner is Replace for a file that a service goes on with: what root makes belongs
// to the owner of the folder.
func ReplaceForOwner(path string, contents []byte, mode fs.FileMode) error {
	return replace(path, contents, mode, HandOver)
}

// MkdirAll makes a folder, and those above it that are missing, with a mode.
func MkdirAll(path string, mode fs.FileMode) error {
	above := filepath.Dir(path)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && above != path {
		if err := MkdirAll(above, mode); err != nil {
			return err
		}
		if err := os.Mkdir(path, mode); err == nil {
			return Sync(above)
		}
	}
	return os.MkdirAll(path, mode) // it is there, or says why not
}

// MkdirForOwner makes a folder with a mode, whatever the umask, for a service as
// ReplaceForOwner does.
func MkdirForOwner(path string, mode fs.FileMode) error {
	return MkdirForOwnerOf(filepath.Dir(path), path, mode)
}

// MkdirForOwnerOf is MkdirForOwner for the owner of another file.
func MkdirForOwnerOf(file, path string, mode fs.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	made, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(made.Chmod(mode), handTo(made, file), made.Close(), Sync(filepath.Dir(path)))
}

// HandOver gives a file that was just made to the owner of its folder, if the process is
// root's: root may help by hand, and the service with a user of its own must read it.
func HandOver(made *os.File) error { return handTo(made, filepath.Dir(made.Name())) }

// handTo is HandOver to the owner of another file.
func handTo(made *os.File, file string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	return made.Chown(int(owner.Uid), int(owner.Gid))
}

func replace(path string, contents []byte, mode fs.FileMode, handOver func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(contents)
	if err := errors.Join(err, f.Chmod(mode), handOver(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return Sync(filepath.Dir(path))
}

// Create makes a file with contents, mode 0600. It never replaces one: what is there is an
// error that wraps fs.ErrExist.
func Create(path string, contents []byte) error {
	return create(path, contents, func(*os.File) error { return nil })
}

// CreateForOwner is Create for a file that a service goes on with, as ReplaceForOwner is.
func CreateForOwner(path string, contents []byte) error { return create(path, contents, HandOver) }

func create(path string, contents []byte, handOver func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	if err = errors.Join(err, handOver(f), f.Sync(), f.Close()); err == nil {
		err = Sync(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(err, os.Remove(path)) // ours: O_EXCL
	}
	return nil
}

// Sync makes a file's contents, or the names in a folder, durable.
func Sync(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
