package state

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/wire"
)

// golden is what stands in testdata/state-1: the state as it was first shipped.
func golden() Set {
	var trust wire.SignedBundle
	if text, err := os.ReadFile("testdata/trust.json"); err != nil || json.Unmarshal(text, &trust) != nil {
		panic("testdata/trust.json")
	}
	at := func(n int64) time.Time { return time.Unix(1_800_000_000+n, 0).UTC() }
	return Set{
		Settings: Settings{Device: "edge-box:SN-0001", Model: "edge-box", Serial: "SN-0001", TPM: "/dev/tpmrm0", Key: "tpm",
			Server: "https://ca.example:8443", Pins: []string{strings.Repeat("0f", 32)},
			Trust:      trust,
			Next:       &wire.Challenge{Session: []byte{3}, Credential: []byte{4}, Secret: []byte{5}, Expires: at(1)},
			RenewAfter: at(2), Steering: wire.Steering{Start: at(2), End: at(3), Poll: 21600},
			Network: client.Memory{Server: "https://ca.example:8443", Addresses: map[string]string{"ca.example:8443": "192.0.2.1:8443"}}},
		IDevID: [][]byte{certificate(1, 1), certificate(1, 2)}, AK: [][]byte{certificate(2, 1), certificate(1, 2)}, LDevID: [][]byte{certificate(3, 1), certificate(3, 2)}, LDevIDKey: []byte("a key\n"),
		Fresh: [][]byte{certificate(4, 1), certificate(3, 2)}, FreshKey: []byte("another key\n"),
	}
}

func goldenOutcome() Outcome {
	return Outcome{Contact: time.Unix(1_800_000_000, 0).UTC(), Version: "v1.0.0", Failures: 2,
		Failure: &Failure{Time: time.Unix(1_800_000_001, 0).UTC(), Code: "network", Detail: "away"}}
}

// shipped is a state folder as a device has it, from testdata.
func shipped(t *testing.T) *Dir {
	t.Helper()
	root := filepath.Join(t.TempDir(), "state")
	if err := os.CopyFS(root, os.DirFS(filepath.Join("testdata", "state-1"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "set"), filepath.Join(root, setName(7))); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(setName(7), filepath.Join(root, currentLink)); err != nil {
		t.Fatal(err)
	}
	return At(root)
}

// What an earlier version has left is read as it was meant.
func TestStateOfAnEarlierVersion(t *testing.T) {
	d := shipped(t)
	if got := load(t, d); !reflect.DeepEqual(got, golden()) {
		t.Errorf("got  %+v\nwant %+v", got, golden())
	}
	if got := d.Outcome(); !reflect.DeepEqual(got, goldenOutcome()) {
		t.Errorf("got  %+v\nwant %+v", got, goldenOutcome())
	}
}

// An earlier version reads what this one writes, for a slot may be rolled back: every file
// is where it was, and says in the same words what it said. Words may be added.
func TestStateForAnEarlierVersion(t *testing.T) {
	d := At(t.TempDir())
	if err := d.Save(golden()); err != nil {
		t.Fatal(err)
	}
	if err := d.SaveOutcome(goldenOutcome()); err != nil {
		t.Fatal(err)
	}
	before := shipped(t)
	for _, name := range []string{settingsFile, idevidFile, akFile, ldevidFile, keyFile, freshFile, freshKeyFile} {
		then, now := read(t, before, currentLink, name), read(t, d, currentLink, name)
		if strings.HasSuffix(name, ".json") {
			includes(t, name, object(t, then), object(t, now))
		} else if then != now {
			t.Errorf("%s was %q and is %q", name, then, now)
		}
	}
	includes(t, outcomeFile, object(t, read(t, before, "", outcomeFile)), object(t, read(t, d, "", outcomeFile)))
}

func read(t *testing.T, d *Dir, set, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.path, set, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func object(t *testing.T, text string) (o map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// includes wants everything that was said to be said still.
func includes(t *testing.T, what string, then, now map[string]any) {
	t.Helper()
	for key, was := range then {
		inner, isObject := was.(map[string]any)
		is, still := now[key].(map[string]any)
		if isObject && still {
			includes(t, what+"."+key, inner, is)
		} else if !reflect.DeepEqual(was, now[key]) {
			t.Errorf("%s: %s was %v and is %v: an earlier version would not find it", what, key, was, now[key])
		}
	}
}

// What a later version has added is passed over, and what it shares with this one used.
func TestStateOfALaterVersion(t *testing.T) {
	d := shipped(t)
	settings := object(t, read(t, d, currentLink, settingsFile))
	settings["format"], settings["colour"] = 9, map[string]any{"of": "the box"}
	settings["steering"].(map[string]any)["mood"] = "calm"
	settings["trust"].(map[string]any)["witnesses"] = []string{"x"}
	outcome := object(t, read(t, d, "", outcomeFile))
	outcome["weather"] = "fine"
	for name, contents := range map[string]any{
		filepath.Join(currentLink, settingsFile): settings, outcomeFile: outcome,
		filepath.Join(currentLink, "ldevid-rsa.pem"): "of a later version", filepath.Join(setName(7), "new-folder.json"): 1,
		"set-later": 1, "later.json": 1,
	} {
		text, err := json.Marshal(contents)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.path, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := load(t, d); !reflect.DeepEqual(got, golden()) {
		t.Errorf("got  %+v\nwant %+v", got, golden())
	}
	if got := d.Outcome(); !reflect.DeepEqual(got, goldenOutcome()) {
		t.Errorf("got  %+v\nwant %+v", got, goldenOutcome())
	}
	// And this one goes on from there.
	if err := d.Save(set('x')); err != nil || number(t, load(t, d)) != 'x' {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(d.path, "later.json")); err != nil {
		t.Error("a stranger's file is gone:", err)
	}
}
