package native_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func TestEnrolAndRenew(t *testing.T) {
	i := install(t, settings{})
	for n, o := range []simtpm.Options{{}, {EK: "L-1"}, {EK: "H-3"}, {RSA: true}} {
		if o.EK != "" {
			i.allow(t, map[string]string{"L-1": "RSA-2048", "H-3": "P-384"}[o.EK])
		}
		serial := fmt.Sprintf("SN-%d", n)
		u := i.unit(t, o)
		id, err := u.Enrol(i.ticket(t, nil), serial)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		if id.Device != "default:"+serial || len(id.IDevID) != 2 || len(id.AK) != 2 || id.LDevID != nil || id.Next == nil || id.Trust != 1 {
			t.Errorf("%+v: identity %+v", o, id)
		}
		leaf, err := x509.ParseCertificate(id.IDevID[0])
		if err != nil {
			t.Fatal(err)
		}
		if kind, _ := profile.Of(leaf); kind != profile.IDevID || !leaf.NotAfter.Equal(profile.NoEnd) {
			t.Errorf("IDevID is a %s until %s", kind, leaf.NotAfter)
		}
		first, err := u.Renew(u.IDevID)
		if err != nil {
			t.Fatalf("first renewal: %v", err)
		}
		second, err := u.Renew(u.LDevID)
		if err != nil {
			t.Fatalf("second renewal: %v", err)
		}
		if bytes.Equal(first.LDevID[0], second.LDevID[0]) || second.RenewAfter.Before(time.Now().Add(19*24*time.Hour)) {
			t.Errorf("renewed to %v", second.RenewAfter)
		}
	}
	if es, err := i.store.LastEvents(t.Context(), 100); err != nil || len(es) < 4*6 {
		t.Errorf("%d events, %v", len(es), err)
	}
}

// A device whose answer was lost, or that was reset, gets the same identity, uncounted,
// with its used ticket or with none.
func TestComingBackIsUncounted(t *testing.T) {
	i := install(t, settings{})
	u := i.unit(t, simtpm.Options{})
	ticket := i.ticket(t, nil)
	first, err := u.Enrol(ticket, "SN-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]func() (*wire.Identity, error){
		"same ticket":          func() (*wire.Identity, error) { return u.Enrol(ticket, "SN-1") },
		"no ticket":            func() (*wire.Identity, error) { return u.Enrol(wire.Permission{}, "") },
		"no ticket but serial": func() (*wire.Identity, error) { return u.Enrol(wire.Permission{}, "sn-1") },
	} {
		id, err := again()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(id.IDevID[0], first.IDevID[0]) || !bytes.Equal(id.AK[0], first.AK[0]) {
			t.Errorf("%s: another identity", name)
		}
	}
	// A fresh ticket shown by a known device is not used up.
	spare := i.ticket(t, nil)
	if _, err := u.Enrol(spare, "SN-1"); err != nil {
		t.Error(err)
	}
	if got, err := i.store.Ticket(t.Context(), spare.ID); err != nil || !got.Redeemed.IsZero() {
		t.Errorf("the spare ticket was used up: %+v, %v", got, err)
	}
	if lot, err := i.store.Lot(t.Context(), record.DefaultLot); err != nil || lot.Used != 1 {
		t.Errorf("the lot counts %d devices, %v", lot.Used, err)
	}
}

// TestOneEndorsementKeyCounts: of the several that a certified make of chip has, that of
// the first one, until an operator allows another (design decision 5).
func TestOneEndorsementKeyCounts(t *testing.T) {
	i := install(t, settings{})
	enrol := func(o simtpm.Options, serial string) string {
		_, err := i.unit(t, o).Enrol(i.ticket(t, nil), serial)
		return code(err)
	}
	if got := enrol(simtpm.Options{}, "SN-1"); got != "" {
		t.Fatal(got)
	}
	if got := enrol(simtpm.Options{}, "SN-2"); got != "" {
		t.Errorf("a second chip with the same type: %s", got)
	}
	if got := enrol(simtpm.Options{EK: "H-3"}, "SN-3"); got != wire.CodeEKType {
		t.Errorf("another key of the same make: %q", got)
	}
	if last, err := i.store.LastEvents(t.Context(), 1); err != nil || last[0].Verb != "enrolment.refused" || !strings.Contains(last[0].Reason, "their P-256 endorsement key and this one came with its P-384 key") {
		t.Errorf("recorded as %+v, %v", last, err)
	}
	i.allow(t, "P-384")
	if got := enrol(simtpm.Options{EK: "H-3"}, "SN-3"); got != "" {
		t.Errorf("after it was allowed: %s", got)
	}
	// What proves no make cannot be held to one; the model says whether it may enrol.
	chip, err := simtpm.NewDevice(nil, simtpm.Options{EK: "L-1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.holding(chip).Enrol(i.ticket(t, nil), "SN-4"); err != nil {
		t.Errorf("a chip without certificate: %v", err)
	}
}

// TestFurtherEndorsementKeyOfAKnownChip: whoever activates the recorded attestation key
// is that chip, whatever its endorsement key.
func TestFurtherEndorsementKeyOfAKnownChip(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	second, err := simtpm.NewDevice(i.maker, simtpm.Options{EK: "H-3"})
	if err != nil {
		t.Fatal(err)
	}
	second.AK, second.IDevID = u.TPM.AK, u.TPM.IDevID
	if _, err := i.holding(second).Enrol(wire.Permission{}, ""); err != nil {
		t.Fatal(err)
	}
	if found, err := i.store.DevicesNamed(t.Context(), "", "SN-1"); err != nil || len(found) != 1 || len(found[0].EKs) != 2 {
		t.Errorf("%v, %+v", err, found)
	}
}

func TestRefusals(t *testing.T) {
	i := install(t, settings{})
	known := i.unit(t, simtpm.Options{})
	used := i.ticket(t, nil)
	if _, err := known.Enrol(used, "SN-1"); err != nil {
		t.Fatal(err)
	}
	for _, l := range []record.Lot{{Name: "full", Model: "default", Quota: 1}, {Name: "closed", Model: "default"}, {Name: "certified", Model: "strict"}} {
		if l.Model == "strict" {
			if err := i.store.CreateModel(t.Context(), record.Model{Name: "strict", Assurance: record.LevelCertified, Created: time.Now()}, record.Event{Time: time.Now(), Verb: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		l.Created = time.Now()
		if err := i.store.CreateLot(t.Context(), l, nil, record.Event{Time: time.Now(), Verb: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	in := func(lot string) func(*record.Ticket) { return func(k *record.Ticket) { k.Lot = lot } }
	if _, err := i.unit(t, simtpm.Options{}).Enrol(i.ticket(t, in("full")), "F-1"); err != nil {
		t.Fatal(err)
	}
	closed := i.ticket(t, in("closed"))
	if err := i.store.CloseLot(t.Context(), "closed", time.Now(), record.Event{Time: time.Now(), Verb: "x"}); err != nil {
		t.Fatal(err)
	}
	wrong := i.ticket(t, nil)
	wrong.Secret = random(32)
	lost := wire.Permission{Kind: wire.KindTicket, ID: i.permissions.NewID(), Server: used.Server} // as after a restore without journal
	lost.Secret = i.permissions.Secret(lost.Kind, lost.ID)
	bare, err := simtpm.NewDevice(nil, simtpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() *unit { return i.unit(t, simtpm.Options{}) }
	for _, c := range []struct {
		name   string
		unit   *unit
		ticket wire.Permission
		serial string
		want   string
	}{
		{"no ticket, unknown", fresh(), wire.Permission{}, "", wire.CodeTicketNeeded},
		{"used by another", fresh(), used, "SN-9", wire.CodeTicketUsed},
		{"wrong secret", fresh(), wrong, "SN-9", wire.CodeTicketInvalid},
		{"not on record", fresh(), lost, "SN-9", wire.CodeTicketInvalid},
		{"not on record, no serial", fresh(), lost, "", wire.CodeTicketInvalid},
		{"expired", fresh(), i.ticket(t, func(k *record.Ticket) { k.Expires = time.Now().Add(-time.Second) }), "SN-9", wire.CodeTicketExpired},
		{"other serial", fresh(), i.ticket(t, func(k *record.Ticket) { k.Serial = "SN-8" }), "SN-9", wire.CodeTicketSerial},
		{"other TPM", fresh(), i.ticket(t, func(k *record.Ticket) { k.EKName = []byte("other") }), "SN-9", wire.CodeTicketEK},
		{"placeholder", fresh(), i.ticket(t, nil), "To be filled by O.E.M.", wire.CodeSerialInvalid},
		{"no serial", fresh(), i.ticket(t, nil), "", wire.CodeSerialInvalid},
		{"serial taken", fresh(), i.ticket(t, nil), "sn-1", wire.CodeSerialTaken},
		{"EK taken", known, i.ticket(t, nil), "SN-2", wire.CodeEKTaken},
		{"full", fresh(), i.ticket(t, in("full")), "F-2", wire.CodeQuotaFull},
		{"closed", fresh(), closed, "C-1", wire.CodeLotClosed},
		{"no EK certificate", i.holding(bare), i.ticket(t, in("certified")), "S-1", wire.CodeAssurance},
	} {
		before, _ := i.store.LastEvents(t.Context(), 1)
		id, err := c.unit.Enrol(c.ticket, c.serial)
		if id != nil || code(err) != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
		after, err := i.store.LastEvents(t.Context(), 1)
		if err != nil || after[0].Sequence == before[0].Sequence || !strings.HasPrefix(after[0].Reason, c.want) {
			t.Errorf("%s: the refusal is not on record: %+v, %v", c.name, after, err)
		}
	}
}

// Evidence with any one byte changed never gives a certificate: every byte of every
// message of an enrolment and of a renewal is flipped.
func TestEveryByteMatters(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	if _, err := u.Renew(u.IDevID); err != nil {
		t.Fatal(err)
	}
	victim := i.unit(t, simtpm.Options{})
	ticket := i.ticket(t, nil)
	t.Run("message one", func(t *testing.T) {
		flipEach(t, func(tamper func(string, []byte) []byte) error {
			victim.Tamper = tamper
			a, err := victim.begin(ticket, "SN-2")
			if err == nil && a.Challenge != nil {
				// The challenge alone is no certificate; see that none follows from it.
				victim.Tamper = nil
				_, err = victim.answer(a.Challenge)
			}
			return err
		})
	})
	victim.Tamper = nil
	t.Run("message two", func(t *testing.T) {
		flipEach(t, func(tamper func(string, []byte) []byte) error {
			a, err := victim.begin(ticket, "SN-2")
			if err != nil {
				return err
			}
			victim.Tamper = tamper
			defer func() { victim.Tamper = nil }()
			_, err = victim.answer(a.Challenge)
			return err
		})
	})
	t.Run("renewal", func(t *testing.T) {
		flipEach(t, func(tamper func(string, []byte) []byte) error {
			u.Tamper = tamper
			defer func() { u.Tamper = nil }()
			_, err := u.Renew(u.LDevID)
			return err
		})
	})
	if _, err := victim.Enrol(ticket, "SN-2"); err != nil {
		t.Errorf("and unchanged: %v", err)
	}
}

// flipEach runs the exchange once for every byte of its first body, with that byte
// changed, and wants an error each time.
func flipEach(t *testing.T, exchange func(tamper func(string, []byte) []byte) error) {
	t.Helper()
	for n := 0; ; n++ {
		sent, done := false, false
		var at byte
		err := exchange(func(_ string, body []byte) []byte {
			if sent {
				return body
			}
			sent = true
			if done = n >= len(body); done {
				return []byte("{}")
			}
			body = bytes.Clone(body)
			at = body[n]
			body[n] ^= 1 << (n % 7)
			return body
		})
		if done {
			if n < 100 {
				t.Errorf("only %d bytes were sent", n)
			}
			return
		}
		if err == nil {
			t.Fatalf("byte %d (%q) changed, and a certificate came", n, at)
		}
	}
}

func TestReplaysAndSwaps(t *testing.T) {
	i := install(t, settings{})
	a, b := i.unit(t, simtpm.Options{}), i.unit(t, simtpm.Options{})
	// Message one recorded on one connection, sent on another.
	var recorded []byte
	a.Tamper = func(_ string, body []byte) []byte { recorded = body; return body }
	first, err := a.begin(i.ticket(t, nil), "SN-A")
	if err != nil {
		t.Fatal(err)
	}
	a.Tamper = func(string, []byte) []byte { return recorded }
	if _, err := a.begin(wire.Permission{}, ""); err == nil {
		t.Error("message one of another connection was accepted")
	}
	a.Tamper = nil
	// A challenge opened by the other device.
	if _, err := b.answer(first.Challenge); err == nil {
		t.Error("another TPM opened the challenge")
	}
	second, err := b.begin(i.ticket(t, nil), "SN-B")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := a.Open(first.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.activate(wire.Activate{Session: second.Challenge.Session, Secret: opened.Secret}); code(err) != wire.CodeEvidence {
		t.Errorf("the secret of another session: %v", err)
	}
	// The right answer, twice.
	m := opened
	if _, err := a.activate(m); err != nil {
		t.Fatal(err)
	}
	if _, err := a.activate(m); code(err) != wire.CodeSession {
		t.Errorf("a session used twice: %v", err)
	}
	// To another server with another secret.
	stranger := install(t, settings{secret: random(32)}).holding(a.TPM)
	if _, err := stranger.activate(m); code(err) != wire.CodeSession {
		t.Errorf("a session of another server: %v", err)
	}
	// A renewal by one device with the other's certificate.
	if _, err := a.Enrol(wire.Permission{}, ""); err != nil {
		t.Fatal(err)
	}
	b.Tamper = nil
	if _, err := b.Enrol(i.ticket(t, nil), "SN-B"); err != nil {
		t.Fatal(err)
	}
	thief := i.holding(b.TPM)
	if _, err := thief.Renew(a.IDevID); err == nil {
		t.Error("a device renewed with the certificate of another")
	}
}

func TestExpiredSession(t *testing.T) {
	var late atomic.Int64
	i := install(t, settings{now: func() time.Time { return time.Now().Add(time.Duration(late.Load())) }})
	u := i.unit(t, simtpm.Options{})
	a, err := u.begin(i.ticket(t, nil), "SN-1")
	if err != nil {
		t.Fatal(err)
	}
	late.Store(int64(5 * time.Minute))
	if _, err := u.answer(a.Challenge); code(err) != wire.CodeSession {
		t.Errorf("a session of five minutes ago: %v", err)
	}
}

// Only the newest LDevID, or its predecessor until the newest was used, renews; an
// older one is told so, and the IDevID always may.
func TestOldCertificatesDoNotRenew(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	if _, err := u.Renew(u.IDevID); err != nil {
		t.Fatal(err)
	}
	first := u.LDevID
	if _, err := u.Renew(first); err != nil {
		t.Fatal(err)
	}
	// The answer was lost: the predecessor asks again.
	if _, err := u.Renew(first); err != nil {
		t.Fatalf("the predecessor of an unused successor: %v", err)
	}
	if err := u.probe(u.LDevID); err != nil {
		t.Fatal(err)
	}
	if err := u.probe(first); code(err) != wire.CodeSuperseded {
		t.Errorf("an old certificate is probed: %v", err)
	}
	if _, err := u.Renew(first); code(err) != wire.CodeSuperseded {
		t.Errorf("an old certificate: %v", err)
	}
	if _, err := u.Renew(u.IDevID); err != nil {
		t.Errorf("the IDevID: %v", err)
	}
}

func TestRenewalWithoutSecretCostsASecondMessage(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	messages := 0
	u.Tamper = func(_ string, b []byte) []byte { messages++; return b }
	u.Next = nil
	if _, err := u.Renew(u.IDevID); err != nil || messages != 2 {
		t.Errorf("%d messages, %v", messages, err)
	}
	messages = 0
	predecessor, next := u.LDevID, u.Next
	if _, err := u.Renew(u.LDevID); err != nil || messages != 1 {
		t.Errorf("%d messages, %v", messages, err)
	}
	messages, u.Next = 0, next // the answer was lost: all that the device has is what it had
	if _, err := u.Renew(predecessor); err != nil || messages != 1 {
		t.Errorf("%d messages after a lost answer, %v", messages, err)
	}
}

func TestEndedDevices(t *testing.T) {
	i := install(t, settings{})
	u := i.unit(t, simtpm.Options{})
	ticket := i.ticket(t, nil)
	if _, err := u.Enrol(ticket, "SN-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Renew(u.IDevID); err != nil {
		t.Fatal(err)
	}
	ds, err := i.store.DevicesNamed(t.Context(), "", "SN-1")
	if err != nil || len(ds) != 1 {
		t.Fatal(ds, err)
	}
	e := record.Event{Time: time.Now(), Actor: "test", Verb: "x"}
	if _, err := i.store.Suspend(t.Context(), ds[0].ID, time.Now(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Renew(u.LDevID); code(err) != wire.CodeSuspended {
		t.Errorf("a suspended device renews: %v", err)
	}
	if _, err := u.Enrol(ticket, "SN-1"); code(err) != wire.CodeSuspended {
		t.Errorf("a suspended device returns: %v", err)
	}
	if _, err := i.store.Restore(t.Context(), ds[0].ID, time.Now(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Renew(u.LDevID); err != nil {
		t.Errorf("a restored device: %v", err)
	}
	if _, err := i.store.Revoke(t.Context(), ds[0].ID, time.Now(), record.ReasonKeyCompromise, "stolen", e); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Renew(u.LDevID); code(err) != wire.CodeRevoked {
		t.Errorf("a revoked device renews: %v", err)
	}
	if _, err := u.Enrol(i.ticket(t, nil), "SN-1"); code(err) != wire.CodeBarred {
		t.Errorf("a revoked device returns: %v", err)
	}
	if _, err := u.Enrol(i.ticket(t, nil), "SN-2"); code(err) != wire.CodeBarred {
		t.Errorf("a revoked chip enrols under another serial number: %v", err)
	}
	if _, err := i.unit(t, simtpm.Options{}).Enrol(i.ticket(t, nil), "SN-1"); code(err) != wire.CodeSerialTaken {
		t.Errorf("another chip enrols under a revoked serial number: %v", err)
	}
}

func TestQuotaHoldsUnderParallelEnrolment(t *testing.T) {
	i := install(t, settings{})
	if err := i.store.CreateLot(t.Context(), record.Lot{Name: "ten", Model: "default", Quota: 10, Created: time.Now()}, nil, record.Event{Time: time.Now(), Verb: "x"}); err != nil {
		t.Fatal(err)
	}
	var made, refused atomic.Int32
	var all sync.WaitGroup
	for n := range 40 {
		u, ticket := i.unit(t, simtpm.Options{}), i.ticket(t, func(k *record.Ticket) { k.Lot = "ten" })
		all.Go(func() {
			switch _, err := u.Enrol(ticket, fmt.Sprintf("Q-%d", n)); code(err) {
			case "":
				made.Add(1)
				if err != nil {
					t.Error(err)
				}
			case wire.CodeQuotaFull:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 10 || refused.Load() != 30 {
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
}

func TestBadBodies(t *testing.T) {
	i := install(t, settings{})
	u := i.unit(t, simtpm.Options{})
	for name, c := range map[string]struct {
		body string
		want string
	}{
		"not JSON":   {"hello", wire.CodeMalformed},
		"empty":      {"", wire.CodeMalformed},
		"too large":  {`{"message":"` + strings.Repeat("a", wire.MaxMessage) + `"}`, wire.CodeTooLarge},
		"deep":       {strings.Repeat(`{"message":`, 5000), wire.CodeMalformed},
		"wrong type": {`{"message":{},"statement":5,"signature":""}`, wire.CodeMalformed},
		"twice":      {`{"message":{},"message":{},"statement":"","signature":""}`, wire.CodeMalformed},
		"twice deep": {`{"message":{"serial":"a","serial":"b"},"statement":"","signature":""}`, wire.CodeMalformed},
		"no message": {`{"statement":"","signature":""}`, wire.CodeMalformed},
		"nonce":      {`{"message":{},"statement":"","signature":"","nonce":"AQ=="}`, wire.CodeMalformed},
		"client":     {`{"message":{},"statement":"","signature":"","client":{"certificates":["AQ=="],"signature":"AQ=="}}`, wire.CodeMalformed},
	} {
		for _, path := range []string{wire.PathEnrol, wire.PathActivate, wire.PathRenew} {
			if path == wire.PathActivate && (name == "nonce" || name == "no message") {
				continue
			}
			if _, err := u.raw(path, []byte(c.body)); code(err) != c.want {
				t.Errorf("%s to %s: %v", name, path, err)
			}
		}
	}
	if _, err := u.raw("/v1/other", nil); code(err) != wire.CodeNotFound {
		t.Errorf("an unknown path: %v", err)
	}
}
