package relying

import (
	"os"
	"path/filepath"
	"testing"
)

// Who may write relay.yaml must not have commands run by it.
func TestCommandsOfOthers(t *testing.T) {
	for text, runs := range map[string]bool{"reload: true\n": true, "each: logger\n": true, "fail: closed\n": false} {
		dir := t.TempDir()
		path := filepath.Join(dir, optionsFile)
		for mode, others := range map[os.FileMode]bool{0o600: false, 0o644: false, 0o664: true, 0o646: true} {
			if err := os.WriteFile(path, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil { // whatever the umask
				t.Fatal(err)
			}
			err := new(options).complete(dir)
			if refused := err != nil; refused != (runs && others) {
				t.Errorf("%q with mode %v: %v", text, mode, err)
			}
		}
	}
}
