package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/populate"
)

const many = 20_000

// great is a store of many devices, and the file that it is in.
func great(t *testing.T) (s *Store, file string) {
	file = filepath.Join(t.TempDir(), "hallmark.db")
	s, err := Create(t.Context(), file, options)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := populate.Fill(t.Context(), file, populate.Fleet{Devices: many, Every: 2, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return reopened(t, file), file
}

func reopened(t *testing.T, file string) *Store {
	t.Helper()
	s, err := Open(t.Context(), file, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.RecoverOperator(t.Context(), "anna", time.Now(), record.Event{Time: time.Now(), Actor: "host", Verb: "operator.recovered"}); err != nil {
		t.Fatal(err)
	}
	return s
}

func revokeAll(ctx context.Context, s *Store) (record.Job, error) {
	return revoke(ctx, s, record.Selection{})
}

func revoke(ctx context.Context, s *Store, of record.Selection) (record.Job, error) {
	return s.CreateJob(ctx, of, time.Now(), func(record.JobView) (record.JobPlan, error) {
		j := record.Job{Kind: record.JobRevoke, Operator: "anna", State: record.JobRunning, Created: time.Now()}
		return record.JobPlan{Job: j, Event: record.Event{Time: time.Now(), Actor: "operator:anna", Verb: "job.created"}}, nil
	})
}

// chunkwise is the context of who makes a great job. It has do run whenever part of the job is on
// record and the writer is free: Write looks first whether it was given up.
type chunkwise struct {
	context.Context
	t  *testing.T
	s  *Store
	do func()
}

func (c chunkwise) Err() error {
	if n := devices(c.t, c.s); n > 0 && n < many {
		c.do()
	}
	return c.Context.Err()
}

// soon fails unless do, which waits for nothing that the test holds, returns.
func soon(t *testing.T, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for the great job")
	}
}

// Who wants to write while a great job is made does not wait for all of it.
func TestOthersWriteWhileAJobIsMade(t *testing.T) {
	s, _ := great(t)
	written := 0
	_, err := revokeAll(chunkwise{t.Context(), t, s, func() {
		soon(t, func() error {
			return s.Note(t.Context(), record.Event{Time: time.Now(), Actor: "host", Verb: "noted"})
		})
		written++
	}}, s)
	if err != nil || written < 5 {
		t.Errorf("%d others got their turn (%v)", written, err)
	}
}

// Nor does who makes a job of a few, which is under way before the great one is made.
func TestSmallJobWhileAGreatOneIsMade(t *testing.T) {
	s, _ := great(t)
	of := record.Selection{Devices: []string{first(t, s).ID}}
	var small record.Job
	j, err := revokeAll(chunkwise{t.Context(), t, s, func() {
		if small.ID != "" {
			return
		}
		soon(t, func() (err error) { small, err = revoke(t.Context(), s, of); return err })
		if all, _, err := s.Jobs(t.Context(), record.Page{Limit: 10}); err != nil || len(all) != 1 || small.Total != 1 {
			t.Errorf("it came after the great one: %+v, %v", all, err)
		}
	}}, s)
	if err != nil || j.Total != many || j.Outcomes[""] != many || small.ID == "" || j.ID == small.ID {
		t.Errorf("the great one: %+v, %v; the small one: %+v", j, err, small)
	}
}

func first(t *testing.T, s *Store) record.Device {
	t.Helper()
	page, _, err := s.Devices(t.Context(), nil, record.Page{Limit: 1})
	if err != nil || len(page) != 1 {
		t.Fatal(page, err)
	}
	return page[0]
}

func devices(t *testing.T, s *Store) (n int64) {
	t.Helper()
	err := s.db.Read(t.Context(), func(c *engine.Conn) error {
		found, err := engine.First(c, engine.Number, "SELECT count(*) FROM job_devices")
		n = *found
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A job that could not be made to its end is none, and leaves nothing once another is made.
func TestJobHalfMade(t *testing.T) {
	s, file := great(t)
	ctx, stop := context.WithCancel(t.Context())
	if _, err := revokeAll(chunkwise{ctx, t, s, stop}, s); !errors.Is(err, context.Canceled) {
		t.Fatalf("it was not stopped: %v", err)
	}
	s.Close()
	s = reopened(t, file)
	if n := devices(t, s); n == 0 || n == many {
		t.Fatalf("%d devices are left of it", n)
	}
	none := func(what string, list []record.Job, err error) {
		t.Helper()
		if err != nil || len(list) != 0 {
			t.Errorf("%s: %+v, %v", what, list, err)
		}
	}
	all, _, err := s.Jobs(t.Context(), record.Page{Limit: 10})
	none("jobs", all, err)
	all, err = s.UnfinishedJobs(t.Context())
	none("unfinished", all, err)
	if _, err := s.StepJob(t.Context(), "j1", 1, time.Now(), nil); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("a step: %v", err)
	}
	if _, err := s.CancelJob(t.Context(), "j1", time.Now(), record.Event{Time: time.Now(), Verb: "job.cancelled"}); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("cancelled: %v", err)
	}
	if n, err := s.RevokedAlone(t.Context(), "anna", time.Time{}); err != nil || n != 0 {
		t.Errorf("it counts as %d revoked, %v", n, err)
	}
	if err := s.Verify(t.Context()); err == nil || strings.Contains(err.Error(), "job") {
		t.Errorf("but for certificates, which bear no number: %v", err)
	}
	if _, err := revoke(t.Context(), s, record.Selection{Devices: []string{first(t, s).ID}}); err != nil {
		t.Fatal(err)
	}
	j, err := revokeAll(t.Context(), s)
	if err != nil || j.Total != many || devices(t, s) != many+1 {
		t.Errorf("the next: %+v, %v; %d devices", j, err, devices(t, s))
	}
}

// A device that is revoked while a renewal plan is made is not waited for.
func TestRevokedWhileAPlanIsMade(t *testing.T) {
	s, _ := great(t)
	page, _, err := s.Devices(t.Context(), nil, record.Page{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	of := record.Selection{Devices: []string{page[0].ID, page[1].ID, page[2].ID}}
	j, err := s.CreateJob(t.Context(), of, time.Now(), func(record.JobView) (record.JobPlan, error) {
		if _, err := s.Revoke(t.Context(), page[1].ID, time.Now(), 1, "", record.Event{Time: time.Now(), Verb: "device.revoked"}); err != nil {
			t.Error(err)
		}
		j := record.Job{Kind: record.JobRenew, Operator: "anna", State: record.JobRunning, Created: time.Now(), Due: time.Now().Add(time.Hour)}
		return record.JobPlan{Job: j, Event: record.Event{Time: time.Now(), Actor: "operator:anna", Verb: "renewal.planned"}}, nil
	})
	if err != nil || j.Outcomes[""] != 2 || j.Outcomes[record.OutcomeRevoked] != 1 {
		t.Errorf("%v, %v", j.Outcomes, err)
	}
}

// What a job has come to is read, not counted, but for a job of before there were tallies.
func TestOutcomesAreTallied(t *testing.T) {
	s, file := great(t)
	if _, err := revokeAll(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	step := func() {
		t.Helper()
		event := func(d record.Device) record.Event {
			return record.Event{Time: time.Now(), Verb: "device.revoked", Object: d.ID}
		}
		if _, err := s.StepJob(t.Context(), "j1", 10, time.Now(), event); err != nil {
			t.Fatal(err)
		}
	}
	is := func(pending, done int64) {
		t.Helper()
		if j, err := s.Job(t.Context(), "j1"); err != nil || j.Outcomes[""] != pending || j.Outcomes["done"] != done || len(j.Outcomes) != 2 {
			t.Errorf("%v, %v; want %d pending, %d done", j.Outcomes, err, pending, done)
		}
	}
	change := func(sql string) {
		s.Close()
		raw(t, file, sql)
		s = reopened(t, file)
	}
	step()
	is(many-10, 10)
	change("UPDATE job_outcomes SET devices = 7 WHERE outcome = 'done'")
	is(many-10, 7)
	if err := s.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), "job j1 counts 7 devices done") {
		t.Errorf("Verify found %v", err)
	}
	change("DELETE FROM job_outcomes")
	is(many-10, 10)
	step()
	is(many-20, 20)
}

// To cancel a great job writes no row for each device, which would keep others waiting; that
// it is cancelled stands in the job.
func TestCancelledAtOnce(t *testing.T) {
	s, _ := great(t)
	if _, err := revokeAll(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	event := func(d record.Device) record.Event {
		return record.Event{Time: time.Now(), Verb: "device.revoked", Object: d.ID}
	}
	if _, err := s.StepJob(t.Context(), "j1", 10, time.Now(), event); err != nil {
		t.Fatal(err)
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	j, err := s.CancelJob(t.Context(), "j1", at, record.Event{Time: at, Verb: "job.cancelled"})
	if err != nil || j.Outcomes[""] != 0 || j.Outcomes["done"] != 10 || j.Outcomes["cancelled"] != many-10 {
		t.Errorf("%+v, %v", j, err)
	}
	var written *int64
	err = s.db.Read(t.Context(), func(c *engine.Conn) error {
		written, err = engine.First(c, engine.Number, "SELECT count(*) FROM job_devices WHERE outcome <> ''")
		return err
	})
	if err != nil || *written != 10 {
		t.Errorf("%d rows were written, %v", *written, err)
	}
	page, _, err := s.JobDevices(t.Context(), "j1", record.OutcomeCancelled, record.Page{Limit: 2})
	if err != nil || len(page) != 2 || page[0].Outcome != record.OutcomeCancelled || !page[0].At.Equal(at) {
		t.Errorf("%+v, %v", page, err)
	}
	if err := s.Verify(t.Context()); err == nil || strings.Contains(err.Error(), "job") {
		t.Errorf("but for certificates, which bear no number: %v", err)
	}
}
