package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// good is a whole configuration; the tests change one line of it.
const good = `name: Acme Devices
listen:
  devices: ":8443"
public:
  devices: ["https://ca.example:8443"]
  operators: https://ca.example:8444
  status: http://ca.example:8445
database: sqlite:hallmark.db
issuers:
  manufacturing:
    certificate: issuers/manufacturing.pem
    key: file:keys/manufacturing.key
  operational:
    certificate: issuers/operational.pem
    key: file:keys/operational.key
  infrastructure:
    certificate: issuers/infrastructure.pem
    key: file:keys/infrastructure.key
time_key: file:keys/time.key
server_secret: keys/server.secret
ldevid_lifetime: 7d
session_lifetime: 90s
`

// write lays out a folder in which every file that good names exists.
func write(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{
		"issuers/manufacturing.pem", "issuers/operational.pem", "issuers/infrastructure.pem",
		"keys/manufacturing.key", "keys/operational.key", "keys/infrastructure.key", "keys/time.key", "keys/server.secret",
		"trust/bundle.json", "trust/roots/operational-root.crt", "hallmark.db",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "hallmark.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := write(t, good)
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(path)
	for what, got := range map[string][2]string{
		"name":        {c.Name, "Acme Devices"},
		"key":         {c.Issuers.Operational.Key, "file:" + dir + "/keys/operational.key"},
		"certificate": {c.Issuers.Operational.Certificate, dir + "/issuers/operational.pem"},
		"signer":      {c.Issuers.Operational.Signer, "softcas"},
		"database":    {c.Database, "sqlite:" + dir + "/hallmark.db"},
		"bundle":      {c.Trust.Bundle, dir + "/trust/bundle.json"},
		"operators":   {c.Listen.Operators, ":8444"},
		"metrics":     {c.Listen.Metrics, "127.0.0.1:8446"},
		"binding":     {c.ChannelBinding, BindingExporter},
		"dir":         {c.Dir, dir},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is %q, not %q", what, got[0], got[1])
		}
	}
	if c.LDevIDLifetime.Std() != 7*24*time.Hour || c.SessionLifetime.Std() != 90*time.Second {
		t.Errorf("durations: %v %v", c.LDevIDLifetime, c.SessionLifetime)
	}
	if c.AcceptSimulatedTPMs || c.CRLShardCapacity != 16384 {
		t.Error("defaults are not as documented")
	}
}

// A copy of the folder must not lead back to it without anybody knowing.
func TestAnchored(t *testing.T) {
	path := write(t, good)
	dir := filepath.Dir(path)
	text := strings.NewReplacer("sqlite:hallmark.db", "sqlite:"+dir+"/hallmark.db", "file:keys/time.key", "file:"+dir+"/keys/time.key",
		"issuers/operational.pem", dir+"/issuers/operational.pem", "server_secret:", "journal: "+dir+"/journal\nserver_secret:").Replace(good)
	for want, text := range map[string]string{"": good, "database issuers.operational.certificate time_key": text} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(c.Anchored, " "); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestErrorsSayWhereAndWhy(t *testing.T) {
	for name, c := range map[string]struct{ old, new, where, why string }{
		"unknown key":        {"listen:", "listn:", ":2:1: ", `unknown field "listn"`},
		"unknown inner key":  {"devices: \":8443\"", "device: \":8443\"", ":3:3: ", `unknown field "device"`},
		"key twice":          {"database:", "name: Other\ndatabase:", ":8:1: ", `already defined`},
		"unit missing":       {"7d", "7", ":21:18: ", "write a whole number and its unit"},
		"unit unknown":       {"7d", "7 weeks", ":21:18: ", "write a whole number and its unit"},
		"negative duration":  {"7d", "-7d", ":21:18: ", "write a whole number and its unit"},
		"huge duration":      {"7d", "99999999999999d", ":21:18: ", "write a whole number and its unit"},
		"duration a list":    {"7d", "[7d]", ":21:18: ", "one word"},
		"too long a session": {"90s", "6m", ":22:19: session_lifetime: ", "6m is outside 10s to 5m"},
		"too short a life":   {"7d", "1s", ":21:18: ldevid_lifetime: ", "1s is outside 1m to 398d"},
		"missing file":       {"keys/time.key", "keys/tiem.key", ":19:11: time_key: ", "no such file"},
		"missing database":   {"hallmark.db", "other.db", ":8:11: database: ", "no such file"},
		"missing issuer":     {"issuers/operational.pem", "x.pem", ":14:18: issuers.operational.certificate: ", "no such file"},
		"missing key":        {"key: file:keys/operational.key", "signer: softcas", "issuers.operational.key: ", "SCHEME:PLACE"},
		"key not a URI":      {"file:keys/operational.key", "keys/operational.key", ":15:10: issuers.operational.key: ", "SCHEME:PLACE"},
		"wrong type":         {"devices: \":8443\"", "devices: [1]", ":3:", "is not a text"},
		"no port":            {`":8443"`, `"localhost"`, ":3:12: listen.devices: ", "HOST:PORT"},
		"port zero":          {`":8443"`, `":0"`, ":3:12: listen.devices: ", "HOST:PORT"},
		"port taken":         {`":8443"`, `":8444"`, "listen.operators: ", "taken by listen.devices"},
		"metrics open":       {"listen:", "listen:\n  metrics: \":9000\"", ":3:12: listen.metrics: ", "not a loopback address"},
		"http for devices":   {"https://ca.example:8443", "http://ca.example:8443", ":5:13: public.devices[0]: ", "https://HOST:PORT"},
		"no devices' URL":    {`["https://ca.example:8443"]`, "[]", "public.devices: ", "at least one"},
		"URL with a path":    {"http://ca.example:8445", "http://ca.example:8445/x", ":7:11: public.status: ", "without a path"},
		"URL with a user":    {"https://ca.example:8444", "https://me@ca.example:8444", ":6:14: public.operators: ", "without a path"},
		"choice":             {"ldevid_lifetime:", "channel_binding: none\nldevid_lifetime:", ":21:18: channel_binding: ", `not one of exporter, nonce`},
		"log level":          {"ldevid_lifetime:", "log: {level: loud}\nldevid_lifetime:", ":21:14: log.level: ", "not one of debug"},
		"capacity":           {"ldevid_lifetime:", "crl_shard_capacity: 0\nldevid_lifetime:", ":21:21: crl_shard_capacity: ", "outside 1 to 65536"},
		"boolean as text":    {"ldevid_lifetime:", "accept_simulated_tpms: yes please\nldevid_lifetime:", ":21:24: ", `"yes please" is not true or false`},
		"no name":            {"name: Acme Devices\n", "", "name: ", "missing"},
		"long name":          {"Acme Devices", strings.Repeat("ä", 65), ":1:7: name: ", "64 characters"},
		"not YAML":           {"listen:", "listen: [", ":", ""},
		"two documents":      {"database:", "---\ndatabase:", "", "more than one YAML document"},
		"empty":              {good, "", "name: ", "missing"},
		"too large":          {"database:", "#" + strings.Repeat("x", maxSize) + "\ndatabase:", "", "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatal("the case changes nothing")
			}
			path := write(t, strings.Replace(good, c.old, c.new, 1))
			_, err := Load(path)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.HasPrefix(err.Error(), path) || !strings.Contains(err.Error(), c.where) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v\n does not say %q and %q", err, c.where, c.why)
			}
		})
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	_, err := Load(write(t, strings.NewReplacer("90s", "1h", "7d", "1s", "name: Acme Devices", "name: ''").Replace(good)))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three problems gave %v", err)
	}
	_, err = Load(filepath.Join(t.TempDir(), "hallmark.yaml"))
	if err == nil || !strings.Contains(err.Error(), "hallmarkd init") {
		t.Errorf("no file: %v", err)
	}
}

// What operators and relays have is called hallmark.yaml too, and is beside the server's or is not.
func TestAnothersFile(t *testing.T) {
	above := write(t, good)
	path := filepath.Join(filepath.Dir(above), "operator", filepath.Base(above))
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("server: https://localhost:8444\nroots: roots.pem\nidentity: identity.pem\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "not the server's configuration: that may be "+above) {
		t.Error(err)
	}
	if err := os.Remove(above); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "not the server's configuration: the folder that hallmarkd init made") {
		t.Error(err)
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"1s": time.Second, "90s": 90 * time.Second, "5m": 5 * time.Minute, "36h": 36 * time.Hour, "30d": 720 * time.Hour} {
		d, err := ParseDuration(text)
		if err != nil || d.Std() != want {
			t.Errorf("%s is %v, %v", text, d, err)
		}
		again, err := ParseDuration(d.String())
		if err != nil || again != d {
			t.Errorf("%s is written as %s", text, d)
		}
	}
	for _, text := range []string{"", "d", "1", "1.5h", "+1h", "1h30m", "1ms", " 1h", "1 h", "0x1h"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken as %v", text, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("log: {level: [}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, p, err := parse("/d/hallmark.yaml", text)
		if err == nil {
			check(c, p) // any text must end in a value or an error
		}
	})
}
