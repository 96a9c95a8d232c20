package admin_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/makers"
)

func TestTPMs(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	in := makers.NewEKType{Maker: "STM", Model: "ST33 KTPM2A", Type: "RSA-2048"}
	got, err := h.anna.AllowEKType(ctx, in)
	check(t, err)
	if got.AllowedBy != "anna" || got.Type != "RSA-2048" || got.Since.IsZero() {
		t.Errorf("allowed %+v", got)
	}
	_, err = h.anna.AllowEKType(ctx, in)
	wantProblem(t, err, wire.CodeConflict)
	for _, bad := range []makers.NewEKType{{Maker: "STM", Model: "x"}, {Type: "L-1"}, {Type: "other-xyz"},
		{Maker: "STM\n", Type: "RSA-2048"}, {Model: strings.Repeat("x", 65), Type: "RSA-2048"}} {
		_, err := h.anna.AllowEKType(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	all, err := h.anna.EKTypes(ctx)
	check(t, err)
	if len(all.Items) != 1 || all.Items[0].Model != "ST33 KTPM2A" {
		t.Errorf("listed %+v", all.Items)
	}
}

func TestModelsAndLots(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	m, err := h.anna.CreateModel(ctx, wire.NewModel{Name: "sensor"})
	check(t, err)
	if m.Assurance != record.LevelCertified {
		t.Errorf("a model asks for %q unless told otherwise", m.Assurance)
	}
	again, err := h.anna.CreateModel(ctx, wire.NewModel{Name: "sensor", Assurance: "certified"})
	check(t, err)
	if !again.Created.Equal(m.Created.Truncate(time.Microsecond)) {
		t.Errorf("asked again: created %v, was %v", again.Created, m.Created)
	}
	_, err = h.anna.CreateModel(ctx, wire.NewModel{Name: "sensor", Assurance: "software"})
	wantProblem(t, err, wire.CodeConflict)
	living := func(seconds int64) wire.NewModel {
		return wire.NewModel{Name: "x", ModelRules: wire.ModelRules{LDevIDLifetime: &seconds}}
	}
	for _, bad := range []wire.NewModel{{Name: "Sensor"}, {Name: ""}, {Name: "x", Assurance: "best"}, living(59), living(1 << 62), living(-1)} {
		_, err := h.anna.CreateModel(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}

	l, err := h.anna.CreateLot(ctx, wire.NewLot{Name: "W47", Model: "sensor", Quota: 10})
	check(t, err)
	if l.Model != "sensor" || l.Quota != 10 || l.Listed || !l.Closed.IsZero() {
		t.Errorf("made %+v", l)
	}
	_, err = h.anna.CreateLot(ctx, wire.NewLot{Name: "W47", Model: "sensor", Quota: 10})
	check(t, err)
	_, err = h.anna.CreateLot(ctx, wire.NewLot{Name: "W47", Model: "sensor", Quota: 11})
	wantProblem(t, err, wire.CodeConflict)
	_, err = h.anna.CreateLot(ctx, wire.NewLot{Name: "W48", Model: "absent", Quota: 1})
	wantProblem(t, err, wire.CodeNotFound)
	name := "000b" + strings.Repeat("ab", 32)
	for _, bad := range []wire.NewLot{{Name: "W48"}, {Name: "../W48", Quota: 1}, {Name: "W48", Quota: -1},
		{Name: "W48", Quota: 1, EKNames: []string{"000c" + strings.Repeat("ab", 32)}}, {Name: "W48", Quota: 1, EKNames: []string{name, strings.ToUpper(name)}}} {
		_, err := h.anna.CreateLot(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	listed, err := h.anna.CreateLot(ctx, wire.NewLot{Name: "W48", Quota: 5, EKNames: []string{name}})
	check(t, err)
	if !listed.Listed || listed.Model != record.DefaultModel {
		t.Errorf("made %+v", listed)
	}
	_, err = h.anna.CreateLot(ctx, wire.NewLot{Name: "W48", Quota: 5, EKNames: []string{name}})
	wantProblem(t, err, wire.CodeConflict)

	closed, err := h.anna.CloseLot(ctx, "W47")
	check(t, err)
	if closed.Closed.IsZero() {
		t.Error("closed, but open")
	}
	_, err = h.anna.CloseLot(ctx, "absent")
	wantProblem(t, err, wire.CodeNotFound)
	lots, err := h.anna.Lots(ctx)
	check(t, err)
	models, err := h.anna.Models(ctx)
	check(t, err)
	if len(lots.Items) != 3 || len(models.Items) != 2 {
		t.Errorf("%d lots, %d models", len(lots.Items), len(models.Items))
	}
}

func TestTickets(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	got, err := h.anna.CreateTickets(ctx, wire.NewTickets{Count: 3})
	check(t, err)
	if len(got.Tickets) != 3 {
		t.Fatalf("%d tickets", len(got.Tickets))
	}
	p, err := wire.ParsePermission(wire.KindTicket, got.Tickets[0])
	check(t, err)
	if p.Server != "https://devices.test:8443" || !h.permissions.Verify(wire.KindTicket, p.ID, [32]byte{1}, p.MAC([32]byte{1})) {
		t.Errorf("the ticket %+v does not lead here", p.Server)
	}
	row, err := h.store.Ticket(ctx, p.ID)
	check(t, err)
	if row.Lot != record.DefaultLot || row.Serial != "" || row.EKName != nil || row.Expires.Sub(row.Created) != wire.DefaultTicketTTL {
		t.Errorf("recorded %+v", row)
	}

	ek := "000b" + strings.Repeat("ab", 32)
	got, err = h.anna.CreateTickets(ctx, wire.NewTickets{TTL: 90 * 24 * 3600, For: []wire.TicketFor{{Serial: "SN-1"}, {Serial: "SN-2", EKName: ek}}})
	check(t, err)
	p, err = wire.ParsePermission(wire.KindTicket, got.Tickets[1])
	check(t, err)
	row, err = h.store.Ticket(ctx, p.ID)
	check(t, err)
	if row.Serial != "SN-2" || hex.EncodeToString(row.EKName) != ek {
		t.Errorf("recorded %+v", row)
	}

	for _, bad := range []wire.NewTickets{{}, {Count: -1}, {Count: wire.MaxTickets + 1}, {Count: 1, For: []wire.TicketFor{{Serial: "a"}}},
		{For: []wire.TicketFor{{}}}, {For: []wire.TicketFor{{Serial: "To be filled by O.E.M."}}}, {For: []wire.TicketFor{{EKName: "00"}}},
		{Count: 1, TTL: 90*24*3600 + 1}, {Count: 1, TTL: -1}, {Count: 1, TTL: 1 << 62}} {
		_, err := h.anna.CreateTickets(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	_, err = h.anna.CreateTickets(ctx, wire.NewTickets{Count: 1, Lot: "absent"})
	wantProblem(t, err, wire.CodeNotFound)
	_, err = h.anna.CreateLot(ctx, wire.NewLot{Name: "W47", Quota: 1})
	check(t, err)
	_, err = h.anna.CloseLot(ctx, "W47")
	check(t, err)
	_, err = h.anna.CreateTickets(ctx, wire.NewTickets{Count: 1, Lot: "W47"})
	wantProblem(t, err, wire.CodeLotClosed)
	if verbs := h.events("operator:anna"); verbs[0] != "operator.refused" {
		t.Errorf("a refused change is written down; the newest of anna's is %q", verbs[0])
	}
	h.device(record.DefaultModel, record.DefaultLot, "SN-9")
	_, err = h.anna.Revoke(ctx, "SN-9", wire.StatusRequest{Reason: "superseded"})
	check(t, err)
	_, err = h.anna.CreateTickets(ctx, wire.NewTickets{For: []wire.TicketFor{{Serial: "SN-8"}, {Serial: "sn-9"}}})
	if p := wantProblem(t, err, wire.CodeRevoked); !strings.Contains(p.Hint, "hallmark device lift default:SN-9") || !strings.Contains(p.Hint, "a new board") {
		t.Errorf("hint: %s", p.Hint)
	}
	_, err = h.anna.CreateTickets(ctx, wire.NewTickets{For: []wire.TicketFor{{Serial: "SN-7"}, {Serial: "SN-8", EKName: "000b00"}}})
	if p := wantProblem(t, err, wire.CodeMalformed); !strings.Contains(p.Detail, `"000b00" is no EK Name`) { // to be found in a list of a thousand
		t.Errorf("detail: %s", p.Detail)
	}
}

func TestDevices(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	_, err := h.anna.CreateModel(ctx, wire.NewModel{Name: "sensor"})
	check(t, err)
	_, err = h.anna.CreateLot(ctx, wire.NewLot{Name: "W47", Model: "sensor", Quota: 10})
	check(t, err)
	for i := range 5 {
		h.device("default", "default", fmt.Sprintf("SN-%d", i))
	}
	twin := h.device("sensor", "W47", "SN-1")
	h.device("sensor", "W47", twin.ID) // a serial number that means to be taken for another device
	h.device("sensor", "W47", "default:SN-2")

	var names []string
	for after, page := "", 1; page == 1 || after != ""; page++ {
		got, err := h.anna.Devices(ctx, client.Query{Filter: "model = default AND serial:SN-*", Limit: 2, After: after})
		check(t, err)
		for _, d := range got.Items {
			names = append(names, d.Name)
		}
		after = got.After
	}
	if !slices.Equal(names, []string{"default:SN-0", "default:SN-1", "default:SN-2", "default:SN-3", "default:SN-4"}) {
		t.Errorf("listed %v", names)
	}
	_, err = h.anna.Devices(ctx, client.Query{Filter: "model = default AND colour = red", Limit: 2})
	p := wantProblem(t, err, wire.CodeFilter)
	if !strings.Contains(p.Detail, "column 21") || !strings.Contains(p.Detail, "\n                      ^") {
		t.Errorf("detail:\n%s", p.Detail)
	}

	for text, want := range map[string]string{
		"SN-3": "default:SN-3", "sn-3": "default:SN-3", "default:SN-1": "default:SN-1", "sensor:SN-1": "sensor:SN-1",
		"sensor:default:SN-2": "sensor:default:SN-2", "default:SN-2": "default:SN-2", twin.ID: "sensor:SN-1",
	} {
		d, err := h.anna.Device(ctx, text)
		check(t, err)
		if d.Name != want || len(d.Certificates) != 2 || d.Assurance != "first-use" || len(d.TPM.EKs) != 1 {
			t.Errorf("%s: got %+v", text, d)
		}
	}
	_, err = h.anna.Device(ctx, "SN-1")
	if p := wantProblem(t, err, wire.CodeAmbiguous); !strings.Contains(p.Detail, "default:SN-1, sensor:SN-1") {
		t.Errorf("detail: %s", p.Detail)
	}
	_, err = h.anna.Device(ctx, "SN-9")
	wantProblem(t, err, wire.CodeNotFound)

	found, err := h.anna.Certificates(ctx, client.Query{Filter: "device = sensor:SN-1 profile = ldevid", Limit: 10})
	check(t, err)
	if len(found.Items) != 1 || found.Items[0].Device != twin.ID || found.Items[0].Status != "good" {
		t.Fatalf("found %+v", found.Items)
	}
	serial := found.Items[0].Serial
	for _, text := range []string{serial, strings.ToUpper(serial), "0x" + serial} {
		shown, err := h.anna.Certificate(ctx, text)
		check(t, err)
		block, _ := pem.Decode([]byte(shown.PEM))
		c, err := x509.ParseCertificate(block.Bytes)
		check(t, err)
		if profile.SerialText(c.SerialNumber) != serial {
			t.Errorf("shown %x", c.SerialNumber)
		}
	}
	_, err = h.anna.Certificate(ctx, "12")
	wantProblem(t, err, wire.CodeNotFound)
}

// TestStatus ends devices, and looks at the CRLs that say so when the answer comes.
func TestStatus(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	d := h.device("default", "default", "SN-1")
	listed := func() (reasons []int) {
		for _, issuer := range []string{profile.Manufacturing, profile.Operational} {
			list, err := h.store.NewestCRL(ctx, record.Shard{Issuer: issuer, Number: 1})
			check(t, err)
			crl, err := x509.ParseRevocationList(list.DER)
			check(t, err)
			for _, entry := range crl.RevokedCertificateEntries {
				reasons = append(reasons, entry.ReasonCode)
			}
		}
		return reasons
	}
	type step struct {
		do     func(context.Context, string, wire.StatusRequest) (wire.StatusChange, error)
		ask    wire.StatusRequest
		want   wire.StatusChange
		listed []int
	}
	for i, s := range []step{
		{h.anna.Suspend, wire.StatusRequest{Why: "stolen?"}, wire.StatusChange{State: "suspended", Changed: true, Certificates: 2, Shards: 2}, []int{6, 6}},
		{h.anna.Suspend, wire.StatusRequest{}, wire.StatusChange{State: "suspended"}, []int{6, 6}},
		{h.anna.Restore, wire.StatusRequest{Why: "found"}, wire.StatusChange{State: "active", Changed: true, Certificates: 2, Shards: 2}, nil},
		{h.anna.Restore, wire.StatusRequest{}, wire.StatusChange{State: "active"}, nil},
		{h.anna.Revoke, wire.StatusRequest{Reason: "key-compromise", Why: "stolen"}, wire.StatusChange{State: "revoked", Changed: true, Certificates: 2, Shards: 2}, []int{1, 1}},
		{h.anna.Revoke, wire.StatusRequest{Reason: "superseded"}, wire.StatusChange{State: "revoked"}, []int{1, 1}},
	} {
		got, err := s.do(ctx, "SN-1", s.ask)
		check(t, err)
		if s.want.Device = d.Name(); !reflect.DeepEqual(got, s.want) {
			t.Errorf("step %d: got %+v, want %+v", i, got, s.want)
		}
		if r := listed(); !slices.Equal(r, s.listed) {
			t.Errorf("step %d: the CRLs list %v, want %v", i, r, s.listed)
		}
	}
	for _, again := range []func(context.Context, string, wire.StatusRequest) (wire.StatusChange, error){h.anna.Suspend, h.anna.Restore} {
		_, err := again(ctx, "SN-1", wire.StatusRequest{})
		wantProblem(t, err, wire.CodeRevoked)
	}
	for _, bad := range []wire.StatusRequest{{}, {Reason: "hold"}, {Reason: "superseded", Why: strings.Repeat("x", 1001)}} {
		_, err := h.anna.Revoke(ctx, "SN-1", bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	_, err := h.anna.Suspend(ctx, "SN-1", wire.StatusRequest{Reason: "superseded"})
	wantProblem(t, err, wire.CodeMalformed)

	shown, err := h.anna.Device(ctx, "SN-1")
	check(t, err)
	for _, c := range shown.Certificates {
		if c.Status != "revoked" || c.Reason != "key-compromise" {
			t.Errorf("%s: %s (%s)", c.Profile, c.Status, c.Reason)
		}
	}
	events, err := h.anna.LastEvents(ctx, 100)
	check(t, err)
	i := slices.IndexFunc(events.Items, func(e wire.Event) bool { return e.Verb == "device.revoked" })
	if i < 0 || events.Items[i].Actor != "operator:anna" || events.Items[i].Reason != "stolen" || events.Items[i].Detail["reason"] != "key-compromise" {
		t.Errorf("the audit says %+v", events.Items)
	}
}

func TestMakersCertificates(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	roots := [][]byte{h.founded[profile.Manufacturing].Root.Raw, h.founded[profile.Operational].Root.Raw}
	got, err := h.anna.ImportAuthorities(ctx, roots[:1])
	check(t, err)
	got, err = h.anna.ImportAuthorities(ctx, append(roots, roots[1]))
	check(t, err)
	if len(got.Items) != 3 || got.Items[0].New || !got.Items[1].New || got.Items[2].New || got.Items[1].AddedBy != "anna" {
		t.Fatalf("imported %+v", got.Items)
	}
	events, err := h.anna.LastEvents(ctx, 1)
	check(t, err)
	if e := events.Items[0]; e.Verb != "vendorca.imported" || e.Object != got.Items[1].Fingerprint || e.Detail["count"] != "1" {
		t.Errorf("the audit says %+v", e)
	}
	if h.changed.Load() != 2 {
		t.Errorf("the verifier was told %d times", h.changed.Load())
	}
	_, leaf := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: time.Hour}})
	for _, bad := range [][][]byte{{}, {roots[0], leaf[0]}, {append(slices.Clone(roots[0]), 0)}, {[]byte("-----BEGIN CERTIFICATE-----")}, {nil}} {
		_, err := h.anna.ImportAuthorities(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	fingerprint := got.Items[1].Fingerprint
	_, err = h.anna.RemoveAuthority(ctx, fingerprint[:7])
	wantProblem(t, err, wire.CodeMalformed)
	removed, err := h.anna.RemoveAuthority(ctx, fingerprint[:8])
	check(t, err)
	if removed.Fingerprint != fingerprint || h.changed.Load() != 3 {
		t.Errorf("removed %s, told %d times", removed.Fingerprint, h.changed.Load())
	}
	_, err = h.anna.RemoveAuthority(ctx, fingerprint)
	wantProblem(t, err, wire.CodeNotFound)
	left, err := h.anna.Authorities(ctx)
	check(t, err)
	if len(left.Items) != 1 || !strings.Contains(left.Items[0].Subject, "Acme") {
		t.Errorf("left %+v", left.Items)
	}
}

func TestAuditPages(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	for i := range 5 {
		_, err := h.anna.CreateModel(ctx, wire.NewModel{Name: fmt.Sprintf("m%d", i)})
		check(t, err)
	}
	newest, err := h.anna.LastEvents(ctx, 2)
	check(t, err)
	if len(newest.Items) != 2 || newest.Items[0].Object != "m4" {
		t.Fatalf("newest: %+v", newest.Items)
	}
	var all []int64
	for after, more := int64(0), true; more; {
		page, err := h.anna.EventsAfter(ctx, after, 2)
		check(t, err)
		for _, e := range page.Items {
			all = append(all, e.Sequence)
			after = e.Sequence
		}
		more = page.After != ""
	}
	if !slices.IsSorted(all) || all[len(all)-1] != newest.Items[0].Sequence || len(all) < 7 {
		t.Errorf("sequences %v", all)
	}
}

// TestStrangers holds up everything that is not a live operator's certificate.
func TestStrangers(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	d := h.device("default", "default", "SN-1")
	operator := profile.Content{Principal: "anna", Lifetime: time.Hour}
	strangers := map[string]*tls.Certificate{
		"nobody":      nil,
		"a device":    tlsPair(h.issue(ca.Request{Profile: profile.LDevID, Device: d.ID, Content: profile.Content{Model: "default", Serial: "SN-1", Lifetime: time.Hour}})),
		"a server":    tlsPair(h.issue(ca.Request{Profile: profile.Server, Content: profile.Content{DNSNames: []string{"anna.example"}, Lifetime: time.Hour}})),
		"unrecorded":  h.forge(h.founded[profile.Infrastructure], operator),
		"elsewhere's": newHouse(t).forge(newHouse(t).founded[profile.Infrastructure], operator),
	}
	h.offset.Store(int64(-2 * time.Hour))
	strangers["an expired one"] = tlsPair(h.issue(ca.Request{Profile: profile.Operator, Content: operator}))
	h.offset.Store(0)
	for who, with := range strangers {
		for _, ask := range []string{"GET " + wire.PathWhoami, "POST " + wire.PathTickets, "POST " + wire.PathRenewal, "POST " + wire.PathDevices + "/SN-1/revoke"} {
			method, path, _ := strings.Cut(ask, " ")
			if code, p := h.ask(method, path, `{}`, with); code != http.StatusUnauthorized || p.Code != wire.CodeUnauthorised {
				t.Errorf("%s: %s: %d %+v", who, ask, code, p)
			}
		}
	}
	if n := len(h.events("stranger")); n != 1 {
		t.Errorf("%d events about strangers within a minute", n)
	}
	h.offset.Store(int64(time.Minute))
	h.ask("POST", wire.PathTickets, `{}`, nil)
	last, err := h.store.LastEvents(ctx, 1)
	check(t, err)
	if last[0].Actor != "stranger" || last[0].Detail["not_recorded_before"] != "17" {
		t.Errorf("recorded %+v", last[0])
	}
	live, err := h.anna.Device(ctx, "SN-1")
	check(t, err)
	if live.State != record.StateActive {
		t.Error("a stranger revoked a device")
	}
}

// A server whose clock was set back says so: no certificate has ended, and no invitation helps.
func TestClockIsBehind(t *testing.T) {
	h := newHouse(t)
	anna := tlsPair(h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: time.Hour}}))
	for offset, want := range map[time.Duration]string{-48 * time.Hour: "clock", 48 * time.Hour: "invitation"} {
		h.offset.Store(int64(offset))
		if _, p := h.ask("GET", wire.PathWhoami, "", anna); p.Code != wire.CodeUnauthorised || !strings.Contains(p.Hint, want) {
			t.Errorf("%v: %+v", offset, p)
		}
	}
}

// forge makes a certificate like an operator's with the issuer's own key, past the record.
func (h *house) forge(issuer ca.Founded, content profile.Content) *tls.Certificate {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(h.t, err)
	content.Key = key.Public()
	template, err := profile.Template(profile.Operator, content, profile.Placement{Serial: profile.NewSerial(), NotBefore: h.now().Add(-time.Minute),
		Issuer: issuer.Certificate, Organisation: "Acme", CRL: profile.CRLURL(statusURL, profile.Infrastructure, 0),
		OCSP: statusURL + "/ocsp", CA: profile.CAURL(statusURL, profile.Infrastructure)})
	check(h.t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, key.Public(), issuer.Signer)
	check(h.t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestBadRequests(t *testing.T) {
	h := newHouse(t)
	anna := func() *tls.Certificate {
		key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: time.Hour}})
		return &tls.Certificate{Certificate: chain, PrivateKey: key}
	}()
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", wire.PathModels, `{"name":"a","colour":"red"}`, 400, wire.CodeMalformed},
		{"POST", wire.PathModels, `{"name":"a","name":"b"}`, 400, wire.CodeMalformed},
		{"POST", wire.PathModels, `{"Name":"a"}`, 400, wire.CodeMalformed},
		{"POST", wire.PathModels, `{"name":1}`, 400, wire.CodeMalformed},
		{"POST", wire.PathModels, `{"name":"a"} {}`, 400, wire.CodeMalformed},
		{"POST", wire.PathModels, strings.Repeat("[", 100), 400, wire.CodeMalformed},
		{"POST", wire.PathModels, ``, 400, wire.CodeMalformed},
		{"POST", wire.PathModels, `{"name":"` + strings.Repeat("a", 64<<10) + `"}`, 413, wire.CodeTooLarge},
		{"GET", wire.PathDevices + "?limit=0", ``, 400, wire.CodeMalformed},
		{"GET", wire.PathDevices + "?limit=1001", ``, 400, wire.CodeMalformed},
		{"GET", wire.PathDevices + "?limit=1&limit=2", ``, 400, wire.CodeMalformed},
		{"GET", wire.PathDevices + "?after=x", ``, 400, wire.CodeMalformed},
		{"GET", wire.PathCerts + "?after=x", ``, 400, wire.CodeMalformed},
		{"GET", wire.PathDevices + "?colour=red", ``, 400, wire.CodeMalformed},
		{"GET", wire.PathDevices + "?filter=" + strings.Repeat("a", 5000), ``, 400, wire.CodeFilter},
		{"GET", wire.PathAudit + "?after=x", ``, 400, wire.CodeMalformed},
		{"GET", "/v1/unheard-of", ``, 404, wire.CodeNotFound},
		{"PUT", wire.PathModels, `{}`, 404, wire.CodeNotFound},
		{"GET", wire.PathModels + "/absent", ``, 404, wire.CodeNotFound},
	} {
		if status, p := h.ask(c.method, c.path, c.body, anna); status != c.status || p.Code != c.code || p.Detail == "" {
			t.Errorf("%s %.60s %.60s: %d %+v, want %d %s", c.method, c.path, c.body, status, p, c.status, c.code)
		}
	}
}

// TestOtherSites: a browser that holds an operator's certificate does not act for
// another site's page.
func TestOtherSites(t *testing.T) {
	h := newHouse(t)
	key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: time.Hour}})
	pool := x509.NewCertPool()
	pool.AddCert(h.founded[profile.Infrastructure].Root)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}}}
	for name, header := range map[string]http.Header{
		"a form":   {"Content-Type": {"text/plain"}},
		"a script": {"Content-Type": {"application/json"}, "Origin": {"https://elsewhere.example"}},
		"a page":   {"Content-Type": {"application/json"}, "Sec-Fetch-Site": {"cross-site"}},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", h.server.URL+wire.PathModels, bytes.NewReader([]byte(`{"name":"evil"}`)))
		check(t, err)
		req.Header = header
		resp, err := c.Do(req)
		check(t, err)
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	_, err := h.anna.Model(t.Context(), "evil")
	wantProblem(t, err, wire.CodeNotFound)
}
