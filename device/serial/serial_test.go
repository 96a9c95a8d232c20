package serial_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/device/serial"
)

func TestSerialNumbers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for source, want := range map[string]string{
		"file:" + write("a", " SN-1\x00\n"):            "SN-1",
		"cmd:echo SN 2":                                "SN 2",
		"file:" + write("b", "\x00\x00"):               "",
		"file:" + write("c", strings.Repeat("x", 300)): "",
		"file:" + filepath.Join(dir, "missing"):        "",
		"cmd:exit 3":                                   "",
		"cmd:true":                                     "",
		"cmd:head -c 1000000 /dev/zero | tr '\\0' x":   "",
		"bios":  "",
		"file:": "",
	} {
		got, err := serial.Read(t.Context(), source)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", source, got, err)
		}
	}
}
