package sqlite

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/recordtest"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/filter"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/rows"
)

var options = Options{Now: func() time.Time { return recordtest.Now }}

func TestStore(t *testing.T) {
	var plans plans
	t.Run("exam", func(t *testing.T) {
		recordtest.Run(t, recordtest.Place{
			Create: func(ctx context.Context, name string) (record.Store, error) {
				return plans.watch(Create(ctx, name, options))
			},
			Open: func(ctx context.Context, name string) (record.Store, error) {
				return plans.watch(Open(ctx, name, options))
			},
		})
	})
	plans.check(t)
}

// plans collects the statements that an exam ran.
type plans struct {
	mu  sync.Mutex
	sql []string
}

// watched hands over its statements before it is closed.
type watched struct {
	*Store
	to   *plans
	once sync.Once
}

func (p *plans) watch(s *Store, err error) (record.Store, error) {
	if err != nil {
		return nil, err
	}
	return &watched{Store: s, to: p}, nil
}

func (w *watched) Close() error {
	w.once.Do(func() {
		collect := func(c *engine.Conn) error {
			w.to.mu.Lock()
			defer w.to.mu.Unlock()
			w.to.sql = append(w.to.sql, c.Prepared()...)
			return nil
		}
		w.db.Write(context.Background(), collect)
		for range 64 { // more than there are readers, which take turns
			w.db.Read(context.Background(), collect)
		}
	})
	return w.Store.Close()
}

// check asks SQLite how it would run each statement and refuses what reads a table
// that grows with the fleet from end to end, or sorts it.
func (p *plans) check(t *testing.T) {
	s := newStore(t)
	slices.Sort(p.sql)
	checked := 0
	for _, sql := range slices.Compact(p.sql) {
		verb, _, _ := strings.Cut(sql, " ")
		page := strings.HasSuffix(sql, "ORDER BY d.seq LIMIT ?") || strings.HasSuffix(sql, "ORDER BY c.seq DESC LIMIT ?") || strings.Contains(sql, filter.Chosen)                  // a selector scans
		restore := strings.HasPrefix(sql, "UPDATE grants SET expires") && strings.HasSuffix(sql, "AND redeemed IS NULL") || strings.HasPrefix(sql, "UPDATE approvals SET expires") // nobody waits
		if page || restore || !slices.Contains([]string{"SELECT", "INSERT", "UPDATE", "DELETE"}, verb) || slices.ContainsFunc(invariants, func(i string) bool { return strings.HasPrefix(sql, i) }) {
			continue
		}
		checked++
		err := s.db.Read(t.Context(), func(c *engine.Conn) error {
			steps, err := engine.Query(t.Context(), c, func(r engine.Row) string { return r.Text(3) }, "EXPLAIN QUERY PLAN "+sql, make([]any, parameters(sql))...)
			for _, step := range steps {
				words := strings.Fields(step + " -")
				small := slices.Contains([]string{"models", "lots", "operators", "authorities", "ek_types", "sqlite_schema", "sqlite_sequence", "shards", "CONSTANT", "json_each", "g", "o"}, words[1]) || // g: the lots of a job; o: operators, or one of those that are named
					slices.Contains([]string{"certificates_open", "jobs_unfinished", "jobs_issuer", "approvals_open", "events_trust"}, words[len(words)-2])
				newest := words[1] == "e" && strings.HasSuffix(sql, "ORDER BY e.seq DESC LIMIT ?")
				if words[0] == "SCAN" && !small && !newest || strings.HasPrefix(step, "USE TEMP B-TREE FOR ORDER BY") || strings.Contains(step, "AUTOMATIC") {
					t.Errorf("%s\n\tis run as %q", sql, steps)
				}
			}
			// Everybody who wants to write waits for the end of an issuer, which may have signed millions.
			if (strings.Contains(sql, "profile <> 'ocsp'") || strings.Contains(sql, "INDEXED BY certificates_revoked WHERE issuer")) && regexp.MustCompile(`USING INDEX \w+ \(issuer=`).MatchString(fmt.Sprint(steps)) {
				t.Errorf("%s\n\treads every certificate of the issuer: %q", sql, steps)
			}
			// Each poll of a job asks; it may have a million devices.
			if strings.Contains(sql, "FROM enforcement_failures f") && !strings.Contains(fmt.Sprint(steps), "job_devices_done (device=? AND job=?)") {
				t.Errorf("%s\n\treads a job: %q", sql, steps)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if checked < 60 {
		t.Errorf("only %d statements were checked", checked)
	}
}

// parameters counts those of a statement: ? is the one after the largest so far, ?2 the second.
func parameters(sql string) (n int) {
	for _, p := range regexp.MustCompile(`\?\d*`).FindAllString(sql, -1) {
		if number, err := strconv.Atoi(p[1:]); err == nil {
			n = max(n, number)
		} else {
			n++
		}
	}
	return n
}

// The questions of an emergency are answered through an index.
func TestSelectorsUseIndices(t *testing.T) {
	s := newStore(t)
	equal := func(field, value string) *record.Selector {
		return &record.Selector{Op: record.OpEqual, Field: field, Value: value}
	}
	firmware := &record.Selector{Op: record.OpAnd, Args: []*record.Selector{equal("tpm.maker", "STM"), equal("tpm.model", "X"),
		{Op: record.OpLess, Field: "tpm.firmware", Value: "9"}}}
	for index, where := range map[string]*record.Selector{
		"devices_tpm": firmware, "devices_lot": equal("lot", "L1"), "devices_ended": equal("state", "suspended"),
		"eks_issuer": equal("ek.issuer", "CN=X"), "sqlite_autoindex_devices_3": equal("serial", "SN-1"),
		"certificates_ended": equal("status", "revoked"), "certificates_open": equal("status", "intended"), "certificates_device": equal("device", "x"),
	} {
		sql, args, err := filter.Devices(where)
		sql = "SELECT " + rows.DeviceColumns + " FROM devices d WHERE d.seq > 0 AND " + sql + " ORDER BY d.seq LIMIT 10"
		if strings.HasPrefix(index, "certificates") {
			sql, args, err = filter.Certificates(where, recordtest.Now)
			sql = rows.ListCertificate + " WHERE c.seq < 9 AND " + sql + " ORDER BY c.seq DESC LIMIT 10"
		}
		if err != nil {
			t.Fatal(err)
		}
		steps, err := engine.List(t.Context(), s.db, func(r engine.Row) string { return r.Text(3) }, "EXPLAIN QUERY PLAN "+sql, args...)
		if err != nil || !strings.Contains(fmt.Sprint(steps), "INDEX "+index+" (") {
			t.Errorf("%s is not used: %q, %v", index, steps, err)
		}
	}
}

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Create(context.Background(), filepath.Join(t.TempDir(), "hallmark.db"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// enrol admits a device with one certificate and reports whether the record took all.
func enrol(s *Store, serial string) error {
	ctx := context.Background()
	e := record.Event{Time: recordtest.Now, Verb: "device.enrolled"}
	d := benchDevice(0, recordtest.Now)
	d.Serial = serial
	if _, err := s.Admit(ctx, record.Query{}, func(record.View) (record.Admission, error) { return record.Admission{Device: d, Event: e}, nil }); err != nil {
		return err
	}
	return s.Intend(ctx, []record.Certificate{benchIntent(d, recordtest.Now)}, nil)
}

func TestCreateKeepsToItself(t *testing.T) {
	s := newStore(t)
	if err := enrol(s, "SN-1"); err != nil {
		t.Fatal(err)
	}
	path := s.path(t)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", suffix, info.Mode(), err)
		}
	}
	if _, err := Create(t.Context(), path, options); !errors.Is(err, record.ErrExists) {
		t.Errorf("Create over a database: %v", err)
	}
	if _, err := s.Device(t.Context(), "nil"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("the refused Create harmed the database: %v", err)
	}
	if _, err := Create(t.Context(), filepath.Join(t.TempDir(), "no", "folder"), options); err == nil {
		t.Error("Create without a folder")
	}
}

// path asks the engine which file it has open.
func (s *Store) path(t testing.TB) (path string) {
	t.Helper()
	err := s.db.Read(context.Background(), func(c *engine.Conn) error {
		p, err := engine.First(c, func(r engine.Row) string { return r.Text(2) }, "PRAGMA database_list")
		path = *p
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// raw runs statements as another program would: without our pragmas and, if need be,
// without our triggers.
func raw(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("text"), []byte(strings.Repeat("this is a letter, not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	raw(t, file("foreign"), "CREATE TABLE devices (id)")
	s, err := Create(t.Context(), file("newer"), options)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	raw(t, file("newer"), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")
	for name, want := range map[string]string{
		"missing": "restore",
		"text":    "not a database",
		"empty":   "another program's database",
		"foreign": "another program's database",
		"newer":   "schema is version 999",
	} {
		before, _ := os.ReadFile(file(name))
		s, err := Open(t.Context(), file(name), options)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file(name)) {
			t.Errorf("%s: got %v, want %q and the file's name", name, err, want)
		}
		if after, _ := os.ReadFile(file(name)); name != "newer" && !slices.Equal(before, after) {
			t.Errorf("%s: the refused file was changed", name)
		}
	}
	if _, err := os.Stat(file("missing")); err == nil {
		t.Error("Open made a database")
	}
}

// What must never change is refused by the schema, whoever asks.
func TestSchemaRefuses(t *testing.T) {
	s := newStore(t)
	if err := enrol(s, "SN-1"); err != nil {
		t.Fatal(err)
	}
	d, _, err := s.Devices(t.Context(), nil, record.Page{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revoke(t.Context(), d[0].ID, recordtest.Now, 1, "", record.Event{Time: recordtest.Now, Verb: "x"}); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"DELETE FROM events",
		"UPDATE events SET reason = 'never happened'",
		"DELETE FROM certificates",
		"UPDATE certificates SET revoked = NULL, reason = 0",
		"UPDATE certificates SET reason = 6",
		"DELETE FROM devices",
		"UPDATE devices SET state = 'active'",
		"UPDATE lots SET used = 0",
		"UPDATE lots SET quota = 1, used = 2",
		"INSERT INTO eks (device, fingerprint, issuer) VALUES (999, zeroblob(32), '')",
		"INSERT INTO eks (device, fingerprint, issuer) VALUES (1, zeroblob(31), '')",
		"UPDATE devices SET enrolled = 'yesterday'",
		"UPDATE models SET assurance = 'high'",
	} {
		err := s.db.Write(t.Context(), func(c *engine.Conn) error {
			_, err := c.Exec(sql)
			return err
		})
		if !errors.Is(err, record.ErrConflict) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// Verify finds each fault that it looks for.
func TestVerifyFinds(t *testing.T) {
	drop := "DROP TRIGGER certificates_final; DROP TRIGGER devices_final; DROP TRIGGER lots_used; DROP TRIGGER devices_kept;"
	for want, fault := range map[string]string{
		"counts 3 devices":                         "UPDATE lots SET used = used + 1",
		"another model than its lot":               "UPDATE devices SET model = 'other'",
		"of revoked device":                        "UPDATE certificates SET revoked = NULL, reason = 0",
		"of suspended device":                      "UPDATE devices SET state = 'suspended' WHERE seq = 1; UPDATE certificates SET revoked = NULL",
		"of active device":                         "UPDATE certificates SET revoked = 1, reason = 6 WHERE device = 1",
		"endorsement key of revoked device":        "DELETE FROM tombstones WHERE kind = 'ek'",
		"serial number of revoked device":          "DELETE FROM tombstones WHERE kind = 'serial'",
		"holds more certificates than places were": "UPDATE shards SET given = 0",
		"points to no devices":                     "PRAGMA foreign_keys = 0; DELETE FROM devices WHERE seq = 1",
		"cannot be read":                           "UPDATE certificates SET der = x'3000', issued = 1 WHERE seq = 1",
		"has the serial number":                    "UPDATE certificates SET serial = '00000000000000000000000000000000' WHERE der IS NOT NULL",
		"missing from index devices_lot":           "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'sessions_expires') WHERE name = 'devices_lot'",
	} {
		path := faultless(t)
		raw(t, path, drop, fault)
		s, err := Open(t.Context(), path, options)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Verify found %v, want %q", fault, err, want)
		}
		s.Close()
	}
}

// No question of Verify reads an issuer's certificates once for each of its shards.
func TestVerifyReadsCertificatesOnce(t *testing.T) {
	s := newStore(t)
	for _, sql := range invariants {
		steps, err := engine.List(t.Context(), s.db, func(r engine.Row) string { return r.Text(3) }, "EXPLAIN QUERY PLAN "+sql)
		if err != nil || strings.Contains(fmt.Sprint(steps), "(issuer=?)") {
			t.Errorf("%s\n\tis run as %q, %v", sql, steps, err)
		}
	}
}

// faultless is a closed database with an active and a revoked device, in which Verify
// finds nothing.
func faultless(t *testing.T) (path string) {
	ctx := t.Context()
	s := newStore(t)
	path = s.path(t)
	for _, serial := range []string{"SN-1", "SN-2"} {
		if err := enrol(s, serial); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.ReserveShard(ctx, "manufacturing", 5, 10); err != nil {
		t.Fatal(err)
	}
	e := record.Event{Time: recordtest.Now, Verb: "x"}
	intents, err := s.OpenIntents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	last := intents[1]
	last.DER, last.Issued = recordtest.Certificate(last), recordtest.Now
	if err := s.Complete(ctx, []record.Certificate{last}, e); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Revoke(ctx, last.Device, recordtest.Now, 1, "", e); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx); err != nil {
		t.Fatal(err)
	}
	s.Close()
	return path
}

// A snapshot of a store at work is whole, and holds all that was answered before.
func TestSnapshot(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for hand := range 4 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := enrol(s, fmt.Sprintf("SN-%d-%d", hand, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 5 {
		before, _, err := s.Devices(t.Context(), nil, record.Page{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "snapshot")
		if err := s.Snapshot(t.Context(), file); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if err := s.Snapshot(t.Context(), file); !errors.Is(err, os.ErrExist) {
			t.Errorf("a second snapshot into the same file: %v", err)
		}
		copied, err := Open(t.Context(), file, options)
		if err != nil {
			t.Fatal(err)
		}
		if err := copied.Verify(t.Context()); err != nil {
			t.Error(err)
		}
		for _, d := range before {
			if _, err := copied.Device(t.Context(), d.ID); err != nil {
				t.Errorf("snapshot %d: %v", i, err)
			}
		}
		copied.Close()
	}
	cancel()
	all.Wait()
	if err := s.Snapshot(t.Context(), filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("a snapshot without a folder")
	}
}

// The disk fills up (here: files may not grow) in the middle of work: who was answered
// is in the record, who was refused is not, and when there is room again work goes on.
func TestDiskFull(t *testing.T) {
	s := newStore(t)
	writable := func(when string, want bool) {
		t.Helper()
		if err := s.Writable(t.Context()); want && err != nil || !want && !errors.Is(err, record.ErrUnavailable) {
			t.Errorf("%s: writable: %v", when, err)
		}
	}
	writable("before", true)
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.path(t) + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(info.Size()) + 200_000, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	outcome := map[string]error{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for worker := range 4 { // few, so that the first groups are small enough to succeed
		all.Go(func() {
			for i := range 50 {
				serial := fmt.Sprintf("SN-%d-%d", worker, i)
				err := enrol(s, serial)
				mu.Lock()
				outcome[serial] = err
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	if err := enrol(s, "too late"); !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("on a full disk: %v", err)
	}
	for range 2 {
		writable("full", false)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		writable("room again", true)
	}
	refused := 0
	for serial, err := range outcome {
		found, lookErr := s.DevicesNamed(t.Context(), "", serial)
		switch {
		case lookErr != nil:
			t.Error(lookErr)
		case err == nil && len(found) == 0:
			t.Errorf("%s was answered and is not there", serial)
		case err != nil:
			if refused++; !errors.Is(err, record.ErrUnavailable) {
				t.Errorf("%s: %v", serial, err)
			}
		}
	}
	if refused == 0 || refused == len(outcome) {
		t.Errorf("%d of %d were refused: the test missed its moment", refused, len(outcome))
	}
	if err := enrol(s, "afterwards"); err != nil {
		t.Error(err)
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// Redeemed sessions are forgotten when nobody would accept them any more, and not before.
func TestSessionsAreForgotten(t *testing.T) {
	now := recordtest.Now
	s, err := Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d := benchDevice(0, now)
	redeem := func(n int) {
		t.Helper()
		for range n {
			_, err := s.Admit(t.Context(), record.Query{}, func(record.View) (record.Admission, error) {
				return record.Admission{Device: d, Session: rand.Text(), Expires: now.Add(time.Minute), Event: record.Event{Time: now, Verb: "x"}}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := func() (n int64) {
		err := s.db.Read(t.Context(), func(c *engine.Conn) error {
			p, err := engine.First(c, engine.Number, "SELECT count(*) FROM sessions")
			n = *p
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	redeem(300)
	now = now.Add(time.Minute + forgetAfter)
	redeem(256)
	if got := kept(); got != 556 {
		t.Errorf("%d sessions are kept, want all 556: none is past its time", got)
	}
	now = now.Add(time.Second)
	redeem(256)
	if got := kept(); got != 512 {
		t.Errorf("%d sessions are kept, want the 512 that are not past their time", got)
	}
}

// A time at the end of time survives (99991231235959Z, IEEE 802.1AR-2018 §8.6), and so
// does what lies before 1970.
func TestTimes(t *testing.T) {
	s := newStore(t)
	for _, want := range []time.Time{
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC), time.Unix(0, 0).UTC(),
	} {
		c := record.Certificate{Issuer: "i", Serial: rand.Text(), Key: sha256.Sum256(nil), NotBefore: want, NotAfter: want.In(time.FixedZone("", 3600)), Intended: want, TBS: []byte{1}, Shard: math.MaxInt64}
		if err := s.Intend(t.Context(), []record.Certificate{c}, nil); err != nil {
			t.Fatal(err)
		}
		got, err := s.Status(t.Context(), "i", c.Serial)
		if err != nil || got.NotBefore != want || got.NotAfter != want || got.Intended != want || got.Shard != math.MaxInt64 {
			t.Errorf("%v came back as %v, %v, %v, %v", want, got.NotBefore, got.NotAfter, got.Intended, err)
		}
	}
}

// A subject that models may not be given any more stays with one that has it, whose other rules change.
func TestRulesOfAnOlderModel(t *testing.T) {
	s, err := Create(t.Context(), filepath.Join(t.TempDir(), "hallmark.db"), options)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.db.Write(t.Context(), func(c *engine.Conn) error {
		_, err := c.Exec("UPDATE models SET subject = '-{serial}'")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	err = s.SetModel(t.Context(), record.DefaultModel, func(m *record.Model) (record.Event, error) {
		m.Poll = time.Hour
		return record.Event{Time: time.Now(), Actor: "host", Verb: "model.changed"}, nil
	})
	if m, _ := s.Model(t.Context(), record.DefaultModel); err != nil || m.Poll != time.Hour {
		t.Errorf("%v, %+v", err, m)
	}
}
