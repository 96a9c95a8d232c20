package recordtest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// queryFor names everything by which a device can be found.
func queryFor(d record.Device) record.Query {
	return record.Query{Serial: d.Serial, EK: d.EKs[0].Fingerprint, EKName: d.EKs[0].Name, AK: d.AKName, Device: d.ID}
}

// admission: a new device from ticket to record, seen by its judge and afterwards.
func admission(t *testing.T, b *bench) {
	d := newDevice()
	d.EKs = append(d.EKs, record.EK{Fingerprint: sha256.Sum256([]byte(d.ID)), Name: []byte("second"), Public: []byte("p")})
	b.must(b.CreateLot(b.ctx, record.Lot{Name: "listed", Model: "default", Quota: 2, Created: Now}, [][]byte{d.EKs[0].Name}, event("lot.created")))
	d.Lot = "listed"
	ticket := record.Ticket{ID: id("ticket"), Lot: "listed", Serial: strings.ToLower(d.Serial), Created: Now, Expires: Now.Add(time.Hour)}
	b.must(b.CreateTickets(b.ctx, []record.Ticket{ticket}, event("tickets.created")))

	q := queryFor(d)
	q.Session, q.Ticket, q.Serial = "session", ticket.ID, "" // the ticket's serial number stands in
	got, err := b.Admit(b.ctx, q, func(v record.View) (record.Admission, error) {
		if v.SessionRedeemed || v.Ticket == nil || !v.Ticket.Redeemed.IsZero() || v.Lot == nil || v.Lot.Used != 0 || v.Model == nil || !v.OnList {
			t.Errorf("first view: %+v", v)
		}
		if v.ByEK != nil || v.BySerial != nil || v.ByAK != nil || v.ByID != nil || v.Tombstones != nil {
			t.Errorf("first view knows the device: %+v", v)
		}
		return record.Admission{Device: d, Session: q.Session, Expires: Now.Add(time.Minute), Ticket: q.Ticket, Event: event("device.enrolled")}, nil
	})
	b.must(err)
	b.equal("admitted device", got, d)
	b.recorded("device.enrolled")

	v, err := b.Look(b.ctx, q)
	b.must(err)
	if !v.SessionRedeemed || v.Lot.Used != 1 || !v.Ticket.Redeemed.Equal(Now) || v.Ticket.Device != d.ID {
		t.Errorf("view afterwards: %+v", v)
	}
	for how, found := range map[string]*record.Device{"EK": v.ByEK, "serial": v.BySerial, "AK": v.ByAK, "ID": v.ByID} {
		if found == nil {
			t.Errorf("not found by %s", how)
			continue
		}
		b.equal("device by "+how, *found, d)
	}
	v, err = b.Look(b.ctx, record.Query{EK: d.EKs[1].Fingerprint, EKName: []byte("nobody's")})
	b.must(err)
	if v.ByEK == nil || v.Lot == nil || v.Lot.Name != "listed" || v.Model == nil || v.OnList || v.Ticket != nil || v.ByID != nil {
		t.Errorf("view by the second EK alone: %+v", v)
	}
	for _, serial := range []string{strings.ToUpper(d.Serial), strings.ToLower(d.Serial)} {
		v, err = b.Look(b.ctx, record.Query{Device: d.ID, Serial: serial})
		b.must(err)
		if v.BySerial == nil {
			t.Errorf("not found as %s", serial)
		}
	}
	v, err = b.Look(b.ctx, record.Query{Session: "other", Ticket: "nil", Serial: "nil", EK: [32]byte{1}, AK: []byte("nil"), Device: "nil", Issuer: "nil", CertificateSerial: "nil"})
	b.must(err)
	b.equal("view of nothing", v, record.View{})
}

// admissionRefused: what no judge can allow. Each leaves no trace.
func admissionRefused(t *testing.T, b *bench) {
	known := newDevice()
	ticket := record.Ticket{ID: id("ticket"), Lot: "default", Created: Now, Expires: Now}
	b.must(b.CreateTickets(b.ctx, []record.Ticket{ticket}, event("tickets.created")))
	b.must(b.CreateLot(b.ctx, record.Lot{Name: "shut", Model: "default", Created: Now}, nil, event("lot.created")))
	b.must(b.CloseLot(b.ctx, "shut", Now, event("lot.closed")))
	b.must(b.CreateModel(b.ctx, record.Model{Name: "lamp", Assurance: record.LevelSoftware, Created: Now}, event("model.created")))
	_, err := b.Admit(b.ctx, record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: known, Session: "used", Expires: Now, Ticket: ticket.ID, Event: event("device.enrolled")}, nil
	})
	b.must(err)

	for what, change := range map[string]func(*record.Admission){
		"session redeemed twice":       func(a *record.Admission) { a.Session, a.Expires = "used", Now },
		"ticket redeemed twice":        func(a *record.Admission) { a.Ticket = ticket.ID },
		"unknown ticket":               func(a *record.Admission) { a.Ticket = "nil" },
		"unknown certificate used":     func(a *record.Admission) { a.Used = true },
		"closed lot":                   func(a *record.Admission) { a.Device.Lot = "shut" },
		"unknown lot":                  func(a *record.Admission) { a.Device.Lot = "nil" },
		"model of another lot":         func(a *record.Admission) { a.Device.Model = "lamp" },
		"born suspended":               func(a *record.Admission) { a.Device.State = record.StateSuspended },
		"EK of another":                func(a *record.Admission) { a.Device.EKs = known.EKs },
		"EK of another as second":      func(a *record.Admission) { a.Device.EKs = append(a.Device.EKs, known.EKs...) },
		"AK of another":                func(a *record.Admission) { a.Device.AKName = known.AKName },
		"serial number of another":     func(a *record.Admission) { a.Device.Serial = known.Serial },
		"serial number of other case":  func(a *record.Admission) { a.Device.Serial = strings.ToLower(known.Serial) },
		"known device, other lot":      func(a *record.Admission) { a.Device = known; a.Device.Lot = "shut" },
		"known device, other model":    func(a *record.Admission) { a.Device = known; a.Device.Model = "lamp" },
		"known device, other serial":   func(a *record.Admission) { a.Device = known; a.Device.Serial = "other" },
		"known device, other state":    func(a *record.Admission) { a.Device = known; a.Device.State = record.StateRevoked },
		"known device, other start":    func(a *record.Admission) { a.Device = known; a.Device.Enrolled = Now.Add(time.Hour) },
		"known device, EK forgotten":   func(a *record.Admission) { a.Device = known; a.Device.EKs = nil },
		"known device, session reused": func(a *record.Admission) { a.Device = known; a.Session, a.Expires = "used", Now },
	} {
		a := record.Admission{Device: newDevice(), Event: event("x")}
		change(&a)
		b.refused(what, record.ErrConflict, func() error {
			_, err := b.Admit(b.ctx, record.Query{Issuer: "operational", CertificateSerial: "nil"}, func(record.View) (record.Admission, error) { return a, nil })
			return err
		})
	}
	software := newDevice()
	software.EKs, software.AKName, software.AKPublic = nil, nil, nil
	b.must(b.admit(software))
	software.ID, software.Serial, software.Key = id("device"), id("SN"), sha256.Sum256([]byte("another"))
	if err := b.admit(software); err != nil {
		t.Errorf("a second device without hardware: %v", err)
	}
}

// admissionAgain: a recorded device comes back and more is learnt of it.
func admissionAgain(t *testing.T, b *bench) {
	d := b.enrolled()
	d.Renewed, d.Seen = Now.Add(time.Hour), Now.Add(2*time.Hour)
	b.must(b.admit(d))
	b.equalDevice(d)
	d.Assurance = record.Assurance{Registered: true, Hardware: true}
	d.AKName, d.AKPublic, d.Key = []byte("new ak"), []byte("new public"), sha256.Sum256([]byte("new"))
	d.TPMMaker, d.TPMModel, d.TPMFirmware = "OTHR", "other", "9.9.0.0"
	d.EKs = slices.Clone(d.EKs)
	d.EKs[0].Certificate, d.EKs[0].Issuer = []byte("later"), "CN=Later"
	d.EKs = append(d.EKs, record.EK{Fingerprint: sha256.Sum256([]byte("further")), Name: []byte("n"), Public: []byte("p")})
	b.must(b.admit(d))
	b.equalDevice(d)
	l, err := b.Lot(b.ctx, d.Lot)
	b.must(err)
	if l.Used != 1 {
		t.Errorf("one device was counted %d times", l.Used)
	}
	other := b.enrolled()
	d.AKName = other.AKName
	b.refused("AK of another device", record.ErrConflict, func() error { return b.admit(d) })
}

// seen: the first time stays with the certificate, the last with the device.
func seen(t *testing.T, b *bench) {
	d := b.enrolled()
	c := b.issue(newIntent(d.ID))
	for _, at := range []time.Time{Now.Add(2 * time.Hour), Now.Add(time.Hour), Now.Add(3 * time.Hour)} {
		b.must(b.Seen(b.ctx, c.Issuer, c.Serial, at))
	}
	if got := b.status(c); !got.Used.Equal(Now.Add(2 * time.Hour)) {
		t.Errorf("first used at %v", got.Used)
	}
	d.Seen = Now.Add(3 * time.Hour)
	b.equalDevice(d)
	b.refused("no such certificate", record.ErrNotFound, func() error { return b.Seen(b.ctx, c.Issuer, "00", Now) })
}

func (b *bench) equalDevice(want record.Device) {
	b.Helper()
	got, err := b.Device(b.ctx, want.ID)
	b.must(err)
	got.Expires, got.KeyAlgorithm = time.Time{}, "" // the store's own, see labels
	b.equal("device", got, want)
}

// judges: what a judge says comes back as it is, and what it breaks breaks only itself.
func judges(t *testing.T, b *bench) {
	want := errors.New("no")
	var got error
	b.refused("judge refuses", want, func() error {
		_, got = b.Admit(b.ctx, record.Query{}, func(record.View) (record.Admission, error) { return record.Admission{}, want })
		return got
	})
	if got != want {
		t.Errorf("the judge's error came back as %v", got)
	}
	func() {
		defer func() {
			if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "judge lost its head") {
				t.Errorf("the panic of a judge came back as %v", p)
			}
		}()
		b.Admit(b.ctx, record.Query{}, func(record.View) (record.Admission, error) { panic("judge lost its head") })
	}()
	b.enrolled() // the store has survived
}

// viewOfRenewal: the certificate that was shown leads to its device and its newest.
func viewOfRenewal(t *testing.T, b *bench) {
	d := b.enrolled()
	idevid := newIntent(d.ID)
	idevid.Issuer, idevid.Profile = "manufacturing", "idevid"
	idevid = b.issue(idevid)
	q := record.Query{Issuer: idevid.Issuer, CertificateSerial: idevid.Serial}
	v, err := b.Look(b.ctx, q)
	b.must(err)
	if v.Presented == nil || v.Newest != nil || v.ByID == nil || v.Lot == nil || v.Model == nil {
		t.Fatalf("view by IDevID: %+v", v)
	}
	b.equal("presented", *v.Presented, idevid)
	holder, err := b.Holder(b.ctx, idevid.Issuer, idevid.Serial)
	b.must(err)
	b.equal("holder", holder, *v.ByID)
	own := newIntent("")
	own.Profile = "server"
	for what, c := range map[string]record.Certificate{"another issuer": {Issuer: "operational", Serial: idevid.Serial}, "a server's": b.issue(own)} {
		_, err := b.Holder(b.ctx, c.Issuer, c.Serial)
		b.isErr("holder of "+what, err, record.ErrNotFound)
	}
	old, newest := b.issue(newIntent(d.ID)), b.issue(newIntent(d.ID))
	b.intend(newIntent(d.ID)) // not issued, so not the newest

	q = record.Query{Issuer: old.Issuer, CertificateSerial: old.Serial}
	for i := range 2 {
		_, err = b.Admit(b.ctx, q, func(v record.View) (record.Admission, error) {
			b.equal("device of the certificate", v.ByID.ID, d.ID)
			b.equal("newest", *v.Newest, newest)
			e := event("device.renewed")
			e.Time = Now.Add(time.Duration(i) * time.Minute)
			return record.Admission{Device: *v.ByID, Used: true, Event: e}, nil
		})
		b.must(err)
	}
	if got := b.status(old).Used; !got.Equal(Now) {
		t.Errorf("first used at %v, want %v", got, Now)
	}
	if got := b.status(newest).Used; !got.IsZero() {
		t.Errorf("another certificate was marked as used at %v", got)
	}
}

// quotaRace: a thousand want a hundred places.
func quotaRace(t *testing.T, b *bench) {
	b.must(b.CreateLot(b.ctx, record.Lot{Name: "small", Model: "default", Quota: 100, Created: Now}, nil, event("lot.created")))
	n := b.parallel(1000, func(int) error {
		d := newDevice()
		d.Lot = "small"
		return b.admit(d)
	})
	b.equalLot(record.Lot{Name: "small", Model: "default", Quota: 100, Used: 100, Created: Now})
	devices, _, err := b.Devices(b.ctx, nil, record.Page{Limit: 1000})
	b.must(err)
	if n != 100 || len(devices) != 100 {
		t.Errorf("%d admissions and %d devices in a quota of 100", n, len(devices))
	}
}

// redemptionRace: a session and a ticket are good for one of a hundred.
func redemptionRace(t *testing.T, b *bench) {
	ticket := record.Ticket{ID: id("ticket"), Lot: "default", Created: Now, Expires: Now.Add(time.Hour)}
	b.must(b.CreateTickets(b.ctx, []record.Ticket{ticket}, event("tickets.created")))
	for what, a := range map[string]record.Admission{"session": {Session: "s", Expires: Now}, "ticket": {Ticket: ticket.ID}} {
		n := b.parallel(100, func(int) error {
			a := a
			a.Device, a.Event = newDevice(), event("device.enrolled")
			_, err := b.Admit(b.ctx, record.Query{}, func(record.View) (record.Admission, error) { return a, nil })
			return err
		})
		if n != 1 {
			t.Errorf("one %s was redeemed %d times", what, n)
		}
	}
	if got, _ := b.Ticket(b.ctx, ticket.ID); got.Device == "" {
		t.Error("the redeemed ticket names no device")
	}
}

// identityRace: one chip cannot become two devices, nor one serial number two chips.
func identityRace(t *testing.T, b *bench) {
	for what, share := range map[string]func(d *record.Device, with record.Device){
		"EK":     func(d *record.Device, with record.Device) { d.EKs = with.EKs },
		"AK":     func(d *record.Device, with record.Device) { d.AKName = with.AKName },
		"serial": func(d *record.Device, with record.Device) { d.Serial = with.Serial },
		"ID":     func(d *record.Device, with record.Device) { d.ID = with.ID },
	} {
		first := newDevice()
		n := b.parallel(50, func(int) error {
			d := newDevice()
			share(&d, first)
			return b.admit(d)
		})
		if n != 1 {
			t.Errorf("%d devices with the same %s", n, what)
		}
	}
}

// tombstones returns what bars a device, as KIND=VALUE.
func (b *bench) tombstones(d record.Device) (all []string) {
	b.Helper()
	for _, ek := range d.EKs {
		v, err := b.Look(b.ctx, record.Query{EK: ek.Fingerprint, AK: d.AKName, Serial: strings.ToUpper(d.Serial)})
		b.must(err)
		for _, t := range v.Tombstones {
			if t.Device != d.ID || t.Reason != "stolen" || !t.Since.Equal(Now) {
				b.Errorf("tombstone: %+v", t)
			}
			all = append(all, t.Kind+"="+t.Value)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// barred is what tombstones must return for a revoked device.
func barred(d record.Device) (all []string) {
	for _, ek := range d.EKs {
		all = append(all, "ek="+hex.EncodeToString(ek.Fingerprint[:]))
	}
	all = append(all, "ak="+hex.EncodeToString(d.AKName), "serial="+d.Model+":"+record.Fold(d.Serial))
	slices.Sort(all)
	return all
}
