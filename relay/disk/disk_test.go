package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	for _, text := range []string{"one", "another, longer", ""} {
		if err := Replace(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("a new file: %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := Replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode became %v, %v", info.Mode(), err)
	}
	if n, _ := open.Read(make([]byte, 3)); n != 0 {
		t.Error("a reader of the old file sees the new one")
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Errorf("left behind: %v", all)
	}
	if err := Replace(filepath.Join(path, "x"), nil); err == nil {
		t.Error("a file below a file")
	}
	if _, err := Read(filepath.Dir(path)); err == nil {
		t.Error("a folder was read")
	}
}

// What was cut off in the middle is gone with the next.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "list")
	if os.Getenv("HALLMARK_TEST_DIR") != "" { // the process that is killed
		path = filepath.Join(os.Getenv("HALLMARK_TEST_DIR"), "list")
		for range 100 {
			if err := Replace(path, make([]byte, 8<<20)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 5 {
		c := exec.Command(os.Args[0], "-test.run", "^TestLeftovers$")
		c.Env = append(os.Environ(), "HALLMARK_TEST_DIR="+dir)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		if text, err := Read(path); err == nil && len(text) != 8<<20 {
			t.Errorf("half a file: %d bytes", len(text))
		}
	}
	if err := Replace(path, []byte("whole")); err != nil {
		t.Fatal(err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Errorf("left behind: %v", all)
	}
}

// A relay is root's mostly, and may write into folders of others: it follows none of their links,
// and waits for none of their pipes.
func TestLinks(t *testing.T) {
	dir := t.TempDir()
	other, link, pipe := filepath.Join(dir, "other"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.WriteFile(other, []byte("secret"), 0o600), os.Symlink(other, link), os.Symlink(other+"2", link+"2"), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, pipe} {
		if text, err := Read(path); err == nil || Holds(path, []byte("secret")) {
			t.Errorf("%s was read: %q", path, text)
		}
	}
	for _, path := range []string{link, link + "2"} {
		if unlock, err := Lock(path, errors.New("taken")); err == nil {
			unlock()
			t.Errorf("%s is a lock", path)
		}
	}
	if _, err := os.Lstat(other + "2"); err == nil {
		t.Error("a file was made where a link leads")
	}
	if err := Replace(link, []byte("list")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode() != 0o644 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	if !Holds(other, []byte("secret")) || !Holds(link, []byte("list")) || Holds(link, []byte("lisp")) || Holds(link, []byte("list, longer")) {
		t.Error("the contents are others")
	}
}

func TestLock(t *testing.T) {
	path, taken := filepath.Join(t.TempDir(), "lock"), errors.New("taken")
	unlock, err := Lock(path, taken)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path, taken); !errors.Is(err, taken) {
		t.Errorf("twice: %v", err)
	}
	unlock()
	if unlock, err = Lock(path, taken); err != nil {
		t.Fatal(err)
	}
	unlock()
}
