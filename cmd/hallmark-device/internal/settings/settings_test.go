package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestParse(t *testing.T) {
	t.Parallel()
	f, err := parse([]byte("# one\n\n state=/a b \nserver = https://x\r\n[proxy]\nlisten = unix:/run/a\nto = b:1\nuser = u\nuser = v\nlimit = 7\n[proxy]\nlisten = 127.0.0.1:1\nto = c:2\nalpn = mqtt\n[proxy]\nserve = :443\nto = 127.0.0.1:80\nclients = /etc/ca.pem\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f.values["state"] != (line{"/a b", 3}) || f.values["server"] != (line{"https://x", 4}) || len(f.tunnels) != 2 || len(f.sites) != 1 || f.sites[0].Clients != "/etc/ca.pem" ||
		len(f.tunnels[0].Users) != 2 || f.tunnels[0].Limit != 7 || f.tunnels[1].Listen != "127.0.0.1:1" || f.tunnels[1].Users != nil {
		t.Fatalf("%+v", f)
	}
	for text, want := range map[string]string{
		"state":                           "1: neither",
		"= a":                             "1: neither",
		"state =":                         "1: state has no value",
		"\nstate = a\nstate = b":          "3: state is set in line 2",
		"[proxies]":                       "1: neither",
		"nonsense = 1":                    "1: there is no setting",
		"state = a\x00b":                  "1: a control character",
		"state = \xff":                    "1: not a text file",
		"[proxy]":                         "1: [proxy]: where it leads is missing",
		"[proxy]\nto = a:1\nto = b:1":     "3: to is set already",
		"[proxy]\nstate = a":              "2: there is no setting \"state\" in [proxy]",
		"[proxy]\nserve = :443\nto = b:1": "1: [proxy]: \"b:1\" is not the address of a program",
		"[proxy]\nserve = :443\nlisten = 127.0.0.1:1\nto = 127.0.0.1:80": "1: [proxy]: beside serve there are",
		"[proxy]\nlisten = 127.0.0.1:1\nto = b:1\nclients = x":           "1: [proxy]: clients belongs to serve",
		"[proxy]\nlimit = many":                            "2: \"many\" is not a number",
		"[proxy]\nlisten = 0.0.0.0:1\nto=":                 "3: to has no value",
		"\n[proxy]\nlisten = 0.0.0.0:1\nto = a:1\n[proxy]": "2: [proxy]: a socket that others",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Who may write a file of settings must not have programs run by it.
func TestFilesOfOthers(t *testing.T) {
	t.Parallel()
	for text, c := range map[string]struct {
		name string
		all  bool // nothing is done with such settings
	}{
		"key = external:/bin/signer": {"key", true}, "key = file": {"key", false},
		"hooks = /etc/hooks.d": {"hooks", false}, "serial-from = cmd:dmidecode": {"serial-from", false},
	} {
		path := filepath.Join(t.TempDir(), "device.conf")
		for mode, others := range map[os.FileMode]bool{0o600: false, 0o644: false, 0o664: true, 0o646: true} {
			if err := os.WriteFile(path, []byte(text+"\n"), mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil { // whatever the umask
				t.Fatal(err)
			}
			getenv := func(name string) string { return map[string]string{fileEnv: path}[name] }
			found, err := Find(&cobra.Command{}, getenv)
			if refused := err != nil; refused != (c.all && others) {
				t.Errorf("%q with mode %v: %v", text, mode, err)
			}
			if err != nil {
				continue
			}
			if err := found.Guarded(c.name); (err != nil) != others {
				t.Errorf("%q with mode %v says what is run: %v", text, mode, err)
			}
			if err := found.Guarded("health-file"); err != nil {
				t.Errorf("what is not in the file: %v", err)
			}
		}
	}
}

// However a proxy is written, its password is not shown.
func TestPasswordsAreNotShown(t *testing.T) {
	for text, want := range map[string]string{
		"http://me:secret@proxy:3128": "http://me:xxxxx@proxy:3128", "me:secret@proxy:3128": "http://me:xxxxx@proxy:3128",
		"http://me:sec%ret@proxy:3128": "…", "me:1/secret@proxy": "…", "proxy:3128": "proxy:3128", "direct": "direct",
	} {
		if got := (Value{Name: "proxy", Value: text}).Shown(); got != want {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}

// What was meant to name servers names one at least.
func TestServers(t *testing.T) {
	for text, good := range map[string]bool{"https://a": true, "https://a, https://b:1": true, ",": false, " , ": false, "https://a,b": false} {
		if err := checkServer(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Whatever is in the file, reading it ends, and what is taken is named.
func FuzzParse(f *testing.F) {
	f.Add([]byte("state = a\n[proxy]\nlisten = unix:/a\nto = b:1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parse(text)
		if err != nil {
			return
		}
		for name := range got.values {
			if _, ok := find(name); !ok {
				t.Errorf("%q is no setting", name)
			}
		}
		for _, tunnel := range got.tunnels {
			if err := tunnel.Check(); err != nil {
				t.Error(err)
			}
		}
	})
}
