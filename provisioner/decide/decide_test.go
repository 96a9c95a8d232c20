package decide

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/record"
)

var now = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// good is a case that every rule lets pass.
func good() Case {
	return Case{
		Now: now, Ticket: "t", Serial: "SN-1",
		Facts: attest.Facts{TPM: &attest.TPM{EKName: []byte("ek")}},
		Who:   identity.Identity{Device: record.Device{ID: "d", Serial: "SN-1", State: record.StateActive, Assurance: record.Assurance{Hardware: true}}},
		View: record.View{
			Ticket: &record.Ticket{ID: "t", Expires: now.Add(time.Minute)},
			Lot:    &record.Lot{Name: "l", Model: "m", Quota: 2, Used: 1},
			Model:  &record.Model{Name: "m", Assurance: record.LevelFirstUse},
		},
	}
}

func code(err error) string {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}

func TestEachRuleRefusesItsCase(t *testing.T) {
	if err := Enrolment(good()); err != nil {
		t.Fatalf("the good case: %v", err)
	}
	for want, spoil := range map[string]func(*Case){
		"identity-barred":   func(c *Case) { c.View.Tombstones = []record.Tombstone{{Kind: "ek", Since: now}} },
		"ticket-needed":     func(c *Case) { c.Ticket = "" },
		"ticket-invalid":    func(c *Case) { c.View.Ticket = nil },
		"ticket-used":       func(c *Case) { c.View.Ticket.Redeemed = now.Add(-time.Hour) },
		"ticket-expired":    func(c *Case) { c.View.Ticket.Expires = now },
		"serial-invalid":    func(c *Case) { c.Who.Device.Serial = "None" },
		"ticket-serial":     func(c *Case) { c.View.Ticket.Serial = "SN-2" },
		"ticket-ek":         func(c *Case) { c.View.Ticket.EKName = []byte("other") },
		"lot-closed":        func(c *Case) { c.View.Lot.Closed = now },
		"ek-not-listed":     func(c *Case) { c.View.Lot.Listed = true },
		"assurance-too-low": func(c *Case) { c.View.Model.Assurance = record.LevelCertified },
		"ek-type": func(c *Case) {
			c.Facts.TPM.Certified, c.Facts.TPM.EKType, c.View.EKTypes = true, "RSA-2048", []string{"P-256", "P-384"}
		},
		"quota-full": func(c *Case) { c.View.Lot.Used = 2 },
	} {
		c := good()
		spoil(&c)
		if got := code(Enrolment(c)); got != want {
			t.Errorf("want %s, got %q", want, got)
		}
	}
}

// What each rule must let pass.
func TestEachRuleLetsPass(t *testing.T) {
	certified := func(c *Case, types ...string) {
		c.Facts.TPM.Certified, c.Facts.TPM.EKType, c.View.EKTypes = true, "P-256", types
	}
	for name, change := range map[string]func(*Case){
		"a TPM on its lot's list":           func(c *Case) { c.View.Lot.Listed, c.View.OnList = true, true },
		"a lot without a quota":             func(c *Case) { c.View.Lot.Quota, c.View.Lot.Used = 0, 1000 },
		"the first chip of its make":        func(c *Case) { certified(c) },
		"the EK that counts":                func(c *Case) { certified(c, "RSA-2048", "P-256") },
		"another EK, of an unproved make":   func(c *Case) { c.Facts.TPM.EKType, c.View.EKTypes = "P-256", []string{"RSA-2048"} },
		"no TPM, where the model allows it": func(c *Case) { c.Facts.TPM, c.View.EKTypes = nil, []string{"P-256"} },
		"the ticket's serial in other case": func(c *Case) { c.View.Ticket.Serial = "sn-1" },
	} {
		c := good()
		change(&c)
		if err := Enrolment(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTicketOfThisTPM(t *testing.T) {
	c := good()
	c.View.Ticket.EKName = []byte("ek")
	if err := Enrolment(c); err != nil {
		t.Error(err)
	}
	c.Facts.TPM = nil
	if got := code(Enrolment(c)); got != "ticket-ek" {
		t.Errorf("without a TPM: got %q", got)
	}
}

// A serial number that is barred may be a slip of the pen; a chip that is barred is not.
func TestClashOfABarredChip(t *testing.T) {
	clash := &identity.Clash{Code: "ek-taken"}
	for kind, want := range map[string]string{"ek": "identity-barred", "ak": "identity-barred", "serial": ""} {
		err := Clash(clash, record.View{Tombstones: []record.Tombstone{{Kind: kind, Since: now}}})
		if code(err) != want || want == "" && err != error(clash) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestReturningNeedsNoTicketAndNoPlace(t *testing.T) {
	c := good()
	c.Who.Known, c.Ticket, c.View.Ticket, c.View.Lot.Used = true, "", nil, 2
	if err := Enrolment(c); err != nil {
		t.Error(err)
	}
	for state, want := range map[string]string{record.StateSuspended: "device-suspended", record.StateRevoked: "device-revoked", "odd": "device-revoked"} {
		c.Who.Device.State = state
		if got := code(Enrolment(c)); got != want {
			t.Errorf("%s: got %q, want %q", state, got, want)
		}
	}
}

// Whoever has no chip is not told about chips' certificates.
func TestSoftwareIsTheHint(t *testing.T) {
	for _, level := range []string{record.LevelCertified, record.LevelRegistered, record.LevelFirstUse} {
		c := good()
		c.View.Model.Assurance, c.Facts.TPM, c.Who.Device.Assurance = level, nil, record.Assurance{}
		if r := new(Refusal); !errors.As(Enrolment(c), &r) || !strings.Contains(r.Hint, "--key tpm") || !strings.HasSuffix(r.Detail, "this key is in none") {
			t.Errorf("%s: %+v", level, r)
		}
	}
}

// Whoever lacks a maker's root is told which; whoever lacks a certificate, which models take it.
func TestUncertifiedIsTheHint(t *testing.T) {
	for why, want := range map[string]string{"": "asks for registered or first-use", "import the root of X": "import the root of X"} {
		c := good()
		c.View.Model.Assurance, c.Facts.TPM.Uncertified = record.LevelCertified, why
		if r := new(Refusal); !errors.As(Enrolment(c), &r) || !strings.Contains(r.Hint, want) {
			t.Errorf("%q: %+v", why, r)
		}
	}
}

func TestUnknownAssuranceLevelIsMetByNothing(t *testing.T) {
	c := good()
	c.View.Model.Assurance = "cretified"
	c.Who.Device.Assurance = record.Assurance{Certified: true, Registered: true, Hardware: true}
	if got := code(Enrolment(c)); got != "assurance-too-low" {
		t.Errorf("got %q", got)
	}
}

func TestWhichCertificateMayRenew(t *testing.T) {
	cert := func(serial, profile, predecessor string, used bool) *record.Certificate {
		c := &record.Certificate{Serial: serial, Profile: profile, Device: "d", DER: []byte{1}, Predecessor: predecessor}
		if used {
			c.Used = now
		}
		return c
	}
	revoked := cert("1", "ldevid", "", false)
	revoked.Revoked = now
	stranger := cert("1", "ldevid", "", false)
	stranger.Device = "e"
	intent := cert("1", "ldevid", "", false)
	intent.DER = nil
	for name, c := range map[string]struct {
		presented, newest *record.Certificate
		want              string
	}{
		"IDevID":                       {cert("0", "idevid", "", true), cert("9", "ldevid", "8", true), ""},
		"newest":                       {cert("2", "ldevid", "1", false), cert("2", "ldevid", "1", false), ""},
		"first":                        {cert("1", "ldevid", "0", false), nil, ""},
		"predecessor, successor fresh": {cert("1", "ldevid", "0", true), cert("2", "ldevid", "1", false), ""},
		"predecessor, successor used":  {cert("1", "ldevid", "0", true), cert("2", "ldevid", "1", true), "certificate-old"},
		"grandparent":                  {cert("1", "ldevid", "0", true), cert("3", "ldevid", "2", false), "certificate-old"},
		"AK certificate":               {cert("5", "ak", "", true), nil, "unauthorised"},
		"unknown":                      {nil, nil, "certificate-unknown"},
		"of another device":            {stranger, nil, "certificate-unknown"},
		"only intended":                {intent, nil, "certificate-unknown"},
		"revoked":                      {revoked, revoked, "certificate-revoked"},
	} {
		k := good()
		k.Who.Known, k.View.Presented, k.View.Newest = true, c.presented, c.newest
		if got := code(Renewal(k)); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if c.want != "certificate-old" {
			continue
		}
		k.Who.Device.Assurance = record.Assurance{} // where no chip holds the key, it exists twice
		if r := new(Refusal); !errors.As(Renewal(k), &r) || r.Code != "key-forked" || !r.Suspend {
			t.Errorf("%s, software key: %+v", name, r)
		}
	}
}

func TestWhoComesBackWithoutAGrant(t *testing.T) {
	in := func(d time.Duration) *record.Certificate { return &record.Certificate{NotAfter: now.Add(d)} }
	for name, c := range map[string]struct {
		spoil func(*Case)
		want  string
	}{
		"first-use TPM, LDevID in force":    {func(*Case) {}, ""},
		"its last second":                   {func(c *Case) { c.View.Newest = in(0) }, ""},
		"LDevID run out":                    {func(c *Case) { c.View.Newest = in(-time.Second) }, "grant-needed"},
		"LDevID revoked":                    {func(c *Case) { c.View.Newest.Revoked = now }, "grant-needed"},
		"LDevID lost from the record":       {func(c *Case) { c.View.Newest = nil }, "grant-needed"},
		"another endorsement key":           {func(c *Case) { c.Who.NewEK = true }, "grant-needed"},
		"software key, LDevID in force":     {func(c *Case) { c.Who.Device.Assurance = record.Assurance{} }, "grant-needed"},
		"software key that never renewed":   {func(c *Case) { c.Who.Device.Assurance, c.Who.Device.Renewed = record.Assurance{}, time.Time{} }, ""},
		"software key, another in place":    {func(c *Case) { c.Who.Device.Assurance, c.Who.NewKey = record.Assurance{}, true }, "grant-needed"},
		"certified TPM, LDevID run out":     {func(c *Case) { c.Who.Device.Assurance.Certified, c.View.Newest = true, in(-time.Hour) }, ""},
		"registered TPM, LDevID run out":    {func(c *Case) { c.Who.Device.Assurance.Registered, c.View.Newest = true, in(-time.Hour) }, ""},
		"certified meanwhile":               {func(c *Case) { c.Facts.TPM.Certified, c.View.Newest = true, in(-time.Hour) }, ""},
		"its enrolment ticket, not run out": {func(c *Case) { c.View.Ticket.Device, c.Ticket, c.View.Newest = "d", "t", nil }, ""},
		"granted": {func(c *Case) {
			c.View.Newest, c.View.Grant = in(-time.Hour), &record.Grant{ID: "g", Device: "d", Expires: now.Add(time.Hour)}
		}, ""},
		"granted until just now": {func(c *Case) {
			c.View.Newest, c.View.Grant = in(-time.Hour), &record.Grant{ID: "g", Device: "d", Expires: now}
		}, "grant-needed"},
		"granted to another": {func(c *Case) {
			c.View.Newest, c.View.Grant = in(-time.Hour), &record.Grant{ID: "g", Device: "e", Expires: now.Add(time.Hour)}
		}, "grant-needed"},
		"its key's successor, on another unit": {func(c *Case) {
			c.View.Grant = &record.Grant{ID: "g", Device: "d", NewKey: true, Expires: now.Add(time.Hour)}
			c.Who.Device.Assurance, c.Who.NewKey, c.Serial = record.Assurance{}, true, "SN-2"
		}, "ticket-serial"},
		"key declared lost": {func(c *Case) {
			c.Who.Device.Assurance, c.View.Grant = record.Assurance{}, &record.Grant{ID: "g", Device: "d", NewKey: true, Expires: now.Add(time.Hour)}
			c.View.Lost = c.View.Grant
		}, "grant-needed"},
		"key declared lost, and found": {func(c *Case) {
			c.Who.Device.Assurance, c.View.Lost = record.Assurance{}, &record.Grant{ID: "g", Device: "d", NewKey: true, Expires: now}
			c.View.Grant = &record.Grant{ID: "h", Device: "d", Expires: now.Add(time.Hour)}
		}, ""},
		"key declared lost, and what came later ended": {func(c *Case) {
			c.Who.Device.Assurance, c.Who.Device.Renewed = record.Assurance{}, time.Time{}
			c.View.Lost = &record.Grant{ID: "g", Device: "d", NewKey: true, Expires: now.Add(-time.Hour)}
			c.View.Grant = &record.Grant{ID: "h", Device: "d", Expires: now}
		}, "grant-needed"},
	} {
		k := good()
		k.Who.Known, k.Ticket, k.Who.Device.Renewed, k.View.Newest = true, "", now.Add(-48*time.Hour), in(time.Hour)
		c.spoil(&k)
		if got := code(Enrolment(k)); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// A device that slept for longer than its model lets it comes back, and renews, only by a grant.
func TestGrace(t *testing.T) {
	ended := func(ago time.Duration) *record.Certificate {
		return &record.Certificate{Serial: "1", Profile: "ldevid", Device: "d", DER: []byte{1}, NotAfter: now.Add(-ago)}
	}
	for name, c := range map[string]struct {
		spoil func(*Case)
		want  string
	}{
		"within it":            {func(*Case) {}, ""},
		"a second after it":    {func(c *Case) { c.View.Newest = ended(24*time.Hour + time.Second) }, "grace-over"},
		"a model without end":  {func(c *Case) { c.View.Newest, c.View.Model.Grace = ended(9999*time.Hour), 0 }, ""},
		"never renewed at all": {func(c *Case) { c.View.Newest = nil }, ""},
		"no model":             {func(c *Case) { c.View.Newest, c.View.Model = ended(48*time.Hour), nil }, ""},
		"granted": {func(c *Case) {
			c.View.Newest, c.View.Grant = ended(48*time.Hour), &record.Grant{ID: "g", Device: "d", Expires: now.Add(time.Hour)}
		}, ""},
	} {
		k := good()
		k.Who.Known, k.Ticket, k.Who.Device.Assurance.Certified = true, "", true
		k.View.Newest, k.View.Model.Grace = ended(24*time.Hour), 24*time.Hour
		k.View.Presented = &record.Certificate{Serial: "0", Profile: "idevid", Device: "d", DER: []byte{1}}
		c.spoil(&k)
		if got := code(Enrolment(k)); got != c.want {
			t.Errorf("%s: coming back: got %q, want %q", name, got, c.want)
		}
		if got := code(Renewal(k)); got != c.want {
			t.Errorf("%s: renewing: got %q, want %q", name, got, c.want)
		}
	}
}

// Whoever has to put a chip on a list or a ticket reads in the refusal which chip that is.
func TestChipIsNamed(t *testing.T) {
	for name, spoil := range map[string]func(*Case){
		"list":       func(c *Case) { c.View.Lot.Listed = true },
		"ticket":     func(c *Case) { c.View.Ticket.EKName = []byte("other") },
		"registered": func(c *Case) { c.View.Model.Assurance = record.LevelRegistered },
	} {
		c := good()
		spoil(&c)
		if err := Enrolment(c); err == nil || !strings.Contains(err.Error(), "its EK Name is 656b") {
			t.Errorf("%s: %v", name, err)
		}
		c.Facts.TPM = nil
		if err := Enrolment(c); err == nil || strings.Contains(err.Error(), "EK Name") {
			t.Errorf("%s, no TPM: %v", name, err)
		}
	}
}

// A serial number that is taken has several causes at the line, and each another remedy.
func TestSerialTaken(t *testing.T) {
	clash := &identity.Clash{Code: "serial-taken", Detail: "another TPM is enrolled as m:SN-1"}
	for name, a := range map[string]struct {
		view         record.View
		detail, hint string
	}{
		"another board": {record.View{BySerial: &record.Device{ID: "d", State: record.StateActive}}, "another TPM is enrolled as m:SN-1", ""},
		"another ticket": {record.View{BySerial: &record.Device{ID: "d", State: record.StateActive}, Ticket: &record.Ticket{Redeemed: now, Device: "e"}},
			"another TPM is enrolled as m:SN-1", ""},
		"the same ticket": {record.View{BySerial: &record.Device{ID: "d", State: record.StateActive}, Ticket: &record.Ticket{Redeemed: now, Device: "d"}},
			"another TPM is enrolled as m:SN-1, with this very ticket, at 2026-11-22 09:00:00 UTC", "this board's own ticket"},
		"replaced board": {record.View{BySerial: &record.Device{ID: "d", State: record.StateRevoked}},
			"another TPM is enrolled as m:SN-1, which is revoked", "a serial number of its own"},
	} {
		err := Clash(clash, a.view)
		r := &Refusal{}
		errors.As(err, &r)
		if err.Error() != a.detail || a.hint == "" != (r.Hint == "") || !strings.Contains(r.Hint, a.hint) || a.hint != "" && r.Code != "serial-taken" {
			t.Errorf("%s: %v; %+v", name, err, r)
		}
	}
}
