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
	for _, bad := range []string{"", "acme", "{serial}{serial}", "a:{serial}", "{serial},O=x", "{Serial}", strings.Repeat("a", 25) + "{serial}", "{serial}\n"} {
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
