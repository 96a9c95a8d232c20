package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestChangeIsReadAsItWasWritten(t *testing.T) {
	made := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	c := Change{Number: 9, Issuer: "operational", Serial: strings.Repeat("4a", 16), Device: "edge-box:SN-1", Fingerprint: strings.Repeat("0f", 32),
		Successor: strings.Repeat("4b", 16), Status: StatusHold, Reason: ReasonWord(6), Since: made, Expires: made.AddDate(0, 1, 0)}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeChange(text); err != nil || !reflect.DeepEqual(got, c) || !got.Denied() {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := DecodeChange(bytes.Replace(text, []byte("{"), []byte(`{"newer":1,`), 1)); err != nil {
		t.Error("a newer server's key:", err)
	}
	// An issuer's own, whose signature failed, is in the feed as all are; a model's template could
	// begin with a hyphen once.
	for _, name := range []string{"OCSP responder", "-x7", strings.Repeat("x", 64)} {
		voided := c
		voided.Device, voided.Name = "", name
		if text, err = json.Marshal(voided); err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeChange(text); err != nil {
			t.Error(name, err)
		}
	}
	for name, change := range map[string]func(*Change){
		"number": func(c *Change) { c.Number = 0 }, "issuer": func(c *Change) { c.Issuer = "a/b" }, "serial": func(c *Change) { c.Serial = "4A" },
		"successor": func(c *Change) { c.Successor = "x" }, "fingerprint": func(c *Change) { c.Fingerprint = c.Serial },
		"status": func(c *Change) { c.Status = "" }, "reason": func(c *Change) { c.Reason = "" }, "since": func(c *Change) { c.Since = time.Time{} },
		"device": func(c *Change) { c.Device = "lamp:$(reboot)" }, "name": func(c *Change) { c.Name = "lamp\nHALLMARK_STATUS=good" },
		"name, but one too long":    func(c *Change) { c.Name = strings.Repeat("x", 65) },
		"device, but an option":     func(c *Change) { c.Device = "--config.:x" },
		"reason, though it is good": func(c *Change) { c.Status, c.Reason = StatusGood, "x y" },
	} {
		bad := c
		change(&bad)
		text, _ := json.Marshal(bad)
		if _, err := DecodeChange(text); err == nil {
			t.Error("accepted without a good", name)
		}
	}
	if _, err := DecodeChange(bytes.Repeat([]byte(" "), 5<<10)); err == nil {
		t.Error("an endless change was read")
	}
	if p, err := DecodePosition([]byte(`{"number":7}`)); err != nil || p.Number != 7 {
		t.Error(p, err)
	}
	if _, err := DecodePosition([]byte(`{"number":-7}`)); err == nil {
		t.Error("a negative position")
	}
}

func FuzzDecodeChange(f *testing.F) {
	f.Add([]byte(`{"number":1,"issuer":"operational","serial":"4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a","status":"good","expires":"2026-11-22T09:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeChange(data)
		if err == nil && (c.Denied() == (c.Status == StatusGood) || c.Denied() && c.Since.IsZero()) {
			t.Errorf("%+v", c)
		}
		DecodePosition(data)
	})
}
