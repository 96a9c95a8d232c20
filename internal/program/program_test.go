package program

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Who may replace a file, a folder on the way to it, or a link that leads there, has the
// program chosen.
func TestGuarded(t *testing.T) {
	t.Chdir(t.TempDir())
	for path, mode := range map[string]fs.FileMode{"own": 0o755, "own/below": 0o755, "shared": 0o777, "sticky": 0o777 | fs.ModeSticky} {
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for path, mode := range map[string]fs.FileMode{"own/good": 0o755, "own/open": 0o775, "own/below/good": 0o644, "shared/good": 0o755, "sticky/good": 0o755, "sticky/open": 0o757} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for path, target := range map[string]string{
		"own/link": "good", "own/up": "below/../../own/good", "own/folder": "below", "own/to-shared": "../shared/link", "own/loop": "loop",
		"shared/link": "../own/good", "shared/folder": "../own", "sticky/link": "../own/good", "own/whole": must(filepath.Abs("own/good")),
	} {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	others := errors.New("others may change it")
	for path, want := range map[string]error{
		"own/good": nil, "own/below/good": nil, "own/link": nil, "own/up": nil, "own/folder/good": nil, "own/folder/../good": nil, "own/whole": nil, "own/below/": nil, "sticky/good": nil, "sticky/link": nil,
		"own/open": others, "shared/good": others, "sticky/open": others, "sticky": others,
		"shared/link": others, "shared/folder/good": others, "own/to-shared": others,
		"own/loop": syscall.ELOOP, "own/none": fs.ErrNotExist, "own/good/below": syscall.ENOTDIR,
	} {
		for _, path := range []string{path, must(os.Getwd()) + "/" + path} {
			err := Guarded(path)
			if want == others && err != nil && !errors.As(err, new(*fs.PathError)) {
				continue
			}
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", path, err, want)
			}
		}
	}
}

// A program that is through when its time is up has not failed, however late that is noticed.
func TestThroughInTime(t *testing.T) {
	for n := range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		c := exec.CommandContext(ctx, "/bin/true")
		soon := time.AfterFunc(time.Duration(n)*10*time.Microsecond, cancel)
		err := Run(c, 0)
		if soon.Stop(); err != nil && c.ProcessState != nil && c.ProcessState.Success() {
			t.Fatalf("run %d: %v", n, err)
		}
		cancel()
	}
}

func must(text string, err error) string {
	if err != nil {
		panic(err)
	}
	return text
}
