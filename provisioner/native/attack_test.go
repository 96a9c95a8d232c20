package native_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/internal/simdevice"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// sequence is the number of the last event on record.
func (i *installation) sequence(t testing.TB) int64 {
	t.Helper()
	last, err := i.store.LastEvents(t.Context(), 1)
	if err != nil || len(last) != 1 {
		t.Fatal(last, err)
	}
	return last[0].Sequence
}

// Who is refused again and again, with a dead ticket or as a revoked device, does not
// fill the record.
func TestRefusalsDoNotFillTheRecord(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	ds, err := i.store.DevicesNamed(t.Context(), "", "SN-1")
	if err != nil || len(ds) != 1 {
		t.Fatal(ds, err)
	}
	if _, err := i.store.Revoke(t.Context(), ds[0].ID, time.Now(), record.ReasonKeyCompromise, "stolen", record.Event{Time: time.Now(), Verb: "x"}); err != nil {
		t.Fatal(err)
	}
	expired := func(k *record.Ticket) { k.Expires = time.Now().Add(-time.Hour) }
	dead, unused := i.ticket(t, expired), i.ticket(t, nil)
	thief := i.unit(t, simtpm.Options{})
	for name, attempt := range map[string]func() error{
		"a revoked device renews":   func() error { _, err := u.Renew(u.IDevID); return err },
		"an expired ticket":         func() error { _, err := thief.Enrol(dead, "SN-2"); return err },
		"a serial number of blanks": func() error { _, err := thief.Enrol(unused, "SN 2"); return err },
	} {
		before := i.sequence(t)
		for range 60 {
			if attempt() == nil {
				t.Fatalf("%s: accepted", name)
			}
		}
		// Ten a minute, and the minute may have turned meanwhile.
		if got := i.sequence(t) - before; got < 1 || got > 20 {
			t.Errorf("%s 60 times: %d events", name, got)
		}
	}
}

// What a stranger says of itself is not on record, however long it is or whatever
// it would do to a terminal.
func TestStrangersSerialIsNotRecorded(t *testing.T) {
	i := install(t, settings{})
	for _, serial := range []string{strings.Repeat("A", 12<<10), "\x1b[2J\x1b]0;owned\a", "SN\u202e1"} {
		for name, ticket := range map[string]wire.Permission{"without a ticket": {}, "with a ticket": i.ticket(t, nil)} {
			if _, err := i.unit(t, simtpm.Options{}).Enrol(ticket, serial); code(err) != wire.CodeSerialInvalid {
				t.Errorf("%.20q %s: %v", serial, name, err)
			}
		}
	}
	es, err := i.store.LastEvents(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if len(e.Object)+len(e.Reason) > 500 || strings.ContainsAny(e.Object+e.Reason, "\x1b\a\u202e") {
			t.Errorf("on record: %.60q, %.60q", e.Object, e.Reason)
		}
	}
}

// A device cannot add endorsement keys to its entry without end: each look at it reads
// them all.
func TestEndorsementKeysAreBounded(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	var last error
	for range 40 {
		other, err := simtpm.NewDevice(i.maker, simtpm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		u.TPM.EK, u.TPM.Certificates = other.EK, other.Certificates
		if _, last = u.Enrol(wire.Permission{}, ""); last != nil {
			break
		}
	}
	if last == nil {
		t.Error("forty endorsement keys on one device")
	}
}

// One ticket shown by fifty devices at once makes one device.
func TestOneTicketFiftyDevices(t *testing.T) {
	i := install(t, settings{})
	ticket := i.ticket(t, nil)
	var made atomic.Int32
	var all sync.WaitGroup
	for n := range 50 {
		u := i.unit(t, simtpm.Options{})
		all.Go(func() {
			switch _, err := u.Enrol(ticket, fmt.Sprintf("R-%d", n)); code(err) {
			case wire.CodeTicketUsed:
			default:
				if err != nil {
					t.Error(err)
				}
				made.Add(1)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("%d devices", made.Load())
	}
}

// When a revocation has returned no certificate of the device is good, and none becomes
// good, whatever was on its way.
func TestRevocationOvertakesRenewals(t *testing.T) {
	i := install(t, settings{})
	for n := range 5 {
		serial := fmt.Sprintf("SN-%d", n)
		u := i.unit(t, simtpm.Options{})
		if _, err := u.Enrol(i.ticket(t, nil), serial); err != nil {
			t.Fatal(err)
		}
		ds, err := i.store.DevicesNamed(t.Context(), "", serial)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 8 {
			twin := &unit{&simdevice.Device{Server: i.server, TPM: u.TPM, IDevID: u.IDevID, Next: u.Next}}
			all.Go(func() {
				for {
					if _, err := twin.Renew(twin.IDevID); err != nil {
						if c := code(err); c != wire.CodeRevoked && c != wire.CodeConflict {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(n*7) * time.Millisecond)
		if _, err := i.store.Revoke(t.Context(), ds[0].ID, time.Now(), record.ReasonKeyCompromise, "stolen", record.Event{Time: time.Now(), Verb: "x"}); err != nil {
			t.Fatal(err)
		}
		good := func() {
			t.Helper()
			rows, _, err := i.store.Certificates(t.Context(), &record.Selector{Op: record.OpEqual, Field: "device", Value: ds[0].ID}, record.Page{Limit: 1000})
			if err != nil || len(rows) < 2 {
				t.Fatal(len(rows), err)
			}
			for _, c := range rows {
				if c.Revoked.IsZero() {
					t.Errorf("%s %s is %s", c.Profile, c.Serial, record.StatusOf(c, time.Now()))
				}
			}
		}
		good()
		all.Wait()
		good()
	}
}

// In nonce mode a stranger's key is never used: one of 350,000 bits fits into a message
// and costs a second to verify with.
func TestStrangersKeyIsNotUsed(t *testing.T) {
	i := install(t, settings{nonceMode: true})
	p := proxied{i.unit(t, simtpm.Options{})}
	stranger, _, err := premises.SelfSigned("stranger")
	if err != nil {
		t.Fatal(err)
	}
	e := p.renewal(t, stranger, p.nonce(t))
	e.Client.Signature = []byte("no signature")
	if _, err := p.send(t, wire.PathRenew, e); code(err) != wire.CodeUnauthorised || strings.Contains(err.Error(), "signature") {
		t.Errorf("its signature was looked at: %v", err)
	}
}

// One device that renews and comes back without end does not fill the record, and takes
// no other with it.
func TestPace(t *testing.T) {
	begin, later := time.Now(), atomic.Int64{}
	i := install(t, settings{pace: 5, now: func() time.Time { return begin.Add(time.Duration(later.Load())) }})
	u := i.enrolled(t)
	for n := range 4 {
		if _, err := u.Renew(u.IDevID); err != nil {
			t.Fatalf("renewal %d: %v", n+1, err)
		}
	}
	if _, err := u.Renew(u.LDevID); code(err) != wire.CodeTooOften {
		t.Errorf("the sixth time: %v", err)
	}
	if _, err := u.Enrol(wire.Permission{}, ""); code(err) != wire.CodeTooOften {
		t.Errorf("it comes back: %v", err)
	}
	if _, err := i.unit(t, simtpm.Options{}).Enrol(i.ticket(t, nil), "SN-2"); err != nil {
		t.Errorf("another device: %v", err)
	}
	later.Store(int64(time.Minute))
	if _, err := u.Renew(u.LDevID); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

// A session is good for what it was made for, whole, once, and where its ticket is known,
// also by a server that has the same secret.
func TestSessionsOfAnotherPurpose(t *testing.T) {
	i := install(t, settings{nonceMode: true})
	a := proxied{i.unit(t, simtpm.Options{})}
	begin := func(p proxied, ticket wire.Permission, serial string) wire.Activate {
		t.Helper()
		e, err := p.Enrolment(ticket, serial, wire.Binding{Nonce: p.nonce(t)})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := p.send(t, wire.PathEnrol, e)
		if err != nil {
			t.Fatal(err)
		}
		m, err := p.Open(answer.Challenge)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := begin(a, i.ticket(t, nil), "SN-A")
	other := install(t, settings{nonceMode: true})
	if _, err := other.holding(a.TPM).activate(first); code(err) != wire.CodeTicketInvalid {
		t.Errorf("a session of another record, same secret: %v", err)
	}
	for name, session := range map[string][]byte{
		"a nonce": a.nonce(t), "nothing": {}, "cut by one": first.Session[:len(first.Session)-1], "cut to its head": first.Session[:52],
		"longer": append(first.Session[:len(first.Session):len(first.Session)], 0), "giant": make([]byte, 40<<10),
	} {
		if _, err := a.activate(wire.Activate{Session: session, Secret: first.Secret}); code(err) != wire.CodeSession {
			t.Errorf("%s for a session: %v", name, err)
		}
	}
	var made atomic.Int32
	var all sync.WaitGroup
	for range 20 { // the same message from twenty connections
		all.Go(func() {
			if answer, err := a.activate(first); err == nil {
				made.Add(1)
				a.IDevID = tls.Certificate{Certificate: answer.Identity.IDevID, PrivateKey: a.TPM.IDevID}
				a.Next = answer.Identity.Next
			} else if c := code(err); c != wire.CodeSession && c != wire.CodeConflict {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Fatalf("one session was redeemed %d times", made.Load())
	}
	next, err := a.Open(a.Next)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.activate(next); code(err) != wire.CodeSession {
		t.Errorf("the challenge for the next renewal at activation: %v", err)
	}
	b := proxied{i.unit(t, simtpm.Options{})}
	answer, err := b.activate(begin(b, i.ticket(t, nil), "SN-B"))
	if err != nil {
		t.Fatal(err)
	}
	b.IDevID = tls.Certificate{Certificate: answer.Identity.IDevID, PrivateKey: b.TPM.IDevID}
	for name, activated := range map[string]wire.Activate{
		"another device's challenge": next,
		"an enrolment's session":     begin(b, wire.Permission{}, ""),
		"a nonce":                    {Session: b.nonce(t), Secret: next.Secret},
	} {
		e, err := b.renewalWith(t, &activated)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := b.send(t, wire.PathRenew, e); err != nil || answer.Identity != nil || answer.Challenge == nil {
			t.Errorf("%s in a renewal: %+v, %v", name, answer, err)
		}
	}
}

// renewalWith is a renewal that carries what it was not given.
func (p proxied) renewalWith(t *testing.T, activated *wire.Activate) (wire.Envelope, error) {
	t.Helper()
	key, err := p.TPM.NewLDevID()
	if err != nil {
		return wire.Envelope{}, err
	}
	message, err := json.Marshal(wire.Renew{Key: key.Area, Activated: activated})
	if err != nil {
		return wire.Envelope{}, err
	}
	binding := wire.Binding{Label: wire.LabelRenew, Nonce: p.nonce(t), Client: p.IDevID.Certificate[0], Message: message}
	sum := binding.Sum()
	proof, err := p.TPM.Certify(key, sum)
	if err != nil {
		return wire.Envelope{}, err
	}
	signature, err := p.IDevID.PrivateKey.(crypto.Signer).Sign(rand.Reader, sum[:], crypto.SHA256)
	return wire.Envelope{Message: message, Statement: proof.Statement, Signature: proof.Signature, Nonce: binding.Nonce,
		Client: &wire.ClientProof{Certificates: p.IDevID.Certificate, Signature: signature}}, err
}

// A software TPM certifies any public key, also one that is in another's certificates.
func TestKeyOfAnother(t *testing.T) {
	i := install(t, settings{})
	u := i.enrolled(t)
	thief := i.unit(t, simtpm.Options{})
	thief.TPM.IDevID = u.TPM.IDevID
	if _, err := thief.Enrol(i.ticket(t, nil), "SN-2"); code(err) != wire.CodeEKTaken {
		t.Errorf("enrolled with another device's key: %v", err)
	}
	if _, err := u.Enrol(wire.Permission{}, ""); err != nil {
		t.Errorf("the device itself comes back: %v", err)
	}
}
