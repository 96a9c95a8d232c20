package installation

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/config"
)

// The configuration that init writes has every setting, so that nobody need look elsewhere.
func TestConfigurationHasEverySetting(t *testing.T) {
	files := make(map[string][]byte)
	if err := (Founding{Name: "Acme"}).addConfig(files, address{}); err != nil {
		t.Fatal(err)
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[config.Config]()) {
		name := field.Tag.Get("yaml")
		if name == "-" {
			continue
		}
		if found, err := regexp.Match("(?m)^"+name+":", files[ConfigFile]); err != nil || !found {
			t.Errorf("%s is not there", name)
		}
	}
}

// What is made beside a folder and renamed in the end must be able to take its place.
func TestFree(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, taken := range []string{link, "/proc"} {
		if err := Free(taken); err == nil || !strings.Contains(Next(err), "in it") {
			t.Errorf("%s: %v", taken, err)
		}
	}
	for _, free := range []string{dir, filepath.Join(link, "new"), filepath.Join(dir, "a", "b")} {
		if err := Free(free); err != nil {
			t.Errorf("%s: %v", free, err)
		}
	}
}
