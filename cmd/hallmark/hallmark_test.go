package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// TestEveryCommandExplainsItself walks the whole tree.
func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s: no description or no example", c.CommandPath())
		}
		verb, _, _ := strings.Cut(c.Use, " ")
		if (verb == "list" || verb == "show" || verb == "whoami") && c.Flags().Lookup("json") == nil {
			t.Errorf("%s: no --json", c.CommandPath())
		}
		var page bytes.Buffer
		c.SetOut(&page)
		if err := c.Help(); err != nil || page.Len() == 0 || strings.Contains(page.String(), "[=") {
			t.Errorf("%s: --help does not show switches as they are typed: %v\n%s", c.CommandPath(), err, &page)
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len([]rune(line)) > 110 {
				t.Errorf("%s: a line of the help is too long: %s", c.CommandPath(), line)
			}
		}
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(root())
	if help := root().Long; !strings.Contains(help, terminal.ExitCodes) || !strings.Contains(help, terminal.ConfigVariable) {
		t.Error("the help does not give exit codes and the search for settings")
	}
}

// run1 runs a command line and gives what it printed, the exit code and the error.
func run1(t *testing.T, args ...string) (out string, code int, err error) {
	t.Helper()
	cmd := root()
	var stdout, stderr bytes.Buffer
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	if err != nil {
		code, _ = terminal.Diagnose(err)
	}
	return stdout.String() + stderr.String(), code, err
}

func TestExitCodes(t *testing.T) {
	t.Setenv(terminal.ConfigVariable, filepath.Join(t.TempDir(), "absent.yaml"))
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		code int
		says string
	}{
		{"unheard", terminal.ExitUsage, "unknown command"},
		{"device lst", terminal.ExitUsage, "did you mean lift or list?"},
		{"device revok SN-1 --reason key-compromise", terminal.ExitUsage, "did you mean revoke?"},
		{"device --reason key-compromise", terminal.ExitUsage, "unknown flag"},
		{"device show", terminal.ExitUsage, "0 arguments given; the command is: hallmark device show SERIAL"},
		{"device list a b", terminal.ExitUsage, "2 arguments given; the command is: hallmark device list [EXPR]"},
		{"device list lot = w47", terminal.ExitUsage, "put EXPR in quotes, as one argument: 'lot = w47'"},
		{"device list --colour", terminal.ExitUsage, "unknown flag"},
		{"device revoke SN-1", terminal.ExitUsage, "--reason is needed"},
		{"lot create W47", terminal.ExitUsage, `"quota" not set`},
		{"ticket create --serial a --count 2", terminal.ExitUsage, "[count serial]"},
		{"ticket create --count 0", terminal.ExitUsage, "at least 1"},
		{"ticket create --ttl 15", terminal.ExitUsage, "15m, 36h or 30d"},
		{"ticket create --from " + empty, terminal.ExitError, "line 1: the header"},
		{"vendorca import " + empty, terminal.ExitError, "no CA certificate among 1 file"},
		{"vendorca import " + empty + ".absent", terminal.ExitError, "no such file"},
		{"audit list --limit 0", terminal.ExitUsage, "--limit is 1 to 1000"},
		{"audit list --after -2", terminal.ExitUsage, "not negative"},
		{"device list", terminal.ExitError, "absent.yaml"},
		{"operator accept hmt1.a.b.c.d", terminal.ExitError, "not a Hallmark invitation"},
	} {
		out, code, err := run1(t, strings.Fields(c.line)...)
		if err == nil || code != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: exit %d, %v\n%s", c.line, code, err, out)
		}
	}
}

func TestSettingsAreSearched(t *testing.T) {
	t.Setenv(terminal.ConfigVariable, "/from/environment")
	a := app{terminal.App{Config: "/from/flag"}}
	if path, _ := a.Settings(); path != "/from/flag" {
		t.Errorf("flag: %s", path)
	}
	a.Config = ""
	if path, _ := a.Settings(); path != "/from/environment" {
		t.Errorf("environment: %s", path)
	}
	t.Setenv(terminal.ConfigVariable, "")
	t.Setenv("XDG_CONFIG_HOME", "/home/anna/.config")
	if path, _ := a.Settings(); path != "/home/anna/.config/hallmark/hallmark.yaml" {
		t.Errorf("default: %s", path)
	}
	dir := t.TempDir()
	for path, want := range map[string]string{dir: dir, dir + "/hallmark.yaml": dir, dir + "/new": dir + "/new"} {
		if got := folder(path); got != want {
			t.Errorf("folder(%s) = %s", path, got)
		}
	}
}

func TestReadDevices(t *testing.T) {
	got, err := readDevices(strings.NewReader("\ufeffSerial,ek\nSN-1,000babcd\n\"SN-2\", \n\nSN-3,\n"))
	want := []wire.TicketFor{{Serial: "SN-1", EKName: "000babcd"}, {Serial: "SN-2"}, {Serial: "SN-3"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
	for what, text := range map[string]string{ // as spreadsheets write them
		"a mark, quotes":      "\ufeff\"serial\",\"ek\"\r\n\"SN-1\",\"000babcd\"\r\n\"SN-2\",\"\"\r\nSN-3,\r\n",
		"semicolons":          "\ufeffserial;ek\r\nSN-1;000babcd\r\nSN-2;\r\nSN-3;\r\n",
		"semicolons, quotes":  "\"serial\";\"ek\"\nSN-1;\"000babcd\"\nSN-2;\nSN-3;\n",
		"empty rows":          "serial,ek\n,\nSN-1,000babcd\n , \nSN-2,\nSN-3,\n,\n,\n",
		"blanks after a name": "serial , EK \nSN-1 ,000babcd \nSN-2,\nSN-3,\n",
	} {
		if got, err := readDevices(strings.NewReader(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read %+v, %v", what, got, err)
		}
	}
	for text, says := range map[string]string{
		"serial,ek\nSN-1,000bAB\nSN-2,\nSN-3,000bab\n": "line 4: the EK Name \"000bab\" stands in line 2",
		"serial\tek\nSN-1\t\n":                         "separated by commas or semicolons",
		"":                                             "line 1: the header",
		"SN-1\nSN-2\n":                                 "line 1: the header",
		"serial,colour\n":                              "line 1: the header",
		"serial\nSN-1\n\nsn-1\n":                       "line 4: the serial number \"sn-1\" stands in line 2",
		"serial,ek\nSN-1\n":                            "line 2: wrong number of fields",
		"serial,ek\n,000b\n":                           "line 2: no serial number",
		"serial\n\"SN-1\nSN-2\n":                       "line",
		"serial\nSN-1\nSN-2,x\n":                       "line 3: wrong number of fields",
	} {
		if _, err := readDevices(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestReadEKList(t *testing.T) {
	got, err := readEKList(strings.NewReader("\ufeff# incoming inspection\n\n000bAB\r\n  000bcd  \n"))
	if err != nil || !reflect.DeepEqual(got, []string{"000bab", "000bcd"}) {
		t.Errorf("read %q, %v", got, err)
	}
	for text, says := range map[string]string{
		"000b\nSN-1\n":               "line 2: \"SN-1\"",
		"000bab\n\n000bcd\n000bAB\n": "line 4: 000bab stands in line 1",
	} {
		if _, err := readEKList(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestReadAuthorities(t *testing.T) {
	maker, err := simtpm.NewMaker(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: maker.Root.Raw})
	for name, contents := range map[string][]byte{"root.pem": text, "root.crt": maker.Root.Raw, "sub/twice.pem": append(text, text...), "readme": []byte("hello"), "huge": make([]byte, maxCertificateFile+1)} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o755), os.WriteFile(filepath.Join(dir, name), contents, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Symlink(dir, link), os.Symlink(dir+"/absent", dir+"/dangling")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link} {
		if found, skipped, err := readAuthorities(path); err != nil || len(found) != 1 || skipped != 3 {
			t.Errorf("found %d, skipped %d, %v", len(found), skipped, err)
		}
	}
	var many [][]byte
	for i := range 1234 {
		many = append(many, bytes.Repeat([]byte{byte(i)}, 3000))
	}
	total := 0
	for _, part := range portions(many) {
		size := 0
		for _, der := range part {
			size += len(der)
		}
		if len(part) == 0 || len(part) > wire.MaxAuthorities || size > maxImport {
			t.Errorf("a portion of %d with %d bytes", len(part), size)
		}
		total += len(part)
	}
	if total != len(many) {
		t.Errorf("%d of %d were portioned", total, len(many))
	}
}

func FuzzLists(f *testing.F) {
	f.Add("serial,ek\nSN-1,000b\n")
	f.Add("# list\n000bab\n")
	f.Add("\ufeffserial\n\"a\nb\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		if devices, err := readDevices(strings.NewReader(text)); err == nil {
			seen := map[string]bool{}
			for _, d := range devices {
				if key := strings.ToLower(d.Serial); d.Serial == "" || seen[key] {
					t.Errorf("%q twice, or empty", d.Serial)
				} else {
					seen[key] = true
				}
			}
		}
		if names, err := readEKList(strings.NewReader(text)); err == nil {
			for _, name := range names {
				if name == "" || strings.Trim(name, "0123456789abcdef") != "" {
					t.Errorf("EK Name %q", name)
				}
			}
		}
		for _, r := range plain.Line(text) {
			if unicode.IsControl(r) {
				t.Errorf("%U is printed", r)
			}
		}
	})
}
