package installation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/record"
)

// Hinted is an error with what to do next.
type Hinted struct {
	error
	Hint string
}

func (h Hinted) Unwrap() error { return h.error }

// Hint adds the next step to an error.
func Hint(err error, next string, args ...any) error {
	return Hinted{err, fmt.Sprintf(next, args...)}
}

// Next is what to do about an error; empty if nobody knows.
func Next(err error) string {
	if h, ok := errors.AsType[Hinted](err); ok {
		return h.Hint
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(path, fs.ErrPermission) {
		return "run this as the user whose it is, or as root. What root left in the folder of a server with a user of its own: chown -R USER: FOLDER"
	}
	switch {
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOSPC):
		return "make room on the disk, or mount it so that it can be written: df -h, mount"
	case errors.Is(err, record.ErrUnavailable):
		return "is the disk there, writable, and with room (df -h, mount)? A record that is damaged comes back with hallmarkd restore"
	}
	return ""
}

// Free refuses a folder that holds a CA, or anything, and what Make could not put another in place of.
func Free(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := filepath.Join(dir, ConfigFile)
	if _, err := os.Lstat(path); err == nil {
		return Hint(fmt.Errorf("%s holds a CA already", dir), "serve it: hallmarkd serve --config %s; or name a folder that does not exist yet", path)
	}
	if info, err := os.Lstat(dir); err == nil && (info.Mode()&fs.ModeSymlink != 0 || mounted(info, filepath.Dir(dir))) {
		return Hint(fmt.Errorf("%s is a link, or a disk of its own: a new folder cannot take its place", dir), "name a new folder in it: %s", filepath.Join(dir, "hallmark"))
	}
	if len(entries) > 0 {
		return Hint(fmt.Errorf("%s is not empty", dir), "name a folder that does not exist yet")
	}
	return nil
}

// mounted reports whether a folder is on another disk than the one that it is in.
func mounted(info fs.FileInfo, above string) bool {
	outer, err := os.Stat(above)
	if err != nil {
		return false
	}
	here, ok := info.Sys().(*syscall.Stat_t)
	there, known := outer.Sys().(*syscall.Stat_t)
	return ok && known && here.Dev != there.Dev
}

// Make fills a new folder beside dir and renames it at the end: what was interrupted
// leaves no half installation that could be served.
func Make(dir string, fill func(work string) error) error {
	if err := durable.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".new-") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) // finds nothing once it is renamed
	if err := fill(work); err != nil {
		return err
	}
	err = filepath.WalkDir(work, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return durable.Sync(path)
	})
	if err != nil {
		return err
	}
	// Rename refuses a folder that is not empty; an empty one it replaces.
	if err := os.Rename(work, dir); err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(dir))
}
