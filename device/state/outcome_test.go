package state

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOutcome(t *testing.T) {
	d := At(t.TempDir())
	if o := d.Outcome(); !reflect.DeepEqual(o, Outcome{}) {
		t.Fatalf("an empty folder: %+v", o)
	}
	was := Outcome{Contact: time.Unix(1, 0).UTC(), Failures: 3, Final: &Failure{Code: "device-revoked"}}
	if err := d.SaveOutcome(was); err != nil {
		t.Fatal(err)
	}
	if err := d.SaveOutcome(Outcome{Failures: 4}); err != nil || d.Outcome().Failures != 4 {
		t.Fatalf("%+v, %v", d.Outcome(), err)
	}
	// What cannot be written is one line, not also that there is nothing to remove.
	if err := (steps{disk{}}).replace(filepath.Join(t.TempDir(), "nowhere", "file"), nil, 0o644); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

func TestGeneralise(t *testing.T) {
	d := At(t.TempDir())
	for n := byte('a'); n < 'd'; n++ {
		if err := d.Save(set(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SaveOutcome(Outcome{Failures: 1}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.path, "mine.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	removed, left, err := d.Generalise([][]byte{{1}})
	if err != nil || !slices.Contains(removed, "ldevid.key") || !slices.Equal(left, []string{"mine.txt"}) {
		t.Fatalf("removed %q, left %q, %v", removed, left, err)
	}
	names, err := filepath.Glob(filepath.Join(d.path, "*"))
	if err != nil || len(names) != 3 { // the lock, the roots and the stranger's
		t.Fatalf("%q, %v", names, err)
	}
}
