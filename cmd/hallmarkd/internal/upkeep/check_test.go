package upkeep

import (
	"os"
	"strings"
	"testing"
	"time"
)

// What others can use or change is found: keys, record, and the configuration by which
// others' could be used.
func TestFileModes(t *testing.T) {
	f := newFactory(t)
	look := func() Finding { return about(Check(t.Context(), f.in.Config.File, time.Now()), "file modes") }
	if found := look(); found.Level != OK {
		t.Fatalf("%+v", found)
	}
	for path, mode := range map[string]os.FileMode{
		f.in.Config.ServerSecret: 0o640, f.in.Config.File: 0o622, f.in.Config.Dir: 0o777,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []os.FileMode{mode, info.Mode().Perm()} {
			if err := os.Chmod(path, m); err != nil {
				t.Fatal(err)
			}
			if found := look(); (found.Level == Warning) != (m == mode) || m == mode && !strings.HasPrefix(found.Detail, path+" has mode") {
				t.Errorf("%s with mode %v: %+v", path, m, found)
			}
		}
	}
}
