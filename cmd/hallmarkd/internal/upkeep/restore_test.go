package upkeep

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record"
)

// factory is an installation at work.
type factory struct {
	*testing.T
	in    *installation.Installation
	store record.Store
	ca    *ca.Authority
}

func newFactory(t *testing.T) *factory { return newFactoryIn(t, filepath.Join(t.TempDir(), "ca")) }

func newFactoryIn(t *testing.T, dir string) *factory {
	t.Helper()
	made, err := installation.Founding{Dir: dir, Name: "Acme", Listen: "127.0.0.1:8443", Public: []string{"https://localhost:8443"}}.Found(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return open(t, made.Config)
}

func open(t *testing.T, path string) *factory {
	t.Helper()
	in, err := installation.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	store, err := in.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	authority, err := in.Authority(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	return &factory{t, in, store, authority}
}

func (f *factory) event(verb string) record.Event {
	return record.Event{Time: time.Now(), Actor: "host", Verb: verb}
}

// enrol admits a device to a lot and issues its working certificate.
func (f *factory) enrol(name, lot string) (record.Device, record.Certificate) {
	f.Helper()
	ek := sha256.Sum256([]byte(name))
	device := record.Device{ID: "id-" + name, Model: record.DefaultModel, Lot: lot, Serial: name, State: record.StateActive,
		Assurance: record.Assurance{Hardware: true}, EKs: []record.EK{{Fingerprint: ek, Name: ek[:]}},
		AKName: append([]byte("ak"), ek[:]...), Enrolled: time.Now(), Seen: time.Now()}
	device, err := f.store.Admit(context.Background(), record.Query{EK: ek}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: device, Session: "session-" + name, Expires: time.Now().Add(time.Hour), Event: f.event("device.enrolled")}, nil
	})
	if err != nil {
		f.Fatalf("%s: %v", name, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	issued, err := f.ca.Issue(context.Background(), f.event("certificate.issued"), ca.Request{Profile: profile.LDevID, Device: device.ID,
		Content: profile.Content{Key: key.Public(), Model: device.Model, Serial: name, Lifetime: time.Hour}})
	if err != nil {
		f.Fatal(err)
	}
	return device, issued[0].Record
}

func (f *factory) backup() string {
	f.Helper()
	to := filepath.Join(f.TempDir(), "backup.tar")
	if _, err := Backup(f.Context(), f.in, to, "test", time.Now()); err != nil {
		f.Fatal(err)
	}
	return to
}

// A stick with FAT knows no hard links.
func TestBackupToFAT(t *testing.T) {
	defer func(before func(string, string) error) { link = before }(link)
	link = func(from, to string) error { return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EPERM} }
	f := newFactory(t)
	to := f.backup()
	if _, contents := read(t, to); len(contents) < 10 {
		t.Errorf("%d files", len(contents))
	}
	before, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := place(filepath.Join(f.in.Config.Dir, "hallmark.yaml"), to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("it replaces a file: %v", err)
	}
	if after, err := os.ReadFile(to); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the backup has changed: %v", err)
	}
}

// Root recovers an operator: a server with a user of its own must still be able to back up.
func TestRecoveredForTheServersUser(t *testing.T) {
	f := newFactory(t)
	user, dir := os.Geteuid(), f.in.Config.Dir
	if user == 0 {
		user = 65534
		if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { return errors.Join(err, os.Lchown(path, user, -1)) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.in.RecoverOperator(t.Context(), f.store, "bo", filepath.Join(dir, "operator-bo")); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(filepath.Join(dir, "operator-bo"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if seen++; err == nil && int(info.Sys().(*syscall.Stat_t).Uid) != user {
			t.Errorf("%s is not the server's", path)
		}
		return err
	})
	if err != nil || seen != 4 {
		t.Fatalf("%d files, %v", seen, err)
	}
}

// job makes one of anna's that runs.
func (f *factory) job(kind string, of record.Device) record.Job {
	f.Helper()
	j, err := f.store.CreateJob(f.Context(), record.Selection{Devices: []string{of.ID}}, time.Now(), func(record.JobView) (record.JobPlan, error) {
		return record.JobPlan{Job: record.Job{Kind: kind, Operator: "anna", State: record.JobRunning, Created: time.Now()}, Event: f.event("job.created")}, nil
	})
	if err != nil {
		f.Fatal(err)
	}
	return j
}

func restore(t *testing.T, r Restoring) (Restored, error) {
	t.Helper()
	r.Dir, r.Now = filepath.Join(t.TempDir(), "restored"), time.Now()
	return r.Restore(t.Context())
}

// TestRestoreLosesNothing is the promise: after the backup a device is revoked and a
// lot filled, and certificates issued; the restored record knows it all.
func TestRestoreLosesNothing(t *testing.T) {
	f := newFactory(t)
	ctx := t.Context()
	if err := f.store.CreateLot(ctx, record.Lot{Name: "pilot", Model: record.DefaultModel, Quota: 2, Created: time.Now()}, nil, f.event("lot.created")); err != nil {
		t.Fatal(err)
	}
	early, _ := f.enrol("early", "pilot")
	if err := f.store.RecoverOperator(ctx, "anna", time.Now(), f.event("operator.recovered")); err != nil {
		t.Fatal(err)
	}
	running := f.job(record.JobSuspend, early)
	file := f.backup()
	late, lateCertificate := f.enrol("late", "pilot")
	_, newest := f.enrol("newest", record.DefaultLot)
	shards, err := f.store.Revoke(ctx, early.ID, time.Now(), record.ReasonKeyCompromise, "stolen", f.event("device.revoked"))
	if err != nil || len(shards) != 1 {
		t.Fatalf("revoke: %v, %v", shards, err)
	}
	if err := f.store.PublishCRL(ctx, record.CRL{Shard: shards[0], Sequence: time.Now().UnixMilli(), DER: []byte("list"), ThisUpdate: time.Now(), NextUpdate: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Suspend(ctx, late.ID, time.Now(), f.event("device.suspended")); err != nil {
		t.Fatal(err)
	}
	told, err := f.store.Changes(ctx, 0, 100)
	if err != nil || len(told) < 2 {
		t.Fatalf("changes: %+v, %v", told, err)
	}
	journal := f.in.Config.Journal
	f.store.Close()
	if err := os.Rename(journal, journal+".saved"); err != nil { // the disk with the record is gone, the other is not
		t.Fatal(err)
	}

	done, err := restore(t, Restoring{From: file, Journal: journal + ".saved"})
	if err != nil || done.Lost || done.Replayed == 0 {
		t.Fatalf("restore: %+v, %v", done, err)
	}
	again := open(t, done.Config)
	for _, want := range []struct{ id, state string }{{early.ID, record.StateRevoked}, {late.ID, record.StateSuspended}, {"id-newest", record.StateActive}} {
		if d, err := again.store.Device(ctx, want.id); err != nil || d.State != want.state {
			t.Errorf("%s is %q, not %q (%v)", want.id, d.State, want.state, err)
		}
	}
	if changes, err := again.store.Changes(ctx, 0, 100); err != nil || !slices.Equal(changes, told) {
		t.Errorf("followers of the feed would be told something else: %+v, not %+v (%v)", changes, told, err)
	}
	if c, err := again.store.Status(ctx, profile.Operational, lateCertificate.Serial); err != nil || c.Reason != record.ReasonHold {
		t.Errorf("the suspended certificate: %+v, %v", c, err)
	}
	if c, err := again.store.Status(ctx, profile.Operational, newest.Serial); err != nil || c.DER == nil || !c.Revoked.IsZero() {
		t.Errorf("a certificate issued after the backup is not known as good: %+v, %v", c, err)
	}
	if l, err := again.store.Lot(ctx, "pilot"); err != nil || l.Used != 2 {
		t.Errorf("the quota: %+v, %v", l, err)
	}
	if j, err := again.store.Job(ctx, running.ID); err != nil || j.State != record.JobRunning || len(done.Paused) != 0 {
		t.Errorf("the job that runs: %+v, %v", j, err)
	}
	view, err := again.store.Look(ctx, record.Query{EK: early.EKs[0].Fingerprint, Session: "session-late"})
	if err != nil || len(view.Tombstones) == 0 || !view.SessionRedeemed {
		t.Errorf("tombstones %v, session redeemed %v (%v)", view.Tombstones, view.SessionRedeemed, err)
	}
	// It goes on, and can be backed up and restored once more.
	again.enrol("after", record.DefaultLot)
	second := again.backup()
	again.enrol("after-the-second", record.DefaultLot)
	again.store.Close()
	done, err = restore(t, Restoring{From: second, Journal: again.in.Config.Journal})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, done.Config).store.Device(ctx, "id-after-the-second"); err != nil {
		t.Error(err)
	}
}

// newFactoryWithDisks keeps the journal on a disk of its own, as one should.
func newFactoryWithDisks(t *testing.T) (f *factory, journal string) {
	t.Helper()
	f, journal = newFactory(t), filepath.Join(t.TempDir(), "other disk")
	f.store.Close()
	if err := os.Rename(f.in.Config.Journal, journal); err != nil {
		t.Fatal(err)
	}
	f.configure("journal: journal", fmt.Sprintf("journal: %q", journal))
	return open(t, f.in.Config.File), journal
}

// configure changes hallmark.yaml.
func (f *factory) configure(before, after string) {
	f.Helper()
	text, err := os.ReadFile(f.in.Config.File)
	if err != nil || !bytes.Contains(text, []byte(before)) {
		f.Fatalf("%q is not in it: %v", before, err)
	}
	if err := os.WriteFile(f.in.Config.File, bytes.Replace(text, []byte(before), []byte(after), 1), 0o600); err != nil {
		f.Fatal(err)
	}
}

func TestRestoreOverTheSameJournal(t *testing.T) {
	f, journal := newFactoryWithDisks(t)
	file := f.backup()
	for i := range 3 { // three disasters, one backup
		f.enrol(fmt.Sprint("device-", i), record.DefaultLot)
		f.store.Close()
		segments, err := filepath.Glob(filepath.Join(journal, "*"))
		if err != nil || len(segments) == 0 {
			t.Fatal(err)
		}
		torn, err := os.OpenFile(segments[len(segments)-1], os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		torn.Write([]byte{0, 0, 1, 0, 0, 0, 0}) // the power went
		torn.Close()
		done, err := restore(t, Restoring{From: file})
		if err != nil || !done.Torn {
			t.Fatalf("%+v, %v", done, err)
		}
		f = open(t, done.Config)
		for j := range i + 1 {
			if _, err := f.store.Device(t.Context(), fmt.Sprint("id-device-", j)); err != nil {
				t.Errorf("after disaster %d: %v", i, err)
			}
		}
	}
}

// A rehearsal beside the server, of a copy of its journal: the configuration names the journal that the
// server writes, and a segment of the rehearsal in there would be in the way of every later restore.
func TestRestoreLeavesAnotherJournalAlone(t *testing.T) {
	f, journal := newFactoryWithDisks(t)
	file := f.backup()
	f.enrol("one", record.DefaultLot)
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(journal)); err != nil {
		t.Fatal(err)
	}
	if done, err := restore(t, Restoring{From: file, Journal: copied}); err == nil || !strings.Contains(err.Error(), "there is a journal at "+journal) {
		t.Errorf("restored beside it: %+v, %v", done, err)
	}
	f.enrol("two", record.DefaultLot)
	f.store.Close()
	if done, err := restore(t, Restoring{From: file}); err != nil {
		t.Errorf("the server's own: %+v, %v", done, err)
	}
}

// A backup of before may hold a secret that others could read; a server refuses such a one.
func TestRestoreClosesSecrets(t *testing.T) {
	f := newFactory(t)
	if err := os.Chmod(f.in.Config.ServerSecret, 0o644); err != nil {
		t.Fatal(err)
	}
	file := f.backup()
	f.store.Close()
	done, err := restore(t, Restoring{From: file})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(open(t, done.Config).in.Config.ServerSecret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestRestoreWithoutJournal(t *testing.T) {
	f := newFactory(t)
	if err := f.store.CreateTickets(t.Context(), []record.Ticket{{ID: "ticket", Lot: record.DefaultLot, Created: time.Now(), Expires: time.Now().Add(time.Hour)}}, f.event("ticket.created")); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	for _, err := range []error{
		f.store.Invite(t.Context(), record.Operator{Name: "cleo", Created: time.Now(), Invitation: "of-cleo", InvitedUntil: until}, f.event("operator.invited")),
		f.store.InviteRelyingParty(t.Context(), record.RelyingParty{Name: "broker", Created: time.Now(), Invitation: "of-broker", InvitedUntil: until}, f.event("relying-party.invited")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	early, _ := f.enrol("early", record.DefaultLot)
	if _, err := f.store.Grant(t.Context(), record.Grant{ID: "grant", Device: early.ID, Created: time.Now(), Expires: until}, f.event("device.granted")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"anna", "bo"} {
		if err := f.store.RecoverOperator(t.Context(), name, time.Now(), f.event("operator.recovered")); err != nil {
			t.Fatal(err)
		}
	}
	waiting, err := f.store.CreateJob(t.Context(), record.Selection{Devices: []string{early.ID}}, time.Now(), func(record.JobView) (record.JobPlan, error) {
		return record.JobPlan{Job: record.Job{Kind: record.JobRevoke, Operator: "anna", State: record.JobWaiting, Created: time.Now()}, Event: f.event("job.created"),
			Approval: &record.Approval{Kind: record.ApproveJob, Requester: "anna", Requested: time.Now(), Expires: until}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	asked, err := f.store.RequestApproval(t.Context(), record.Approval{Kind: record.ApproveSetting, Subject: "x=1", Requester: "anna", Requested: time.Now(), Expires: until}, f.event("approval.requested"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Approve(t.Context(), asked.ID, "bo", time.Now(), f.event("approval.given")); err != nil {
		t.Fatal(err)
	}
	suspending, lifting := f.job(record.JobSuspend, early), f.job(record.JobRestore, early)
	file := f.backup()
	if _, err := f.store.CancelJob(t.Context(), lifting.ID, time.Now(), f.event("job.cancelled")); err != nil {
		t.Fatal(err)
	}
	lost, certificate := f.enrol("lost", record.DefaultLot)
	journal := f.in.Config.Journal
	f.store.Close()

	other := newFactory(t)
	other.enrol("stranger", record.DefaultLot)
	if _, err := restore(t, Restoring{From: file, Journal: other.in.Config.Journal}); err == nil || !strings.Contains(err.Error(), "a server writes") {
		t.Errorf("a journal that is being written: %v", err)
	}
	other.store.Close()
	for name, r := range map[string]Restoring{
		"another's journal": {From: file, Journal: other.in.Config.Journal},
		"no journal":        {From: file, Journal: journal + ".nowhere"},
		"an empty journal":  {From: file, Journal: t.TempDir()},
	} {
		var h installation.Hinted
		if _, err := restore(t, r); !errors.As(err, &h) || !strings.Contains(h.Hint, "--accept-losses") {
			t.Errorf("%s: %v", name, err)
		}
	}
	done, err := restore(t, Restoring{From: file, AcceptLosses: true})
	if err != nil || !done.Lost || len(done.ClosedLots) != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	again := open(t, done.Config)
	if l, err := again.store.Lot(t.Context(), record.DefaultLot); err != nil || l.Closed.IsZero() {
		t.Errorf("the lot is open: old tickets would work again (%v)", err)
	}
	if _, err := again.store.Device(t.Context(), lost.ID); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("the lost device: %v", err)
	}
	// Whether they were used is lost as well.
	if !slices.Equal(done.Disabled, []string{"cleo", "broker"}) {
		t.Errorf("to be invited again: %q", done.Disabled)
	}
	if _, err := again.store.AcceptInvitation(t.Context(), "of-cleo", [32]byte{1}, time.Now(), f.event("operator.accepted")); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("an operator's invitation: %v", err)
	}
	if _, err := again.store.AcceptRelyingParty(t.Context(), "of-broker", [32]byte{1}, time.Now(), f.event("relying-party.accepted")); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("a relying party's invitation: %v", err)
	}
	if g, err := again.store.GrantsOf(t.Context(), early.ID); err != nil || len(g) != 1 || g[0].Expires.After(time.Now()) {
		t.Errorf("the grant: %+v, %v", g, err)
	}
	if j, err := again.store.Job(t.Context(), waiting.ID); err != nil || j.State != record.JobExpired {
		t.Errorf("the job that waited: %+v, %v", j, err)
	}
	if j, err := again.store.UnfinishedJobs(t.Context()); err != nil || len(j) != 0 {
		t.Errorf("what may have been cancelled goes on: %+v, %v", j, err)
	}
	for i, j := range []record.Job{suspending, lifting} {
		if len(done.Paused) != 2 || done.Paused[i].ID != j.ID {
			t.Fatalf("paused: %+v", done.Paused)
		}
		if _, err := again.store.ResumeJob(t.Context(), j.ID, time.Now(), f.event("job.resumed")); err != nil {
			t.Error(err)
		}
	}
	if _, err := again.store.GivenApproval(t.Context(), record.ApproveSetting, "x=1", "anna", time.Now()); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("an approval that was given: %v", err)
	}
	if n, err := again.store.LastChange(t.Context()); err != nil || n < 1e12 {
		t.Errorf("the next change could bear a lost one's number: %d, %v", n, err)
	}
	// What is issued from now on stands on a shard that no lost certificate names.
	if err := again.store.CreateLot(t.Context(), record.Lot{Name: "fresh", Model: record.DefaultModel, Created: time.Now()}, nil, f.event("lot.created")); err != nil {
		t.Fatal(err)
	}
	if _, fresh := again.enrol("fresh", "fresh"); fresh.Shard <= certificate.Shard {
		t.Errorf("shard %d is used again", fresh.Shard)
	}
	events, err := again.store.LastEvents(t.Context(), 20)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, e := range events {
		if e.Actor == "host" && strings.Contains(e.Reason, "is lost") {
			said[e.Verb+" "+e.Object] = true
		}
	}
	for _, want := range []string{"record.restored ", "job.paused " + suspending.ID, "job.paused " + lifting.ID} {
		if !said[want] {
			t.Errorf("the audit does not say %q: %v", want, said)
		}
	}
}

// members reads a backup.
func read(t *testing.T, path string) (headers []*tar.Header, contents [][]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		headers, contents = append(headers, h), append(contents, text)
	}
}

func TestDamagedBackupIsRefused(t *testing.T) {
	f := newFactory(t)
	file := f.backup()
	headers, contents := read(t, file)
	write := func(change func(headers *[]*tar.Header, contents *[][]byte)) string {
		hs, cs := []*tar.Header{}, [][]byte{}
		for i := range headers {
			h := *headers[i]
			hs, cs = append(hs, &h), append(cs, bytes.Clone(contents[i]))
		}
		change(&hs, &cs)
		path := filepath.Join(t.TempDir(), "changed.tar")
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		w := tar.NewWriter(out)
		for i, h := range hs {
			h.Size = int64(len(cs[i]))
			if h.Typeflag != tar.TypeReg {
				h.Size = 0
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				w.Write(cs[i])
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	manifestOf := func(cs *[][]byte, change func(*manifest)) {
		var m manifest
		if err := json.Unmarshal((*cs)[0], &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		(*cs)[0], _ = json.Marshal(m)
	}
	cases := map[string]func(*[]*tar.Header, *[][]byte){
		"a file changed": func(_ *[]*tar.Header, cs *[][]byte) { (*cs)[len(*cs)-1][0] ^= 1 },
		"the record cut": func(_ *[]*tar.Header, cs *[][]byte) { (*cs)[1] = (*cs)[1][:4096] },
		"a file missing": func(hs *[]*tar.Header, cs *[][]byte) { *hs, *cs = (*hs)[:len(*hs)-1], (*cs)[:len(*cs)-1] },
		"a file more": func(hs *[]*tar.Header, cs *[][]byte) {
			*hs, *cs = append(*hs, &tar.Header{Name: "more", Typeflag: tar.TypeReg, Mode: 0o600}), append(*cs, []byte("x"))
		},
		"a link": func(hs *[]*tar.Header, _ *[][]byte) {
			(*hs)[2].Typeflag, (*hs)[2].Linkname = tar.TypeSymlink, "/etc/passwd"
		},
		"another format": func(_ *[]*tar.Header, cs *[][]byte) {
			manifestOf(cs, func(m *manifest) { m.Format = "hallmark-backup-2" })
		},
		"an unknown key": func(_ *[]*tar.Header, cs *[][]byte) {
			(*cs)[0] = bytes.Replace((*cs)[0], []byte(`"name"`), []byte(`"nom"`), 1)
		},
		"no manifest":      func(hs *[]*tar.Header, cs *[][]byte) { *hs, *cs = (*hs)[1:], (*cs)[1:] },
		"no record":        func(_ *[]*tar.Header, cs *[][]byte) { manifestOf(cs, func(m *manifest) { m.Record = "other.db" }) },
		"executable files": func(_ *[]*tar.Header, cs *[][]byte) { manifestOf(cs, func(m *manifest) { m.Files[2].Mode = 0o755 }) },
	}
	for _, name := range []string{"../escaped", "/etc/escaped", "a/../../escaped", "./x", ".", "", "manifest.json", `a\b`} {
		cases["the name "+name] = func(hs *[]*tar.Header, cs *[][]byte) {
			manifestOf(cs, func(m *manifest) { m.Files[2].Name = name })
			(*hs)[2].Name = name
			if name == "" {
				(*hs)[2].Name = "x"
			}
		}
	}
	for name, change := range cases {
		if done, err := restore(t, Restoring{From: write(change), Journal: f.in.Config.Journal}); err == nil {
			t.Errorf("%s: accepted: %+v", name, done)
		}
	}
	if _, err := restore(t, Restoring{From: write(func(*[]*tar.Header, *[][]byte) {}), Journal: f.in.Config.Journal}); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// Root begins a new journal: a server with a user of its own must write it.
func TestNewJournalForTheServersUser(t *testing.T) {
	f := newFactory(t)
	f.store.Close()
	user, database := os.Geteuid(), filepath.Join(f.in.Config.Dir, "hallmark.db")
	if user == 0 {
		user = 65534
	}
	if err := errors.Join(os.Chown(database, user, -1), os.RemoveAll(f.in.Config.Journal)); err != nil {
		t.Fatal(err)
	}
	if err := NewJournal(t.Context(), f.in); err != nil {
		t.Fatal(err)
	}
	f.backup()
	made, err := filepath.Glob(filepath.Join(f.in.Config.Journal, "*.journal"))
	if err != nil || len(made) == 0 {
		t.Fatal(made, err)
	}
	for _, path := range append(made, f.in.Config.Journal) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != user {
			t.Errorf("%s belongs to user %d", path, owner)
		}
	}
}

// TestLostJournal loses the journal's disk, but not the record's: nothing can be recorded,
// check says so and what to do, and with a new journal and its backup nothing is lost again.
func TestLostJournal(t *testing.T) {
	for name, lose := range map[string]func(dir string) error{
		"lost": os.RemoveAll,
		"cut":  func(dir string) error { return os.Truncate(filepath.Join(dir, "0000000000000001.journal"), 5) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFactory(t)
			f.enrol("before", record.DefaultLot)
			older := f.backup()
			if found := Check(t.Context(), f.in.Config.File, time.Now()); about(found, "journal").Level != OK {
				t.Errorf("a sound journal: %+v", found)
			}
			f.store.Close()
			if err := NewJournal(t.Context(), f.in); err == nil {
				t.Error("a sound journal is given up")
			}
			if err := lose(f.in.Config.Journal); err != nil {
				t.Fatal(err)
			}
			f = open(t, f.in.Config.File)
			if err := f.store.Note(t.Context(), f.event("noted")); !errors.Is(err, record.ErrUnavailable) {
				t.Errorf("without a journal: %v", err)
			}
			f.store.Close()
			if found := about(Check(t.Context(), f.in.Config.File, time.Now()), "journal"); found.Level != Error || !strings.Contains(found.Detail, "hallmarkd backup --new-journal") {
				t.Errorf("check says %+v", found)
			}
			if err := NewJournal(t.Context(), f.in); err != nil {
				t.Fatal(err)
			}
			file := f.backup()
			f = open(t, f.in.Config.File)
			f.enrol("after", record.DefaultLot)
			f.store.Close()
			if found := about(Check(t.Context(), f.in.Config.File, time.Now()), "journal"); found.Level != OK {
				t.Errorf("after a new beginning check says %+v", found)
			}
			done, err := restore(t, Restoring{From: file})
			if err != nil || done.Lost {
				t.Fatalf("%+v, %v", done, err)
			}
			if _, err := restore(t, Restoring{From: older}); err == nil {
				t.Error("a backup of before goes with the new journal")
			}
			again := open(t, done.Config)
			for _, id := range []string{"id-before", "id-after"} {
				if _, err := again.store.Device(t.Context(), id); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
}

func about(found Findings, subject string) Finding {
	i := slices.IndexFunc(found, func(f Finding) bool { return f.Subject == subject })
	if i < 0 {
		return Finding{}
	}
	return found[i]
}

// A configuration that leads back to its folder from every copy: the restored one would change the
// record of the old, and be nothing without it.
func TestPathsThatLeadBack(t *testing.T) {
	f, _ := newFactoryWithDisks(t)
	f.configure("sqlite:hallmark.db", "sqlite:"+filepath.Join(f.in.Config.Dir, "hallmark.db"))
	f = open(t, f.in.Config.File)
	to := filepath.Join(t.TempDir(), "backup.tar")
	if _, err := Backup(t.Context(), f.in, to, "test", time.Now()); err == nil || !strings.Contains(err.Error(), "database") {
		t.Errorf("backed up: %v", err)
	}
	if found := Check(t.Context(), f.in.Config.File, time.Now()); !slices.ContainsFunc(found, func(f Finding) bool { return f.Level == Warning && strings.HasPrefix(f.Detail, "database: ") }) {
		t.Errorf("check does not say so: %+v", found)
	}
	f.in.Config.Anchored = nil // one that was made before
	file := f.backup()
	f.enrol("later", record.DefaultLot)
	before, err := f.store.LastEvents(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	f.store.Close()
	_, err = restore(t, Restoring{From: file, Journal: f.in.Config.Journal})
	if err == nil || !strings.Contains(err.Error(), "leads elsewhere") {
		t.Errorf("restored: %v", err)
	}
	if after, err := open(t, f.in.Config.File).store.LastEvents(t.Context(), 1); err != nil || after[0].Sequence != before[0].Sequence {
		t.Errorf("the old record has changed: %+v, %v", after, err)
	}
}

// Folders that are links, to a share say, are backed up as well.
func TestBackupFollowsLinks(t *testing.T) {
	f := newFactory(t)
	share := t.TempDir()
	for _, name := range []string{"trust", "operator/roots.pem"} {
		path, there := filepath.Join(f.in.Config.Dir, name), filepath.Join(share, filepath.Base(name))
		if err := errors.Join(os.Rename(path, there), os.Symlink(there, path)); err != nil {
			t.Fatal(err)
		}
	}
	lock := filepath.Join(f.in.Config.Dir, "operator", ".#hallmark.yaml") // an editor's
	if err := os.Symlink("anna@host.123", lock); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "backup.tar")
	done, err := Backup(t.Context(), f.in, to, "test", time.Now())
	if err != nil || !slices.Contains(done.Outside, lock) {
		t.Fatalf("a link that leads nowhere is not told: %+v, %v", done, err)
	}
	headers, _ := read(t, to)
	for _, want := range []string{"trust/bundle.json", "trust/relying-parties.pem", "trust/roots/operational-root.crl", "operator/roots.pem"} {
		if !slices.ContainsFunc(headers, func(h *tar.Header) bool { return h.Name == want }) {
			t.Errorf("%s is missing", want)
		}
	}
}

// A key's file may be named in the way of step-ca as well.
func TestBackupHoldsEveryKey(t *testing.T) {
	f := newFactory(t)
	f.configure(`"file:keys/operational.key"`, "softkms:path=keys/operational.key")
	f = open(t, f.in.Config.File)
	headers, _ := read(t, f.backup())
	if !slices.ContainsFunc(headers, func(h *tar.Header) bool { return h.Name == "keys/operational.key" }) {
		t.Error("the key of the operational CA is missing")
	}
}

// Each backup in there would hold all those before it.
func TestBackupIntoWhatIsBackedUp(t *testing.T) {
	f := newFactory(t)
	to := filepath.Join(f.in.Config.Dir, "trust", "backup.tar")
	if _, err := Backup(t.Context(), f.in, to, "test", time.Now()); err == nil || !strings.Contains(err.Error(), "is backed up itself") {
		t.Errorf("got %v", err)
	}
}

func TestBackupHoldsNoRootKey(t *testing.T) {
	f := newFactory(t)
	for _, name := range []string{"trust/mislaid.pem", "operator/mislaid.pem"} {
		text, err := os.ReadFile(filepath.Join(f.in.Config.Dir, "root-keys", "operational-root.key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.in.Config.Dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	headers, contents := read(t, f.backup())
	seen := map[string]bool{}
	for i, h := range headers {
		seen[h.Name] = true
		if holdsRootKey(f.in, contents[i]) {
			t.Errorf("%s holds a root's key", h.Name)
		}
		if h.Mode&0o077 != 0 && strings.HasPrefix(h.Name, "keys/") {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
	}
	for _, want := range []string{"hallmark.db", "hallmark.yaml", "keys/operational.key", "keys/server.secret", "issuers/operational.pem", "trust/bundle.json", "trust/roots/operational-root.crl"} {
		if !seen[want] {
			t.Errorf("%s is not in the backup", want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	sum := sha256.Sum256(nil)
	text, err := json.Marshal(manifest{Format: format, Record: "r.db", Files: []file{{Name: "r.db", SHA256: hex.EncodeToString(sum[:])}, {Name: "hallmark.yaml"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: manifestName, Typeflag: tar.TypeReg, Size: int64(len(text))})
		w.Write(text)
		w.Close()
		m, err := readManifest(tar.NewReader(&b))
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Name) || strings.HasPrefix(filepath.Join("/d", file.Name), "/d/..") || !strings.HasPrefix(filepath.Join("/d", file.Name), "/d/") {
				t.Fatalf("%q leaves the folder", file.Name)
			}
		}
	})
}
