package identity

import (
	"errors"
	"strings"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/record"
)

func TestCheckSerial(t *testing.T) {
	for _, bad := range []string{"", " ", "To be filled by O.E.M.", "to-be-filled-by-o.e.m.", "Default-string", "System Serial Number", "0000000000", "00:00:00",
		"None", "N.A.", "SN\x00\x00", "SN 1", "SN/1", "SN+1", "SN#1", "Sé1", strings.Repeat("A", 41), "....", "1234567890", "\tSN1", "-rf", "--to:x"} {
		if CheckSerial(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	for _, good := range []string{"SN-1", "PF2X0231", "a.b_c:d", strings.Repeat("A", 40), "7", "000001"} {
		if err := CheckSerial(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

var now = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func facts(ek byte) attest.Facts {
	return attest.Facts{Kind: attest.KindTPM2, Key: []byte("key"), TPM: &attest.TPM{EKFingerprint: [32]byte{ek}, EKName: []byte{0, 11, ek}, AKName: []byte("ak"), Firmware: 0x0007000200010000}}
}

func recorded() record.Device {
	return record.Device{ID: "d", Model: "default", Lot: "default", Serial: "SN-1", State: record.StateActive, Assurance: record.Assurance{Hardware: true},
		EKs: []record.EK{{Fingerprint: [32]byte{1}}}, AKName: []byte("ak"), Key: sha256.Sum256([]byte("key"))}
}

func TestEnrolling(t *testing.T) {
	d := recorded()
	lot := &record.Lot{Name: "l", Model: "m"}
	for name, c := range map[string]struct {
		facts  attest.Facts
		serial string
		view   record.View
		code   string // of the clash; empty if there is none
		known  bool
		newEK  bool
	}{
		"new":                          {facts(1), "SN-2", record.View{Lot: lot}, "", false, false},
		"returns":                      {facts(1), "SN-1", record.View{ByEK: &d, ByAK: &d, BySerial: &d}, "", true, false},
		"returns without serial":       {facts(1), "", record.View{ByEK: &d, ByAK: &d}, "", true, false},
		"returns in other case":        {facts(1), "sn-1", record.View{ByEK: &d, ByAK: &d, BySerial: &d}, "", true, false},
		"further EK of the chip":       {facts(2), "SN-1", record.View{ByAK: &d, BySerial: &d}, "", true, true},
		"same EK, other serial":        {facts(1), "SN-2", record.View{ByEK: &d, ByAK: &d}, "ek-taken", false, false},
		"same serial, other EK and AK": {facts(2), "SN-1", record.View{BySerial: &d}, "serial-taken", false, false},
		"other chip, its public key":   {facts(2), "SN-2", record.View{ByKey: &d, Lot: lot}, "ek-taken", false, false},
		"no chip, a chip's key":        {attest.Facts{Key: []byte("key"), Birth: []byte("key")}, "SN-1", record.View{ByKey: &d, BySerial: &d}, "ek-taken", false, false},
	} {
		who, err := Enrolling(c.facts, "", c.serial, "new", c.view, now)
		var clash *Clash
		if errors.As(err, &clash) != (c.code != "") || clash != nil && clash.Code != c.code {
			t.Errorf("%s: error %v, want code %q", name, err, c.code)
			continue
		}
		if err == nil && (who.Known != c.known || who.NewEK != c.newEK) {
			t.Errorf("%s: known %v, new EK %v", name, who.Known, who.NewEK)
		}
	}
	other := facts(1)
	other.TPM.AKName = []byte("another")
	if _, err := Enrolling(other, "", "", "new", record.View{ByEK: &d}, now); err == nil {
		t.Error("another attestation key beside a known EK was accepted")
	}
	key := facts(1)
	key.Key = []byte("another")
	if _, err := Enrolling(key, "", "", "new", record.View{ByEK: &d}, now); err == nil {
		t.Error("another IDevID key of a known device was accepted")
	}
	who, err := Enrolling(facts(1), "", "SN-2", "new", record.View{Lot: lot, OnList: true}, now)
	if err != nil {
		t.Fatal(err)
	}
	if got := who.Device; got.ID != "new" || got.Model != "m" || got.Lot != "l" || got.TPMFirmware != "7.2.1.0" || got.Assurance.String() != "registered" {
		t.Errorf("new device %+v", got)
	}
}

func TestRenewingNeedsTheRecordedAK(t *testing.T) {
	d := recorded()
	f := facts(1)
	who, err := Renewing(f, record.View{ByID: &d}, now)
	if err != nil || !who.Device.Renewed.Equal(now) {
		t.Errorf("%+v, %v", who, err)
	}
	f.TPM.AKName = []byte("another")
	if _, err := Renewing(f, record.View{ByID: &d}, now); err == nil {
		t.Error("another AK renewed")
	}
	if _, err := Renewing(facts(1), record.View{}, now); err == nil {
		t.Error("an unknown device renewed")
	}
}

func FuzzCheckSerial(f *testing.F) {
	f.Add("SN-1")
	f.Add("To be filled by O.E.M.")
	f.Fuzz(func(t *testing.T, s string) {
		if CheckSerial(s) == nil && (len(s) > maxSerial || strings.ContainsAny(s, "/+#\x00 \n\"'\\,=")) {
			t.Errorf("%q was accepted", s)
		}
	})
}
