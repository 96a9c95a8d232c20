package rollover

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
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
	_, err = AddRoot(h.in, profile.Operational, h.safe, time.Now())
	h.check(err)
	h.read()
	h.publish()
	h.check(Activate(t.Context(), h.in, h.store, "operational-2", time.Now()))
	h.read()
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
