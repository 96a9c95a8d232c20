// Package build builds this module's programs for tests and benchmarks that run them.
package build

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Programs builds packages of this module into to: a file, or a folder if it ends in a slash. Flags
// are of `go build`, packages are paths from the module's root, and env is added to the environment.
func Programs(to string, env, flags []string, packages ...string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	if err := look(root); err != nil {
		return err
	}
	c := exec.Command("go", slices.Concat([]string{"build", "-o", to}, flags, packages)...)
	c.Dir, c.Env = root, append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// look opens every folder of sources: `go test` repeats a result until something changes that the
// test itself has looked at, and what the compiler reads does not count.
func look(root string) error {
	return fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == ".git" || path == "build") {
			return fs.SkipDir
		}
		return nil
	})
}

// moduleRoot is the folder of go.mod, in which or below which a test runs.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in this folder or above")
		}
	}
}
