package ca_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// TestIssue issues one certificate of every kind and compares it with its record.
func TestIssue(t *testing.T) {
	store := newStore(t)
	a := authority(t, store)
	start := time.Now()
	for _, r := range requests(t) {
		t.Run(string(r.Profile), func(t *testing.T) {
			r.Predecessor = "00000000000000000000000000000001"
			got, err := a.Issue(t.Context(), event(), r)
			if err != nil {
				t.Fatal(err)
			}
			i := got[0]
			issuer, err := x509.ParseCertificate(i.Chain[len(i.Chain)-1])
			if err != nil || len(got) != 1 || i.Again || len(i.Chain) != 2 || !bytes.Equal(i.Chain[0], i.Certificate.Raw) || profile.CheckSignature(i.Certificate, issuer) != nil {
				t.Errorf("answer %+v", i)
			}
			row, err := store.Status(t.Context(), i.Record.Issuer, profile.SerialText(i.Certificate.SerialNumber))
			if err != nil {
				t.Fatal(err)
			}
			key := sha256.Sum256(i.Certificate.RawSubjectPublicKeyInfo)
			if !bytes.Equal(row.DER, i.Certificate.Raw) || row.Profile != string(r.Profile) || row.Device != r.Device || row.Principal != r.Content.Principal ||
				row.Key != key || row.Subject != i.Certificate.Subject.String() || !row.NotBefore.Equal(i.Certificate.NotBefore) ||
				!row.NotAfter.Equal(i.Certificate.NotAfter) || row.Predecessor != r.Predecessor || row.Issued.Before(row.Intended) || !row.Revoked.IsZero() {
				t.Errorf("record %+v", row)
			}
			if url := profile.CRLURL(baseURL, row.Issuer, row.Shard); r.Profile != profile.OCSP && !slices.Equal(i.Certificate.CRLDistributionPoints, []string{url}) {
				t.Errorf("CRL %v, want %s", i.Certificate.CRLDistributionPoints, url)
			}
			if b := i.Certificate.NotBefore; b.After(start) || b.Before(start.Add(-6*time.Minute)) {
				t.Errorf("begins %v", b)
			}
		})
	}
	if open, err := store.OpenIntents(t.Context()); err != nil || len(open) != 0 {
		t.Errorf("open intents %v, %v", open, err)
	}
}

func TestIssueRefuses(t *testing.T) {
	store := newStore(t)
	a := authority(t, store)
	all := requests(t)
	for name, reqs := range map[string][]ca.Request{
		"nothing":                         nil,
		"the same twice":                  {all[0], all[0]},
		"a device's without device":       {changed(all[2], func(r *ca.Request) { r.Device = "" })},
		"a server's with device":          {changed(all[3], func(r *ca.Request) { r.Device = device1 })},
		"an LDevID of another issuer":     {changed(all[2], func(r *ca.Request) { r.Issuer = profile.Manufacturing })},
		"OCSP without issuer":             {changed(all[5], func(r *ca.Request) { r.Issuer = "" })},
		"OCSP of an unknown issuer":       {changed(all[5], func(r *ca.Request) { r.Issuer = "operational-root" })},
		"an unknown kind":                 {changed(all[2], func(r *ca.Request) { r.Profile = "vpn" })},
		"bad content":                     {changed(all[2], func(r *ca.Request) { r.Content.Serial = "a b" })},
		"one good, one bad":               {all[0], changed(all[1], func(r *ca.Request) { r.Content.Lifetime = time.Hour })},
		"a device that is not there":      {changed(all[2], func(r *ca.Request) { r.Device = "bbbbbbbbbbbbbbbbbbbbbbbbbb" })},
		"an operator who is not there":    {changed(all[4], func(r *ca.Request) { r.Content.Principal = "eve" })},
		"a life that outlives the issuer": {changed(all[4], func(r *ca.Request) { r.Content.Lifetime = 20 * 365 * 24 * time.Hour })},
	} {
		if got, err := a.Issue(t.Context(), event(), reqs...); err == nil {
			t.Errorf("%s: issued %v", name, got)
		} else if strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%s: no reason", name)
		}
	}
	if rows, _, err := store.Certificates(t.Context(), nil, record.Page{Limit: 100}); err != nil || len(rows) != 0 {
		t.Errorf("the record has %d certificates, %v", len(rows), err)
	}
}

func changed(r ca.Request, change func(*ca.Request)) ca.Request {
	change(&r)
	return r
}

// TestIssueAgain: the same key gets the same certificate until two thirds of its life,
// and a lost answer costs neither a signature nor an event.
func TestIssueAgain(t *testing.T) {
	store, now := newStore(t), time.Now()
	signed := &signatures{}
	a := authority(t, store, signed.watch, func(c *ca.Config) { c.Now = func() time.Time { return now } })
	all := requests(t)[:3] // IDevID, AK, LDevID
	first, err := a.Issue(t.Context(), event(), all[0], all[2])
	if err != nil {
		t.Fatal(err)
	}
	events, _ := store.Events(t.Context(), 0, 100)
	again, err := a.Issue(t.Context(), event(), all[0], all[2])
	if err != nil {
		t.Fatal(err)
	}
	for i := range again {
		if !again[i].Again || !again[i].Certificate.Equal(first[i].Certificate) || !bytes.Equal(again[i].Chain[1], first[i].Chain[1]) {
			t.Errorf("again: %+v", again[i].Record)
		}
	}
	if more, _ := store.Events(t.Context(), 0, 100); len(more) != len(events) || len(signed.all) != 2 {
		t.Errorf("%d events, then %d; %d signatures", len(events), len(more), len(signed.all))
	}
	mixed, err := a.Issue(t.Context(), event(), all[0], all[1])
	if err != nil || !mixed[0].Again || mixed[1].Again {
		t.Errorf("a known and a new one: %v %v", mixed, err)
	}
	now = now.Add(21 * 24 * time.Hour) // of 30
	late, err := a.Issue(t.Context(), event(), all[0], all[2])
	if err != nil || !late[0].Again || late[1].Again || late[1].Certificate.Equal(first[1].Certificate) {
		t.Errorf("past two thirds: IDevID again %t, LDevID again %t, %v", late[0].Again, late[1].Again, err)
	}
}

// TestAgainForOneKey: a device with one key for everything that shows its working certificate
// gets the next one, and what goes with it; whose answer is lost then gets the same.
func TestAgainForOneKey(t *testing.T) {
	a := authority(t, newStore(t))
	all := requests(t)
	client, page := all[2], all[8] // LDevID, DeviceServer
	page.Content.Key = client.Content.Key
	first, err := a.Issue(t.Context(), event(), client, page)
	if err != nil {
		t.Fatal(err)
	}
	client.Predecessor = first[0].Record.Serial
	next, err := a.Issue(t.Context(), event(), client, page)
	if err != nil || next[0].Again || next[1].Again {
		t.Errorf("renewed: %+v, %v", next, err)
	}
	lost, err := a.Issue(t.Context(), event(), client, page)
	if err != nil || !lost[0].Again || !lost[1].Again || lost[0].Record.Serial != next[0].Record.Serial || lost[1].Record.Serial != next[1].Record.Serial {
		t.Errorf("the answer given again: %+v, %v", lost, err)
	}
}

// TestAgainFromDamage: a certificate that is damaged on record is issued anew, and what was
// asked for with it is not left open.
func TestAgainFromDamage(t *testing.T) {
	store := newStore(t)
	all := requests(t)
	first, err := authority(t, store).Issue(t.Context(), event(), all[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := authority(t, damaged{store}).Issue(t.Context(), event(), all[0], all[1])
	if err != nil || got[0].Again || got[0].Record.Serial == first[0].Record.Serial {
		t.Errorf("%+v, %v", got, err)
	}
	if open, err := store.OpenIntents(t.Context()); err != nil || len(open) > 0 {
		t.Errorf("%d intents are open, %v", len(open), err)
	}
}

// damaged has lost half of every certificate.
type damaged struct{ record.Issuance }

func (d damaged) Intend(ctx context.Context, intents []record.Certificate, stands func([]*record.Certificate) []bool) error {
	return d.Issuance.Intend(ctx, intents, func(earlier []*record.Certificate) []bool {
		for _, e := range earlier {
			if e != nil {
				e.DER = e.DER[:len(e.DER)/2]
			}
		}
		return stands(earlier)
	})
}

// TestIssueAtOnce: many ask at once for the same certificates; there is one of each.
func TestIssueAtOnce(t *testing.T) {
	store := newStore(t)
	signed := &signatures{}
	a := authority(t, store, signed.watch)
	all := requests(t)
	var group sync.WaitGroup
	serials := make([]string, 16)
	for i := range serials {
		group.Go(func() {
			reqs := []ca.Request{all[0], all[1]}
			if i%2 == 1 {
				slices.Reverse(reqs) // the other order must not deadlock
			}
			got, err := a.Issue(context.Background(), event(), reqs...)
			if err != nil {
				t.Error(err)
				return
			}
			s := []string{got[0].Record.Serial, got[1].Record.Serial}
			slices.Sort(s)
			serials[i] = strings.Join(s, " ")
		})
	}
	group.Wait()
	if slices.Sort(serials); serials[0] != serials[15] || len(signed.all) != 2 {
		t.Errorf("%d signatures, answers %v", len(signed.all), slices.Compact(serials))
	}
}

// TestWaitingEnds: who waits for another's certificate need not wait longer than asked.
func TestWaitingEnds(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	a := authority(t, newStore(t), func(c *ca.Config) {
		for i := range c.Issuers {
			c.Issuers[i].CAS = slow{c.Issuers[i].CAS, entered, leave}
		}
	})
	r := requests(t)[2]
	first := make(chan error)
	go func() {
		_, err := a.Issue(t.Context(), event(), r)
		first <- err
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := a.Issue(ctx, event(), r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second asker got %v", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if got, err := a.Issue(t.Context(), event(), r); err != nil || !got[0].Again {
		t.Errorf("afterwards: %v", err)
	}
}

// TestAgainWhileReserving: the record is written by one after the other, so nobody may wait
// there, to be given a certificate again, for one who waits to reserve places in a shard.
func TestAgainWhileReserving(t *testing.T) {
	intending, reserving, intended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	hooks := fault{newStore(t), map[string]func() error{}, map[string]func() error{}}
	a := authority(t, hooks, func(c *ca.Config) { c.ShardCapacity = 16 }) // places are reserved one at a time
	r := requests(t)[2]
	if _, err := a.Issue(t.Context(), event(), r); err != nil {
		t.Fatal(err)
	}
	hooks.before["Intend"] = sync.OnceValue(func() error { close(intending); <-reserving; return nil })
	hooks.after["Intend"] = sync.OnceValue(func() error { close(intended); return nil })
	hooks.before["ReserveShard"] = func() error {
		select {
		case <-intending:
		default:
			return nil
		}
		close(reserving)
		select {
		case <-intended:
			return nil
		case <-time.After(time.Minute):
			return errors.New("the writer waits for who waits for it")
		}
	}
	again := make(chan error)
	go func() {
		got, err := a.Issue(t.Context(), event(), r)
		if err == nil && !got[0].Again {
			err = errors.New("it was issued anew")
		}
		again <- err
	}()
	<-intending
	other := r
	other.Content.Key = newKey(t).Public()
	if _, err := a.Issue(t.Context(), event(), other); err != nil {
		t.Error(err)
	}
	if err := <-again; err != nil {
		t.Error(err)
	}
}

// slow says when it is asked to sign, and does it when told.
type slow struct {
	ca.CAS
	entered, leave chan struct{}
}

func (s slow) Sign(prepared *x509.Certificate) ([]byte, error) {
	s.entered <- struct{}{}
	<-s.leave
	return s.CAS.Sign(prepared)
}

// TestShards: no more certificates name a shard than its capacity, and no number twice.
func TestShards(t *testing.T) {
	store := newStore(t)
	count := map[int64]int{}
	const capacity = 33 // places are reserved two at a time, and the last alone
	for range 3 {       // starts of the server
		a := authority(t, store, func(c *ca.Config) { c.ShardCapacity = capacity })
		r := requests(t)[2]
		for range 16 {
			r.Content.Key = newKey(t).Public()
			got, err := a.Issue(t.Context(), event(), r)
			if err != nil {
				t.Fatal(err)
			}
			count[got[0].Record.Shard]++
		}
	}
	if len(count) != 2 {
		t.Errorf("48 certificates in shards %v of %d", count, capacity)
	}
	for shard, n := range count {
		if n > capacity {
			t.Errorf("shard %d is named by %d certificates", shard, n)
		}
	}
}

// TestLintIsHeeded: what the linter refuses costs no intent and no signature.
func TestLintIsHeeded(t *testing.T) {
	store, signed := newStore(t), &signatures{}
	a := authority(t, store, signed.watch)
	a.LintNothingPasses()
	if _, err := a.Issue(t.Context(), event(), requests(t)[2]); err == nil || !strings.Contains(err.Error(), "e_never") {
		t.Errorf("got %v", err)
	}
	rows, _, err := store.Certificates(t.Context(), nil, record.Page{Limit: 10})
	if err != nil || len(rows) != 0 || len(signed.all) != 0 {
		t.Errorf("%d rows, %d signatures, %v", len(rows), len(signed.all), err)
	}
}

// TestIssueForEndedDevice: whoever is suspended or revoked gets nothing, and what was
// being signed at that moment is not handed out.
func TestIssueForEndedDevice(t *testing.T) {
	for name, end := range map[string]func(record.Store) error{
		"revoked": func(s record.Store) error {
			_, err := s.Revoke(context.Background(), device1, time.Now(), record.ReasonKeyCompromise, "stolen", event())
			return err
		},
		"suspended": func(s record.Store) error {
			_, err := s.Suspend(context.Background(), device1, time.Now(), event())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore(t)
			signed := &signatures{}
			a := authority(t, store, signed.watch)
			all := requests(t)
			signed.before = func() {
				if err := end(store); err != nil {
					t.Error(err)
				}
			}
			_, err := a.Issue(t.Context(), event(), all[2])
			voided, ok := errors.AsType[*ca.VoidedError](err)
			if !ok || !errors.Is(err, record.ErrConflict) || len(voided.Shards) != 1 {
				t.Fatalf("ended while signing: %v", err)
			}
			signed.inRecord(t, store)
			if row, err := store.Status(t.Context(), profile.Operational, profile.SerialText(signed.all[0].SerialNumber)); err != nil || row.Revoked.IsZero() {
				t.Errorf("record %+v %v", row, err)
			}
			signed.before = nil
			if _, err := a.Issue(t.Context(), event(), all[0]); !errors.Is(err, record.ErrConflict) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

// TestHangUp: a caller who goes away when signing has begun finds the certificate when
// he comes back.
func TestHangUp(t *testing.T) {
	store := newStore(t)
	signed := &signatures{}
	a := authority(t, store, signed.watch)
	r := requests(t)[2]
	ctx, cancel := context.WithCancel(t.Context())
	signed.before = cancel
	if _, err := a.Issue(ctx, event(), r); err != nil {
		t.Fatal(err)
	}
	again, err := a.Issue(t.Context(), event(), r)
	if err != nil || !again[0].Again {
		t.Errorf("%v %v", again, err)
	}
	if _, err := a.Issue(ctx, event(), requests(t)[2]); !errors.Is(err, context.Canceled) {
		t.Errorf("one who had gone before: %v", err)
	}
}

// TestStrangeSigner: a CAS that signs anything but the intent, or with another key, is
// found out, and nothing is handed out.
func TestStrangeSigner(t *testing.T) {
	issuer := foundation(t)[1]
	otherwise := func(change func(*x509.Certificate)) func(*testing.T, ca.CAS, *x509.Certificate) ([]byte, error) {
		return func(t *testing.T, _ ca.CAS, prepared *x509.Certificate) ([]byte, error) {
			c := *prepared
			change(&c)
			return signWith(t, &c, issuer.Certificate, issuer.Signer).Raw, nil
		}
	}
	for name, strange := range map[string]func(t *testing.T, good ca.CAS, prepared *x509.Certificate) ([]byte, error){
		"refuses": func(*testing.T, ca.CAS, *x509.Certificate) ([]byte, error) {
			return nil, errors.New("no")
		},
		"chooses the serial number": otherwise(func(c *x509.Certificate) { c.SerialNumber = profile.NewSerial() }),
		"adds a name":               otherwise(func(c *x509.Certificate) { c.DNSNames = []string{"evil.example"} }),
		"orders the extensions its way": otherwise(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 7, 0x80}}}
		}),
		"signs with another key": func(t *testing.T, _ ca.CAS, prepared *x509.Certificate) ([]byte, error) {
			key := newKey(t)
			parent := *issuer.Certificate
			parent.PublicKey = key.Public()
			return signWith(t, prepared, &parent, key).Raw, nil
		},
		"returns what was linted": func(t *testing.T, _ ca.CAS, prepared *x509.Certificate) ([]byte, error) {
			return profile.Assemble(prepared.RawTBSCertificate, leaf(t).Signature)
		},
		"signs badly": func(_ *testing.T, good ca.CAS, prepared *x509.Certificate) ([]byte, error) {
			der, err := good.Sign(prepared)
			der[len(der)-1] ^= 1
			return der, err
		},
		"signs well and returns something else": func(t *testing.T, good ca.CAS, prepared *x509.Certificate) ([]byte, error) {
			der, err := good.Sign(prepared)
			if err != nil {
				return nil, err
			}
			c := *prepared
			c.SerialNumber = profile.NewSerial()
			other := signWith(t, &c, issuer.Certificate, issuer.Signer)
			return profile.Assemble(other.RawTBSCertificate, parse(t, der).Signature)
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := newStore(t)
			a := authority(t, store, func(c *ca.Config) {
				for i := range c.Issuers {
					good := c.Issuers[i].CAS
					c.Issuers[i].CAS = casFunc(func(prepared *x509.Certificate) ([]byte, error) { return strange(t, good, prepared) })
				}
			})
			_, err := a.Issue(t.Context(), event(), requests(t)[2])
			if _, ok := errors.AsType[*ca.VoidedError](err); !ok {
				t.Fatalf("got %v", err)
			}
			rows, _, err := store.Certificates(t.Context(), nil, record.Page{Limit: 10})
			if err != nil || len(rows) != 1 || rows[0].Revoked.IsZero() {
				t.Errorf("record %+v %v", rows, err)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	f := foundation(t)
	other := func(change func(*x509.Certificate)) func(*ca.Config) {
		return func(c *ca.Config) {
			cert := *c.Issuers[0].Certificate
			change(&cert)
			c.Issuers[0].Certificate = &cert
		}
	}
	for name, change := range map[string]func(*ca.Config){
		"no store":             func(c *ca.Config) { c.Store = nil },
		"no clock":             func(c *ca.Config) { c.Now = nil },
		"no issuers":           func(c *ca.Config) { c.Issuers = nil },
		"https":                func(c *ca.Config) { c.BaseURL = "https://ca.example" },
		"no organisation":      func(c *ca.Config) { c.Organisation = "" },
		"negative capacity":    func(c *ca.Config) { c.ShardCapacity = -1 },
		"an issuer twice":      func(c *ca.Config) { c.Issuers = append(c.Issuers, c.Issuers[0]) },
		"an unknown issuer":    func(c *ca.Config) { c.Issuers[0].Name = "other" },
		"another's root":       func(c *ca.Config) { c.Issuers[0].Root = f[1].Root },
		"no signer":            func(c *ca.Config) { c.Issuers[0].CAS = nil },
		"a leaf as the issuer": func(c *ca.Config) { c.Issuers[0].Certificate = leaf(t) },
		"no certificate":       func(c *ca.Config) { c.Issuers[0].Certificate = nil },
		"no root":              func(c *ca.Config) { c.Issuers[0].Root = nil },
		"no CA":                other(func(c *x509.Certificate) { c.IsCA = false }),
		"a CA of CRLs alone":   other(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }),
		"no key identifier":    other(func(c *x509.Certificate) { c.SubjectKeyId = nil }),
	} {
		t.Run(name, func(t *testing.T) {
			c := ca.Config{Store: newStore(t), BaseURL: baseURL, Organisation: "Acme Devices", Now: time.Now}
			for _, f := range f {
				c.Issuers = append(c.Issuers, ca.Issuer{Name: f.Name, Certificate: f.Certificate, Root: f.Root, CAS: casFunc(nil)})
			}
			if _, err := ca.New(c); err != nil {
				t.Fatal("the good one:", err)
			}
			change(&c)
			if _, err := ca.New(c); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// leaf is a server certificate.
func leaf(t *testing.T) *x509.Certificate {
	got, err := authority(t, newStore(t)).Issue(t.Context(), event(), requests(t)[3])
	if err != nil {
		t.Fatal(err)
	}
	return got[0].Certificate
}

type casFunc func(*x509.Certificate) ([]byte, error)

func (f casFunc) Sign(prepared *x509.Certificate) ([]byte, error) { return f(prepared) }

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClockBeforeTheIssuer: a machine that does not know the time issues nothing. One that was
// a little ahead when the CA was founded does.
func TestClockBeforeTheIssuer(t *testing.T) {
	store := newStore(t)
	for behind, refused := range map[time.Duration]bool{time.Hour: false, 6 * 365 * 24 * time.Hour: true} {
		a := authority(t, store, func(c *ca.Config) { c.Now = func() time.Time { return time.Now().Add(-behind) } })
		_, err := a.Issue(t.Context(), event(), requests(t)[0])
		if refused && (err == nil || !strings.Contains(err.Error(), "is this machine's clock right?")) || !refused && err != nil {
			t.Errorf("%v behind: %v", behind, err)
		}
	}
}
