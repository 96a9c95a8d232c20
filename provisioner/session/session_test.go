package session_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/provisioner/session"
)

var now = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func keeper(t testing.TB, secret byte) *session.Keeper {
	t.Helper()
	k, err := session.New(bytes.Repeat([]byte{secret}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pending(t testing.TB) attest.Pending {
	t.Helper()
	d, err := simtpm.NewDevice(nil, simtpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Evidence([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := tpm2.New(nil, true).Verify(e, [32]byte{1}, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestASessionComesBackAsItWent(t *testing.T) {
	p := pending(t)
	bound := session.Context{Purpose: session.Enrol, Expires: now.Add(time.Minute), Ticket: "t", Serial: "SN-1"}
	begun, blob, err := keeper(t, 1).Start(p, bound)
	if err != nil {
		t.Fatal(err)
	}
	// Another replica finishes it.
	got, err := keeper(t, 1).Resume(blob, now, session.Enrol)
	if err != nil {
		t.Fatal(err)
	}
	if got.Context != bound || got.ID != begun.ID || !bytes.Equal(got.Secret, begun.Secret) || len(got.Secret) != 32 {
		t.Errorf("%+v became %+v", begun, got)
	}
	want, _ := p.Facts()
	if facts, err := got.Pending.Facts(); err != nil || !bytes.Equal(facts.TPM.AKName, want.TPM.AKName) {
		t.Errorf("facts %+v, %v", facts, err)
	}
	if bytes.Contains(blob, begun.Secret) {
		t.Error("the secret is inside")
	}
}

func TestASessionIsRefused(t *testing.T) {
	k := keeper(t, 1)
	bound := session.Context{Purpose: session.Next, Expires: now.Add(time.Minute), Device: "d"}
	_, blob, err := k.Promise(bound)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Resume(blob, now, session.Next); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"expired":       second(k.Resume(blob, now.Add(time.Minute), session.Next)),
		"other purpose": second(k.Resume(blob, now, session.Enrol, session.Renew)),
		"other server":  second(keeper(t, 2).Resume(blob, now, session.Next)),
		"cut":           second(k.Resume(blob[:len(blob)-1], now, session.Next)),
		"empty":         second(k.Resume(nil, now, session.Next)),
		"huge":          second(k.Resume(make([]byte, 1<<20), now, session.Next)),
	} {
		if !errors.Is(err, session.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, full, err := k.Start(pending(t), session.Context{Purpose: session.Enrol, Expires: now.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range full {
		bad := bytes.Clone(full)
		bad[i] ^= 0x10
		if _, err := k.Resume(bad, now, session.Enrol); !errors.Is(err, session.ErrInvalid) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
}

func TestSecretsDiffer(t *testing.T) {
	k, bound := keeper(t, 1), session.Context{Purpose: session.Next, Expires: now.Add(time.Minute)}
	a, _, _ := k.Promise(bound)
	b, _, _ := k.Promise(bound)
	if bytes.Equal(a.Secret, b.Secret) || a.ID == b.ID {
		t.Error("two sessions share a secret")
	}
	if _, err := session.New(make([]byte, 31)); err == nil {
		t.Error("a short server secret was accepted")
	}
}

func second(_ session.Session, err error) error { return err }

func FuzzResume(f *testing.F) {
	k := keeper(f, 1)
	made := session.Context{Purpose: session.Next, Expires: now.Add(time.Minute), Device: "made here"}
	_, blob, err := k.Promise(made)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Fuzz(func(t *testing.T, b []byte) {
		// Each process of the fuzzer has made a blob of its own.
		if s, err := k.Resume(b, now, session.Next); err == nil && s.Context != made {
			t.Errorf("a session that nobody made was accepted: %+v", s.Context)
		}
	})
}
