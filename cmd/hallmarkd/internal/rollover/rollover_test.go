package rollover

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// house is an installation on its host.
type house struct {
	*testing.T
	config, safe string
	in           *installation.Installation
	store        record.Store
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{T: t, safe: filepath.Join(t.TempDir(), "safe")}
	made, err := installation.Founding{Dir: filepath.Join(t.TempDir(), "ca"), Name: "Acme", Listen: "127.0.0.1:8443",
		Public: []string{"https://localhost:8443"}, RootOut: h.safe}.Found(t.Context())
	h.check(err)
	h.config = made.Config
	h.read()
	h.store, err = h.in.OpenStore(t.Context())
	h.check(err)
	t.Cleanup(func() { h.store.Close() })
	return h
}

func (h *house) check(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// read reads everything again, as each command does.
func (h *house) read() {
	h.Helper()
	in, err := installation.Open(h.config)
	h.check(err)
	h.in = in
}

// publish signs with the first infrastructure root and publishes.
func (h *house) publish() {
	h.Helper()
	p, err := Pending(h.in)
	h.check(err)
	key, err := keys.Open("file:infrastructure-root.key", h.safe)
	h.check(err)
	_, err = p.Sign(key, time.Now())
	h.check(err)
	h.check(WriteFile(p, ProposalFile(h.in)))
	_, err = Publish(h.Context(), h.in, h.store, nil, time.Now())
	h.check(err)
	h.read()
}

func (h *house) event(verb string) record.Event {
	return record.Event{Time: time.Now(), Actor: "host", Verb: verb}
}

// device enrols a device and gives it a working certificate for an hour.
func (h *house) device(serial string, a record.Assurance) record.Device {
	h.Helper()
	sum := sha256.Sum256([]byte(serial))
	d := record.Device{ID: "id-" + serial, Model: record.DefaultModel, Lot: record.DefaultLot, Serial: serial, State: record.StateActive,
		Assurance: a, Key: sum, AKPublic: sum[:], Enrolled: time.Now(), Seen: time.Now()}
	if a.Hardware {
		d.EKs, d.AKName = []record.EK{{Fingerprint: sum, Name: sum[:]}}, append([]byte("ak"), sum[:]...)
	}
	d, err := h.store.Admit(context.Background(), record.Query{EK: sum}, func(record.View) (record.Admission, error) {
		return record.Admission{Device: d, Event: h.event("device.enrolled")}, nil
	})
	h.check(err)
	h.issue(d, profile.IDevID, 0)
	h.issue(d, profile.LDevID, time.Hour)
	return d
}

func (h *house) issue(d record.Device, kind profile.Kind, life time.Duration) {
	h.Helper()
	authority, err := h.in.Authority(h.Context(), h.store)
	h.check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	h.check(err)
	_, err = authority.Issue(context.Background(), h.event("certificate.issued"), ca.Request{Profile: kind, Device: d.ID,
		Content: profile.Content{Key: key.Public(), Model: d.Model, Serial: d.Serial, Lifetime: life}})
	h.check(err)
}

func (h *house) retire(name string, now time.Time, returning int, stranded ...string) Retiring {
	h.Helper()
	r, err := Retire(h.Context(), h.in, h.store, name, now)
	h.check(err)
	if r.Returning != returning || !slices.Equal(r.Stranded, stranded) {
		h.Errorf("%s is missed by %q, and %d return; want %q, %d", name, r.Stranded, r.Returning, stranded, returning)
	}
	return r
}

// Who is stranded by a root that goes, and who helps himself.
func TestRetire(t *testing.T) {
	h := newHouse(t)
	certified := h.device("certified", record.Assurance{Hardware: true, Certified: true})
	firstUse := h.device("first-use", record.Assurance{Hardware: true})
	software := h.device("software", record.Assurance{})
	if _, err := Retire(t.Context(), h.in, h.store, "manufacturing", time.Now()); err == nil {
		t.Fatal("the root of an issuer that issues was retired")
	}
	if _, err := Retire(t.Context(), h.in, h.store, "manufacturing-9", time.Now()); err == nil {
		t.Fatal("a root that is none was retired")
	}
	for _, line := range profile.Issuers() {
		_, err := AddRoot(h.Context(), h.in, h.store, line, h.safe, time.Now())
		h.check(err)
		h.read()
	}
	h.publish()
	for _, line := range profile.Issuers() {
		h.check(Activate(t.Context(), h.in, h.store, line+"-2", time.Now()))
		h.read()
	}
	now, later := time.Now(), time.Now().Add(2*time.Hour)
	// While working certificates are in force, chips help themselves with them.
	h.retire("manufacturing", now, 2, software.Name())
	h.retire("manufacturing", later, 1, firstUse.Name(), software.Name())
	// A working certificate is got again with the IDevID.
	h.retire("operational", now, 3)
	h.retire("infrastructure", now, 0, "operator:admin")
	// As devices move on, they leave the list.
	for _, d := range []record.Device{certified, software} {
		h.issue(d, profile.IDevID, 0)
		h.issue(d, profile.LDevID, time.Hour)
	}
	h.retire("operational", now, 1)
	r := h.retire("manufacturing", now, 1)
	_, err := r.Propose(h.in, now)
	h.check(err)
	h.publish()
	if _, err := Retire(t.Context(), h.in, h.store, "manufacturing", now); err == nil {
		t.Error("a root that is gone was retired again")
	}
	// Whoever holds certificates of a retired CA alone cannot be brought back by another of it.
	h.retire("operational", now, 0, firstUse.Name())
	if err := Activate(t.Context(), h.in, h.store, "manufacturing", now); err == nil {
		t.Error("a CA whose root is gone was put to use")
	}
}

// A publication that was cut off is finished when it is done again.
func TestPublishAfterACut(t *testing.T) {
	h := newHouse(t)
	_, err := AddRoot(h.Context(), h.in, h.store, profile.Operational, h.safe, time.Now())
	h.check(err)
	h.read()
	roots := installation.TrustFile(h.in.Config, filepath.Base(installation.RelyingParties))
	before, err := os.ReadFile(roots)
	h.check(err)
	p, err := Pending(h.in)
	h.check(err)
	h.publish()
	after, err := os.ReadFile(roots)
	h.check(err)
	if string(before) == string(after) {
		t.Fatal("relying parties are told nothing")
	}
	// The bundle is in place; neither are the files for others, nor is the proposal gone.
	h.check(os.WriteFile(roots, before, 0o644))
	h.check(WriteFile(p, ProposalFile(h.in)))
	if _, err := Pending(h.in); !errors.Is(err, ErrNoProposal) {
		t.Fatal("a proposal that was published is still one:", err)
	}
	_, err = Publish(t.Context(), h.in, h.store, nil, time.Now())
	h.check(err)
	if again, err := os.ReadFile(roots); err != nil || string(again) != string(after) {
		t.Error("not finished:", err)
	}
	if _, err := os.Stat(ProposalFile(h.in)); err == nil {
		t.Error("the proposal is still there")
	}
	if _, err := Publish(t.Context(), h.in, h.store, nil, time.Now()); !errors.Is(err, ErrNoProposal) {
		t.Error(err)
	}
}

// An audit log that cannot be written, or a host that stops before it was: publishing is done
// again and noted.
func TestPublishCutOff(t *testing.T) {
	h := newHouse(t)
	further, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	h.check(err)
	spki, err := x509.MarshalPKIXPublicKey(further.Public())
	h.check(err)
	_, err = Propose(h.in, Wishes{TimeKeys: [][]byte{spki}}, time.Now())
	h.check(err)
	p, err := Pending(h.in)
	h.check(err)
	key, err := keys.Open("file:infrastructure-root.key", h.safe)
	h.check(err)
	_, err = p.Sign(key, time.Now())
	h.check(err)
	h.check(WriteFile(p, ProposalFile(h.in)))
	if _, err := Publish(h.Context(), h.in, deaf{}, nil, time.Now()); err == nil {
		t.Fatal("published without a word in the audit log")
	}
	h.read() // the bundle is in use by now
	if h.in.Trust.Bundle().Number != 2 {
		t.Fatalf("bundle %d is in use", h.in.Trust.Bundle().Number)
	}
	_, err = Publish(h.Context(), h.in, h.store, nil, time.Now())
	h.check(err)
	events, err := h.store.LastEvents(h.Context(), 100)
	h.check(err)
	events = slices.DeleteFunc(events, func(e record.Event) bool { return e.Verb != "trust.published" })
	if len(events) != 1 || events[0].Object != "bundle 2" {
		t.Errorf("noted: %+v", events)
	}
	if _, err := Publish(h.Context(), h.in, h.store, nil, time.Now()); !errors.Is(err, ErrNoProposal) {
		t.Errorf("a third time: %v", err)
	}
}

// deaf is a record whose audit log is on a disk that is full.
type deaf struct{ record.Store }

var errDeaf = errors.New("no space left on device")

func (deaf) Note(context.Context, ...record.Event) error { return errDeaf }

// Root adds the root of a server that has a user of its own, who must be able to read all.
func TestAddRootForTheServersUser(t *testing.T) {
	h := newHouse(t)
	dir := filepath.Dir(h.config)
	each := func(do func(path string, owner int) error) {
		h.check(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			return do(path, int(info.Sys().(*syscall.Stat_t).Uid))
		}))
	}
	user := os.Geteuid()
	if user == 0 {
		user = 65534
		each(func(path string, _ int) error { return os.Lchown(path, user, -1) })
	}
	_, err := AddRoot(h.Context(), h.in, h.store, profile.Operational, h.safe, time.Now())
	h.check(err)
	seen := 0
	each(func(path string, owner int) error {
		if seen++; owner != user {
			t.Errorf("%s belongs to user %d", path, owner)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(dir, "keys", "operational-2.key")); err != nil || seen < 20 {
		t.Errorf("%d files, %v", seen, err)
	}
}

// A file without end is read to its bound.
func TestReadFileIsBounded(t *testing.T) {
	if _, err := ReadFile("/dev/zero"); !errors.Is(err, wire.ErrTooLarge) {
		t.Error(err)
	}
}
