// Package settings finds the value of each setting, and its source: the flag, the environment,
// the file, or the default, in this order.
package settings

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/device/agent"
	"github.com/hallmark-pki/hallmark/device/keys"
	"github.com/hallmark-pki/hallmark/device/proxy"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/program"
	"github.com/hallmark-pki/hallmark/wire"
)

// Setting is one thing that can be set: by --NAME, $HALLMARK_NAME or a line of the file.
type Setting struct {
	Name string
	// Default is the value if no other is given.
	Default string
	// Usage describes it in one line.
	Usage string
	// check says what is wrong with a value; nil accepts any.
	check func(string) error
}

// Env is the name of its environment variable.
func (s Setting) Env() string {
	return "HALLMARK_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// All are the settings.
var All = []Setting{
	{"state", state.DefaultDir, "folder that keeps certificates and keys", nil},
	{"tpm", "", "TPM: a device file, unix:PATH or tcp:HOST:PORT (default the one enrolled with, or " + collect.DefaultSpec + ")", nil},
	{"key", "", "where the key is: tpm, file, file:PATH or external:COMMAND (default tpm)", keys.CheckSpec},
	{"server", "", "https URL of the server that a board without identity enrols at; or several", checkServer},
	{"roots", "", "PEM file of the infrastructure roots by which it knows that server (default " + state.AnchorsFile + " in the state folder)", nil},
	{"serial", "", "serial number of this device", nil},
	{"serial-from", "", "where to read it: dmi, devicetree, file:PATH or cmd:COMMAND", nil},
	{"proxy", "", "HTTP proxy to reach the server through: http://[NAME:PASSWORD@]HOST:PORT, or direct (default what HTTPS_PROXY says)", nil},
	{"hooks", "/etc/hallmark-device/hooks.d", "folder of programs that are run after a certificate was swapped", nil},
	{"hook-limit", agent.DefaultHookLimit.String(), "how long each of them may take", checkDuration},
	{"health-file", "", "file to write the state of health to", nil},
	{"metrics-file", "", "file to write metrics to, for Prometheus' textfile collector", nil},
	{"set-clock", "false", "set the system clock when the server proves it wrong", checkBool},
}

func find(name string) (Setting, bool) {
	i := slices.IndexFunc(All, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return Setting{}, false
	}
	return All[i], true
}

// List splits a value at blanks and commas.
func List(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
}

func checkServer(text string) error {
	if len(List(text)) == 0 {
		return fmt.Errorf("%q names no server", text)
	}
	for _, server := range List(text) {
		if _, err := wire.ServerURL(server); err != nil {
			return err
		}
	}
	return nil
}

// maxHookLimit is shorter than the watchdog of the systemd unit.
const maxHookLimit = 30 * time.Minute

func checkDuration(text string) error {
	if d, err := time.ParseDuration(text); err != nil || d < time.Second || d > maxHookLimit {
		return fmt.Errorf("%q is not a duration between 1s and %v", text, maxHookLimit)
	}
	return nil
}

func checkBool(text string) error {
	if text != "true" && text != "false" {
		return fmt.Errorf("%q is neither true nor false", text)
	}
	return nil
}

// marked is the annotation that tells flags of settings from others of the same name.
var marked = []string{"yes"}

// DefaultFile is read if it exists and no other is named.
const DefaultFile = "/etc/hallmark-device.conf"

const (
	fileFlag = "config"
	fileEnv  = "HALLMARK_DEVICE_CONFIG"
	mark     = "hallmark-setting"
)

// FileFlag adds the flag that names the file to a command and its subcommands.
func FileFlag(c *cobra.Command) {
	c.PersistentFlags().String(fileFlag, "", "file of settings; also $"+fileEnv+" (default "+DefaultFile+")")
}

// Add makes a setting a flag of the command that sets to. If usage is empty the setting's own is
// used.
func Add(c *cobra.Command, to *string, name, usage string) {
	s, _ := find(name)
	if usage == "" {
		usage = s.Usage
	}
	c.Flags().StringVar(to, name, s.Default, usage+"; also $"+s.Env())
	c.Flags().SetAnnotation(name, mark, marked)
}

// AddBool is Add for a boolean setting.
func AddBool(c *cobra.Command, to *bool, name string) {
	s, _ := find(name)
	c.Flags().BoolVar(to, name, s.Default == "true", s.Usage+"; also $"+s.Env())
	c.Flags().SetAnnotation(name, mark, marked)
}

// AddDuration is Add for a setting that is a duration.
func AddDuration(c *cobra.Command, to *time.Duration, name string) {
	s, _ := find(name)
	d, _ := time.ParseDuration(s.Default)
	c.Flags().DurationVar(to, name, d, s.Usage+"; also $"+s.Env())
	c.Flags().SetAnnotation(name, mark, marked)
}

// Value is the value of a setting and its source.
type Value struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Found are all settings with their values.
type Found struct {
	// File is the file that was read; empty if none.
	File   string  `json:"file,omitempty"`
	Values []Value `json:"settings"`
	// Tunnels and Sites are the file's [proxy] sections.
	Tunnels []proxy.Tunnel `json:"tunnels,omitempty"`
	Sites   []proxy.Site   `json:"sites,omitempty"`
}

// Find finds the settings of a command whose flags were parsed, and sets the flags that were not
// given.
func Find(c *cobra.Command, getenv func(string) string) (Found, error) {
	file, err := open(c, getenv)
	if err != nil {
		return Found{}, err
	}
	found := Found{File: file.path, Tunnels: file.tunnels, Sites: file.sites}
	for _, s := range All {
		flag := c.Flags().Lookup(s.Name)
		if flag != nil && flag.Annotations[mark] == nil {
			flag = nil // another flag of the same name
		}
		v, err := s.find(flag, getenv, file)
		if err != nil {
			return Found{}, err
		}
		found.Values = append(found.Values, v)
		if flag != nil && !flag.Changed {
			if err := flag.Value.Set(v.Value); err != nil {
				return Found{}, fmt.Errorf("%s: %w", v.Source, err)
			}
		}
	}
	if v := found.value("key"); strings.HasPrefix(v.Value, "external:") {
		return found, found.Guarded("key")
	}
	return found, nil
}

func (f Found) value(name string) Value {
	return f.Values[slices.IndexFunc(f.Values, func(v Value) bool { return v.Name == name })]
}

// FileOf is the file that a setting is from; empty if it is from elsewhere.
func (f Found) FileOf(name string) string {
	if f.File != "" && strings.HasPrefix(f.value(name).Source, f.File+":") {
		return f.File
	}
	return ""
}

// Guarded refuses a setting that names a program if others can write the file that it is from:
// they could run programs as the agent.
func (f Found) Guarded(name string) error {
	path := f.FileOf(name)
	if path == "" {
		return nil
	}
	if err := program.Guarded(path); err != nil {
		return fmt.Errorf("%s: %s names a program to run, and is ignored: %w", f.value(name).Source, name, err)
	}
	return nil
}

// find returns the value of the flag, else of the environment, else of the file, else the
// default.
func (s Setting) find(flag *pflag.Flag, getenv func(string) string, file file) (Value, error) {
	v := Value{s.Name, s.Default, "default"}
	if line, ok := file.values[s.Name]; ok {
		v.Value, v.Source = line.text, fmt.Sprintf("%s:%d", file.path, line.number)
	}
	if text := getenv(s.Env()); text != "" {
		v.Value, v.Source = text, "$"+s.Env()
	}
	if flag != nil && flag.Changed {
		v.Value, v.Source = flag.Value.String(), "--"+s.Name
	}
	if v.Value != "" && s.check != nil {
		if err := s.check(v.Value); err != nil {
			if !strings.Contains(v.Source, ":") { // a flag or a variable names it already
				return v, fmt.Errorf("%s: %w", v.Source, err)
			}
			return v, fmt.Errorf("%s: %s: %w", v.Source, s.Name, err)
		}
	}
	return v, nil
}

// open reads the file that the flag or the environment names, else DefaultFile if it exists.
func open(c *cobra.Command, getenv func(string) string) (file, error) {
	path, needed := getenv(fileEnv), true
	if f := c.Flags().Lookup(fileFlag); f != nil && f.Changed {
		path = f.Value.String()
	}
	if path == "" {
		path, needed = DefaultFile, false
	}
	text, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) && !needed {
		return file{}, nil
	}
	if err != nil {
		return file{}, err
	}
	f, err := parse(text)
	if err != nil {
		return file{}, fmt.Errorf("%s:%w", path, err)
	}
	f.path = path
	return f, nil
}

// Shown is the value for people and logs, without passwords and the arguments of a signer.
func (v Value) Shown() string {
	if v.Name == "key" {
		return keys.Shown(v.Value)
	}
	text, isProxy := v.Value, v.Name == "proxy"
	if isProxy && !strings.Contains(text, "://") { // as package client accepts it
		text = "http://" + text
	}
	if u, err := url.Parse(text); err == nil && u.User != nil {
		return u.Redacted()
	}
	if isProxy && strings.Contains(text, "@") { // not a URL, but it may still hold a password
		return "…"
	}
	return v.Value
}
