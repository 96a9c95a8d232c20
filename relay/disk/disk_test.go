package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
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
