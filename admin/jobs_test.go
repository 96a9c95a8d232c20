package admin_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/hallmark-pki/hallmark/wire/jobs"
	"github.com/hallmark-pki/hallmark/wire/renewal"
)

// requested is the request that a refusal names.
func requested(t *testing.T, err error) string {
	t.Helper()
	p := wantProblem(t, err, wire.CodeApproval)
	found := regexp.MustCompile(`request (a\d+)`).FindStringSubmatch(p.Detail)
	if found == nil {
		t.Fatalf("no request is named: %s", p.Detail)
	}
	return found[1]
}

// second is another operator.
func (h *house) second(name string) *client.Client {
	h.t.Helper()
	check(h.t, h.store.RecoverOperator(h.t.Context(), name, h.now(), record.Event{Time: h.now(), Actor: "host", Verb: "operator.recovered", Object: name}))
	return h.operator(name)
}

// fleet enrols devices in a lot of their own, and one beside it.
func (h *house) fleet(lot string, n int) (names []string) {
	h.t.Helper()
	_, err := h.anna.CreateLot(h.t.Context(), wire.NewLot{Name: lot, Quota: 1000})
	check(h.t, err)
	for i := range n {
		names = append(names, h.device("default", lot, fmt.Sprintf("%s-%03d", lot, i)).Name())
	}
	return names
}

// runJobs runs jobs until the returned function is called or the test ends.
func (h *house) runJobs() (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan struct{})
	go func() { h.jobs.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	h.t.Cleanup(stop)
	return stop
}

// reaches waits until a job is in a state.
func (h *house) reaches(id, state string) jobs.Progress {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		j, err := h.anna.Job(h.t.Context(), id)
		check(h.t, err)
		if j.State == state {
			return j
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("job %s is %s, not %s: %+v", id, j.State, state, j)
		}
	}
}

// listed are the reasons on the operational issuer's first list.
func (h *house) listed() (reasons []int) {
	h.t.Helper()
	list, err := h.store.NewestCRL(h.t.Context(), record.Shard{Issuer: profile.Operational, Number: 1})
	check(h.t, err)
	crl, err := x509.ParseRevocationList(list.DER)
	check(h.t, err)
	for _, entry := range crl.RevokedCertificateEntries {
		reasons = append(reasons, entry.ReasonCode)
	}
	return reasons
}

func TestJobSuspendsAndRestores(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 6)
	h.fleet("w48", 2)
	bo := h.second("bo")
	seen, err := h.anna.Survey(ctx, jobs.Selection{Where: "lot = w47"})
	check(t, err)
	if seen.Devices != 6 || seen.Fleet != 8 || seen.Certificates != 6 || len(seen.Sample) != 6 || seen.Lots[0] != (jobs.Tally{Name: "w47", Count: 6}) ||
		!slices.Equal(seen.Shards, []jobs.Shard{{Issuer: "operational", Number: 1}}) {
		t.Errorf("survey: %+v", seen)
	}
	if len(h.listed0()) != 0 {
		t.Error("a survey changed something")
	}
	h.runJobs()
	// The whole lot, at once, by one operator.
	j, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Selection: jobs.Selection{Where: "lot = w47"}, Why: "broken firmware"})
	check(t, err)
	got := h.reaches(j.ID, record.JobDone)
	if got.Total != 6 || got.Outcomes["done"] != 6 || got.Operator != "anna" || got.Where != "lot = w47" || got.Change == 0 {
		t.Errorf("done: %+v", got)
	}
	if r := h.listed(); !slices.Equal(r, []int{6, 6, 6, 6, 6, 6}) {
		t.Errorf("the CRL lists %v when the job is done", r)
	}
	alerts, err := bo.Alerts(ctx)
	check(t, err)
	if len(alerts.Items) != 1 || alerts.Items[0].Verb != "job.created" || alerts.Items[0].Reason != "broken firmware" {
		t.Errorf("the others hear %+v", alerts.Items)
	}
	devices, err := h.anna.JobDevices(ctx, j.ID, client.Query{Limit: 4})
	check(t, err)
	rest, err := h.anna.JobDevices(ctx, j.ID, client.Query{Limit: 4, After: devices.After})
	check(t, err)
	if len(devices.Items) != 4 || len(rest.Items) != 2 || devices.Items[0].Outcome != "done" || devices.Items[0].At.IsZero() {
		t.Errorf("devices: %+v %+v", devices, rest)
	}
	j, err = bo.CreateJob(ctx, jobs.New{Kind: jobs.Restore, Selection: jobs.Selection{Devices: []string{"w47-000", "W47-001", "default:w47-001"}}, Why: "these were mended"})
	check(t, err)
	h.reaches(j.ID, record.JobDone)
	if r := h.listed(); len(r) != 4 {
		t.Errorf("after the restore the CRL lists %v", r)
	}
	again, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Selection: jobs.Selection{Where: "lot = w47"}, Why: "once more"})
	check(t, err)
	if got := h.reaches(again.ID, record.JobDone); !maps.Equal(got.Outcomes, map[string]int64{"done": 2, "unchanged": 4}) {
		t.Errorf("outcomes: %v", got.Outcomes)
	}
	all, err := h.anna.Jobs(ctx, client.Query{Limit: 10})
	check(t, err)
	if len(all.Items) != 3 || all.Items[0].ID != again.ID {
		t.Errorf("listed: %+v", all.Items)
	}
}

// listed0 is listed before there is any list.
func (h *house) listed0() []int {
	if _, err := h.store.NewestCRL(h.t.Context(), record.Shard{Issuer: profile.Operational, Number: 1}); err != nil {
		return nil
	}
	return h.listed()
}

func TestJobRefused(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 3)
	suspend := func(s jobs.Selection, count int64, stages ...string) error {
		_, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Selection: s, Why: "x", Count: count, Stages: stages})
		return err
	}
	w47 := jobs.Selection{Where: "serial = w47-000"}
	// The finger points at the character.
	p := wantProblem(t, suspend(jobs.Selection{Where: "lot = w47 AND colour = red"}, 0), wire.CodeFilter)
	if !strings.Contains(p.Detail, "column 15") {
		t.Errorf("detail:\n%s", p.Detail)
	}
	for _, all := range []string{"", "lot = w47", "state = active", "NOT model = nothing"} {
		p := wantProblem(t, suspend(jobs.Selection{Where: all}, 0), wire.CodeCount)
		if !strings.Contains(p.Hint, "--count 3") {
			t.Errorf("hint: %s", p.Hint)
		}
		wantProblem(t, suspend(jobs.Selection{Where: all}, 2), wire.CodeCount)
	}
	wantProblem(t, suspend(w47, 3), wire.CodeCount)
	wantProblem(t, suspend(jobs.Selection{Where: "lot = w99"}, 0), wire.CodeNotFound)
	wantProblem(t, suspend(jobs.Selection{Devices: []string{"w47-000", "w47-009"}}, 0), wire.CodeNotFound)
	wantProblem(t, suspend(jobs.Selection{Where: "lot = w47", Devices: []string{"w47-000"}}, 0), wire.CodeMalformed)
	wantProblem(t, suspend(jobs.Selection{Devices: slices.Repeat([]string{"w47-000"}, jobs.MaxNamed+1)}, 0), wire.CodeMalformed)
	for _, bad := range []string{"0", "-1", "1%%", "x", "101%", "1.5", "NaN", "Inf"} {
		wantProblem(t, suspend(w47, 0, bad), wire.CodeMalformed)
	}
	wantProblem(t, suspend(w47, 0, "2", "1"), wire.CodeMalformed)
	for _, bad := range []jobs.New{{}, {Kind: "explode", Why: "x"}, {Kind: jobs.Suspend}, {Kind: jobs.Suspend, Why: "x", Reason: "superseded"},
		{Kind: jobs.Revoke, Why: "x"}, {Kind: jobs.Revoke, Reason: "hold", Why: "x"}, {Kind: jobs.Retire, Why: strings.Repeat("x", 1001)},
		{Kind: jobs.Revoke, Reason: "superseded", BreakGlass: strings.Repeat("x", 1001)}} {
		bad.Selection = w47
		_, err := h.anna.CreateJob(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	if all, err := h.anna.Jobs(ctx, client.Query{Limit: 10}); err != nil || len(all.Items) != 0 {
		t.Errorf("jobs: %+v, %v", all, err)
	}
	check(t, suspend(jobs.Selection{Where: "lot = w47"}, 3, "1%", "50%"))
	for _, verb := range []string{"resume", "cancel", "pause"} {
		_, err := h.anna.MoveJob(ctx, "j99", verb)
		wantProblem(t, err, wire.CodeNotFound)
	}
	_, err := h.anna.Job(ctx, "j99")
	wantProblem(t, err, wire.CodeNotFound)
	_, err = h.anna.MoveJob(ctx, "j1", "resume")
	if p := wantProblem(t, err, wire.CodeConflict); p.Detail != "job j1 is running" {
		t.Errorf("detail: %s", p.Detail)
	}
	for _, s := range []struct{ verb, state string }{{"pause", record.JobPaused}, {"resume", record.JobRunning}, {"pause", record.JobPaused}, {"cancel", record.JobCancelled}} {
		if j, err := h.anna.MoveJob(ctx, "j1", s.verb); err != nil || j.State != s.state {
			t.Errorf("%s: %+v, %v", s.verb, j, err)
		}
	}
}

// TestJobInStages also cancels: what has happened stays and is said.
func TestJobInStages(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 9)
	h.fleet("w48", 1)
	h.runJobs()
	j, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Selection: jobs.Selection{Where: "lot = w47"}, Why: "x", Stages: []string{"1%", "2%", "50%", "100%"}})
	check(t, err)
	if !slices.Equal(j.Stages, []int64{1, 5}) {
		t.Fatalf("stages %v", j.Stages)
	}
	h.reaches(j.ID, record.JobPaused)
	if !h.publishes(1) {
		t.Error("a stage is not published")
	}
	_, err = h.anna.MoveJob(ctx, j.ID, "resume")
	check(t, err)
	h.reaches(j.ID, record.JobPaused)
	if !h.publishes(5) {
		t.Error("the second stage is not published")
	}
	got, err := h.anna.MoveJob(ctx, j.ID, "cancel")
	check(t, err)
	if got.State != record.JobCancelled || !maps.Equal(got.Outcomes, map[string]int64{"done": 5, "cancelled": 4}) {
		t.Errorf("cancelled: %+v", got)
	}
}

// publishes waits until the list has that many entries.
func (h *house) publishes(entries int) bool {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if len(h.listed0()) == entries {
			return true
		}
	}
	return false
}

// TestSecondOperator: beyond the threshold, or of a whole lot, a revocation takes two.
func TestSecondOperator(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 5)
	h.fleet("w48", 2)
	revoke := func(by *client.Client, where, glass string) jobs.Job {
		t.Helper()
		j, err := by.CreateJob(ctx, jobs.New{Kind: jobs.Revoke, Reason: "key-compromise", Selection: jobs.Selection{Where: where}, BreakGlass: glass})
		check(t, err)
		return j
	}
	if j := revoke(h.anna, "lot = w48", ""); j.State != record.JobRunning {
		t.Errorf("alone, anna may do everything: %+v", j)
	}
	bo := h.second("bo")
	lot := revoke(h.anna, "lot = w47", "")
	if lot.State != record.JobWaiting || lot.Approval == "" {
		t.Fatalf("a whole lot: %+v", lot)
	}
	if again := revoke(h.anna, "lot = w47", ""); !again.Repeated || again.ID != lot.ID || again.Approval != lot.Approval || again.Created != lot.Created {
		t.Errorf("typed again: %+v", again)
	}
	if alerts, err := bo.Alerts(ctx); err != nil || len(alerts.Items) != 1 {
		t.Errorf("the others hear of one request: %+v, %v", alerts.Items, err)
	}
	h.runJobs()
	if j := revoke(h.anna, "serial = w47-000", ""); j.State == record.JobWaiting {
		t.Errorf("one device: %+v", j)
	}
	open, err := bo.Approvals(ctx)
	check(t, err)
	if len(open.Items) != 1 || open.Items[0].Requester != "anna" || open.Items[0].Job.ID != lot.ID || open.Items[0].Job.Total != 5 {
		t.Fatalf("open: %+v", open.Items)
	}
	_, err = h.anna.Approve(ctx, lot.Approval)
	if p := wantProblem(t, err, wire.CodeConflict); !strings.Contains(p.Detail, "is your own") || !strings.HasPrefix(p.Hint, "who may: bo; if nobody answers") {
		t.Errorf("detail: %s; hint: %s", p.Detail, p.Hint)
	}
	_, err = bo.Approve(ctx, "a99")
	wantProblem(t, err, wire.CodeNotFound)
	given, err := bo.Approve(ctx, lot.Approval)
	check(t, err)
	if given.Approver != "bo" || given.Job.State != record.JobRunning {
		t.Errorf("given: %+v", given)
	}
	h.reaches(lot.ID, record.JobDone)
	_, err = bo.Approve(ctx, lot.Approval)
	wantProblem(t, err, wire.CodeConflict)

	// The threshold counts what one has done alone within a day, in whatever way.
	h.fleet("w49", 8)
	_, err = h.anna.Set(ctx, "revoke-threshold", jobs.NewSetting{Value: "5", Why: "we are few"})
	_, err = bo.Approve(ctx, requested(t, err))
	check(t, err)
	set, err := h.anna.Set(ctx, "revoke-threshold", jobs.NewSetting{Value: "5", Why: "we are few"})
	check(t, err)
	if set.Value != "5" {
		t.Errorf("set: %+v", set)
	}
	// Three are counted: lot w48, which nobody else approved, and w47-000.
	_, err = h.anna.Revoke(ctx, "w49-000", wire.StatusRequest{Reason: "superseded"})
	check(t, err)
	_, err = h.anna.Revoke(ctx, "w49-000", wire.StatusRequest{Reason: "superseded"})
	check(t, err) // it was revoked before
	_, err = h.anna.Retire(ctx, "w49-001", wire.StatusRequest{Why: "old"})
	check(t, err)
	_, err = h.anna.Revoke(ctx, "w49-002", wire.StatusRequest{Reason: "superseded"})
	wantProblem(t, err, wire.CodeApproval)
	soft := h.softDevice("SN-1")
	_, err = h.anna.Grant(ctx, soft.Serial, renewal.NewGrant{NewKey: true})
	wantProblem(t, err, wire.CodeApproval) // it would end certificates as well
	_, err = h.anna.Grant(ctx, soft.Serial, renewal.NewGrant{})
	check(t, err)
	_, err = bo.Grant(ctx, soft.Serial, renewal.NewGrant{NewKey: true})
	check(t, err)
	beyond := revoke(h.anna, "serial = w49-002", "")
	if beyond.State != record.JobWaiting || beyond.Approval == "" {
		t.Errorf("beyond the threshold: %+v", beyond)
	}
	_, err = h.anna.Suspend(ctx, "w49-003", wire.StatusRequest{Why: "at once, always"})
	check(t, err)
	_, err = bo.Revoke(ctx, "w49-004", wire.StatusRequest{Reason: "superseded"})
	check(t, err)
	h.offset.Store(int64(25 * time.Hour))
	h.anna = h.operator("anna")
	_, err = h.anna.Revoke(ctx, "w49-005", wire.StatusRequest{Reason: "superseded"})
	check(t, err)

	h.jobs.Wake()
	if j := h.reaches(beyond.ID, record.JobExpired); j.Approval != "" || j.Outcomes["cancelled"] != 1 {
		t.Errorf("after a day its request has ended: %+v", j)
	}
	bo = h.operator("bo")
	alerts, err := bo.Alerts(ctx)
	check(t, err)
	if last := alerts.Items[len(alerts.Items)-1]; last.Verb != "job.expired" || last.Object != beyond.ID || last.Detail["operator"] != "anna" {
		t.Errorf("everybody hears %+v", last)
	}

	for _, bad := range []string{"", "-1", "x", "1000001"} {
		_, err = h.anna.Set(ctx, "revoke-threshold", jobs.NewSetting{Value: bad})
		wantProblem(t, err, wire.CodeMalformed)
	}
	_, err = h.anna.Set(ctx, "colour", jobs.NewSetting{Value: "1"})
	wantProblem(t, err, wire.CodeNotFound)
}

// TestLotByBits: whoever ends a lot in several acts ends a whole lot, in whatever way.
func TestLotByBits(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	for _, lot := range []string{"one", "bits", "jobs", "late"} {
		h.fleet(lot, map[string]int{"one": 1}[lot]+3*min(1, len(lot)-3))
	}
	bo := h.second("bo")
	revoke := func(by *client.Client, serial string) error {
		_, err := by.Revoke(ctx, serial, wire.StatusRequest{Reason: "key-compromise"})
		return err
	}
	many := func(where string, stages ...string) jobs.Job {
		t.Helper()
		j, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Retire, Why: "old", Selection: jobs.Selection{Where: where}, Stages: stages})
		check(t, err)
		return j
	}
	// The only device of a lot is one device.
	check(t, revoke(h.anna, "one-000"))

	// One by one, by whoever it is.
	check(t, revoke(h.anna, "bits-000"))
	_, err := bo.Retire(ctx, "bits-001", wire.StatusRequest{Why: "old"})
	check(t, err)
	for _, by := range []*client.Client{h.anna, bo} {
		p := wantProblem(t, revoke(by, "bits-002"), wire.CodeApproval)
		if !strings.Contains(p.Detail, "the last of lot bits") || !strings.Contains(p.Hint, "hallmark device suspend bits-002") {
			t.Errorf("refused with %s; %s", p.Detail, p.Hint)
		}
	}
	_, err = h.anna.Suspend(ctx, "bits-002", wire.StatusRequest{Why: "at once, always"})
	check(t, err)
	last := many("serial = bits-002")
	if last.State != record.JobWaiting {
		t.Errorf("the last one by a job: %+v", last)
	}
	check(t, revoke(h.anna, "bits-000")) // again, which ends nothing

	// In two jobs, of which the first waits for its next stage.
	if j := many("serial = jobs-000 OR serial = jobs-001", "1"); j.State != record.JobRunning {
		t.Errorf("two of three: %+v", j)
	}
	wantProblem(t, revoke(bo, "jobs-002"), wire.CodeApproval)
	if j := many("serial = jobs-002"); j.State != record.JobWaiting {
		t.Errorf("the third: %+v", j)
	}

	// What ended long ago is no part of the act.
	check(t, revoke(h.anna, "late-000"))
	check(t, revoke(h.anna, "late-001"))
	wantProblem(t, revoke(h.anna, "late-002"), wire.CodeApproval)
	h.offset.Store(int64(25 * time.Hour))
	h.anna = h.operator("anna")
	h.operator("bo")
	check(t, revoke(h.anna, "late-002"))
}

// TestLotAtOnce: of the acts on the last devices of a lot that come at the same time, one
// finds that it would be the last.
func TestLotAtOnce(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	names := h.fleet("w47", 4)
	h.second("bo")
	errs := make(chan error)
	for _, name := range names {
		go func() {
			_, err := h.anna.Revoke(ctx, name, wire.StatusRequest{Reason: "superseded"})
			errs <- err
		}()
	}
	var refused []error
	for range names {
		if err := <-errs; err != nil {
			refused = append(refused, err)
		}
	}
	if len(refused) != 1 {
		t.Fatalf("%d were refused: %v", len(refused), refused)
	}
	wantProblem(t, refused[0], wire.CodeApproval)
}

// TestSlowLists: whoever ends a device waits for its list, and nobody else does.
func TestSlowLists(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 3)
	soft := h.softDevice("SN-1")
	h.signing.Lock()
	var free sync.Once
	release := func() { free.Do(h.signing.Unlock) }
	defer release()
	ended := make(chan error, 2)
	go func() {
		_, err := h.anna.Revoke(ctx, "w47-000", wire.StatusRequest{Reason: "key-compromise"})
		ended <- err
	}()
	go func() {
		_, err := h.anna.Grant(ctx, soft.Serial, renewal.NewGrant{NewKey: true})
		ended <- err
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		rows, _, err := h.store.Certificates(ctx, &record.Selector{Op: record.OpEqual, Field: "status", Value: "revoked"}, record.Page{Limit: 10})
		check(t, err)
		if len(rows) == 3 { // one has a birth certificate
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("recorded: %+v", rows)
		}
	}
	impatient, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := h.anna.CreateJob(impatient, jobs.New{Kind: jobs.Revoke, Reason: "superseded", Selection: jobs.Selection{Devices: []string{"w47-001"}}})
	check(t, err)
	select {
	case err := <-ended:
		t.Fatalf("the answer came before the list: %v", err)
	default:
	}
	release()
	check(t, <-ended)
	check(t, <-ended)
	if r := h.listed(); !slices.Contains(r, 1) || !slices.Contains(r, 4) {
		t.Errorf("listed: %v", r)
	}
}

// TestRevokeWhileAJobIsMade: a job for which another operator answers keeps nobody from ending
// a device while it is written down; one that rests on what its operator may do alone does.
func TestRevokeWhileAJobIsMade(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	names, others := h.fleet("w47", 3), h.fleet("w48", 4)
	bo := h.second("bo")
	during := func(j jobs.New, device string, patience time.Duration) (err error) {
		t.Helper()
		h.written = func() {
			impatient, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			_, err = bo.Revoke(impatient, device, wire.StatusRequest{Reason: "superseded"})
		}
		j.Kind, j.Reason = jobs.Revoke, "superseded"
		_, made := h.anna.CreateJob(ctx, j)
		check(t, made)
		return err
	}
	lot := jobs.Selection{Where: "lot = w47"}
	check(t, during(jobs.New{Selection: lot}, names[0], time.Minute))
	check(t, during(jobs.New{Selection: lot, BreakGlass: "bo sleeps"}, names[1], time.Minute))
	if err := during(jobs.New{Selection: jobs.Selection{Devices: others[:2]}}, others[2], time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside a job that nobody else answers for: %v", err)
	}
}

// TestDisabledOperatorsJob: what a disabled operator asked for is neither approved nor
// gone on with.
func TestDisabledOperatorsJob(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 3)
	h.fleet("w48", 3)
	bo := h.second("bo")
	waiting, err := bo.CreateJob(ctx, jobs.New{Kind: jobs.Revoke, Reason: "superseded", Selection: jobs.Selection{Where: "lot = w47"}})
	check(t, err)
	staged, err := bo.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Why: "x", Selection: jobs.Selection{Where: "lot = w48"}, Stages: []string{"1"}})
	check(t, err)
	h.runJobs()
	h.reaches(staged.ID, record.JobPaused)
	_, err = h.anna.DisableOperator(ctx, "bo")
	check(t, err)
	_, err = h.anna.Approve(ctx, waiting.Approval)
	if p := wantProblem(t, err, wire.CodeConflict); !strings.Contains(p.Detail, "bo is disabled") {
		t.Errorf("detail: %s", p.Detail)
	}
	_, err = h.anna.MoveJob(ctx, staged.ID, "resume")
	if p := wantProblem(t, err, wire.CodeConflict); !strings.Contains(p.Detail, "bo, is disabled") {
		t.Errorf("detail: %s", p.Detail)
	}
	_, err = bo.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Why: "x", Selection: jobs.Selection{Where: "lot = w48"}})
	wantProblem(t, err, wire.CodeUnauthorised)
	for _, id := range []string{waiting.ID, staged.ID} {
		_, err = h.anna.MoveJob(ctx, id, "cancel")
		check(t, err)
	}
	// The one that is left does not become the only one by that, for a day.
	lot, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Revoke, Reason: "superseded", Selection: jobs.Selection{Where: "lot = w47"}})
	check(t, err)
	if lot.State != record.JobWaiting {
		t.Errorf("the last operator's: %+v", lot)
	}
}

// TestBreakGlass runs at once, ends after an hour, and is reviewed.
func TestBreakGlass(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 4)
	h.fleet("w48", 1)
	bo := h.second("bo")
	in := jobs.New{Kind: jobs.Revoke, Reason: "key-compromise", Selection: jobs.Selection{Where: "lot = w47"}, BreakGlass: "nobody else answers", Stages: []string{"1"}}
	j, err := h.anna.CreateJob(ctx, in)
	check(t, err)
	if j.State != record.JobRunning || j.Until.IsZero() || j.Approval == "" {
		t.Fatalf("break-glass: %+v", j)
	}
	alerts, err := bo.Alerts(ctx)
	check(t, err)
	if len(alerts.Items) != 1 || alerts.Items[0].Detail["break_glass"] != "nobody else answers" {
		t.Errorf("the others hear %+v", alerts.Items)
	}
	h.runJobs()
	if j := h.reaches(j.ID, record.JobPaused); j.BreakGlass != "nobody else answers" {
		t.Errorf("the reason of the break-glass: %q", j.BreakGlass)
	}
	h.offset.Store(int64(61 * time.Minute))
	_, err = h.anna.MoveJob(ctx, j.ID, "resume")
	if p := wantProblem(t, err, wire.CodeConflict); !strings.Contains(p.Detail, "break-glass") {
		t.Errorf("detail: %s", p.Detail)
	}
	open, err := bo.Approvals(ctx)
	check(t, err)
	if len(open.Items) != 1 || open.Items[0].Kind != record.ReviewJob || open.Items[0].Why != "nobody else answers" {
		t.Fatalf("reviews: %+v", open.Items)
	}
	_, err = h.anna.Approve(ctx, j.Approval)
	wantProblem(t, err, wire.CodeConflict)
	_, err = bo.Approve(ctx, j.Approval)
	check(t, err)
	_, err = h.anna.MoveJob(ctx, j.ID, "resume")
	check(t, err)
	got := h.reaches(j.ID, record.JobDone)
	if got.Approval != "" || got.Outcomes["done"] != 4 || got.BreakGlass != "nobody else answers" {
		t.Errorf("done: %+v", got)
	}
	// Where one may act alone there is no glass to break.
	in.Selection, in.Stages = jobs.Selection{Devices: []string{"w48-000"}}, nil
	if j, err = h.anna.CreateJob(ctx, in); err != nil || !j.Until.IsZero() || j.Approval != "" {
		t.Errorf("not needed: %+v, %v", j, err)
	}
}

// TestLift brings a device back that was revoked by mistake; its certificates stay so.
func TestLift(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	d := h.device("default", "default", "SN-1")
	bo := h.second("bo")
	_, err := h.anna.Lift(ctx, "SN-1", wire.StatusRequest{})
	wantProblem(t, err, wire.CodeMalformed)
	if got, err := h.anna.Lift(ctx, "SN-1", wire.StatusRequest{Why: "x"}); err != nil || got.Changed {
		t.Errorf("lift what is not revoked: %+v, %v", got, err)
	}
	_, err = h.anna.Revoke(ctx, "SN-1", wire.StatusRequest{Reason: "key-compromise"})
	check(t, err)
	_, err = h.anna.Lift(ctx, "SN-1", wire.StatusRequest{Why: "it was another"})
	request := requested(t, err)
	_, err = h.anna.Lift(ctx, "SN-1", wire.StatusRequest{Why: "it was another"})
	if again := requested(t, err); again != request {
		t.Errorf("asked twice: %s and %s", request, again)
	}
	open, err := bo.Approvals(ctx)
	check(t, err)
	if len(open.Items) != 1 || open.Items[0].Subject != "default:SN-1" || open.Items[0].Why != "it was another" {
		t.Errorf("open: %+v", open.Items)
	}
	_, err = bo.Approve(ctx, request)
	check(t, err)
	got, err := h.anna.Lift(ctx, "SN-1", wire.StatusRequest{Why: "it was another"})
	check(t, err)
	if !got.Changed || got.State != "active" {
		t.Errorf("lifted: %+v", got)
	}
	// People know the device by its name, before and after.
	alerts, err := bo.Alerts(ctx)
	check(t, err)
	for _, e := range alerts.Items {
		if e.Object != d.Name() {
			t.Errorf("bo hears of %q: %+v", e.Object, e)
		}
	}
	if alerts, err = h.anna.Alerts(ctx); err != nil || alerts.Items[len(alerts.Items)-1].Object != d.Name() {
		t.Errorf("anna hears %+v, %v", alerts.Items, err)
	}
	shown, err := h.anna.Device(ctx, d.ID)
	check(t, err)
	for _, c := range shown.Certificates {
		if c.Status != "revoked" {
			t.Errorf("%s is %s", c.Profile, c.Status)
		}
	}
}

func TestLabels(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 3)
	got, err := h.anna.Label(ctx, jobs.NewLabels{Selection: jobs.Selection{Devices: []string{"w47-000", "w47-001"}}, Set: map[string]string{"site": "Mainz", "ring": "1"}})
	check(t, err)
	if got.Devices != 2 {
		t.Errorf("labelled %d", got.Devices)
	}
	_, err = h.anna.Label(ctx, jobs.NewLabels{Selection: jobs.Selection{Where: "label.ring = 1"}, Set: map[string]string{"site": "Köln"}, Remove: []string{"ring"}})
	check(t, err)
	found, err := h.anna.Devices(ctx, client.Query{Filter: "labels.site = Köln", Limit: 10})
	check(t, err)
	if len(found.Items) != 2 || !maps.Equal(found.Items[0].Labels, map[string]string{"site": "Köln"}) || found.Items[0].Expires.IsZero() {
		t.Errorf("found %+v", found.Items)
	}
	one := jobs.Selection{Devices: []string{"w47-000"}}
	for _, bad := range []jobs.NewLabels{{}, {Set: map[string]string{"Site": "x"}}, {Set: map[string]string{"": "x"}}, {Remove: []string{"x y"}}, {Set: map[string]string{"a": "x\n"}},
		{Set: map[string]string{"a": strings.Repeat("x", 257)}}, {Set: map[string]string{"a": "x"}, Remove: []string{"a"}}} {
		bad.Selection = one
		_, err := h.anna.Label(ctx, bad)
		wantProblem(t, err, wire.CodeMalformed)
	}
	_, err = h.anna.Label(ctx, jobs.NewLabels{Selection: jobs.Selection{Where: "lot ="}, Remove: []string{"a"}})
	wantProblem(t, err, wire.CodeFilter)
}

func TestAlerts(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.device("default", "default", "SN-1")
	bo := h.second("bo")
	_, err := h.anna.Suspend(ctx, "SN-1", wire.StatusRequest{Why: "stolen?"})
	check(t, err)
	key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "bo", Lifetime: h.life}})
	head := func() string {
		t.Helper()
		pool := x509.NewCertPool()
		pool.AddCert(h.founded[profile.Infrastructure].Root)
		c := http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig(pool, tlsPair(key, chain)), DisableKeepAlives: true}}
		resp, err := c.Get(h.server.URL + wire.PathWhoami)
		check(t, err)
		resp.Body.Close()
		return resp.Header.Get(jobs.HeaderAlerts)
	}
	if n := head(); n != "1" {
		t.Errorf("%q alerts", n)
	}
	alerts, err := bo.Alerts(ctx)
	check(t, err)
	if len(alerts.Items) != 1 || alerts.Items[0].Verb != "device.suspended" || alerts.Items[0].Actor != "operator:anna" {
		t.Fatalf("alerts: %+v", alerts.Items)
	}
	check(t, bo.SeeAlerts(ctx, alerts.Items[0].Sequence))
	if n := head(); n != "" {
		t.Errorf("%q alerts after they were seen", n)
	}

	// One for each act, and none for what changes nothing.
	h.second("carla")
	for range 2 {
		_, err = h.anna.Restore(ctx, "SN-1", wire.StatusRequest{Why: "found"})
		check(t, err)
	}
	h.device("default", "default", "SN-2")
	for range 2 {
		_, err = h.anna.Retire(ctx, "SN-2", wire.StatusRequest{Why: "old"})
		check(t, err)
		_, err = h.anna.DisableOperator(ctx, "carla")
		check(t, err)
	}
	alerts, err = bo.Alerts(ctx)
	check(t, err)
	var heard []string
	for _, e := range alerts.Items {
		heard = append(heard, e.Verb)
	}
	if !slices.Equal(heard, []string{"device.restored", "device.retired", "operator.disabled"}) {
		t.Errorf("the others hear %v", heard)
	}
}

// TestReport: an auditor with the infrastructure root alone can verify it, and nobody
// else can make one.
func TestReport(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	names := h.fleet("w47", 3)
	h.fleet("w48", 1)
	bo := h.second("bo")
	j, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Revoke, Reason: "key-compromise", Why: "CVE", Selection: jobs.Selection{Where: "lot = w47"}})
	check(t, err)
	_, err = bo.Approve(ctx, j.Approval)
	check(t, err)
	h.runJobs()
	h.reaches(j.ID, record.JobDone)
	signed, err := h.anna.Report(ctx, j.ID)
	check(t, err)
	text, err := json.Marshal(signed)
	check(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(h.founded[profile.Infrastructure].Root)
	r, err := jobs.VerifyReport(text, roots)
	check(t, err)
	var listed []string
	sum := sha256.New()
	for _, d := range r.Devices {
		listed = append(listed, d.Name)
		sum.Write([]byte(d.Line()))
	}
	slices.Sort(listed)
	if r.Installation != "Acme" || r.Job.State != record.JobDone || r.Job.Why != "CVE" || !slices.Equal(listed, names) || len(r.Shards) == 0 ||
		len(r.Approvals) != 1 || r.Approvals[0].Approver != "bo" || r.DevicesSHA256 != hex.EncodeToString(sum.Sum(nil)) {
		t.Errorf("the report: %+v", r)
	}
	others := x509.NewCertPool()
	others.AddCert(h.founded[profile.Operational].Root)
	if _, err := jobs.VerifyReport(text, others); err == nil {
		t.Error("another root verifies it")
	}
	for i := 0; i < len(text); i += 7 {
		changed := slices.Clone(text)
		changed[i] ^= 1
		if got, err := jobs.VerifyReport(changed, roots); err == nil && !jsonEqual(got, r) {
			t.Fatalf("byte %d changed, and the report says something else", i)
		}
	}
	// An operator's certificate has the same root, and does not sign reports.
	key, chain := h.issue(ca.Request{Profile: profile.Operator, Content: profile.Content{Principal: "anna", Lifetime: h.life}})
	var certificates []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		check(t, err)
		certificates = append(certificates, c)
	}
	forged, err := jobs.SignReport(r, certificates, key)
	check(t, err)
	text, err = json.Marshal(forged)
	check(t, err)
	if _, err := jobs.VerifyReport(text, roots); err == nil {
		t.Error("an operator signed a report")
	}
	_, err = h.anna.Report(ctx, "j99")
	wantProblem(t, err, wire.CodeNotFound)
}

func jsonEqual(a, b any) bool {
	one, _ := json.Marshal(a)
	two, _ := json.Marshal(b)
	return string(one) == string(two)
}

// TestClockStepsBack in the middle of a job: it goes on, and the lists' numbers rise.
func TestClockStepsBack(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.fleet("w47", 4)
	h.fleet("w48", 1)
	h.runJobs()
	j, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Why: "x", Selection: jobs.Selection{Where: "lot = w47"}, Stages: []string{"2"}})
	check(t, err)
	h.reaches(j.ID, record.JobPaused)
	if !h.publishes(2) {
		t.Fatal("the stage is not published")
	}
	shard := record.Shard{Issuer: profile.Operational, Number: 1}
	before, err := h.store.NewestCRL(ctx, shard)
	check(t, err)
	h.offset.Store(int64(-4 * time.Minute))
	_, err = h.anna.MoveJob(ctx, j.ID, "resume")
	check(t, err)
	if got := h.reaches(j.ID, record.JobDone); got.Outcomes["done"] != 4 {
		t.Errorf("done: %+v", got)
	}
	after, err := h.store.NewestCRL(ctx, shard)
	check(t, err)
	if len(h.listed()) != 4 || after.Sequence <= before.Sequence {
		t.Errorf("%d entries; number %d after %d", len(h.listed()), after.Sequence, before.Sequence)
	}
}

// TestEnforcement: the job says at whom it took effect, and how long that took.
func TestEnforcement(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.device("default", "default", "SN-1")
	for _, name := range []string{"broker-1", "broker-2"} {
		check(t, h.store.InviteRelyingParty(ctx, record.RelyingParty{Name: name, Created: h.now(), Invitation: name, InvitedUntil: h.now().Add(time.Hour)},
			record.Event{Time: h.now(), Actor: "test", Verb: "relying-party.invited", Object: name}))
		check(t, h.store.Report(ctx, name, record.Enforcement{Reported: h.now(), Fail: "closed", Problem: "the disk is full"}))
	}
	h.runJobs()
	j, err := h.anna.CreateJob(ctx, jobs.New{Kind: jobs.Suspend, Why: "x", Selection: jobs.Selection{Devices: []string{"SN-1"}}})
	check(t, err)
	got := h.reaches(j.ID, record.JobDone)
	if len(got.Enforcement) != 2 || !got.Enforcement[0].At.IsZero() || got.Enforcement[0].Problem != "the disk is full" {
		t.Fatalf("enforcement: %+v", got.Enforcement)
	}
	// Up to that change, but not for the device that the job is of.
	check(t, h.store.Report(ctx, "broker-2", record.Enforcement{Number: got.Change, Reported: h.now(), Fail: "closed",
		Failing: []record.Failure{{Device: "default:SN-1", Change: got.Change, Since: h.now(), Times: 1}}}))
	if got = h.reaches(j.ID, record.JobDone); !got.Enforcement[1].At.IsZero() {
		t.Errorf("enforcement where the command fails: %+v", got.Enforcement)
	}
	check(t, h.store.Report(ctx, "broker-2", record.Enforcement{Number: got.Change, Reported: h.now(), Fail: "closed"}))
	got = h.reaches(j.ID, record.JobDone)
	if !got.Enforcement[0].At.IsZero() || got.Enforcement[1].At.Before(got.Changed.Truncate(time.Microsecond)) {
		t.Errorf("enforcement: %+v, changed %v", got.Enforcement, got.Changed)
	}
}
