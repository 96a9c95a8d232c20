package rollover

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// TestRevokeIssuer: a root's list names an issuer once it has been succeeded, and with
// the root's key alone; an issuer that was revoked is never put to use again.
func TestRevokeIssuer(t *testing.T) {
	h := newHouse(t)
	root, err := keys.Open("file:operational-root.key", h.safe)
	h.check(err)
	other, err := keys.Open("file:manufacturing-root.key", h.safe)
	h.check(err)
	path := filepath.Join(h.in.Config.Trust.Roots, "operational-root.crl")
	before, err := os.ReadFile(path)
	h.check(err)
	refused := func(what, issuer string, do func() error) {
		t.Helper()
		if do() == nil {
			t.Errorf("%s: %s was revoked", what, issuer)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
			t.Errorf("%s: the list has changed (%v)", what, err)
		}
	}
	name := func(issuer string) func() error {
		return func() error {
			_, err := RevokeIssuer(t.Context(), h.in, h.store, issuer, root, 2, time.Now())
			return err
		}
	}
	refused("it issues", profile.Operational, name(profile.Operational))
	refused("unknown", "operational-7", name("operational-7"))
	h.rollOver()
	refused("the successor issues", "operational-2", name("operational-2"))
	refused("another root's key", profile.Operational, func() error {
		_, err := RevokeIssuer(t.Context(), h.in, h.store, profile.Operational, other, 2, time.Now())
		return err
	})

	h.check(name(profile.Operational)())
	h.read() // as the server does, which holds the list against its root
	before, err = os.ReadFile(path)
	h.check(err)
	list, err := x509.ParseRevocationList(before)
	h.check(err)
	if n := len(list.RevokedCertificateEntries); n != 1 || list.Number.Int64() != 2 {
		t.Errorf("list %v has %d entries", list.Number, n)
	}
	events, err := h.store.LastEvents(t.Context(), 1)
	h.check(err)
	if events[0].Verb != "issuer.listed" || events[0].Object != profile.Operational {
		t.Errorf("the audit says %+v", events[0])
	}
	refused("again", profile.Operational, name(profile.Operational))

	h.check(h.store.RecoverOperator(t.Context(), "anna", time.Now(), h.event("operator.recovered")))
	_, err = h.store.CreateJob(t.Context(), record.Selection{Holding: profile.Operational}, time.Now(), func(record.JobView) (record.JobPlan, error) {
		return record.JobPlan{Job: record.Job{Kind: record.JobRevokeIssuer, Issuer: profile.Operational, Operator: "anna", State: record.JobRunning, Created: time.Now()},
			Event: h.event("issuer.revoked")}, nil
	})
	h.check(err)
	if err := Activate(t.Context(), h.in, h.store, profile.Operational, time.Now()); err == nil {
		t.Error("a revoked issuer was put to use again")
	}
}

// TestImportList: a list that was signed where the root's key is takes the place of the one
// in use; one that names an issuer in use, or is no root's of ours, does not.
func TestImportList(t *testing.T) {
	h := newHouse(t)
	path := filepath.Join(h.in.Config.Trust.Roots, "operational-root.crl")
	before, err := os.ReadFile(path)
	h.check(err)
	sign := func(root string, number int64, issuers ...string) []byte {
		t.Helper()
		key, err := keys.Open("file:"+root+".key", h.safe)
		h.check(err)
		list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now(), NextUpdate: time.Now().AddDate(1, 0, 0)}
		var by *x509.Certificate
		for _, i := range h.in.Issuers {
			if profile.RootOf(i.Name) == root {
				by = i.Root
			}
			if slices.Contains(issuers, i.Name) {
				list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: i.Certificate.SerialNumber, RevocationTime: time.Now(), ReasonCode: 2})
			}
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, by, key)
		h.check(err)
		return der
	}
	refused := func(what string, text []byte) {
		t.Helper()
		if done, err := ImportList(t.Context(), h.in, h.store, text, time.Now()); err == nil {
			t.Errorf("%s: %+v", what, done)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
			t.Errorf("%s: the list has changed (%v)", what, err)
		}
	}
	refused("it issues", sign("operational-root", 2, profile.Operational))
	if _, err := UnsignedRevocation(h.in, profile.Operational, 2, time.Now()); err == nil {
		t.Error("it issues, and its revocation is written to be signed")
	}
	refused("garbage", []byte("list"))
	h.rollOver()
	refused("the same number", sign("operational-root", 1, profile.Operational))

	unsigned, err := UnsignedRevocation(h.in, profile.Operational, 2, time.Now())
	h.check(err)
	if len(unsigned.RevokedCertificateEntries) != 1 || unsigned.Number.Int64() != 2 {
		t.Errorf("to be signed: %+v", unsigned)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: sign("operational-root", 7, profile.Operational)})
	done, err := ImportList(t.Context(), h.in, h.store, text, time.Now())
	h.check(err)
	if done.Root != "operational-root" || done.List.Number.Int64() != 7 || !slices.Equal(done.Named, []string{profile.Operational}) {
		t.Errorf("%+v", done)
	}
	h.read() // as the server does, which holds the list against its root
	before, err = os.ReadFile(path)
	h.check(err)
	if !bytes.Equal(before, done.List.Raw) {
		t.Error("another list is in use")
	}
	events, err := h.store.LastEvents(t.Context(), 2)
	h.check(err)
	var verbs []string
	for _, e := range events {
		verbs = append(verbs, e.Verb+" "+e.Object)
	}
	slices.Sort(verbs)
	if !slices.Equal(verbs, []string{"issuer.listed operational", "list.imported operational-root"}) {
		t.Errorf("the audit says %v", verbs)
	}
	refused("one that forgets", sign("operational-root", 8))
	// Another list of the same is only newer.
	done, err = ImportList(t.Context(), h.in, h.store, sign("operational-root", 9, profile.Operational), time.Now())
	h.check(err)
	if len(done.Named) != 0 {
		t.Errorf("%+v", done)
	}
}

// TestCutOffBeforeItWasTold: what is in the files and not in the audit is told when it is done again. A
// restore from before it would not miss it otherwise.
func TestCutOffBeforeItWasTold(t *testing.T) {
	h := newHouse(t)
	_, err := AddRoot(t.Context(), h.in, h.store, profile.Operational, h.safe, time.Now())
	h.check(err)
	h.read()
	h.publish()
	root, err := keys.Open("file:operational-root.key", h.safe)
	h.check(err)
	var imported []byte
	for _, step := range []struct {
		want string
		do   func(record.Store) error
	}{
		{"issuer.activated operational-2", func(by record.Store) error {
			return Activate(t.Context(), h.in, by, "operational-2", time.Now())
		}},
		{"issuer.listed operational", func(by record.Store) error {
			_, err := RevokeIssuer(t.Context(), h.in, by, profile.Operational, root, 2, time.Now())
			return err
		}},
		{"list.imported operational-root", func(by record.Store) error {
			if imported == nil {
				at, err := h.in.Find(profile.Operational)
				h.check(err)
				list, err := x509.ParseRevocationList(h.in.Roots[at].CRL)
				h.check(err)
				next := &x509.RevocationList{Number: big.NewInt(9), ThisUpdate: time.Now(), NextUpdate: list.NextUpdate, RevokedCertificateEntries: list.RevokedCertificateEntries}
				imported, err = x509.CreateRevocationList(rand.Reader, next, h.in.Roots[at].Certificate, root)
				h.check(err)
			}
			_, err := ImportList(t.Context(), h.in, by, imported, time.Now())
			return err
		}},
	} {
		if err := step.do(deaf{h.store}); !errors.Is(err, errDeaf) {
			t.Fatalf("%s, untold: %v", step.want, err)
		}
		h.read()
		if err := step.do(h.store); err != nil {
			t.Errorf("%s, again: %v", step.want, err)
		}
		events, err := h.store.LastEvents(t.Context(), 1)
		h.check(err)
		if got := events[0].Verb + " " + events[0].Object; got != step.want {
			t.Errorf("the audit says %s, not %s", got, step.want)
		}
		if step.do(h.store) == nil {
			t.Errorf("%s: done a third time", step.want)
		}
	}
}

// rollOver puts a second operational issuer to use.
func (h *house) rollOver() {
	h.Helper()
	_, err := AddRoot(h.Context(), h.in, h.store, profile.Operational, h.safe, time.Now())
	h.check(err)
	h.read()
	h.publish()
	h.check(Activate(h.Context(), h.in, h.store, "operational-2", time.Now()))
	h.read()
}
