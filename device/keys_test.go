package device_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	softkey "github.com/hallmark-pki/hallmark/attest/softkey/collect"
	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/agent"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// soft is a device without a TPM in a lot whose model allows that.
func (i *installation) soft(t *testing.T, key string) *unit {
	t.Helper()
	event := record.Event{Time: time.Now(), Actor: "test", Verb: "test"}
	m := record.Model{Name: "lamp", Assurance: record.LevelSoftware, Created: time.Now()}
	if err := i.store.CreateModel(t.Context(), m, event); err != nil && !errors.Is(err, record.ErrExists) {
		t.Fatal(err)
	}
	if err := i.store.CreateLot(t.Context(), record.Lot{Name: "lamps", Model: "lamp", Quota: 9, Created: time.Now()}, nil, event); err != nil && !errors.Is(err, record.ErrExists) {
		t.Fatal(err)
	}
	return &unit{installation: i, dir: filepath.Join(t.TempDir(), "state"), key: key, lot: "lamps"}
}

// copied is a second holder of everything that the device has.
func (u *unit) copied(t *testing.T) *unit {
	t.Helper()
	twin := *u
	twin.dir = filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", u.dir, twin.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return &twin
}

func (u *unit) device(t *testing.T, model, serial string) record.Device {
	t.Helper()
	found := must[[]record.Device](t)(u.store.DevicesNamed(t.Context(), model, serial))
	if len(found) != 1 {
		t.Fatalf("%d devices are %s:%s", len(found), model, serial)
	}
	return found[0]
}

// grant lets the device come back, with a ticket for a new key if wanted.
func (u *unit) grant(t *testing.T, d record.Device, newKey bool) *wire.Permission {
	t.Helper()
	p := u.ticket(t)
	p.ID = u.permissions.NewID()
	p.Secret = u.permissions.Secret(wire.KindTicket, p.ID)
	g := record.Grant{ID: p.ID, Device: d.ID, NewKey: newKey, Created: u.clock(), Expires: u.clock().Add(time.Hour)}
	must[[]record.Shard](t)(u.store.Grant(t.Context(), g, record.Event{Time: time.Now(), Actor: "test", Verb: "device.granted"}))
	return p
}

func (i *installation) clock() time.Time { return time.Now().Add(time.Duration(i.later.Load())) }

// sleep lets time pass for the server and, by its clock, for the device.
func (u *unit) sleep(d time.Duration) {
	u.later.Add(int64(d))
	u.now = u.clock
}

func TestSoftwareKey(t *testing.T) {
	t.Parallel()
	for _, nonceMode := range []bool{false, true} {
		u := install(t, nonceMode).soft(t, "file")
		u.lot = record.DefaultLot
		if _, err := u.enrol(t, u.ticket(t), "SN-1"); problem(err) != wire.CodeAssurance {
			t.Fatalf("a model that asks for a TPM: %v", err)
		}
		u.lot = "lamps"
		ticket := u.ticket(t)
		u.lose[wire.PathEnrol] = 1 // the answer; the ticket is used up by then
		r := must[device.Result](t)(u.enrol(t, ticket, "SN-1"))
		if r.Device != "lamp:SN-1" || r.TPMCommands != 0 {
			t.Fatalf("%+v", r)
		}
		keyFile := filepath.Join(u.dir, state.BirthKeyFile)
		if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
		d := u.device(t, "lamp", "SN-1")
		if d.Assurance.String() != record.LevelSoftware || len(d.EKs)+len(d.AKName) != 0 {
			t.Errorf("recorded as %+v", d)
		}
		set := u.load(t)
		birth := must[*x509.Certificate](t)(x509.ParseCertificate(set.IDevID[0]))
		for _, oid := range birth.Policies {
			if strings.HasPrefix(oid.String(), "2.23.133.") {
				t.Errorf("the certificate of a software key says %v", oid)
			}
		}
		if len(set.AK) != 0 {
			t.Error("an attestation key certificate without attestation key")
		}
		u.renew(t, "idevid")
		u.paths()
		u.renew(t, "ldevid")
		if paths := u.paths(); slices.Contains(paths, wire.PathActivate) {
			t.Errorf("a challenge without a chip: %v", paths)
		}
		if used := must[record.Lot](t)(u.store.Lot(t.Context(), "lamps")).Used; used != 1 {
			t.Errorf("%d devices counted", used)
		}
		if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now())); s.Condition != device.OK || s.Key != "file" || s.TPM != "" {
			t.Errorf("%+v", s)
		}
		// Another kind of key is another device.
		u.key = "tpm"
		if _, err := u.enrol(t, ticket, ""); !errors.As(err, new(*device.ConflictError)) {
			t.Errorf("enrolled with another kind of key: %v", err)
		}
	}
}

// The key of an image for many boards would be everybody's.
func TestImageWithAKeyElsewhere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "birth.key")
	u := install(t, false).soft(t, "file:"+path)
	u.enrolled(t, "L-1")
	if g := must[agent.Generalised](t)(agent.Generalise(u.dir)); !slices.Equal(g.Left, []string{path}) {
		t.Errorf("left alone: %q", g.Left)
	}
	if _, err := u.enrol(t, u.ticket(t), "L-2"); problem(err) != wire.CodeEKTaken {
		t.Errorf("another board with that key: %v", err)
	}
}

// Two renewals from one certificate are two holders of one key: whichever comes second,
// both are stopped.
func TestForkOfASoftwareKey(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	for serial, order := range map[string]func(own, twin *unit) (late *unit){
		"SN-1": func(own, twin *unit) *unit { own.renew(t, "ldevid"); return twin },
		"SN-2": func(own, twin *unit) *unit { twin.renew(t, "ldevid"); return own },
		// The thief has the birth key too, and shows that.
		"SN-3": func(own, twin *unit) *unit {
			set := twin.load(t)
			set.LDevID = nil
			if err := state.At(twin.dir).Save(set); err != nil {
				t.Fatal(err)
			}
			twin.renew(t, "idevid")
			return own
		},
	} {
		own := i.soft(t, "file").enrolled(t, serial)
		own.renew(t, "idevid")
		twin := own.copied(t)
		late := order(own, twin)
		if _, err := device.Renew(t.Context(), late.options()); problem(err) != wire.CodeForked {
			t.Fatalf("%s: the second holder: %v", serial, err)
		}
		d := own.device(t, "lamp", serial)
		if d.State != record.StateSuspended {
			t.Fatalf("%s is %s", serial, d.State)
		}
		for _, u := range []*unit{own, twin} {
			if _, err := device.Renew(t.Context(), u.options()); problem(err) != wire.CodeSuspended {
				t.Errorf("%s: after the suspension: %v", serial, err)
			}
		}
		told := false
		for _, e := range must[[]record.Event](t)(i.store.LastEvents(t.Context(), 20)) {
			told = told || e.Verb == "device.suspended" && e.Object == d.Name() && e.Detail["code"] == wire.CodeForked && e.Actor == "server"
		}
		if !told {
			t.Errorf("%s: no event tells why it is suspended", serial)
		}
	}
}

// A power cut between the first use of a new certificate and its place on file must not
// make the device look like its own copy; nor may a worn-out flash.
func TestAccidentsAreNoForks(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file").enrolled(t, "SN-1")
	u.renew(t, "idevid")
	u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != wire.PathPoll {
			return false
		}
		u.next.ServeHTTP(httptest.NewRecorder(), r) // the server has seen the new certificate in use
		panic(http.ErrAbortHandler)
	}
	if _, err := device.Renew(t.Context(), u.options()); err == nil {
		t.Fatal("the renewal went through")
	}
	u.refuse = nil
	u.renew(t, "ldevid")
	set := u.load(t)
	if len(set.Fresh) != 0 {
		t.Error("a staged certificate is left over")
	}
	u.renew(t, "ldevid")
	current := must[string](t)(os.Readlink(filepath.Join(u.dir, "current")))
	if err := os.WriteFile(filepath.Join(u.dir, current, "ldevid.pem"), []byte("worn out"), 0o644); err != nil {
		t.Fatal(err)
	}
	u.renew(t, "idevid")
	if d := u.device(t, "lamp", "SN-1"); d.State != record.StateActive {
		t.Errorf("the device is %s", d.State)
	}
}

// A renewal that fails after it has taken up a certificate that an accident had left, while
// the trust bundle moves on: what the server has seen in use must not be given up for its
// predecessor, which would look like a copy.
func TestAdoptedBeforeAFailure(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file").enrolled(t, "SN-1")
	u.renew(t, "idevid")
	u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != wire.PathPoll {
			return false
		}
		u.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	if _, err := device.Renew(t.Context(), u.options()); err == nil {
		t.Fatal("the renewal went through")
	}
	u.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case wire.PathPoll:
			answer := httptest.NewRecorder()
			u.next.ServeHTTP(answer, r)
			var s wire.Steering
			if err := json.Unmarshal(answer.Body.Bytes(), &s); err != nil {
				t.Error(err)
			}
			s.Trust = 2
			json.NewEncoder(w).Encode(s)
		case wire.PathTrust:
			json.NewEncoder(w).Encode(wire.TrustSteps{Newest: 2, Bundles: []wire.SignedBundle{u.bundle(2)}})
		case wire.PathRenew:
			w.WriteHeader(http.StatusBadRequest)
		default:
			return false
		}
		return true
	}
	if _, err := device.Renew(t.Context(), u.options()); err == nil {
		t.Fatal("the renewal went through")
	}
	if s := must[device.Status](t)(device.ReadStatus(u.dir, time.Now())); s.Trust != 2 {
		t.Fatalf("trust bundle %d", s.Trust)
	}
	u.refuse = nil
	set := u.load(t)
	set.Trust = u.bundle(1) // the server is none that has moved on
	if err := state.At(u.dir).Save(set); err != nil {
		t.Fatal(err)
	}
	u.renew(t, "ldevid")
}

func TestComingBackWithoutATPM(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file").enrolled(t, "SN-1")
	u.renew(t, "idevid")
	old := u.load(t)
	stolen := u.copied(t)
	lose := func() {
		for _, name := range []string{"current", "set-*", "*.pem", "ldevid.key"} {
			for _, path := range must[[]string](t)(filepath.Glob(filepath.Join(u.dir, name))) {
				os.RemoveAll(path)
			}
		}
	}
	lose()
	if _, err := u.enrol(t, nil, ""); problem(err) != wire.CodeGrantNeeded {
		t.Fatalf("a key that anybody may have copied came back by itself: %v", err)
	}
	d := u.device(t, "lamp", "SN-1")
	u.grant(t, d, false)
	must[device.Result](t)(u.enrol(t, nil, ""))
	if !bytes.Equal(u.load(t).IDevID[0], old.IDevID[0]) {
		t.Error("another certificate for the same key")
	}
	u.renew(t, "idevid")
	// The key is lost too.
	if err := os.RemoveAll(u.dir); err != nil {
		t.Fatal(err)
	}
	ticket := u.grant(t, d, true)
	if _, err := device.Renew(t.Context(), stolen.options()); problem(err) != wire.CodeGrantNeeded {
		t.Errorf("the key that was declared lost renewed: %v", err)
	}
	if _, err := u.enrol(t, ticket, "SN-2"); problem(err) != wire.CodeTicketSerial {
		t.Errorf("another unit took the device's place: %v", err)
	}
	u.lose[wire.PathEnrol] = 1
	r := must[device.Result](t)(u.enrol(t, ticket, ""))
	if r.Device != "lamp:SN-1" || bytes.Equal(u.load(t).IDevID[0], old.IDevID[0]) {
		t.Errorf("%+v with the old certificate", r)
	}
	u.renew(t, "idevid")
	other := u.soft(t, "file")
	if _, err := other.enrol(t, ticket, ""); problem(err) != wire.CodeSerialTaken {
		t.Errorf("a second new key with the same grant: %v", err)
	}
	if _, err := device.Renew(t.Context(), stolen.options()); problem(err) != "signature-wrong" {
		t.Errorf("the old key after the new one came: %v", err)
	}
	if used := must[record.Lot](t)(u.store.Lot(t.Context(), "lamps")).Used; used != 1 {
		t.Errorf("%d devices counted", used)
	}
	// A revoked device hears so, whatever it shows.
	must[[]record.Shard](t)(u.store.Revoke(t.Context(), d.ID, time.Now(), record.ReasonKeyCompromise, "stolen", record.Event{Time: time.Now(), Actor: "test", Verb: "device.revoked"}))
	_, renewal := device.Renew(t.Context(), u.options())
	lose()
	_, comeback := u.enrol(t, nil, "")
	for _, err := range []error{renewal, comeback} {
		if p, ok := errors.AsType[*wire.Problem](err); !ok || !p.Final() {
			t.Errorf("a revoked device: %v", err)
		}
	}
}

func TestKeyFilesThatAreNotSafe(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	u := i.soft(t, "file").enrolled(t, "SN-1")
	another := i.soft(t, "file").enrolled(t, "SN-2")
	keyFile := filepath.Join(u.dir, state.BirthKeyFile)
	good := must[[]byte](t)(os.ReadFile(keyFile))
	put := func(text []byte, mode os.FileMode) {
		t.Helper()
		os.Remove(keyFile)
		if err := errors.Join(os.WriteFile(keyFile, text, mode), os.Chmod(keyFile, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func()
		want  error
	}{
		"readable by others":    {func() { put(good, 0o644) }, softkey.ErrUnsafe},
		"writable by the group": {func() { put(good, 0o620) }, softkey.ErrUnsafe},
		"a link": {func() {
			os.Remove(keyFile)
			os.Symlink(filepath.Join(another.dir, state.BirthKeyFile), keyFile)
		}, softkey.ErrMissing},
		"a folder":  {func() { os.Remove(keyFile); os.Mkdir(keyFile, 0o700) }, softkey.ErrUnsafe},
		"gone":      {func() { os.Remove(keyFile) }, softkey.ErrMissing},
		"cut off":   {func() { put(good[:100], 0o600) }, softkey.ErrMalformed},
		"two keys":  {func() { put(append(slices.Clone(good), good...), 0o600) }, softkey.ErrMalformed},
		"huge":      {func() { put(bytes.Repeat([]byte{'\n'}, 1<<20), 0o600) }, softkey.ErrMalformed},
		"another's": {func() { put(must[[]byte](t)(os.ReadFile(filepath.Join(another.dir, state.BirthKeyFile))), 0o600) }, softkey.ErrOther},
	} {
		c.spoil()
		_, err := device.Renew(t.Context(), u.options())
		told, ok := errors.AsType[*trouble.Error](err)
		if !errors.Is(err, c.want) || !ok || told.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.Remove(keyFile)
	put(good, 0o600)
	u.renew(t, "idevid")
}
