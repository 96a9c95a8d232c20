package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The units are what systemd understands, and as tight as docs/device.md says.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	units := []string{"hallmark-device.service", "hallmark-device-once.service", "hallmark-device-once.timer", "hallmark-healthy.service"}
	for i, unit := range units {
		text, err := os.ReadFile(filepath.Join("../../init/systemd", unit))
		if err != nil {
			t.Fatal(err)
		}
		// systemd looks whether the program is there.
		installed := strings.ReplaceAll(string(text), "/usr/bin/hallmark-device", filepath.Join(bin, "hallmark-device"))
		units[i] = filepath.Join(folder, unit)
		if err := os.WriteFile(units[i], []byte(installed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, units...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	// The exposure of systemd's own score, in tenths; a service without any hardening has 96.
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", filepath.Join(folder, "hallmark-device.service")).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// systemd takes the server's unit, and finds little in it to be had by an attacker.
func TestServerUnit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	program := s.bash(t, "command -v hallmarkd")
	unit := strings.Replace(block(t, "docs/administrator.md", "ini", 1), "/usr/bin/hallmarkd", program, 1)
	if !strings.Contains(unit, program) {
		t.Fatal("the unit runs something else")
	}
	write(t, s.dir, "hallmark.service", unit+"\n")
	if out, err := s.try("systemd-analyze verify ./hallmark.service 2>&1 | grep hallmark.service"); err == nil {
		t.Error(out)
	}
	s.bash(t, "systemd-analyze security --no-pager --offline=true --threshold=30 ./hallmark.service")
}

// The scripts of other service managers are what a shell can read.
func TestInitScripts(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"../../init/openrc/hallmark-device", "../../init/procd/hallmark-device"} {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		if info, err := os.Stat(script); err != nil || info.Mode()&0o111 == 0 {
			t.Errorf("%s cannot be started", script)
		}
	}
}

// The example of settings is one: with every comment sign in front of a setting taken
// away, each of them is taken.
func TestExampleOfSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../init/hallmark-device.conf")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	settings := 0
	for line := range strings.Lines(string(text)) {
		if set, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(set, " ") && set != "\n" {
			line = set
			settings++
		}
		all.WriteString(line)
	}
	s := newStage(t)
	if err := os.WriteFile(filepath.Join(s.dir, "device.conf"), []byte(all.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	shown := s.bash(t, "hallmark-device config show --config device.conf")
	if n := strings.Count(shown, "device.conf"); settings < 12 || n != settings-3 { // a section has four lines and is shown as one
		t.Errorf("%d settings in the file, %d of them shown:\n%s", settings, n, shown)
	}
}
