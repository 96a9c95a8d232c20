package record_test

import (
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/record"
	"pgregory.net/rapid"
)

func TestCheckSubject(t *testing.T) {
	for _, good := range []string{"{serial}", "acme-{serial}", "{serial}.devices.acme.example", strings.Repeat("a", 24) + "{serial}"} {
		if err := record.CheckSubject(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "acme", "{serial}{serial}", "a:{serial}", "{serial},O=x", "{Serial}", strings.Repeat("a", 25) + "{serial}", "{serial}\n", "-x{serial}"} {
		if err := record.CheckSubject(bad); err == nil {
			t.Errorf("%q is a template", bad)
		}
	}
}

// TestSubjectsAreOneDevices: if no two templates of an installation collide, no two
// devices have one name, whatever their serial numbers. Serial numbers are compared
// without case, and so must names be.
func TestSubjectsAreOneDevices(t *testing.T) {
	text := rapid.StringMatching(`[ab.-]{0,3}`)
	serial := rapid.StringMatching(`[abB:.-]{1,6}`)
	rapid.Check(t, func(t *rapid.T) {
		model := func(name string) record.Model {
			m := record.Model{Name: name}
			if rapid.Bool().Draw(t, "templated") {
				m.Subject = text.Draw(t, "before") + "{serial}" + text.Draw(t, "after")
			}
			return m
		}
		a, b := model("a"), model("b")
		if a.Subject != "" && b.Subject != "" && record.SubjectsCollide(a.Subject, b.Subject) {
			return
		}
		s, u := serial.Draw(t, "one serial"), serial.Draw(t, "another serial")
		if record.Fold(a.CommonName(s)) == record.Fold(b.CommonName(u)) {
			t.Fatalf("%s of %+v and %s of %+v are both %s", s, a, u, b, a.CommonName(s))
		}
		if s != u && record.Fold(s) != record.Fold(u) && a.CommonName(s) == a.CommonName(u) {
			t.Fatalf("%s and %s of one model are both %s", s, u, a.CommonName(s))
		}
	})
}

func TestServeNames(t *testing.T) {
	for _, good := range []string{"{serial}.local", "lamp-{serial}.example.com,{serial}-x.local", "{serial}.a.b.c.d"} {
		if err := record.CheckServeNames(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "{serial}", "{serial}.", ".local", "lamp.local", "{serial}{serial}.local", "{Serial}.local", "a.{serial}.local", "{serial}.local,", "{serial}..local",
		"{serial}.local.", "-{serial}.local", "{serial}-.local", "*.{serial}.local", "{serial}.loc al", "{serial}.Local", "{serial}.-local", "a_{serial}.local", "{serial}.local/",
		strings.Repeat("a", 21) + "{serial}.local", "{serial}" + strings.Repeat(".local", 20), "{serial}.a,{serial}.b,{serial}.c,{serial}.d,{serial}.e", "{serial}.192.0.2.{serial}"} {
		if record.CheckServeNames(bad) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
	m := record.Model{Name: "lamp", ServeNames: "{serial}.local,lamp-{serial}.example.com"}
	if got := strings.Join(m.ServerNames("SN-1"), " "); got != "sn-1.local lamp-sn-1.example.com" {
		t.Error(got)
	}
	// No two serial numbers may come to one name.
	for _, serial := range []string{"SN_1", "SN.1", "SN:1", "-SN1", "SN1-", ""} {
		if got := m.ServerNames(serial); got != nil {
			t.Errorf("%q serves as %q", serial, got)
		}
	}
	if got := (record.Model{Name: "lamp"}).ServerNames("SN-1"); got != nil {
		t.Error(got)
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"{serial}.local", "{serial}.local", true}, {"{serial}.local", "a-{serial}.local", true}, {"a-{serial}.local", "b-{serial}.local", false},
		{"{serial}.local", "{serial}.example", false}, {"{serial}.x,a{serial}.y", "ab{serial}.y", true}, {"", "{serial}.local", false}, {"", "", false},
		{"{serial}-a.x", "{serial}-b.x", false},
	} {
		if got := record.ServeNamesCollide(c.a, c.b); got != c.want || record.ServeNamesCollide(c.b, c.a) != c.want {
			t.Errorf("%q, %q: %v", c.a, c.b, got)
		}
	}
}
