package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// signatures keeps every certificate that an issuer's key ever signed.
type signatures struct {
	mu     sync.Mutex
	all    []*x509.Certificate
	before func() // called before the key is used
	after  func() // called when the key was used
}

// watch is a change of authority's configuration.
func (s *signatures) watch(c *ca.Config) {
	for i := range c.Issuers {
		good := c.Issuers[i].CAS
		c.Issuers[i].CAS = casFunc(func(prepared *x509.Certificate) ([]byte, error) {
			if s.before != nil {
				s.before()
			}
			der, err := good.Sign(prepared)
			if cert, err := x509.ParseCertificate(der); err == nil {
				s.mu.Lock()
				s.all = append(s.all, cert)
				s.mu.Unlock()
			}
			if s.after != nil {
				s.after()
			}
			return der, err
		})
	}
}

// inRecord holds the invariant: whatever was signed is in the record, as a good
// certificate to the byte, as a revoked one, or as an intent that is still open.
func (s *signatures) inRecord(t *testing.T, store record.Store) {
	t.Helper()
	for _, cert := range s.all {
		found := false
		for _, issuer := range profile.Issuers() {
			row, err := store.Status(context.Background(), issuer, profile.SerialText(cert.SerialNumber))
			if errors.Is(err, record.ErrNotFound) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			found = string(row.DER) == string(cert.Raw) || row.DER == nil && (string(row.TBS) == string(cert.RawTBSCertificate) || !row.Revoked.IsZero())
		}
		if !found {
			t.Errorf("certificate %x was signed and is not in the record", cert.SerialNumber)
		}
	}
}

// fault is a store in which something happens before or after a verb.
type fault struct {
	record.Issuance
	before, after map[string]func() error
}

func (f fault) around(verb string, do func() error) error {
	if b := f.before[verb]; b != nil {
		if err := b(); err != nil {
			return err
		}
	}
	err := do()
	if a := f.after[verb]; a != nil && err == nil {
		err = a()
	}
	return err
}

func (f fault) ReserveShard(ctx context.Context, issuer string, want, capacity int64) (shard, given int64, err error) {
	err = f.around("ReserveShard", func() error {
		shard, given, err = f.Issuance.ReserveShard(ctx, issuer, want, capacity)
		return err
	})
	return shard, given, err
}

func (f fault) Intend(ctx context.Context, intents []record.Certificate, stands func([]*record.Certificate) []bool) error {
	return f.around("Intend", func() error { return f.Issuance.Intend(ctx, intents, stands) })
}

func (f fault) Complete(ctx context.Context, signed []record.Certificate, e record.Event) error {
	return f.around("Complete", func() error { return f.Issuance.Complete(ctx, signed, e) })
}

func (f fault) Void(ctx context.Context, issuer, serial string, at time.Time, e record.Event) error {
	return f.around("Void", func() error { return f.Issuance.Void(ctx, issuer, serial, at, e) })
}

var errPower = errors.New("power cut")

// crash stops Issue where it stands, as a SIGKILL would: nothing after it is run.
func crash() error { panic(errPower) }

// TestCrashes stops the server at every step of issuing two certificates. After each
// crash the record holds every certificate that may exist; after the restart none of
// them is open, and the retry of the device succeeds.
func TestCrashes(t *testing.T) {
	at := func(verb string) map[string]func() error { return map[string]func() error{verb: crash} }
	for name, x := range map[string]struct {
		before, after       map[string]func() error
		beforeKey, afterKey bool
		again               bool // the retry finds what was issued
		void                int  // intents that the restart revokes
	}{
		"before ReserveShard": {before: at("ReserveShard")},
		"after ReserveShard":  {after: at("ReserveShard")},
		"before Intend":       {before: at("Intend")},
		"after Intend":        {after: at("Intend"), void: 2},
		"before the key":      {beforeKey: true, void: 2},
		"after the key":       {afterKey: true, void: 2},
		"before Complete":     {before: at("Complete"), void: 2},
		"after Complete":      {after: at("Complete"), again: true},
	} {
		t.Run(name, func(t *testing.T) {
			store, signed := newStore(t), &signatures{}
			all := requests(t)[:2]
			a := authority(t, fault{store, x.before, x.after}, signed.watch)
			if x.beforeKey {
				signed.before = func() { crash() }
			}
			if x.afterKey {
				signed.after = func() { crash() }
			}
			func() {
				defer func() {
					if recover() != errPower {
						t.Error("the crash was not reached")
					}
				}()
				a.Issue(t.Context(), event(), all...)
			}()
			signed.inRecord(t, store)

			signed.before, signed.after = nil, nil
			a = authority(t, store, signed.watch)
			shards, err := a.Recover(t.Context())
			if err != nil || (len(shards) > 0) != (x.void > 0) {
				t.Errorf("recovered %v, %v", shards, err)
			}
			if open, err := store.OpenIntents(t.Context()); err != nil || len(open) != 0 {
				t.Errorf("still open: %v %v", open, err)
			}
			rows, _, err := store.Certificates(t.Context(), nil, record.Page{Limit: 10})
			if void := countRevoked(rows); err != nil || void != x.void {
				t.Errorf("%d are void, want %d, %v", void, x.void, err)
			}
			got, err := a.Issue(t.Context(), event(), all...)
			if err != nil || got[0].Again != x.again || got[1].Again != x.again {
				t.Fatalf("retry: %+v %v", got, err)
			}
			signed.inRecord(t, store)
			if again, err := a.Recover(t.Context()); err != nil || len(again) != 0 {
				t.Errorf("recovering twice: %v %v", again, err)
			}
		})
	}
}

func countRevoked(rows []record.Certificate) (n int) {
	for _, c := range rows {
		if !c.Revoked.IsZero() {
			n++
		}
	}
	return n
}

// TestFailures: the store fails at a verb and stays up. What was intended is voided at
// once, or, if that fails too, by the next Recover.
func TestFailures(t *testing.T) {
	errStore := errors.New("the disk is full")
	fail := func() error { return errStore }
	for name, x := range map[string]struct {
		verbs []string
		void  int // revoked when Issue returns
		open  int // open when Issue returns
	}{
		"ReserveShard":      {[]string{"ReserveShard"}, 0, 0},
		"Intend":            {[]string{"Intend"}, 0, 0},
		"Complete":          {[]string{"Complete"}, 2, 0},
		"Complete and Void": {[]string{"Complete", "Void"}, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			store, signed := newStore(t), &signatures{}
			broken := fault{Issuance: store, before: map[string]func() error{}}
			for _, verb := range x.verbs {
				broken.before[verb] = fail
			}
			a := authority(t, broken, signed.watch)
			all := requests(t)[:2]
			_, err := a.Issue(t.Context(), event(), all...)
			if !errors.Is(err, errStore) {
				t.Fatalf("error %v", err)
			}
			voided, ok := errors.AsType[*ca.VoidedError](err)
			if ok != (x.void+x.open > 0) || ok && (len(voided.Shards) > 0) != (x.void > 0) {
				t.Errorf("error %#v", err)
			}
			signed.inRecord(t, store)
			rows, _, _ := store.Certificates(t.Context(), nil, record.Page{Limit: 10})
			open, _ := store.OpenIntents(t.Context())
			if countRevoked(rows) != x.void || len(open) != x.open {
				t.Errorf("%d void, %d open", countRevoked(rows), len(open))
			}
			for _, verb := range x.verbs {
				delete(broken.before, verb)
			}
			if shards, err := a.Recover(t.Context()); err != nil || (len(shards) > 0) != (x.open > 0) {
				t.Errorf("recovered %v, %v", shards, err)
			}
			if got, err := a.Issue(t.Context(), event(), all...); err != nil || got[0].Again {
				t.Errorf("retry: %v %v", got, err)
			}
			signed.inRecord(t, store)
			events, _ := store.LastEvents(t.Context(), 100)
			said := 0
			for _, e := range events {
				if e.Verb == ca.VerbVoided {
					said++
				}
			}
			if said != x.void+x.open {
				t.Errorf("%d events of voiding", said)
			}
		})
	}
}

func signWith(t *testing.T, template, parent *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, template.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, der)
}
