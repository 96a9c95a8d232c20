// Package recordtest is the exam of a record.Store. Its tests are the specification:
// every store passes them unchanged, the races and the crashes included.
//
// A store's own test calls Run and adds what only its engine knows.
package recordtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// Now is what a store under examination must be told the time is.
var Now = time.Date(2026, 11, 22, 9, 0, 0, 123456000, time.UTC)

// Place is where stores are made. A name is a path below a fresh folder; a store that
// lives elsewhere derives what it needs from it.
type Place struct {
	// Create makes the store of that name, as for a new installation.
	Create func(ctx context.Context, name string) (record.Store, error)
	// Open opens it again.
	Open func(ctx context.Context, name string) (record.Store, error)
}

// Run examines. The calling test must do nothing before it: for the crashes Run starts
// the test's own binary again and continues in it as the victim.
func Run(t *testing.T, p Place) {
	if name := os.Getenv(victimEnv); name != "" {
		victim(p, name)
	}
	for name, test := range map[string]func(*testing.T, *bench){
		"beginning":            beginning,
		"models and lots":      modelsAndLots,
		"rules race":           rulesRace,
		"tickets":              tickets,
		"given by disabled":    givenByTheDisabled,
		"admission":            admission,
		"admission refused":    admissionRefused,
		"admission again":      admissionAgain,
		"seen":                 seen,
		"judge":                judges,
		"view of a renewal":    viewOfRenewal,
		"quota race":           quotaRace,
		"redemption race":      redemptionRace,
		"identity race":        identityRace,
		"shards":               shardsGiven,
		"shards that end":      shardsEnd,
		"shard race":           shardRace,
		"issuance":             issuance,
		"issuance refused":     issuanceRefused,
		"issued for":           issuedFor,
		"software keys":        softKeys,
		"grants":               grantsGiven,
		"grants of new keys":   grantsOfNewKeys,
		"grants refused":       grantsRefused,
		"revocation":           revocation,
		"lifting":              lifting,
		"suspension":           suspension,
		"ended while signing":  endedWhileSigning,
		"revocation race":      revocationRace,
		"revoking an operator": revokingOperator,
		"revocation lists":     revocationLists,
		"changes":              statusChanges,
		"changes skipped":      changesSkipped,
		"standing":             standing,
		"random walk":          randomWalk,
		"paging":               paging,
		"look-ups":             lookUps,
		"outstanding":          outstanding,
		"selectors":            selectors,
		"selectors refused":    selectorsRefused,
		"working certificate":  workingCertificate,
		"labels":               labels,
		"survey":               survey,
		"jobs":                 jobs,
		"moments":              moments,
		"issuer revoked":       issuerRevoked,
		"job in stages":        jobInStages,
		"job refused":          jobRefused,
		"failing":              failing,
		"job asked again":      jobAskedAgain,
		"issuer's plan":        issuerPlan,
		"too many plans":       tooManyPlans,
		"job of another kind":  jobOfAnotherKind,
		"revoked alone":        revokedAlone,
		"lots ended":           lotsEnded,
		"revoked in a plan":    revokedInPlan,
		"expired":              expired,
		"job and its operator": jobAndItsOperator,
		"approvals":            approvals,
		"approvals ended":      approvalsEnded,
		"spent for all":        approvalSpentForAll,
		"approvals refused":    approvalsRefused,
		"break-glass":          breakGlass,
		"able operators":       ableOperators,
		"alerts":               alerts,
		"settings":             settings,
		"operators":            operators,
		"invited anew":         invitedAnew,
		"acts of the disabled": actsOfTheDisabled,
		"relying parties":      relyingParties,
		"enforcement":          enforcement,
		"authorities":          authorities,
		"EK types":             ekTypes,
		"events":               events,
		"given up":             givenUp,
		"closed":               closed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := p.Create(t.Context(), filepath.Join(t.TempDir(), "store"))
			if err != nil {
				t.Fatal(err)
			}
			b := &bench{T: t, Store: s, ctx: context.WithoutCancel(t.Context())}
			t.Cleanup(func() { s.Close() })
			test(t, b)
			// Whatever was done, the whole must hold.
			if err := s.Verify(b.ctx); err != nil && !b.closed {
				t.Errorf("the store does not verify afterwards: %v", err)
			}
		})
	}
	t.Run("deliberate creation", func(t *testing.T) { deliberate(t, p) })
	t.Run("durable", func(t *testing.T) { durable(t, p) })
	t.Run("crashes", func(t *testing.T) { crashes(t, p) })
}

// bench is a fresh store with short words for what every test needs.
type bench struct {
	*testing.T
	record.Store
	ctx    context.Context
	closed bool
}

var counter atomic.Int64

// id makes a unique name.
func id(kind string) string { return fmt.Sprintf("%s-%06d", kind, counter.Add(1)) }

// event is an event that can be recognised.
func event(verb string) record.Event {
	return record.Event{Time: Now, Actor: "host", Verb: verb, Detail: map[string]string{"test": "yes"}}
}

// must ends the test on an error.
func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// refused checks that do fails with the wanted error and leaves no trace: no row, no
// event.
func (b *bench) refused(what string, want error, do func() error) {
	b.Helper()
	before := b.everything()
	err := do()
	if err == nil || want != nil && !errors.Is(err, want) {
		b.Errorf("%s: got error %v, want %v", what, err, want)
	}
	if after := b.everything(); !reflect.DeepEqual(before, after) {
		b.Errorf("%s: was refused and left a trace:\nbefore %+v\nafter  %+v", what, before, after)
	}
}

// unchanged checks that do succeeds and changes nothing.
func (b *bench) unchanged(what string, do func() error) {
	b.Helper()
	before := b.everything()
	if err := do(); err != nil {
		b.Errorf("%s: %v", what, err)
	}
	if after := b.everything(); !reflect.DeepEqual(before, after) {
		b.Errorf("%s: changed something:\nbefore %+v\nafter  %+v", what, before, after)
	}
}

// everything is all that a store shows.
func (b *bench) everything() (all []any) {
	b.Helper()
	add := func(v any, err error) { b.Helper(); b.must(err); all = append(all, v) }
	add(b.Models(b.ctx))
	add(b.Lots(b.ctx))
	devices, _, err := b.Devices(b.ctx, nil, record.Page{Limit: 1000})
	add(devices, err)
	certificates, _, err := b.Certificates(b.ctx, nil, record.Page{Limit: 1000})
	add(certificates, err)
	add(b.OpenIntents(b.ctx))
	add(b.Operators(b.ctx))
	add(b.RelyingParties(b.ctx))
	add(b.Authorities(b.ctx))
	add(b.EKTypes(b.ctx))
	jobs, _, err := b.Jobs(b.ctx, record.Page{Limit: 1000})
	add(jobs, err)
	add(b.OpenApprovals(b.ctx, Now))
	add(b.LastEvents(b.ctx, 1000))
	return all
}

// newDevice makes a device with a chip of its own in the default lot.
func newDevice() record.Device {
	n := id("SN")
	return record.Device{
		ID: id("device"), Model: record.DefaultModel, Lot: record.DefaultLot, Serial: n, State: record.StateActive,
		Assurance: record.Assurance{Certified: true, Hardware: true},
		EKs: []record.EK{{Fingerprint: sha256.Sum256([]byte("ek" + n)), Name: []byte("ek name " + n), Public: []byte("ek public"),
			Certificate: []byte("ek certificate"), Issuer: "CN=Test TPM Maker"}},
		AKName: []byte("ak name " + n), AKPublic: []byte("ak public"), Key: sha256.Sum256([]byte("idevid" + n)),
		TPMMaker: "TEST", TPMModel: "chip", TPMFirmware: "7.2.1.0",
		Enrolled: Now, Seen: Now,
	}
}

// admit writes without judging.
func (b *bench) admit(d record.Device) error {
	_, err := b.Admit(b.ctx, record.Query{}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: d, Event: event("device.enrolled")}, nil
	})
	return err
}

// enrolled is a recorded device.
func (b *bench) enrolled() record.Device {
	b.Helper()
	d := newDevice()
	b.must(b.admit(d))
	return d
}

// newIntent makes an intent for a device's working certificate.
func newIntent(device string) record.Certificate {
	return record.Certificate{
		Issuer: "operational", Serial: newSerial(), Profile: record.ProfileLDevID, Device: device, Subject: "CN=" + device, Shard: 1,
		Key: sha256.Sum256([]byte(id("key"))), NotBefore: Now, NotAfter: Now.Add(30 * 24 * time.Hour), TBS: []byte("to be signed"), Intended: Now,
	}
}

func newSerial() string {
	var b [16]byte
	rand.Read(b[:])
	b[0] = b[0]&0x7f | 1
	return fmt.Sprintf("%x", b)
}

// signer signs all test certificates.
var signer = sync.OnceValue(func() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// Certificate makes a certificate for an intent: it parses and bears the serial number.
func Certificate(c record.Certificate) []byte {
	serial, _ := new(big.Int).SetString(c.Serial, 16)
	x := &x509.Certificate{SerialNumber: serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter}
	der, err := x509.CreateCertificate(rand.Reader, x, x, signer().Public(), signer())
	if err != nil {
		panic(err)
	}
	return der
}

// signed is what Complete takes for an intent.
func signed(c record.Certificate) record.Certificate {
	return record.Certificate{Issuer: c.Issuer, Serial: c.Serial, Profile: c.Profile, DER: Certificate(c), Issued: Now.Add(time.Second)}
}

func (b *bench) intend(c record.Certificate) record.Certificate {
	b.Helper()
	b.must(b.Intend(b.ctx, []record.Certificate{c}, nil))
	return c
}

// issue records a certificate from intent to result and returns it as recorded.
func (b *bench) issue(c record.Certificate) record.Certificate {
	b.Helper()
	b.intend(c)
	b.must(b.Complete(b.ctx, []record.Certificate{signed(c)}, event("certificate.issued")))
	return b.status(c)
}

func (b *bench) status(c record.Certificate) record.Certificate {
	b.Helper()
	got, err := b.Status(b.ctx, c.Issuer, c.Serial)
	b.must(err)
	return got
}

// is checks a certificate's status.
func (b *bench) is(c record.Certificate, want string) {
	b.Helper()
	if got := record.StatusOf(b.status(c), Now); got != want {
		b.Errorf("certificate %s is %q, want %q", c.Serial, got, want)
	}
}

func (b *bench) equal(what string, got, want any) {
	b.Helper()
	if !reflect.DeepEqual(got, want) {
		b.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// last is the newest event.
func (b *bench) last() record.Event {
	b.Helper()
	es, err := b.LastEvents(b.ctx, 1)
	b.must(err)
	if len(es) != 1 {
		b.Fatal("there is no event")
	}
	return es[0]
}

// recorded checks that the newest event is of that verb.
func (b *bench) recorded(verb string) {
	b.Helper()
	if got := b.last(); got.Verb != verb || got.Detail["test"] != "yes" || !got.Time.Equal(Now) {
		b.Errorf("the newest event is %+v, want %s", got, verb)
	}
}

// parallel runs do n times at once and counts the successes; every failure must be
// ErrConflict.
func (b *bench) parallel(n int, do func(i int) error) int {
	b.Helper()
	var done atomic.Int64
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			switch err := do(i); {
			case err == nil:
				done.Add(1)
			case !errors.Is(err, record.ErrConflict):
				b.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
	return int(done.Load())
}
