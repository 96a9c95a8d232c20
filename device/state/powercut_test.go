package state

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/internal/powercut"
)

// everyCut makes a change to a folder in which a number of sets were saved one after the
// other, and gives what a power cut at every moment of it may leave to look. done says
// that the change had returned by then.
func everyCut(t *testing.T, sets string, change func(*Dir) error, look func(what string, done bool, d *Dir)) {
	t.Helper()
	root := t.TempDir()
	for _, n := range []byte(sets) {
		if err := On(root, quick{}).Save(set(n)); err != nil {
			t.Fatal(err)
		}
	}
	before, err := powercut.New(root, -1)
	if err != nil {
		t.Fatal(err)
	}
	during, err := powercut.New(root, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := change(On(root, during)); err != nil {
		t.Fatal(err)
	}
	left := 0
	for n := range during.Changes() + 1 {
		for _, l := range during.After(before, n) {
			at := filepath.Join(t.TempDir(), "state")
			if err := l.Write(root, at); err != nil {
				t.Fatal(l.What, err)
			}
			look(l.What, n == during.Changes(), On(at, quick{}))
			left++
		}
	}
	t.Logf("%d changes, %d states that a power cut may leave", during.Changes(), left)
	if during.Changes() < 4 || left < 8 {
		t.Fatal("too few to be true")
	}
}

// quick is the disk without its syncs, for folders that no power cut will see.
type quick struct{ disk }

func (q quick) SyncDir(string) error { return nil }
func (q quick) Create(path string, mode os.FileMode) (interface {
	io.WriteCloser
	Sync() error
}, error) {
	f, err := q.disk.Create(path, mode)
	return unsynced{f}, err
}

type unsynced struct{ io.WriteCloser }

func (unsynced) Sync() error { return nil }

// tidy wants a folder without anything that a save was cut off from.
func tidy(t *testing.T, what string, d *Dir) {
	t.Helper()
	entries, err := os.ReadDir(d.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".new") {
			t.Errorf("%s: %s is left over", what, e.Name())
		}
	}
	if n := len(d.numbers()); n > 2 {
		t.Errorf("%s: %d sets are left over", what, n)
	}
}

// A power cut at any moment of a save, whatever was not synced being lost, leaves the old
// or the new set whole, and the next save works and cleans up.
func TestPowerCutInASave(t *testing.T) {
	for _, sets := range []string{"", "a", "abcd"} {
		old := byte(0)
		if sets != "" {
			old = sets[len(sets)-1]
		}
		everyCut(t, sets, func(d *Dir) error { return d.Save(set('x')) }, func(what string, done bool, d *Dir) {
			s, damaged, err := d.Load()
			switch {
			case done && (err != nil || damaged != nil || number(t, s) != 'x'): // what Save has returned is on the disk
				t.Errorf("%q, %s: it was saved, and is lost: %v, %v", sets, what, damaged, err)
			case err != nil && old == 0: // there was nothing, and the board enrols
			case err != nil:
				t.Errorf("%q, %s: %v", sets, what, err)
			default:
				if got := number(t, s); got != 'x' && got != old {
					t.Errorf("%q, %s: set %q", sets, what, got)
				}
			}
			if err := d.Save(set('y')); err != nil || number(t, load(t, d)) != 'y' {
				t.Errorf("%q, %s: the next save: %v", sets, what, err)
			}
			tidy(t, what, d)
		})
	}
}

// A save that fails because the power goes, and is followed by another on the same disk,
// leaves nothing behind.
func TestSaveAfterAFailedOne(t *testing.T) {
	for cut := 0; ; cut++ {
		root := t.TempDir()
		for _, n := range []byte("abc") {
			if err := On(root, quick{}).Save(set(n)); err != nil {
				t.Fatal(err)
			}
		}
		r, err := powercut.New(root, cut)
		if err != nil {
			t.Fatal(err)
		}
		err = On(root, r).Save(set('x'))
		if s := load(t, At(root)); err == nil != (number(t, s) == 'x') && !errors.Is(err, powercut.ErrCut) {
			t.Fatalf("cut %d: %v, set %q", cut, err, number(t, s))
		}
		if err := On(root, quick{}).Save(set('y')); err != nil || number(t, load(t, At(root))) != 'y' {
			t.Fatalf("cut %d: %v", cut, err)
		}
		tidy(t, "a cut", At(root))
		if err == nil && r.Changes() < cut {
			return
		}
	}
}

func TestPowerCutInAnOutcome(t *testing.T) {
	was := Outcome{Failures: 3, Final: &Failure{Code: "device-revoked"}}
	everyCut(t, "a", func(d *Dir) error {
		if err := d.SaveOutcome(was); err != nil {
			return err
		}
		return d.SaveOutcome(Outcome{Failures: 4})
	}, func(what string, done bool, d *Dir) {
		if done && d.Outcome().Failures != 4 {
			t.Errorf("%s: it was saved, and is lost", what)
		}
		if o := d.Outcome(); !reflect.DeepEqual(o, was) && !reflect.DeepEqual(o, Outcome{Failures: 4}) && !reflect.DeepEqual(o, Outcome{}) {
			t.Errorf("%s: %+v", what, o)
		}
		if number(t, load(t, d)) != 'a' {
			t.Errorf("%s: another set", what)
		}
		if err := d.SaveOutcome(was); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		tidy(t, what, d)
	})
}

// A golden image that was cut off while it was made is made by doing it again, and holds
// nothing of the board then.
func TestPowerCutInGeneralise(t *testing.T) {
	everyCut(t, "ab", func(d *Dir) error {
		_, _, err := d.Generalise([][]byte{{1}})
		return err
	}, func(what string, done bool, d *Dir) {
		if _, _, err := d.Load(); done && !errors.Is(err, ErrEmpty) {
			t.Errorf("%s: it was made, and the board is back: %v", what, err)
		}
		if s, _, err := d.Load(); err == nil && number(t, s) != 'a' && number(t, s) != 'b' {
			t.Errorf("%s: a set that never was", what)
		}
		if _, left, err := d.Generalise([][]byte{{1}}); err != nil || len(left) > 0 {
			t.Errorf("%s: left %q, %v", what, left, err)
		}
		if _, _, err := d.Load(); !errors.Is(err, ErrEmpty) {
			t.Errorf("%s: something of the board is left: %v", what, err)
		}
		entries, err := os.ReadDir(d.path)
		for _, e := range entries {
			if e.Name() != AnchorsFile && e.Name() != lockFile {
				t.Errorf("%s: %s is left, %v", what, e.Name(), err)
			}
		}
	})
}
