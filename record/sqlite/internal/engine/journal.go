package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	thin "zombiezen.com/go/sqlite"

	"github.com/hallmark-pki/hallmark/record"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// A journal is a folder of segments, files that are only appended to. Each segment is
// named after its first group and holds groups, one behind the other:
//
//	length of the payload (4 bytes), number (8), hash (32),
//	CRC-32C of the payload (4), CRC-32C of all before it (4), payload
//
// The hash is SHA-256 over the hash before, the number and the payload, so a journal cannot be
// spliced and a snapshot fits one journal only. The checksums tell a last group that was not written
// in full from one that is damaged or belongs elsewhere. What it is for:
// docs/decisions/0002-restore.md.
const (
	numberAt     = 4
	hashAt       = numberAt + 8
	payloadSumAt = hashAt + sha256.Size
	headerSumAt  = payloadSumAt + 4
	groupHeader  = headerSumAt + 4
	maxPayload   = 256 << 20
	segmentLimit = 64 << 20
	segmentName  = ".journal"
)

// journal writes down what groups change. It belongs to the writer.
type journal struct {
	dir     string
	limit   int64 // size at which the next segment begins
	file    *os.File
	segment int64
}

// place is where the record stands in its journal: number and hash of its last group,
// and the end of that in a segment. It is a row of the file, changed with the group.
type place struct {
	number, segment, size int64
	hash                  [sha256.Size]byte
}

// start makes the row of a file that has kept no journal so far.
func (j *journal) start(c *Conn) error {
	if kept, err := keepsJournal(c); err != nil {
		return err
	} else if kept {
		if at, err := placeIn(c); err != nil || at.size > 0 {
			return err
		}
	}
	if err := durable.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	// In a transaction: another process may be about to write the first group.
	if _, err := c.Exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := j.begin(c); err != nil {
		c.Exec("ROLLBACK")
		return err
	}
	_, err := c.Exec("COMMIT")
	return err
}

func (j *journal) begin(c *Conn) error {
	if _, err := c.Exec(`CREATE TABLE IF NOT EXISTS journal (one INTEGER PRIMARY KEY CHECK (one = 1),
		number INTEGER NOT NULL, hash BLOB NOT NULL, segment INTEGER NOT NULL, size INTEGER NOT NULL) STRICT`); err != nil {
		return err
	}
	// A random beginning: no other journal's groups follow it.
	var begin [sha256.Size]byte
	rand.Read(begin[:])
	if _, err := c.Exec("INSERT OR IGNORE INTO journal VALUES (1, 0, ?, 1, 0)", begin[:]); err != nil {
		return err
	}
	at, err := placeIn(c)
	if err != nil || at.size > 0 {
		return err
	}
	// A segment without a group says that none was written; a missing one, that it is lost.
	return j.open(at)
}

// keepsJournal reports whether the file has ever been opened with a journal.
func keepsJournal(c *Conn) (bool, error) {
	n, err := First(c, Number, "SELECT 1 FROM sqlite_schema WHERE name = 'journal'")
	return n != nil, err
}

func placeIn(c *Conn) (place, error) {
	p, err := First(c, func(r Row) place { return place{r.Int(0), r.Int(1), r.Int(2), r.Sum(3)} },
		"SELECT number, segment, size, hash FROM journal")
	if err == nil && p == nil {
		err = errors.New("the file does not say where it stands in its journal")
	}
	if err != nil {
		return place{}, err
	}
	return *p, nil
}

func (p place) save(c *Conn) error {
	_, err := c.Exec("UPDATE journal SET number = ?, segment = ?, size = ?, hash = ?", p.number, p.segment, p.size, p.hash[:])
	return err
}

// next is where the next group goes: into another segment if this one has reached the limit.
func (p place) next(limit int64) place {
	if p.size >= limit {
		p.segment, p.size = p.number+1, 0
	}
	return p
}

// append makes a group durable, within the transaction that is about to commit it.
func (j *journal) append(c *Conn, payload []byte) error {
	at, err := placeIn(c)
	if err != nil {
		return err
	}
	if len(payload) > maxPayload {
		return fmt.Errorf("%w: one group changes %d bytes, and the journal takes %d", record.ErrUnavailable, len(payload), maxPayload)
	}
	at = at.next(j.limit)
	if err := j.open(at); err != nil {
		return fmt.Errorf("%w: journal: %w", record.ErrUnavailable, err)
	}
	group := encodeGroup(at.hash, at.number+1, payload)
	if _, err := j.file.WriteAt(group, at.size); err != nil {
		return fmt.Errorf("%w: journal: %w", record.ErrUnavailable, err)
	}
	if err := syscall.Fdatasync(int(j.file.Fd())); err != nil {
		// What a failed sync has left on disk nobody knows: do not go on in this file handle.
		j.close()
		return fmt.Errorf("%w: journal: %w", record.ErrUnavailable, err)
	}
	at.number, at.size = at.number+1, at.size+int64(len(group))
	at.hash = hashOf(group)
	return at.save(c)
}

// openSegment opens a segment, which its first group makes. Only a file that it has made is handed
// over to the folder's owner: one that was there, a link for instance, may be a trap for root.
// Writers share a lock on it, by which Idle finds them.
func openSegment(path string, first bool) (f *os.File, err error) {
	made := false
	if first {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		made = err == nil
	}
	if !first || errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	}
	if err == nil && made {
		err = durable.HandOver(f)
	}
	switch {
	case err == nil:
		syscall.Flock(int(f.Fd()), syscall.LOCK_SH) // fails on a file system without locks, which keeps a journal none the worse
	case f != nil:
		f.Close()
	}
	return f, err
}

// open makes j.file the segment of the place, exactly as long as the place says. What
// is behind it was appended by a group that was never committed, and so never answered.
func (j *journal) open(at place) error {
	if j.file == nil || j.segment != at.segment || !j.inPlace() {
		j.close()
		if err := at.last(j.dir); err != nil {
			return err
		}
		path := segmentPath(j.dir, at.segment)
		f, err := openSegment(path, at.size == 0)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s", err, beginAnother)
		}
		if err != nil {
			return err
		}
		if err := durable.Sync(filepath.Dir(path)); err != nil {
			f.Close()
			return err
		}
		j.file, j.segment = f, at.segment
	}
	behind, err := at.behind(j.file)
	if err == nil && behind > 0 {
		err = errors.Join(j.file.Truncate(at.size), j.file.Sync())
	}
	return err
}

// last refuses a journal with a later segment: a record that was restored from it has begun that, and
// groups of another in between would keep a restore from going past them. Nor is a record whose disk was
// put back one that was restored from: what its own segment has behind the place was answered.
func (p place) last(dir string) error {
	all, _ := segments(dir) // Needless tells of a file that is none
	if len(all) > 0 && all[len(all)-1] > p.segment {
		if p.size > 0 {
			if err := p.stands(dir); err != nil {
				return err
			}
		}
		return fmt.Errorf("a record that was restored from this journal goes on with it in %s, and the one before must not run again; if that was a rehearsal, delete what it restored and that file", segmentPath(dir, all[len(all)-1]))
	}
	return nil
}

// inPlace reports whether the open segment is what a restore would find: a journal that was
// deleted, or whose disk was taken away, could be written on without anybody noticing.
func (j *journal) inPlace() bool {
	there, err := os.Lstat(j.file.Name())
	if err != nil {
		return false
	}
	open, err := j.file.Stat()
	return err == nil && os.SameFile(there, open)
}

// beginAnother is what to do when a journal is lost and its record is not.
const beginAnother = "if it is lost begin another, which a new backup goes with: hallmarkd backup --new-journal"

// behind is how much a segment has behind the place, which is refused if it can have been answered.
func (p place) behind(segment *os.File) (int64, error) {
	info, err := segment.Stat()
	switch {
	case err != nil:
		return 0, err
	case info.Size() < p.size:
		return 0, fmt.Errorf("%s has %d bytes and the record wrote %d: it was cut or replaced; %s", segment.Name(), info.Size(), p.size, beginAnother)
	case info.Size() > p.size:
		return info.Size() - p.size, p.unanswered(segment, info.Size()-p.size)
	}
	return 0, nil
}

// Continues says why a file could not go on writing the journal in a folder, or nil. It
// changes nothing and may be asked while the file is in use.
func Continues(ctx context.Context, path, dir string) error {
	c, err := connect(ctx, path, forReader)
	if err != nil {
		return classify(err)
	}
	defer c.close()
	at, err := placeIn(c)
	if err != nil {
		return classify(err)
	}
	if err = at.next(segmentLimit).last(dir); err == nil && at.size > 0 { // a segment that was never written to is made
		err = at.stands(dir)
	}
	if now, moved := placeIn(c); moved != nil || now != at { // it is being written
		return classify(moved)
	}
	return err
}

// stands says why the segment of a place could not be written on.
func (p place) stands(dir string) error {
	f, err := os.OpenFile(segmentPath(dir, p.segment), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", err, beginAnother)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = p.behind(f)
	return err
}

// unanswered refuses to cut off anything but one group, whole or torn, that would have
// been the next: a journal with more belongs to a newer copy of the record.
func (p place) unanswered(segment *os.File, size int64) error {
	if size > maxPayload+groupHeader {
		size = maxPayload + groupHeader + 1 // enough to see that it is more than one
	}
	text := make([]byte, size)
	if _, err := segment.ReadAt(text, p.size); err != nil {
		return err
	}
	group, rest, torn := cutGroup(text)
	if torn || group != nil && len(rest) == 0 && follows(p.hash, group) {
		return nil
	}
	return fmt.Errorf("%s holds groups that this record does not know: the record is older than its journal, or has another's; restore a backup with this journal", segment.Name())
}

func (j *journal) close() {
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}

func encodeGroup(before [sha256.Size]byte, number int64, payload []byte) []byte {
	group := make([]byte, groupHeader, groupHeader+len(payload))
	binary.BigEndian.PutUint32(group, uint32(len(payload)))
	binary.BigEndian.PutUint64(group[numberAt:], uint64(number))
	hash := chain(before, group[numberAt:hashAt], payload)
	copy(group[hashAt:], hash[:])
	binary.BigEndian.PutUint32(group[payloadSumAt:], crc32.Checksum(payload, castagnoli))
	binary.BigEndian.PutUint32(group[headerSumAt:], crc32.Checksum(group[:headerSumAt], castagnoli))
	return append(group, payload...)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func numberOf(group []byte) int64 { return int64(binary.BigEndian.Uint64(group[numberAt:])) }

func hashOf(group []byte) [sha256.Size]byte { return [sha256.Size]byte(group[hashAt:payloadSumAt]) }

// cutGroup takes the first group of a segment's text. It is nil with torn if the text
// ends within it, or holds what is left where a group was being written when the power
// went; nil without torn if it is damaged.
func cutGroup(text []byte) (group, rest []byte, torn bool) {
	if len(text) < groupHeader {
		return nil, nil, true
	}
	if binary.BigEndian.Uint32(text[headerSumAt:]) != crc32.Checksum(text[:headerSumAt], castagnoli) {
		return nil, nil, len(bytes.Trim(text[groupHeader:], "\x00")) == 0
	}
	size := groupHeader + int64(binary.BigEndian.Uint32(text))
	if int64(len(text)) < size {
		return nil, nil, true
	}
	group, rest = text[:size], text[size:]
	if binary.BigEndian.Uint32(group[payloadSumAt:]) != crc32.Checksum(group[groupHeader:], castagnoli) {
		return nil, nil, len(bytes.Trim(rest, "\x00")) == 0
	}
	return group, rest, false
}

func chain(before [sha256.Size]byte, number, payload []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(before[:])
	h.Write(number)
	h.Write(payload)
	return [sha256.Size]byte(h.Sum(sum[:0]))
}

func segmentPath(dir string, first int64) string {
	return filepath.Join(dir, fmt.Sprintf("%016d%s", first, segmentName))
}

// segments lists the first groups of a journal's segments, in order.
func segments(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []int64
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), segmentName)
		if !ok {
			continue
		}
		first, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || segmentPath(dir, first) != filepath.Join(dir, e.Name()) {
			return nil, fmt.Errorf("%s is not a journal's segment: move it elsewhere", filepath.Join(dir, e.Name()))
		}
		found = append(found, first)
	}
	slices.Sort(found)
	return found, nil
}

// Replayed says what Replay did.
type Replayed struct {
	// First and Last are the numbers of the groups that were run; none if Last < First.
	First, Last int64
	// Torn: the journal ended in a part of a group, which was never answered.
	Torn bool
}

// ErrJournal means that a journal does not continue a file: it is another's, or parts
// of it are missing or damaged. Nothing was changed.
var ErrJournal = errors.New("the journal does not continue the record")

// Replay runs on a file, which nobody else may have open, what its journal holds beyond
// the file's last group: all or nothing. Later groups go to a new segment.
func Replay(ctx context.Context, path, dir string) (done Replayed, err error) {
	err = alone(ctx, path, func(c *Conn) error {
		at, err := placeIn(c)
		if err != nil {
			return err
		}
		done.First = at.number + 1
		if at, done.Torn, err = replay(ctx, c, at, dir); err != nil {
			return err
		}
		done.Last = at.number
		at.segment, at.size = at.number+1, 0
		return at.save(c)
	})
	return done, err
}

// Restart makes a file, which nobody else may have open, begin a new journal.
func Restart(ctx context.Context, path string) error {
	return alone(ctx, path, func(c *Conn) error {
		at, err := placeIn(c)
		if err != nil {
			return err
		}
		// Not a continuation of the groups that are lost: the hash starts afresh.
		at.hash = sha256.Sum256(append(at.hash[:], "restarted"...))
		at.segment, at.size = at.number+1, 0
		return at.save(c)
	})
}

// alone runs do in one transaction on a connection of its own.
func alone(ctx context.Context, path string, do func(*Conn) error) error {
	c, err := connect(ctx, path, forWriter)
	if err != nil {
		return classify(err)
	}
	defer c.close()
	if kept, err := keepsJournal(c); err != nil || !kept {
		return errors.Join(err, errors.New("this record has never kept a journal"))
	}
	if _, err := c.Exec("BEGIN EXCLUSIVE"); err != nil {
		return classify(err)
	}
	if err := do(c); err != nil {
		c.Exec("ROLLBACK")
		return classify(err)
	}
	_, err = c.Exec("COMMIT")
	return classify(err)
}

func replay(ctx context.Context, c *Conn, at place, dir string) (_ place, torn bool, err error) {
	all, err := segments(dir)
	if err != nil {
		return at, false, err
	}
	begin, found := slices.BinarySearch(all, at.number+1)
	if !found && begin > 0 {
		begin-- // the segment that holds the group before, or the wanted one inside
	}
	if begin == len(all) || all[begin] > at.number+1 {
		return at, false, fmt.Errorf("%w: it lacks group %d in %s", ErrJournal, at.number+1, dir)
	}
	next := all[begin]
	for _, first := range all[begin:] {
		if first != next { // also where a restored record left a torn group behind
			return at, false, fmt.Errorf("%w: groups %d to %d are missing", ErrJournal, next, first-1)
		}
		text, err := os.ReadFile(segmentPath(dir, first))
		if err != nil {
			return at, false, err
		}
		if next, torn, err = replaySegment(ctx, c, &at, text, first); err != nil {
			return at, false, fmt.Errorf("%s: %w", segmentPath(dir, first), err)
		}
	}
	if next <= at.number {
		return at, torn, fmt.Errorf("%w: it ends with group %d and the record has %d", ErrJournal, next-1, at.number)
	}
	return at, torn, nil
}

// replaySegment runs the groups of one segment that follow at, and returns the number
// after its last whole one.
func replaySegment(ctx context.Context, c *Conn, at *place, text []byte, next int64) (_ int64, torn bool, err error) {
	for len(text) > 0 {
		if err := ctx.Err(); err != nil {
			return next, false, err
		}
		group, rest, unfinished := cutGroup(text)
		if group == nil && unfinished {
			return next, true, nil
		}
		if group == nil {
			return next, false, fmt.Errorf("%w: group %d is damaged", ErrJournal, next)
		}
		number := numberOf(group)
		if number != next || number == at.number && hashOf(group) != at.hash || number > at.number && !follows(at.hash, group) {
			return next, false, fmt.Errorf("%w: group %d is of another record", ErrJournal, next)
		}
		if number > at.number {
			if err := run(c, group[groupHeader:]); code(err).ToPrimary() == thin.ResultError { // no such table, no such column
				return next, false, fmt.Errorf("a newer program wrote group %d: use that one to restore (%w)", number, err)
			} else if err != nil {
				return next, false, fmt.Errorf("%w: group %d: %w", ErrJournal, number, err)
			}
			at.number, at.hash = number, hashOf(group)
		}
		text, next = rest, next+1
	}
	return next, false, nil
}

// follows reports whether a group's hash covers the one before it.
func follows(before [sha256.Size]byte, group []byte) bool {
	return hashOf(group) == chain(before, group[numberAt:hashAt], group[groupHeader:])
}

// run does what a payload says again and compares how many rows it changed.
func run(c *Conn, payload []byte) error {
	for len(payload) > 0 {
		s, rest, err := decodeChange(payload)
		if err != nil {
			return err
		}
		n, err := c.Exec(s.sql, s.args...)
		if err != nil {
			return err
		}
		if n != s.rows {
			return fmt.Errorf("a statement changed %d rows where it had changed %d", n, s.rows)
		}
		payload = rest
	}
	return nil
}

// Needless names the segments of a journal that a replay onto the given file, a
// snapshot, would not read.
func Needless(ctx context.Context, path, dir string) ([]string, error) {
	c, err := connect(ctx, path, forReader)
	if err != nil {
		return nil, classify(err)
	}
	defer c.close()
	at, err := placeIn(c)
	if err != nil {
		return nil, err
	}
	all, err := segments(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for i, first := range all {
		// A segment ends where the next begins; the last one is being written.
		if i+1 < len(all) && all[i+1] <= at.number+1 {
			names = append(names, segmentPath(dir, first))
		}
	}
	return names, nil
}

// Idle refuses a journal that a server writes: what it goes on to record would be in no record
// that is restored now, and both would write into one journal.
func Idle(dir string) error {
	all, err := segments(dir)
	if err != nil || len(all) == 0 {
		return err
	}
	f, err := os.Open(segmentPath(dir, all[len(all)-1]))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("a server writes %s: stop it first", f.Name())
	}
	return nil // a file system without locks tells nothing
}
