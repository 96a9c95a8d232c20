package e2e

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// decade is ten years of one device and what they brought.
type decade struct {
	*unit
	t                                                     testing.TB
	start                                                 time.Time
	renewals, rollOvers, resets, rollBacks, factory, cuts int
	random                                                *rand.Rand
}

// turn lets the agent do what is due, and time pass as it wants, until so much is over.
// The identity must work all the while: it is looked at before the agent acts and after.
func (d *decade) live(long time.Duration) {
	d.t.Helper()
	a := d.agent()
	for end := d.now().Add(long); d.now().Before(end); {
		before := d.load()
		wait, err := a.Turn(d.t.Context())
		if err != nil {
			d.t.Fatalf("year %.1f: %v; said %q", d.age(), err, d.said)
		}
		if string(d.load().LDevID[0]) != string(before.LDevID[0]) {
			d.renewals++
			d.works()
			d.tidy()
		}
		// A device looks at its clock every so often; nothing is due before.
		d.sleep(min(max(wait, time.Hour), end.Sub(d.now())))
		d.inForce()
	}
}

func (d *decade) age() float64 { return d.now().Sub(d.start).Hours() / 24 / 365.25 }

// inForce makes sure that the working certificate has not ended by the true time.
func (d *decade) inForce() {
	d.t.Helper()
	s := must[device.Status](d.t)(device.ReadStatus(d.dir, d.now()))
	if s.LDevID == nil || d.now().After(s.LDevID.NotAfter) {
		d.t.Fatalf("year %.1f: no working identity: %+v; said %q", d.age(), s, d.said)
	}
}

// cut cuts the power in the middle of a renewal: at the nth request, before it is served
// or when its answer is lost, or else between two steps of the swap. Then the agent that
// starts anew must have a working identity at once, and renew.
func (d *decade) cut() {
	d.t.Helper()
	d.sleep(d.load().RenewAfter.Sub(d.now()) + time.Minute)
	was, kind := d.load(), d.cuts%6
	snapshot := filepath.Join(d.t.TempDir(), "state")
	at := d.random.IntN(2) // a renewal is two requests, or more
	served := 0
	d.stand(func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
		if n := served; kind < 4 && n == at {
			if kind%2 == 1 {
				serve.ServeHTTP(httptest.NewRecorder(), r) // done, and nobody heard of it
			}
			copyTo(d.t, d.dir, snapshot)
		}
		served++
		serve.ServeHTTP(w, r)
	})
	_, err := d.agent().Turn(d.t.Context())
	d.stand(nil)
	switch {
	case kind < 4:
		if err != nil && kind%2 == 0 {
			d.t.Fatalf("year %.1f: %v; said %q", d.age(), err, d.said)
		}
		copyTo(d.t, snapshot, d.dir)
	case kind == 4: // the new set is written, and the link still leads to the old one
		d.lead(was)
	default: // nor is the new set whole
		d.lead(was)
		d.tear()
	}
	d.cuts++
	if after := d.load(); string(after.LDevID[0]) != string(was.LDevID[0]) {
		d.t.Fatalf("cut %d was none", d.cuts)
	}
	d.works()
	d.live(time.Hour)
	d.works()
	d.tidy()
	if string(d.load().LDevID[0]) == string(was.LDevID[0]) {
		d.t.Fatalf("year %.1f: not renewed after power cut %d; said %q", d.age(), d.cuts, d.said)
	}
}

// sets are the newest set's folder and the one before it.
func (d *decade) sets() (newest, before string) {
	d.t.Helper()
	all := must[[]string](d.t)(filepath.Glob(filepath.Join(d.dir, "set-*")))
	if len(all) != 2 {
		d.t.Fatalf("%q", all)
	}
	return all[1], all[0]
}

// lead makes the link lead back to the set before.
func (d *decade) lead(was state.Set) {
	d.t.Helper()
	_, before := d.sets()
	link := filepath.Join(d.dir, "current")
	if err := os.Remove(link); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Base(before), link); err != nil {
		d.t.Fatal(err)
	}
}

// tear leaves half of the newest set.
func (d *decade) tear() {
	d.t.Helper()
	newest, _ := d.sets()
	file := filepath.Join(newest, "ldevid.key")
	if err := os.Remove(filepath.Join(newest, "idevid.pem")); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Truncate(file, 10); err != nil {
		d.t.Fatal(err)
	}
}

// clockReset gives the device a wrong clock over a renewal.
func (d *decade) clockReset(wrong time.Duration) {
	d.t.Helper()
	d.wrong = wrong
	before := d.load()
	d.sleep(before.RenewAfter.Sub(d.now()) + time.Minute)
	d.live(day)
	d.works()
	if string(d.load().LDevID[0]) == string(before.LDevID[0]) {
		d.t.Fatalf("year %.1f: not renewed with a clock that is %v ahead; said %q", d.age(), wrong, d.said)
	}
	d.wrong = 0
	d.live(day)
	d.works()
	d.resets++
}

// slotRollBack brings back the state of two renewals ago.
func (d *decade) slotRollBack() {
	d.t.Helper()
	old := filepath.Join(d.t.TempDir(), "slot")
	copyTo(d.t, d.dir, old)
	n := d.renewals
	for d.renewals < n+2 {
		d.live(5 * day)
	}
	copyTo(d.t, old, d.dir)
	d.live(time.Hour)
	d.works()
	d.rollBacks++
}

// factoryReset wipes the folder and clears the TPM; all that is left is the image, with
// the address and the root of the first day.
func (d *decade) factoryReset() {
	d.t.Helper()
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Fatal(err)
	}
	tpm, err := d.chip.Open()
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := (gotpm.Clear{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHLockout, Auth: gotpm.PasswordAuth(nil)}}).Execute(tpm); err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.agent().Turn(d.t.Context()); err != nil {
		d.t.Fatalf("year %.1f: %v; said %q", d.age(), err, d.said)
	}
	d.works()
	d.factory++
}

// drawer keeps the device from everything for half a year, in which a root is replaced.
func (d *decade) drawer(meanwhile func()) {
	d.t.Helper()
	d.sleep(90 * day)
	meanwhile()
	d.sleep(93 * day)
	if _, err := d.agent().Turn(d.t.Context()); err != nil {
		d.t.Fatalf("year %.1f: %v; said %q", d.age(), err, d.said)
	}
	d.works()
}

// gentleRollOver replaces a root while the device lives on.
func (d *decade) gentleRollOver(line string) {
	d.t.Helper()
	d.addRoot(line)
	d.live(40 * day)
	d.switchOver(line)
	d.live(60 * day)
	d.retire(line)
	d.live(40 * day)
	d.works()
	d.rollOvers++
}

// issued is how many working certificates the device was given.
func (d *decade) issued() (n int) {
	d.t.Helper()
	where := &record.Selector{Op: record.OpEqual, Field: "profile", Value: string(profile.LDevID)}
	for cursor := ""; ; {
		page, next, err := d.store.Certificates(d.t.Context(), where, record.Page{Limit: 1000, After: cursor})
		if err != nil {
			d.t.Fatal(err)
		}
		n += len(page)
		if cursor = next; cursor == "" {
			return n
		}
	}
}

// tenYears lives through them. The device is never without an identity that works, but in
// the drawer, and its folder holds nothing stale.
func tenYears(t testing.TB) *decade {
	h := open(t)
	model := must[record.Model](t)(h.store.Model(t.Context(), record.DefaultModel))
	model.Poll = wire.MaxPoll * time.Second
	if err := h.store.SetModel(t.Context(), model.Name, func(have *record.Model) (record.Event, error) {
		*have = model
		return record.Event{Time: h.now(), Actor: "test", Verb: "model.set"}, nil
	}); err != nil {
		t.Fatal(err)
	}
	d := &decade{unit: h.unit(t), t: t, start: h.now(), random: rand.New(rand.NewPCG(1, 2))}
	d.enrolled("SN-1")
	if _, err := d.agent().Turn(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.works()
	for year := 1; year <= 10; year++ {
		end := d.start.Add(time.Duration(year) * 8766 * time.Hour)
		for range 4 {
			d.cut()
		}
		switch year {
		case 1:
			d.handOver()
		case 2:
			d.gentleRollOver(profile.Operational)
		case 3:
			d.clockReset(-d.now().Sub(time.Unix(0, 0)))
		case 4:
			d.slotRollBack()
		case 5:
			d.drawer(func() { d.rollOver(profile.Infrastructure); d.rollOvers++ })
		case 6:
			d.factoryReset()
		case 7:
			d.gentleRollOver(profile.Manufacturing)
		case 8:
			d.clockReset(3652 * day)
		case 9:
			d.slotRollBack()
		}
		d.live(end.Sub(d.now()))
	}
	d.works()
	d.tidy()
	return d
}

func TestTenYears(t *testing.T) {
	t.Parallel()
	d := tenYears(t)
	if n := must[int64](t)(d.counted()); n != 1 {
		t.Errorf("%d devices are counted", n)
	}
	if err := d.store.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	known := must[[]record.Device](t)(d.store.DevicesNamed(t.Context(), "", "SN-1"))
	if len(known) != 1 || known[0].State != record.StateActive {
		t.Errorf("on record: %+v", known)
	}
	issued := d.issued()
	t.Logf("%.1f years: %d working certificates, %d roll-overs, %d clock resets, %d slot roll-backs, %d factory resets, %d power cuts; trust bundle %d",
		d.age(), issued, d.rollOvers, d.resets, d.rollBacks, d.factory, d.cuts, d.trust())
	if issued < 180 || d.rollOvers != 3 || d.resets != 2 || d.rollBacks != 2 || d.factory != 1 || d.cuts != 40 {
		t.Error("the ten years were quieter than promised")
	}
}

// BenchmarkTenYears says what a device's ten years hold.
func BenchmarkTenYears(b *testing.B) {
	for b.Loop() {
		d := tenYears(b)
		b.ReportMetric(float64(d.issued()), "certificates")
		b.ReportMetric(float64(d.rollOvers), "roll-overs")
		b.ReportMetric(float64(d.cuts), "power-cuts")
	}
}
