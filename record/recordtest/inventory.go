package recordtest

import (
	"errors"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hallmark-pki/hallmark/record"
)

// paging: whatever happens between two pages, what was there at the beginning comes
// once, in order.
func paging(t *testing.T, b *bench) {
	var devices, certificates []string
	for range 25 {
		d := b.enrolled()
		devices = append(devices, d.ID)
		certificates = append([]string{b.intend(newIntent(d.ID)).Serial}, certificates...)
	}
	var seen, seenCertificates []string
	page, pageOfCertificates := record.Page{Limit: 10}, record.Page{Limit: 10}
	for i := range 4 {
		list, next, err := b.Devices(b.ctx, nil, page)
		b.must(err)
		for _, d := range list {
			seen = append(seen, d.ID)
		}
		page.After = next
		listed, nextOfCertificates, err := b.Certificates(b.ctx, nil, pageOfCertificates)
		b.must(err)
		for _, c := range listed {
			if c.DER != nil {
				t.Error("a list carries whole certificates")
			}
			seenCertificates = append(seenCertificates, c.Serial)
		}
		pageOfCertificates.After = nextOfCertificates
		if next == "" && nextOfCertificates == "" {
			break
		}
		if len(list) != 10 || len(listed) != 10 {
			t.Errorf("page %d has %d devices and %d certificates, and is not the last", i, len(list), len(listed))
		}
		if i == 0 { // what was seen, what will be, and what is new
			for _, id := range []string{devices[0], devices[20]} {
				_, err := b.Revoke(b.ctx, id, Now, 0, "", event("device.revoked"))
				b.must(err)
			}
			b.intend(newIntent(b.enrolled().ID))
		}
	}
	b.equal("devices", seen[:min(25, len(seen))], devices)
	if len(seen) != 26 {
		t.Errorf("%d devices were seen of 25 and one enrolled meanwhile", len(seen))
	}
	b.equal("certificates", seenCertificates, certificates)

	list, next, err := b.Devices(b.ctx, nil, record.Page{Limit: 26})
	if err != nil || len(list) != 26 || next != "" {
		t.Errorf("a page of all: %d, next %q, %v", len(list), next, err)
	}
	for _, bad := range []record.Page{{}, {Limit: -1}, {Limit: 1001}, {Limit: 1, After: "x"}, {Limit: 1, After: "-1"}, {Limit: 1, After: "1 OR 1"}} {
		if _, _, err := b.Devices(b.ctx, nil, bad); err == nil || errors.Is(err, record.ErrBadCursor) != (bad.After != "") {
			t.Errorf("devices: page %+v: %v", bad, err)
		}
		if _, _, err := b.Certificates(b.ctx, nil, bad); err == nil || errors.Is(err, record.ErrBadCursor) != (bad.After != "") {
			t.Errorf("certificates: page %+v: %v", bad, err)
		}
	}
}

func lookUps(t *testing.T, b *bench) {
	b.must(b.CreateModel(b.ctx, record.Model{Name: "lamp", Assurance: record.LevelSoftware, Created: Now}, event("model.created")))
	b.must(b.CreateLot(b.ctx, record.Lot{Name: "lamps", Model: "lamp", Created: Now}, nil, event("lot.created")))
	one, two := newDevice(), newDevice()
	two.Model, two.Lot, two.Serial = "lamp", "lamps", strings.ToLower(one.Serial)
	b.must(b.admit(one))
	b.must(b.admit(two))
	named := func(model, serial string, want ...record.Device) {
		t.Helper()
		got, err := b.DevicesNamed(b.ctx, model, serial)
		b.must(err)
		b.equal("devices named "+serial, got, want)
	}
	named("", one.Serial, one, two)
	named("", strings.ToLower(one.Serial), one, two)
	named("lamp", one.Serial, two)
	named("lamp", "nil")
	named("nil", one.Serial)
	_, err := b.Device(b.ctx, "nil")
	b.isErr("unknown device", err, record.ErrNotFound)

	c := newIntent(one.ID)
	c = b.issue(c)
	same := newIntent("")
	same.Issuer, same.Serial = "infrastructure", c.Serial
	same = b.issue(same)
	got, err := b.CertificatesNumbered(b.ctx, c.Serial)
	b.must(err)
	b.equal("certificates numbered", got, []record.Certificate{same, c})
	got, err = b.CertificatesNumbered(b.ctx, newSerial())
	if err != nil || len(got) != 0 {
		t.Errorf("certificates of an unknown number: %v, %v", got, err)
	}
}

// outstanding: what holders have of an issuer, without what a newer one has taken the place of.
func outstanding(t *testing.T, b *bench) {
	of := func(issuer string, key []byte, want record.Outstanding) {
		t.Helper()
		got, err := b.Outstanding(b.ctx, issuer, key, Now)
		b.must(err)
		b.equal("outstanding of "+issuer, got, want)
	}
	f := b.fleet() // a good one, a newer intent, an expired one, a void one
	until := f.good.NotAfter
	all := record.Outstanding{Good: 2, Denied: 1, Until: until, Newest: f.revoke.Serial}
	of("operational", nil, all)
	of("nobody", nil, record.Outstanding{})
	another := newIntent(f.device.ID)
	another.Issuer, another.Profile = "manufacturing", "ak"
	b.issue(another)
	of("operational", nil, all)
	next := newIntent(f.device.ID)
	next.Issuer = "operational-2"
	next = b.issue(next)
	of("operational", nil, record.Outstanding{Denied: 1, Until: until, Newest: f.revoke.Serial})
	of("operational-2", nil, record.Outstanding{Good: 1, Until: until, Newest: next.Serial})
	of("operational-2", next.DER[40:60], record.Outstanding{})
	of("operational-2", []byte("of another issuer's"), record.Outstanding{Good: 1, Until: until, Newest: next.Serial})
	// One of another profile takes nobody's place, nor one that was not signed, has ended or was revoked.
	b.must(b.RecoverOperator(b.ctx, "anna", Now, event("operator.recovered")))
	intent := func(issuer, profile string) record.Certificate {
		c := newIntent("")
		c.Issuer, c.Principal, c.Profile = issuer, "anna", profile
		return c
	}
	mine := func(issuer, profile string) record.Certificate { return b.issue(intent(issuer, profile)) }
	revoke := func(issuer string) {
		t.Helper()
		j := b.create(record.Job{Kind: record.JobRevokeIssuer, Issuer: issuer}, record.Selection{Holding: issuer})
		b.step(j.ID, 10)
	}
	own := newIntent("") // the installation's own are nobody's
	own.Issuer = "infrastructure"
	b.issue(own)
	of("infrastructure", nil, record.Outstanding{})
	first := mine("infrastructure", "operator")
	mine("infrastructure-2", "relay")
	b.intend(intent("infrastructure-2", "operator"))
	ended := intent("infrastructure-2", "operator")
	ended.NotBefore, ended.NotAfter = Now.Add(-48*time.Hour), Now.Add(-24*time.Hour)
	b.issue(ended)
	of("infrastructure", nil, record.Outstanding{Good: 1, Until: until, Newest: first.Serial})
	mine("infrastructure-2", "operator")
	of("infrastructure", nil, record.Outstanding{})
	revoke("infrastructure-2")
	of("infrastructure", nil, record.Outstanding{Good: 1, Until: until, Newest: first.Serial})
	revoke("operational-2")
	of("operational", nil, all)
	if _, err := b.RevokePrincipal(b.ctx, "anna", Now, 0, event("operator.ended")); err != nil {
		t.Fatal(err)
	}
	of("infrastructure", nil, record.Outstanding{Denied: 1, Until: until, Newest: first.Serial})

	for _, issuer := range []string{"operational-2", "operational", "operational"} {
		_, _, err := b.ReserveShard(b.ctx, issuer, 2, 2)
		b.must(err)
	}
	names, err := b.Issuers(b.ctx)
	b.must(err)
	b.equal("issuers", names, []string{"operational", "operational-2"})
}

// words are values of text fields, chosen for what they mean to a pattern language,
// and patterns what to ask of them.
var (
	words    = []string{"", "a", "A", "ab", "a*b", "a?b", "a[b]", "100%_x", "it's", `"`, "é", "zz"}
	patterns = []string{"*", "a*", "*b", "*?*", "*[*", "*]", "*_*", "*%*", "*'*", "**", "*e*d", "SN-*0*", "sn*", "active", "suspended", "certified",
		"certified+registered", "first-use", "default", "operational"}
	comparisons = []string{record.OpEqual, record.OpNotEqual, record.OpLess, record.OpLessEqual, record.OpGreater, record.OpGreaterEqual, record.OpHas}
)

// selectors: what a store selects is what the same condition selects in memory.
func selectors(t *testing.T, b *bench) {
	devices := b.variety()
	certificates, _, err := b.Certificates(b.ctx, nil, record.Page{Limit: 1000})
	b.must(err)
	checkDevices := func(t rapid.TB, s *record.Selector, limit int) {
		var want, got []string
		for _, d := range devices {
			if holds(s, func(field string) any { return deviceValue(d, field) }) {
				want = append(want, d.ID)
			}
		}
		for p := (record.Page{Limit: limit}); ; {
			list, next, err := b.Devices(b.ctx, s, p)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range list {
				got = append(got, d.ID)
			}
			if p.After = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v: got devices %v, want %v", s, got, want)
		}
	}
	for _, field := range []string{"tpm.model", "ek.issuer", "serial", record.LabelField + "site"} {
		for _, op := range comparisons {
			for _, value := range append(patterns, words...) {
				checkDevices(t, &record.Selector{Op: op, Field: field, Value: value}, 1000)
			}
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		checkDevices(r, draw(r, record.DeviceFields, 3), rapid.IntRange(1, 50).Draw(r, "limit"))
	})
	checkCertificates := func(t rapid.TB, s *record.Selector) {
		var want, got []string
		for _, c := range certificates {
			if holds(s, func(field string) any { return certificateValue(c, field) }) {
				want = append(want, c.Serial)
			}
		}
		list, _, err := b.Certificates(b.ctx, s, record.Page{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			got = append(got, c.Serial)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v: got certificates %v, want %v", s, got, want)
		}
	}
	for _, op := range comparisons {
		for _, device := range []string{devices[0].ID, devices[5].ID, "nil", "", "*"} {
			s := &record.Selector{Op: op, Field: "device", Value: device}
			checkCertificates(t, s)
			checkCertificates(t, &record.Selector{Op: record.OpNot, Args: []*record.Selector{s}})
		}
	}
	rapid.Check(t, func(r *rapid.T) { checkCertificates(r, draw(r, record.CertificateFields, 3)) })
}

// variety fills the store with devices and certificates that differ in every field.
func (b *bench) variety() []record.Device {
	pick := func() string { return words[rand.IntN(len(words))] }
	for i := range 60 {
		d := newDevice()
		d.Serial += pick()
		d.TPMMaker, d.TPMModel, d.TPMFirmware = pick(), pick(), pick()
		d.Assurance = record.Assurance{Certified: i&1 != 0, Registered: i&2 != 0, Hardware: i&4 != 0}
		d.EKs[0].Issuer = pick()
		switch i % 5 {
		case 0:
			d.EKs = nil
		case 1:
			d.EKs = append(d.EKs, newDevice().EKs[0])
			d.EKs[1].Issuer = pick()
		}
		d.Enrolled = Now.Add(time.Duration(rand.IntN(4)) * time.Hour)
		label := pick()
		if i%3 != 0 {
			d.Renewed = Now.Add(time.Duration(rand.IntN(4)) * time.Hour)
		}
		b.must(b.admit(d))
		if label != "zz" {
			_, err := b.LabelDevices(b.ctx, record.Selection{Devices: []string{d.ID}}, map[string]string{"site": label, "other": pick()}, nil, event("device.labelled"))
			b.must(err)
		}
		for j := range 3 {
			c := newIntent(d.ID)
			c.Subject, c.KeyAlgorithm = pick(), pick()
			c.NotAfter = Now.Add(time.Duration(rand.IntN(3)-1) * time.Microsecond)
			if j == 0 {
				c.Device = ""
			}
			if b.intend(c); j != 1 {
				b.must(b.Complete(b.ctx, []record.Certificate{signed(c)}, event("certificate.issued")))
			}
		}
		var err error
		switch i % 7 {
		case 0:
			_, err = b.Suspend(b.ctx, d.ID, Now.Add(time.Duration(rand.IntN(3))*time.Hour), event("device.suspended"))
		case 1:
			_, err = b.Revoke(b.ctx, d.ID, Now.Add(time.Duration(rand.IntN(3))*time.Hour), record.ReasonCessation, "stolen", event("device.revoked"))
		}
		b.must(err)
	}
	all, _, err := b.Devices(b.ctx, nil, record.Page{Limit: 1000})
	b.must(err)
	return all
}

// draw makes a random selector.
func draw(r *rapid.T, fields map[string]record.FieldKind, depth int) *record.Selector {
	if depth > 0 {
		switch op := rapid.SampledFrom([]string{"", record.OpAnd, record.OpOr, record.OpNot}).Draw(r, "op"); op {
		case record.OpNot:
			return &record.Selector{Op: op, Args: []*record.Selector{draw(r, fields, depth-1)}}
		case record.OpAnd, record.OpOr:
			s := &record.Selector{Op: op}
			for range rapid.IntRange(2, 3).Draw(r, "parts") {
				s.Args = append(s.Args, draw(r, fields, depth-1))
			}
			return s
		}
	}
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	field := rapid.SampledFrom(names).Draw(r, "field")
	if field == record.LabelField {
		field += "site"
	}
	s := &record.Selector{Field: field}
	ops := comparisons
	switch {
	case fields[field] == record.Time:
		ops = comparisons[:6]
		s.Value = Now.Add(time.Duration(rapid.IntRange(-1, 5).Draw(r, "hours")) * time.Hour)
	case field == "status":
		ops = comparisons[:2]
		s.Value = rapid.SampledFrom([]string{"intended", "good", "hold", "revoked", "expired"}).Draw(r, "status")
	default:
		s.Value = rapid.SampledFrom(append(patterns, words...)).Draw(r, "value")
	}
	s.Op = rapid.SampledFrom(ops).Draw(r, "comparison")
	return s
}

// holds evaluates a selector in memory.
func holds(s *record.Selector, value func(field string) any) bool {
	part := func(a *record.Selector) bool { return holds(a, value) }
	switch s.Op {
	case record.OpAnd:
		return !slices.ContainsFunc(s.Args, func(a *record.Selector) bool { return !part(a) })
	case record.OpOr:
		return slices.ContainsFunc(s.Args, part)
	case record.OpNot:
		return !part(s.Args[0])
	case record.OpNotEqual:
		return !holds(&record.Selector{Op: record.OpEqual, Field: s.Field, Value: s.Value}, value)
	}
	switch v := value(s.Field).(type) {
	case time.Time:
		return !v.IsZero() && ordered(s.Op, v.Compare(s.Value.(time.Time)))
	case string:
		return holdsText(s, v)
	case []string:
		return slices.ContainsFunc(v, func(v string) bool { return holdsText(s, v) })
	}
	return false
}

func holdsText(s *record.Selector, v string) bool {
	want := s.Value.(string)
	if s.Field == "serial" && strings.HasPrefix(v, "sn-") { // a device's
		want = record.Fold(want)
	}
	if s.Op == record.OpHas {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(want), `\*`, ".*")
		return regexp.MustCompile(`(?s)\A` + pattern + `\z`).MatchString(v)
	}
	return ordered(s.Op, strings.Compare(v, want))
}

func ordered(op string, c int) bool {
	switch op {
	case record.OpEqual:
		return c == 0
	case record.OpLess:
		return c < 0
	case record.OpLessEqual:
		return c <= 0
	case record.OpGreater:
		return c > 0
	}
	return c >= 0
}

func deviceValue(d record.Device, field string) any {
	switch field {
	case "model":
		return d.Model
	case "lot":
		return d.Lot
	case "serial":
		return record.Fold(d.Serial)
	case "state":
		return d.State
	case "assurance":
		return d.Assurance.String()
	case "tpm.maker":
		return d.TPMMaker
	case "tpm.model":
		return d.TPMModel
	case "tpm.firmware":
		return d.TPMFirmware
	case "ek.issuer":
		var all []string
		for _, ek := range d.EKs {
			all = append(all, ek.Issuer)
		}
		return all
	case "enrolled":
		return d.Enrolled
	case "renewed":
		return d.Renewed
	case "expires":
		return d.Expires
	case "key.alg":
		return d.KeyAlgorithm
	case record.LabelField + "site":
		if v, ok := d.Labels["site"]; ok {
			return v
		}
		return nil
	case "seen":
		return d.Seen
	}
	panic("recordtest does not know the field " + field)
}

func certificateValue(c record.Certificate, field string) any {
	switch field {
	case "issuer":
		return c.Issuer
	case "serial":
		return c.Serial
	case "profile":
		return c.Profile
	case "subject":
		return c.Subject
	case "device":
		return c.Device
	case "status":
		return record.StatusOf(c, Now)
	case "key.alg":
		return c.KeyAlgorithm
	case "issued":
		return c.Issued
	case "expires":
		return c.NotAfter
	case "revoked":
		return c.Revoked
	}
	panic("recordtest does not know the field " + field)
}

func selectorsRefused(t *testing.T, b *bench) {
	equal := func(field string, value any) *record.Selector {
		return &record.Selector{Op: record.OpEqual, Field: field, Value: value}
	}
	many := &record.Selector{Op: record.OpOr}
	for range 500 {
		many.Args = append(many.Args, equal("model", "x"))
	}
	for what, s := range map[string]*record.Selector{
		"unknown field":     equal("password", "x"),
		"SQL in a field":    equal("model = model OR d.model", "x"),
		"no field":          equal("", "x"),
		"no label":          equal(record.LabelField, "x"),
		"unknown operator":  {Op: "~", Field: "model", Value: "x"},
		"no operator":       {Field: "model", Value: "x"},
		"text for a time":   equal("enrolled", "2026"),
		"time for a text":   equal("model", Now),
		"zero time":         equal("enrolled", time.Time{}),
		"pattern of a time": {Op: record.OpHas, Field: "enrolled", Value: Now},
		"no value":          equal("model", nil),
		"and of one":        {Op: record.OpAnd, Args: []*record.Selector{equal("model", "x")}},
		"not of two":        {Op: record.OpNot, Args: []*record.Selector{equal("model", "x"), equal("model", "x")}},
		"missing part":      {Op: record.OpOr, Args: []*record.Selector{nil, nil}},
		"too many parts":    many,
		"too many stars":    {Op: record.OpHas, Field: "model", Value: "*a*a*a*a*a*a*a*a*"},
	} {
		if list, _, err := b.Devices(b.ctx, s, record.Page{Limit: 1}); err == nil {
			t.Errorf("%s: selected %v", what, list)
		}
	}
	for what, s := range map[string]*record.Selector{
		"unknown status":    equal("status", "fine"),
		"order of a status": {Op: record.OpLess, Field: "status", Value: "good"},
		"a device's field":  equal("tpm.maker", "x"),
	} {
		if list, _, err := b.Certificates(b.ctx, s, record.Page{Limit: 1}); err == nil {
			t.Errorf("%s: selected %v", what, list)
		}
	}
}
