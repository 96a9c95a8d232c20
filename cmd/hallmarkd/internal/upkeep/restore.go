package upkeep

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/journal"
)

// Bounds of a backup.
const (
	maxManifest = 1 << 20
	maxMembers  = 10_000
)

// Restoring is how to restore.
type Restoring struct {
	// From is the backup, Dir the folder to make.
	From, Dir string
	// Journal is the journal that the installation kept; empty means the one that the
	// backup names, if it is there.
	Journal string
	// AcceptLosses restores without a journal.
	AcceptLosses bool
	Now          time.Time
}

// Restored says what came back.
type Restored struct {
	Config string
	// Snapshot is when the backup was made.
	Snapshot time.Time
	// Replayed counts the groups of changes that the journal gave, Torn says that it ended
	// in one that was never answered.
	Replayed int64
	Torn     bool
	// Lost: there was no journal, and ClosedLots were closed for it. Disabled are the
	// operators and relying parties whose invitation was withdrawn, Paused the jobs that ran.
	Lost       bool
	ClosedLots []string
	Disabled   []string
	Paused     []record.Job
	// Losses are what the record knows of and the backup does not have, which is no reason to
	// refuse: in an emergency an older CA is better than none.
	Losses []installation.Loss
	// OldJournal and Journal are where the journal was and where it goes on.
	OldJournal, Journal string
}

// Restore makes an installation of a backup and, with the journal, loses nothing that
// was answered. Without it Restore refuses, unless told to accept losses: then it closes
// every lot, withdraws what is open and pauses what runs, so that no quota is spent and no
// ticket, grant, invitation or approval used a second time, and no job goes on that was
// cancelled (docs/decisions/0002-restore.md).
func (r Restoring) Restore(ctx context.Context) (done Restored, err error) {
	if r.Dir, err = filepath.Abs(r.Dir); err != nil {
		return done, err
	}
	if err := installation.Free(r.Dir); err != nil {
		return done, err
	}
	err = installation.Make(r.Dir, func(work string) error {
		m, err := unpack(r.From, work)
		if err != nil {
			return fmt.Errorf("%s: %w", r.From, err)
		}
		done.Snapshot = m.Created
		if err := r.recover(ctx, work, m, &done); err != nil {
			return err
		}
		return r.settle(ctx, work, m.Record, &done)
	})
	done.Config = filepath.Join(r.Dir, installation.ConfigFile)
	return done, err
}

// recover brings the record from the moment of the snapshot to the present.
func (r Restoring) recover(ctx context.Context, work string, m manifest, done *Restored) error {
	snapshot := filepath.Join(work, filepath.FromSlash(m.Record))
	done.OldJournal = r.Journal
	if r.Journal == "" {
		done.OldJournal = m.Journal
	}
	if r.AcceptLosses {
		done.Lost = true
		return journal.Restart(ctx, snapshot)
	}
	if _, err := os.Stat(done.OldJournal); err != nil {
		return refuse(fmt.Errorf("the journal is not at %s", done.OldJournal), m.Created)
	}
	if err := journal.Idle(done.OldJournal); err != nil {
		return err
	}
	replayed, err := journal.Recover(ctx, snapshot, done.OldJournal)
	if errors.Is(err, journal.ErrUnfit) {
		return refuse(err, m.Created)
	}
	done.Replayed, done.Torn = replayed.Last-replayed.First+1, replayed.Torn
	return err
}

func refuse(err error, since time.Time) error {
	return installation.Hint(err, `name the journal with --journal DIR. If it is lost, --accept-losses restores the
      state of %s: devices revoked since then would be back, devices
      enrolled since then unknown. All lots would be closed`, since.UTC().Format(time.RFC3339))
}

// settle records the restore itself and verifies the result.
func (r Restoring) settle(ctx context.Context, work, recorded string, done *Restored) error {
	// As it will be found: relative paths lead into the new folder.
	path := filepath.Join(work, installation.ConfigFile)
	if err := closeSecrets(path); err != nil {
		return err
	}
	in, err := installation.Load(path)
	if err != nil {
		return err
	}
	done.Journal = in.Config.Journal
	if relative, inside := in.Config.Inside(done.Journal); inside {
		done.Journal = filepath.Join(r.Dir, relative)
	}
	if err := startsAfresh(in, done); err != nil {
		return err
	}
	if path, err := in.Database(); err != nil || path != filepath.Join(work, filepath.FromSlash(recorded)) {
		return errors.Join(err, fmt.Errorf("%s names the record by a path that leads elsewhere, to %s", installation.ConfigFile, in.Config.Database))
	}
	store, err := in.UpgradeStore(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	e := record.Event{Time: r.Now, Actor: "host", Verb: "record.restored", Reason: fmt.Sprintf("backup of %s and %d groups of the journal", done.Snapshot.Format(time.RFC3339), done.Replayed)}
	if done.Lost {
		e.Reason = fmt.Sprintf("backup of %s without a journal: what was recorded later is lost", done.Snapshot.Format(time.RFC3339))
		if err := giveUp(ctx, in, store, e, done); err != nil {
			return err
		}
	}
	if done.Losses, err = in.Losses(ctx, store, r.Now, true); err != nil {
		return err
	}
	return errors.Join(store.Note(ctx, e), store.Verify(ctx))
}

// giveUp ends what may have been used, spent or cancelled after the backup, without a journal to tell.
func giveUp(ctx context.Context, in *installation.Installation, store record.Store, e record.Event, done *Restored) (err error) {
	if done.ClosedLots, err = closeLots(ctx, store, e); err != nil {
		return err
	}
	if done.Disabled, err = withdraw(ctx, store, e); err != nil {
		return err
	}
	if done.Paused, err = pauseJobs(ctx, store, e); err != nil {
		return err
	}
	if err := leaveShards(ctx, in, store); err != nil {
		return err
	}
	// Followers of the feed know numbers that are lost. The milliseconds since 1970 are beyond
	// them: no installation revokes a thousand certificates a second all its life.
	return store.SkipChanges(ctx, e.Time.UnixMilli())
}

// startsAfresh refuses to go on in a folder with a journal other than the one that was restored with: a
// server may be writing that, and what is put among its segments is in the way of its own restore.
func startsAfresh(in *installation.Installation, done *Restored) error {
	dir := in.Config.Journal
	segments, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(segments) == 0 {
		return err
	}
	if !done.Lost {
		used, err := os.Stat(done.OldJournal)
		if err != nil {
			return err
		}
		if here, err := os.Stat(dir); err == nil && os.SameFile(used, here) {
			return nil
		}
	}
	return installation.Hint(fmt.Errorf("there is a journal at %s, where the restored record would go on with its own", dir),
		"restore with that one, or move it away if it is nobody's any more; to rehearse a restore, use another machine")
}

// closeSecrets gives keys and the secret to their owner alone: an older server may have run with one
// that others could read, and that cannot be corrected inside a backup.
func closeSecrets(path string) error {
	c, err := config.Load(path)
	if err != nil {
		return err
	}
	for _, path := range c.Secrets() {
		if _, inside := c.Inside(path); !inside {
			continue // not in a backup
		}
		if err := os.Chmod(path, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func closeLots(ctx context.Context, store record.Store, e record.Event) (closed []string, err error) {
	lots, err := store.Lots(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range lots {
		if !l.Closed.IsZero() {
			continue
		}
		e.Verb, e.Object = "lot.closed", l.Name
		if err := store.CloseLot(ctx, l.Name, e.Time, e); err != nil {
			return nil, err
		}
		closed = append(closed, l.Name)
	}
	return closed, nil
}

// withdraw ends the grants, invitations, requests and approvals that are open: they may have been
// used since, and would work a second time for whoever finds them. Likewise a job that waited may
// have been cancelled.
func withdraw(ctx context.Context, store record.Store, e record.Event) (disabled []string, err error) {
	e.Verb, e.Object = "grant.ended", ""
	if err := store.EndGrants(ctx, e.Time, e); err != nil {
		return nil, err
	}
	e.Verb = "approval.ended"
	if err := store.EndApprovals(ctx, e.Time, e); err != nil {
		return nil, err
	}
	err = store.ExpireJobs(ctx, e.Time, func(j record.Job) record.Event {
		ended := e
		ended.Verb, ended.Object = "job.expired", j.ID
		return ended
	})
	if err != nil {
		return nil, err
	}
	operators, err := store.Operators(ctx)
	if err != nil {
		return nil, err
	}
	parties, err := store.RelyingParties(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range operators {
		if o.Invitation == "" || o.Accepted != [32]byte{} {
			continue
		}
		e.Verb, e.Object = "operator.disabled", o.Name
		if err := store.DisableOperator(ctx, o.Name, e.Time, e); err != nil {
			return nil, err
		}
		disabled = append(disabled, o.Name)
	}
	for _, p := range parties {
		if p.Invitation == "" || p.Accepted != [32]byte{} {
			continue
		}
		e.Verb, e.Object = "relying-party.disabled", p.Name
		if err := store.DisableRelyingParty(ctx, p.Name, e.Time, e); err != nil {
			return nil, err
		}
		disabled = append(disabled, p.Name)
	}
	return disabled, nil
}

// pauseJobs stops the jobs that ran: one may have been cancelled since, and a revocation is final.
// Suspensions stop too: suspending a fleet by deleting a file is what an attacker could want. One
// that was only publishing has nothing left to do to a device.
func pauseJobs(ctx context.Context, store record.Store, e record.Event) (paused []record.Job, err error) {
	jobs, err := store.UnfinishedJobs(ctx)
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.State != record.JobRunning {
			continue
		}
		e.Verb, e.Object = "job.paused", j.ID
		if j, err = store.PauseJob(ctx, j.ID, e); err != nil {
			return nil, err
		}
		paused = append(paused, j)
	}
	return paused, nil
}

// leaveShards gives the rest of each open CRL shard away: nobody knows how many lost
// certificates name it, and a shard must not grow beyond its capacity.
func leaveShards(ctx context.Context, in *installation.Installation, store record.Store) error {
	capacity := in.Config.CRLShardCapacity
	for _, i := range in.Issuers {
		if _, _, err := store.ReserveShard(ctx, i.Name, capacity, capacity); err != nil {
			return err
		}
	}
	return nil
}

// unpack writes a backup's files to dir if each is exactly what the manifest says.
func unpack(path, dir string) (m manifest, err error) {
	in, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer in.Close()
	t := tar.NewReader(in)
	if m, err = readManifest(t); err != nil {
		return m, err
	}
	for _, f := range m.Files {
		h, err := t.Next()
		if err != nil {
			return m, fmt.Errorf("%s is missing: %w", f.Name, err)
		}
		if h.Name != f.Name || h.Typeflag != tar.TypeReg || h.Size != f.Size {
			return m, fmt.Errorf("%q is not what the manifest says: the file is damaged", h.Name)
		}
		if err := unpackFile(t, filepath.Join(dir, filepath.FromSlash(f.Name)), f); err != nil {
			return m, err
		}
	}
	if h, err := t.Next(); err != io.EOF {
		return m, fmt.Errorf("something follows the last file: %v, %v", h, err)
	}
	return m, nil
}

func readManifest(t *tar.Reader) (m manifest, err error) {
	h, err := t.Next()
	if err != nil || h.Name != manifestName || h.Size > maxManifest {
		return m, errors.Join(errors.New("this is not a Hallmark backup"), err)
	}
	text, err := io.ReadAll(io.LimitReader(t, maxManifest))
	if err != nil {
		return m, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("the manifest cannot be read: %w", err)
	}
	if m.Format != format {
		return m, fmt.Errorf("the backup's format is %q and this program reads %q", m.Format, format)
	}
	if len(m.Files) > maxMembers {
		return m, fmt.Errorf("the manifest lists %d files", len(m.Files))
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		if !isPlainName(f.Name) || seen[f.Name] || f.Size < 0 || f.Mode&^0o644 != 0 {
			return m, fmt.Errorf("the manifest lists %q, which no backup holds", f.Name)
		}
		seen[f.Name] = true
	}
	if !seen[m.Record] || !seen[installation.ConfigFile] {
		return m, errors.New("the backup lacks the record or the configuration")
	}
	return m, nil
}

func unpackFile(r io.Reader, path string, want file) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, want.Mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, h), r); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
		return fmt.Errorf("%s is damaged", want.Name)
	}
	return nil
}
