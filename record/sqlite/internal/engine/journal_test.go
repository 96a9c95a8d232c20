package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hallmark-pki/hallmark/record"
)

// house is a record of one table with its journal.
type house struct {
	t         *testing.T
	db        *DB
	path, dir string
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, path: filepath.Join(t.TempDir(), "x.db"), dir: filepath.Join(t.TempDir(), "journal")}
	if err := os.WriteFile(h.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.open()
	h.write("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, value BLOB, at INTEGER)")
	return h
}

func (h *house) open() {
	h.t.Helper()
	db, err := Open(context.Background(), h.path, h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	h.db = db
	h.t.Cleanup(db.Close)
}

func (h *house) write(sql string, args ...any) {
	h.t.Helper()
	if err := h.db.Write(context.Background(), func(c *Conn) error {
		_, err := c.Exec(sql, args...)
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) add(name string) {
	h.t.Helper()
	h.write("INSERT INTO things (name, value, at) VALUES (?, ?, ?)", name, []byte(name), len(name))
}

func (h *house) snapshot() string {
	h.t.Helper()
	file := filepath.Join(h.t.TempDir(), "snapshot.db")
	if err := h.db.Snapshot(context.Background(), file); err != nil {
		h.t.Fatal(err)
	}
	return file
}

// contents reads a whole table, every type and every NULL of it.
func contents(t *testing.T, path string) string {
	t.Helper()
	c, err := connect(context.Background(), path, forReader)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	rows, err := Query(context.Background(), c, func(r Row) string {
		return fmt.Sprintf("%d %s %s", r.Int(0), r.Text(1), r.Text(2))
	}, "SELECT id, quote(name) || typeof(name), quote(value) || typeof(value) || quote(at) FROM things ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(rows, "\n")
}

func (h *house) recovers(snapshot string) Replayed {
	h.t.Helper()
	done, err := Replay(context.Background(), snapshot, h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	if got, want := contents(h.t, snapshot), contents(h.t, h.path); got != want {
		h.t.Fatalf("after the replay:\n%s\nbut the record holds:\n%s", got, want)
	}
	return done
}

func TestReplayBringsBackEverything(t *testing.T) {
	h := newHouse(t)
	first := h.snapshot()
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() { h.add(fmt.Sprint("thing ", i)) })
	}
	wait.Wait()
	middle := h.snapshot()
	h.write("INSERT INTO things (name, value, at) VALUES (?, ?, ?)", nil, []byte(nil), -1)
	h.write("INSERT INTO things (name, value, at) VALUES (?, ?, ?)", "", []byte{}, 1<<62)
	h.write("UPDATE things SET value = ? WHERE id % 2 = 0", []byte{0, 1, 0xff})
	h.write("DELETE FROM things WHERE id > ? AND id < ?", 10, 15)
	if done := h.recovers(middle); done.Last-done.First != 3 || done.Torn {
		t.Errorf("four groups came after: %+v", done)
	}
	if done := h.recovers(first); done.First != 2 || done.Torn {
		t.Errorf("the first snapshot knows one group: %+v", done)
	}
	if done := h.recovers(h.snapshot()); done.Last >= done.First {
		t.Errorf("nothing came after the last snapshot: %+v", done)
	}
}

func TestWhatFailedIsNotReplayed(t *testing.T) {
	h := newHouse(t)
	snapshot := h.snapshot()
	var wait sync.WaitGroup
	for i := range 40 {
		wait.Go(func() {
			h.db.Write(context.Background(), func(c *Conn) error {
				if _, err := c.Exec("INSERT INTO things (name) VALUES (?)", fmt.Sprint(i)); err != nil {
					return err
				}
				if i%3 == 0 {
					return errors.New("changed my mind")
				}
				return nil
			})
		})
	}
	wait.Wait()
	if err := h.db.Write(context.Background(), func(c *Conn) error {
		_, err := c.ExecLocal("UPDATE things SET at = 5 WHERE id = -1")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	h.recovers(snapshot)
}

func TestSegments(t *testing.T) {
	h := newHouse(t)
	old := h.snapshot()
	h.db.journal.limit = 64 << 10 // the writer waits for work
	big := make([]byte, 16<<10)
	for range 5 {
		h.write("INSERT INTO things (value) VALUES (?)", big)
	}
	middle := h.snapshot()
	for range 5 {
		h.write("INSERT INTO things (value) VALUES (?)", big)
	}
	all, err := segments(h.dir)
	if err != nil || len(all) < 3 {
		t.Fatalf("segments: %v, %v", all, err)
	}
	needless, err := Needless(context.Background(), middle, h.dir)
	if err != nil || len(needless) != 1 || needless[0] != segmentPath(h.dir, 1) {
		t.Errorf("the snapshot does not need %v (%v)", needless, err)
	}
	h.recovers(old)
	if err := os.Remove(segmentPath(h.dir, 1)); err != nil {
		t.Fatal(err)
	}
	h.recovers(middle)
	if err := os.Remove(segmentPath(h.dir, all[1])); err != nil {
		t.Fatal(err)
	}
	if _, err := Replay(context.Background(), h.snapshotBefore(middle), h.dir); !errors.Is(err, ErrJournal) {
		t.Errorf("a missing segment: %v", err)
	}
}

// snapshotBefore copies a snapshot with its place set back to the first group.
func (h *house) snapshotBefore(snapshot string) string {
	text, err := os.ReadFile(snapshot)
	if err != nil {
		h.t.Fatal(err)
	}
	file := filepath.Join(h.t.TempDir(), "older.db")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		h.t.Fatal(err)
	}
	c, err := connect(context.Background(), file, forWriter)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.close()
	if _, err := c.Exec("UPDATE journal SET number = 1"); err != nil {
		h.t.Fatal(err)
	}
	return file
}

// TestDamage changes each byte of a journal, and cuts it at each, and looks whether a
// replay notices: at worst the last group is missing, and then it says so.
func TestDamage(t *testing.T) {
	h := newHouse(t)
	snapshot := h.snapshot()
	h.add("one")
	beforeLast := contents(t, h.path)
	h.add("two")
	whole := contents(t, h.path)
	h.db.Close()
	path := segmentPath(h.dir, 1)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	known, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, journal []byte) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "copy.db")
		if err := errors.Join(os.WriteFile(file, known, 0o600), os.WriteFile(path, journal, 0o600)); err != nil {
			t.Fatal(err)
		}
		done, err := Replay(context.Background(), file, h.dir)
		switch got := contents(t, file); {
		case err != nil && got != "":
			t.Errorf("%s: refused (%v), but changed the record", what, err)
		case err == nil && !done.Torn && got != whole:
			t.Errorf("%s: not noticed, and the record is\n%s", what, got)
		case err == nil && done.Torn && got != beforeLast:
			t.Errorf("%s: more than the last group is gone:\n%s", what, got)
		}
	}
	for i := range text {
		if i%7 != 0 && i > groupHeader && i != bytes.LastIndex(text, []byte("INSERT"))-3 {
			continue // every byte of the first header, a seventh of the rest
		}
		changed := bytes.Clone(text)
		changed[i] ^= 1
		try(fmt.Sprintf("byte %d", i), changed)
	}
	lastGroup := bytes.LastIndex(text, []byte("INSERT")) // cut inside the last group
	for i := lastGroup; i < len(text); i += 7 {
		try(fmt.Sprintf("cut at %d", i), text[:i])
		try(fmt.Sprintf("zeros from %d", i), append(bytes.Clone(text[:i]), make([]byte, len(text)-i+100)...))
	}
}

func TestAnotherJournalIsRefused(t *testing.T) {
	a, b := newHouse(t), newHouse(t)
	snapshot := a.snapshot()
	a.add("a")
	b.add("b")
	if _, err := Replay(context.Background(), snapshot, b.dir); !errors.Is(err, ErrJournal) {
		t.Errorf("another's journal: %v", err)
	}
	if _, err := Replay(context.Background(), snapshot, t.TempDir()); !errors.Is(err, ErrJournal) {
		t.Errorf("an empty journal: %v", err)
	}
	if got := contents(t, snapshot); got != "" {
		t.Errorf("refused, and changed: %s", got)
	}
	// Opening without the journal would leave a gap in it.
	a.db.Close()
	if db, err := Open(context.Background(), a.path, ""); err == nil {
		db.Close()
		t.Error("opened without its journal")
	}
}

// Whoever goes back to an older program keeps what the newer one has answered, and is not told
// to accept its loss.
func TestJournalOfANewerProgram(t *testing.T) {
	h := newHouse(t)
	snapshot := h.snapshot()
	h.add("one")
	if err := h.db.Write(context.Background(), func(c *Conn) error {
		_, err := c.ExecLocal("CREATE TABLE inventions (name TEXT)") // as a migration, which is not in the journal
		return err
	}); err != nil {
		t.Fatal(err)
	}
	h.write("INSERT INTO inventions (name) VALUES ('two')")
	_, err := Replay(context.Background(), snapshot, h.dir)
	if err == nil || errors.Is(err, ErrJournal) || !strings.Contains(err.Error(), "a newer program wrote group") {
		t.Errorf("%v", err)
	}
	if got := contents(t, snapshot); got != "" {
		t.Errorf("refused, and changed: %s", got)
	}
}

func TestOlderRecordDoesNotCutItsJournal(t *testing.T) {
	h := newHouse(t)
	old := h.snapshot()
	h.add("one")
	h.add("two")
	h.db.Close()
	db, err := Open(context.Background(), old, h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Write(context.Background(), func(c *Conn) error {
		_, err := c.Exec("INSERT INTO things (name) VALUES ('x')")
		return err
	})
	if !errors.Is(err, record.ErrUnavailable) || !strings.Contains(err.Error(), "older than its journal") {
		t.Errorf("an older copy writes to the journal: %v", err)
	}
	if err := Continues(context.Background(), old, h.dir); err == nil || !strings.Contains(err.Error(), "older than its journal") {
		t.Errorf("asked before: %v", err)
	}
}

// A record whose disk was put back, by more than a segment, was not restored from its journal: nobody is
// told to delete what it lacks.
func TestMuchOlderRecordDoesNotCutItsJournal(t *testing.T) {
	h := newHouse(t)
	h.db.journal.limit = 64 << 10 // the writer waits for work
	h.add("one")
	old := h.snapshot()
	for range 10 {
		h.write("INSERT INTO things (value) VALUES (?)", make([]byte, 16<<10))
	}
	h.db.Close()
	db, err := Open(context.Background(), old, h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for what, err := range map[string]error{"writes to the journal": try(db, "INSERT INTO things (name) VALUES ('x')"), "asked before": Continues(context.Background(), old, h.dir)} {
		if err == nil || !strings.Contains(err.Error(), "older than its journal") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The journal goes on with the record that was restored from it: what the one before wrote into it
// would stand in the way of the next restore.
func TestRecordBeforeARestoreWritesNoMore(t *testing.T) {
	h := newHouse(t)
	restored := h.snapshot()
	h.add("one")
	h.db.Close()
	if _, err := Replay(context.Background(), restored, h.dir); err != nil {
		t.Fatal(err)
	}
	before := h.path
	h.path = restored
	h.open()
	base := h.snapshot()
	h.add("two")
	db, err := Open(context.Background(), before, h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := try(db, "INSERT INTO things (name) VALUES ('x')"); !errors.Is(err, record.ErrUnavailable) || !strings.Contains(err.Error(), "goes on with it") {
		t.Errorf("the record of before writes to the journal: %v", err)
	}
	if err := Continues(context.Background(), before, h.dir); err == nil || !strings.Contains(err.Error(), "goes on with it") {
		t.Errorf("asked before: %v", err)
	}
	if err := Continues(context.Background(), restored, h.dir); err != nil {
		t.Errorf("the restored one: %v", err)
	}
	h.recovers(base)
}

// A record that is in use goes on writing its journal, whenever it is asked.
func TestContinuesWhileWritten(t *testing.T) {
	h := newHouse(t)
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range 200 {
			h.add(strings.Repeat("x", i))
		}
	}()
	for {
		if err := Continues(context.Background(), h.path, h.dir); err != nil {
			t.Fatal(err)
		}
		select {
		case <-written:
			return
		default:
		}
	}
}

// TestUnansweredGroupIsCut leaves behind a group as a crash between journal and
// COMMIT would.
func TestUnansweredGroupIsCut(t *testing.T) {
	h := newHouse(t)
	h.add("one")
	h.db.Close()
	payload, err := appendChange(nil, "INSERT INTO things (name) VALUES ('lost')", nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, missing := range []int{0, 1, len(payload), len(payload) + groupHeader - 20} {
		at := h.place()
		group := encodeGroup(at.hash, at.number+1, payload)
		f, err := os.OpenFile(segmentPath(h.dir, 1), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(group[:len(group)-missing]); err != nil {
			t.Fatal(err)
		}
		f.Close()
		h.open()
		before := h.snapshot()
		h.add("after")
		h.recovers(before)
		h.db.Close()
	}
}

func (h *house) place() place {
	c, err := connect(context.Background(), h.path, forReader)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.close()
	at, err := placeIn(c)
	if err != nil {
		h.t.Fatal(err)
	}
	return at
}

func TestJournalThatCannotBeWrittenStopsWriting(t *testing.T) {
	h := newHouse(t)
	h.add("one")
	h.db.Close()
	if err := os.Truncate(segmentPath(h.dir, 1), 10); err != nil {
		t.Fatal(err)
	}
	h.open()
	err := h.db.Write(context.Background(), func(c *Conn) error {
		_, err := c.Exec("INSERT INTO things (name) VALUES ('x')")
		return err
	})
	if !errors.Is(err, record.ErrUnavailable) {
		t.Errorf("a cut journal: %v", err)
	}
	if got := contents(t, h.path); strings.Contains(got, "'x'") {
		t.Error("an unanswered change is in the record")
	}
}

// A journal that vanishes while it is written stops writing, too, until it is back.
func TestJournalThatVanishesStopsWriting(t *testing.T) {
	h := newHouse(t)
	h.add("one")
	away := h.dir + ".away"
	if err := os.Rename(h.dir, away); err != nil {
		t.Fatal(err)
	}
	err := h.db.Write(context.Background(), func(c *Conn) error {
		_, err := c.Exec("INSERT INTO things (name) VALUES ('x')")
		return err
	})
	if !errors.Is(err, record.ErrUnavailable) || !strings.Contains(err.Error(), "begin another") {
		t.Errorf("without its journal: %v", err)
	}
	if err := os.Rename(away, h.dir); err != nil {
		t.Fatal(err)
	}
	h.add("two")
	if got := contents(t, h.path); strings.Contains(got, "'x'") || !strings.Contains(got, "'two'") {
		t.Errorf("in the record: %s", got)
	}
}

// Who owns the folder may have put a link where the next segment comes: root's command hands
// over what it has made, and nothing that stood there.
func TestSegmentIsNoLink(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	path := segmentPath(dir, 7)
	if err := os.Symlink(other, path); err != nil {
		t.Fatal(err)
	}
	if _, err := openSegment(path, true); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link was opened: %v", err)
	}
	info, err := os.Stat(other)
	if err != nil {
		t.Fatal(err)
	}
	if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != os.Geteuid() {
		t.Errorf("what the link leads to was given to user %d", uid)
	}
}

func TestRestartBeginsAnotherJournal(t *testing.T) {
	h := newHouse(t)
	old := h.snapshot()
	h.add("lost")
	h.db.Close()
	if err := Restart(context.Background(), old); err != nil {
		t.Fatal(err)
	}
	oldDir := h.dir
	h.path, h.dir = old, filepath.Join(t.TempDir(), "fresh")
	h.open()
	base := h.snapshot()
	h.add("new")
	h.recovers(base)
	if _, err := Replay(context.Background(), h.snapshot(), oldDir); !errors.Is(err, ErrJournal) {
		t.Errorf("the journal that was given up: %v", err)
	}
}

func FuzzDecodeChange(f *testing.F) {
	seed, err := appendChange(nil, "INSERT", []any{int64(-5), "text", []byte("blob"), []byte(nil), nil}, 3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, rest, err := decodeChange(b)
		if err != nil {
			return
		}
		if len(rest) >= len(b) {
			t.Fatal("nothing was read")
		}
		again, err := appendChange(nil, s.sql, s.args, s.rows)
		if err != nil {
			t.Fatal(err)
		}
		if twice, _, err := decodeChange(again); err != nil || fmt.Sprintf("%#v", twice) != fmt.Sprintf("%#v", s) {
			t.Fatalf("%#v is read back as %#v: %v", s, twice, err)
		}
	})
}
