package upkeep

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/rollover"
	"github.com/hallmark-pki/hallmark/record"
)

// keyholder is an installation whose roots' keys are in another folder.
type keyholder struct {
	*factory
	safe string
}

func (k keyholder) check(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

// reopen reads the files again, as each command does.
func (k keyholder) reopen() {
	k.Helper()
	k.store.Close()
	*k.factory = *open(k.T, k.in.Config.File)
}

func (k keyholder) root(line string) crypto.Signer {
	k.Helper()
	key, err := keys.Open("file:"+line+"-root.key", k.safe)
	k.check(err)
	return key
}

// publish signs what is proposed with the infrastructure root, and publishes it.
func (k keyholder) publish() {
	k.Helper()
	p, err := rollover.Pending(k.in)
	k.check(err)
	_, err = p.Sign(k.root(profile.Infrastructure), time.Now())
	k.check(err)
	k.check(rollover.WriteFile(p, rollover.ProposalFile(k.in)))
	_, err = rollover.Publish(k.Context(), k.in, k.store, nil, time.Now())
	k.check(err)
	k.reopen()
}

// rollOver gives the operational line its next issuer, and the issuer's name.
func (k keyholder) rollOver(known rollover.Known, safe string) string {
	k.Helper()
	made, err := rollover.AddRoot(k.Context(), k.in, known, profile.Operational, safe, time.Now())
	k.check(err)
	k.reopen()
	k.publish()
	k.check(rollover.Activate(k.Context(), k.in, k.store, made.Issuer, time.Now()))
	k.reopen()
	return made.Issuer
}

// losses holds what is missing, and so found by check, against its subjects.
func (k keyholder) losses(want ...string) (all []installation.Loss) {
	k.Helper()
	all, err := k.in.Losses(k.Context(), k.store, time.Now(), true)
	k.check(err)
	found := Check(k.Context(), k.in.Config.File, time.Now())
	var subjects []string
	for _, l := range all {
		subjects = append(subjects, l.Subject)
		level := map[bool]string{true: Error, false: Warning}[l.Grave]
		if !slices.Contains(found, Finding{level, l.Subject, l.Detail, l.Hint}) {
			k.Errorf("check does not say %+v: %+v", l, found)
		}
	}
	if !slices.Equal(subjects, want) {
		k.Fatalf("missing are %q, want %q: %+v", subjects, want, all)
	}
	return all
}

// moveOn gives a device another working certificate.
func (k keyholder) moveOn(d record.Device) {
	k.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k.check(err)
	_, err = k.ca.Issue(k.Context(), k.event("certificate.issued"), ca.Request{Profile: profile.LDevID, Device: d.ID,
		Content: profile.Content{Key: key.Public(), Model: d.Model, Serial: d.Serial, Lifetime: time.Hour}})
	k.check(err)
}

// rolledBack is restored, with its journal, from a backup of before the operational CA was
// rolled over and the one before it revoked. Old is the folder that was lost.
func rolledBack(t *testing.T) (k keyholder, old string, after record.Device, done Restored) {
	t.Helper()
	k = keyholder{newFactory(t), ""}
	old = k.in.Config.Dir
	k.safe = filepath.Join(old, "root-keys")
	k.enrol("before", record.DefaultLot)
	file := k.backup()
	k.losses()
	if name := k.rollOver(k.store, k.safe); name != "operational-2" {
		t.Fatalf("the next is %s", name)
	}
	after, _ = k.enrol("after", record.DefaultLot)
	_, err := rollover.RevokeIssuer(t.Context(), k.in, k.store, "operational", k.root(profile.Operational), record.ReasonSuperseded, time.Now())
	k.check(err)
	k.reopen()
	k.losses() // nothing yet
	k.store.Close()
	done, err = restore(t, Restoring{From: file, Journal: k.in.Config.Journal})
	k.check(err)
	k.factory = open(t, done.Config)
	return k, old, after, done
}

// A restore from before a roll-over says what the record knows of and the backup does not have.
func TestRestoreBeforeRollOver(t *testing.T) {
	k, old, _, done := rolledBack(t)
	if all := k.losses("trust bundle", "operational-root", "operational-2"); !slices.Equal(all, done.Losses) {
		t.Errorf("restore says %+v", done.Losses)
	}
	quick, err := k.in.Losses(t.Context(), k.store, time.Now(), false) // as the server's start does
	if err != nil || !slices.Equal(quick, done.Losses) {
		t.Errorf("the server says %+v, %v", quick, err)
	}
	for i, want := range []string{"number 1 is here, and number 2 was published", "its CRL, number 1, does not name operational", ": 1 good, 0 revoked"} {
		if l := done.Losses[i]; !l.Grave || !strings.Contains(l.Detail, want) {
			t.Errorf("%+v, want %q", l, want)
		}
	}
	// What the hints ask for is enough.
	for _, dir := range []string{"trust", "issuers", "keys"} {
		to := filepath.Join(k.in.Config.Dir, dir)
		k.check(os.RemoveAll(to))
		k.check(os.Rename(filepath.Join(old, dir), to))
	}
	k.reopen()
	k.losses()
	// Without one of them nothing starts, and which it is is said.
	k.check(os.Remove(filepath.Join(k.in.Config.Dir, "keys", "operational-2.key")))
	if f := Check(t.Context(), k.in.Config.File, time.Now())[0]; f.Level != Error || !strings.Contains(f.Detail, "keys/operational-2.key") || !strings.Contains(f.Hint, "bring it back") {
		t.Errorf("%+v", f)
	}
}

// Without the files the way leads ahead: another CA of another name, a greater number, and
// devices that move on.
func TestLostForGood(t *testing.T) {
	k, _, after, _ := rolledBack(t)
	if name := k.rollOver(k.store, k.safe); name != "operational-3" {
		t.Fatalf("the name of a CA that signed is given again: %s", name)
	}
	bundle := k.losses("trust bundle", "operational-root", "operational-2")[0]
	if !strings.Contains(bundle.Detail, "another of this number") {
		t.Errorf("%+v", bundle)
	}
	further, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k.check(err)
	spki, err := x509.MarshalPKIXPublicKey(further.Public())
	k.check(err)
	_, err = rollover.Propose(k.in, rollover.Wishes{TimeKeys: [][]byte{spki}}, time.Now())
	k.check(err)
	k.publish()
	k.losses("operational-root", "operational-2")
	_, err = rollover.RevokeIssuer(t.Context(), k.in, k.store, "operational", k.root(profile.Operational), record.ReasonSuperseded, time.Now())
	k.check(err)
	k.reopen()
	k.losses("operational-2")
	k.moveOn(after)
	k.losses()
}

// A CA that was made before the backup and trusted after it is here: what it issued is refused all the
// same, and to activate it takes a bundle first.
func TestRestoreBeforePublishing(t *testing.T) {
	k := keyholder{newFactory(t), ""}
	k.safe = filepath.Join(k.in.Config.Dir, "root-keys")
	made, err := rollover.AddRoot(t.Context(), k.in, k.store, profile.Operational, k.safe, time.Now())
	k.check(err)
	k.reopen()
	file := k.backup()
	k.publish()
	activate := func() error { return rollover.Activate(t.Context(), k.in, k.store, made.Issuer, time.Now()) }
	k.check(activate())
	k.reopen()
	k.enrol("after", record.DefaultLot)
	k.store.Close()
	done, err := restore(t, Restoring{From: file, Journal: k.in.Config.Journal})
	k.check(err)
	k.factory = open(t, done.Config)
	if l := k.losses("trust bundle", made.Issuer)[1]; !strings.Contains(l.Detail, "does not accept") || !strings.HasPrefix(l.Hint, "publish a trust bundle") {
		t.Errorf("%+v", l)
	}
	if err := activate(); err == nil {
		t.Error("a CA that nobody trusts is put to use")
	}
	k.publish() // the backup has the proposal
	if l := k.losses(made.Issuer)[0]; l.Hint != "hallmarkd trust activate "+made.Issuer {
		t.Errorf("%+v", l)
	}
	k.check(activate())
	k.reopen()
	k.losses()
}

// forgetful is what knows no issuers, as add-root did once.
type forgetful struct{}

func (forgetful) Issuers(context.Context) ([]string, error) { return nil, nil }

// A CA that got the name of one that is gone is not taken for it; and one that was put to use
// and is here is not lost.
func TestAnotherOfItsName(t *testing.T) {
	k, _, after, _ := rolledBack(t)
	if name := k.rollOver(forgetful{}, t.TempDir()); name != "operational-2" {
		t.Fatalf("the next is %s", name)
	}
	all := k.losses("trust bundle", "operational-root", "operational-2")
	if !strings.HasPrefix(all[2].Detail, "the one here is another that has its name") {
		t.Errorf("%+v", all[2])
	}
	k.moveOn(after)
	s, err := installation.ReadSuccession(k.in.Config)
	k.check(err)
	s.InUse = nil
	k.check(s.Write(k.in.Config))
	k.reopen()
	if l := k.losses("trust bundle", "operational-root", "operational-2")[2]; l.Grave || !strings.Contains(l.Detail, "operational issues here") {
		t.Errorf("%+v", l)
	}
}

// A device that was revoked stays on no list, and is told of until its certificate ends.
func TestRevokedOfTheLost(t *testing.T) {
	k, _, after, _ := rolledBack(t)
	_, err := k.store.Revoke(t.Context(), after.ID, time.Now(), record.ReasonKeyCompromise, "stolen", k.event("device.revoked"))
	k.check(err)
	if l := k.losses("trust bundle", "operational-root", "operational-2")[2]; l.Grave || !strings.Contains(l.Detail, ": 0 good, 1 revoked") {
		t.Errorf("%+v", l)
	}
	all, err := k.in.Losses(t.Context(), k.store, time.Now().Add(2*time.Hour), true)
	if err != nil || len(all) != 2 {
		t.Errorf("after its end: %+v, %v", all, err)
	}
}

// What is told by the record is weighed: a greater number is not forgotten for a later one, and
// birth certificates that are revoked, of a CA that is gone, trouble nobody.
func TestLossesAreWeighed(t *testing.T) {
	k := keyholder{newFactory(t), ""}
	device, _ := k.enrol("one", record.DefaultLot)
	for serial, issuer := range map[string]string{strings.Repeat("4a", 16): "manufacturing-2", strings.Repeat("4b", 16): "operational-2"} {
		_, _, err := k.store.ReserveShard(t.Context(), issuer, 1, 1)
		k.check(err)
		k.check(k.store.Intend(t.Context(), []record.Certificate{{Issuer: issuer, Serial: serial, Profile: issuer, Device: device.ID, Subject: "CN=one", Shard: 1,
			NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), Intended: time.Now(), TBS: []byte("to be signed")}}, nil))
	}
	k.losses("manufacturing-2", "operational-2")
	_, err := k.store.Revoke(t.Context(), device.ID, time.Now(), record.ReasonKeyCompromise, "stolen", k.event("device.revoked"))
	k.check(err)
	k.losses("operational-2")

	published, listed := k.event(record.VerbPublished), k.event(record.VerbImported)
	listed.Object, listed.Detail = "operational-root", map[string]string{"number": "9"}
	for _, object := range []string{"bundle 3", "bundle 2"} {
		published.Object = object
		k.check(k.store.Note(t.Context(), published, listed))
	}
	all := k.losses("trust bundle", "operational-root", "operational-2")
	for i, want := range []string{"number 3 was published", "its CRL is number 1, and number 9 was imported"} {
		if !strings.Contains(all[i].Detail, want) {
			t.Errorf("%+v, want %q", all[i], want)
		}
	}
}
