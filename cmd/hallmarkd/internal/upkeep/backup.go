package upkeep

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record/sqlite/journal"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

const (
	// manifestName is the first member of a backup, which is a tar file.
	manifestName = "manifest.json"
	// format names what this version writes and reads.
	format = "hallmark-backup-1"
)

// manifest says what is in a backup, and what each file must hash to.
type manifest struct {
	Format  string    `json:"format"`
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	// Record is the name of the record's snapshot among Files, Journal the folder in which
	// the installation kept its journal.
	Record  string `json:"record"`
	Journal string `json:"journal"`
	Files   []file `json:"files"`
}

// file is one file of a backup. Name is relative, with slashes.
type file struct {
	Name   string      `json:"name"`
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	SHA256 string      `json:"sha256"`
}

// BackedUp says what a backup holds.
type BackedUp struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Outside are files that the configuration names and that are not in the backup,
	// because they are not in the installation's folder, and links that lead nowhere.
	Outside []string `json:"outside,omitempty"`
	// Needless are files of the journal that a restore of this backup, or of a later one,
	// does not read.
	Needless []string `json:"needless,omitempty"`
}

// Backup writes the installation, which may be running, to a new file that only its
// owner can read: it holds every key but the roots'.
func Backup(ctx context.Context, in *installation.Installation, to, version string, now time.Time) (done BackedUp, err error) {
	recordName, err := restorable(in, to)
	if err != nil {
		return done, err
	}
	work, err := os.MkdirTemp(filepath.Dir(to), ".backup-") // mode 0700
	if err != nil {
		return done, err
	}
	defer os.RemoveAll(work)
	snapshot := filepath.Join(work, "record")
	if err := snapshotTo(ctx, in, snapshot); err != nil {
		return done, err
	}
	if done.Needless, err = journal.Needless(ctx, snapshot, in.Config.Journal); err != nil {
		return done, err
	}
	names, outside, err := members(in)
	if err != nil {
		return done, err
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, filepath.Base(work)+"/") }) {
		return done, installation.Hint(fmt.Errorf("the folder of %s is backed up itself", to), "name a file elsewhere: every backup would hold those before it")
	}
	done.Outside = outside
	m := manifest{Format: format, Name: in.Config.Name, Version: version, Created: now.UTC(), Record: recordName, Journal: in.Config.Journal}
	paths := map[string]string{recordName: snapshot}
	for _, name := range names {
		paths[name] = filepath.Join(in.Config.Dir, filepath.FromSlash(name))
	}
	for _, name := range append([]string{recordName}, names...) {
		f, err := describe(name, paths[name])
		if err != nil {
			return done, err
		}
		m.Files, done.Files, done.Bytes = append(m.Files, f), done.Files+1, done.Bytes+f.Size
	}
	finished := filepath.Join(work, "backup")
	if err := writeTar(ctx, finished, m, paths); err != nil {
		return done, err
	}
	if err := place(finished, to); err != nil {
		return done, err
	}
	return done, durable.Sync(filepath.Dir(to))
}

// link is the system call; tests stand in for a file system without it.
var link = os.Link

// place gives a file its name and, unlike rename, never replaces what somebody has put there
// meanwhile. FAT, as on a stick, knows no hard links (EPERM, link(2)): there the name is taken
// first, and a power cut in between leaves an empty file, which restore refuses.
func place(finished, to string) error {
	err := link(finished, to)
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	name, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(name.Close(), os.Rename(finished, to))
}

// NewJournal makes an installation, which must not be running, begin a new journal because
// the one that it kept is lost; one that can go on is refused. A backup must follow: older
// ones do not go with it.
func NewJournal(ctx context.Context, in *installation.Installation) error {
	path, err := in.Database()
	if err != nil {
		return err
	}
	if journal.Check(ctx, path, in.Config.Journal) == nil {
		return installation.Hint(fmt.Errorf("the journal in %s can go on; older backups would not go with a new one", in.Config.Journal), "leave out --new-journal")
	}
	// Whose the record is, whose the journal: not root's, who does this for a service.
	if err := durable.MkdirAll(filepath.Dir(in.Config.Journal), 0o755); err != nil {
		return err
	}
	if err := durable.MkdirForOwnerOf(path, in.Config.Journal, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return journal.Restart(ctx, path)
}

// restorable refuses a file that is there, and an installation that could not be restored from it. It
// gives the record's path relative to the installation's folder.
func restorable(in *installation.Installation, to string) (recordName string, err error) {
	if _, err := os.Lstat(to); err == nil {
		return "", installation.Hint(fmt.Errorf("%s exists", to), "name a new file: a backup never replaces another")
	}
	if keys := in.Config.Anchored; len(keys) > 0 {
		return "", installation.Hint(fmt.Errorf("%s leads into its own folder by absolute paths, which lead back there from every other: %s", in.Config.File, strings.Join(keys, ", ")),
			"write them relative to the file, as in database: sqlite:hallmark.db")
	}
	path, err := in.Database()
	if err != nil {
		return "", err
	}
	relative, inside := in.Config.Inside(path)
	if !inside {
		return "", installation.Hint(fmt.Errorf("the record %s is not in %s", path, in.Config.Dir), "stop the server and move it there: what is restored must stand in one folder")
	}
	return filepath.ToSlash(relative), nil
}

func snapshotTo(ctx context.Context, in *installation.Installation, file string) error {
	store, err := in.OpenStore(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	return store.Snapshot(ctx, file)
}

// members lists the files to back up, relative to the installation's folder: what the
// configuration names, trust/ and operators' settings, and never a root's key.
func members(in *installation.Installation) (names, outside []string, err error) {
	added, err := in.Files()
	if err != nil {
		return nil, nil, err
	}
	paths := append(in.Config.Files(), added...)
	for _, pattern := range []string{in.Config.Trust.Roots, filepath.Join(in.Config.Dir, "trust"), filepath.Join(in.Config.Dir, installation.OperatorDir+"*")} {
		found, dangling, err := filesBelow(pattern)
		if err != nil {
			return nil, nil, err
		}
		paths, outside = append(paths, found...), append(outside, dangling...)
	}
	for _, path := range paths {
		relative, inside := in.Config.Inside(path)
		if !inside {
			outside = append(outside, path)
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		if !holdsRootKey(in, text) {
			names = append(names, filepath.ToSlash(relative))
		}
	}
	slices.Sort(names)
	slices.Sort(outside)
	return slices.Compact(names), slices.Compact(outside), nil
}

// filesBelow follows links: what is left out without a word would be missed too late. Those that lead
// nowhere, as an editor's locks do, are no reason to make no backup.
func filesBelow(pattern string) (found, dangling []string, err error) {
	all, err := filepath.Glob(pattern)
	for n := 0; n < len(all) && err == nil; n++ {
		if n > maxMembers {
			return nil, nil, fmt.Errorf("%s: there are more than %d files, or links that go round in a circle", all[n], maxMembers)
		}
		info, e := os.Stat(all[n])
		switch {
		case errors.Is(e, fs.ErrNotExist):
			if _, e := os.Lstat(all[n]); e == nil { // else it is gone: a file that was being written
				dangling = append(dangling, all[n])
			}
		case e != nil:
			err = e
		case info.Mode().IsRegular():
			found = append(found, all[n])
		case info.IsDir():
			entries, e := os.ReadDir(all[n])
			for _, entry := range entries {
				all = append(all, filepath.Join(all[n], entry.Name()))
			}
			err = e
		}
	}
	return found, dangling, err
}

func holdsRootKey(in *installation.Installation, text []byte) bool {
	return slices.ContainsFunc(in.Issuers, func(i installation.Issuer) bool { return holdsKey(text, i.Root.PublicKey) })
}

func describe(name, path string) (file, error) {
	f, err := os.Open(path)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	h := sha256.New()
	size, err := io.Copy(h, f)
	return file{name, size, info.Mode().Perm() & 0o644, hex.EncodeToString(h.Sum(nil))}, err
}

// writeTar writes the manifest and then the files in its order.
func writeTar(ctx context.Context, path string, m manifest, paths map[string]string) (err error) {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	if err := w.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(text)), ModTime: m.Created}); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: f.Name, Mode: int64(f.Mode), Size: f.Size, ModTime: m.Created}); err != nil {
			return err
		}
		if err := copyFile(w, paths[f.Name], f); err != nil {
			return fmt.Errorf("%s: %w", paths[f.Name], err)
		}
	}
	return errors.Join(w.Close(), out.Sync())
}

// copyFile fails if the file is not, or no longer, what was described.
func copyFile(w io.Writer, path string, want file) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	size, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(in, want.Size+1))
	if err != nil {
		return err
	}
	if size != want.Size || hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
		return errors.New("it changed while it was being backed up: try again")
	}
	return nil
}

// isPlainName reports whether a backup's member stays in the folder that it is unpacked
// to, under a name that means the same everywhere.
func isPlainName(name string) bool {
	return filepath.IsLocal(filepath.FromSlash(name)) && !strings.Contains(name, "\\") && filepath.ToSlash(filepath.Clean(name)) == name && name != "." && name != manifestName
}
