package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/upkeep"
	"github.com/hallmark-pki/hallmark/record"
)

func backupCommand() *cobra.Command {
	var path, to string
	var asJSON, newJournal bool
	c := &cobra.Command{
		Use: "backup", Short: "Back up an installation, running or not, to one file", Args: noArguments,
		Long: `Backup writes the record as it is at this moment, the configuration, certificates and
keys to one new file. Guard it as you guard the server: it holds every key but the
roots' and those in a PKCS #11 token. Together with the journal (journal: in
hallmark.yaml), which goes on from there, restore loses nothing that was answered.

If the journal's disk is lost and the record is not, nothing can be recorded any more. Stop
the server, and --new-journal begins a new one with this backup; older ones need the old.`,
		Example: "  hallmarkd backup --config /srv/hallmark/hallmark.yaml --to /media/backup/hallmark-$(date +%F).tar",
		RunE: func(c *cobra.Command, _ []string) error {
			if to == "" {
				return usage(c, errors.New("--to is needed"))
			}
			in, err := installation.Read(path)
			if err != nil {
				return err
			}
			if err := in.Agrees(); err != nil {
				return err
			}
			if newJournal {
				if err := upkeep.NewJournal(c.Context(), in); err != nil {
					return err
				}
			}
			done, err := upkeep.Backup(c.Context(), in, to, version, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(done)
			}
			return tellBackup(c.OutOrStdout(), to, in.Config.Journal, done)
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&to, "to", "", "the file to write")
	c.Flags().BoolVar(&newJournal, "new-journal", false, "the journal is lost: begin a new one")
	c.Flags().BoolVar(&asJSON, "json", false, "print what was done as JSON")
	return c
}

func tellBackup(out io.Writer, to, journal string, done upkeep.BackedUp) error {
	text := fmt.Sprintf("%s holds %d files, %d bytes. Keep it, and %s, apart from this machine.\nThe root keys are not in it, nor are those in tokens.\n", to, done.Files, done.Bytes, journal)
	if len(done.Outside) > 0 {
		text += "Not in it, because outside the installation's folder, or a link that leads nowhere:\n  " + strings.Join(done.Outside, "\n  ") + "\n"
	}
	if len(done.Needless) > 0 {
		text += "Once no older backup is wanted, these can be deleted:\n  " + strings.Join(done.Needless, "\n  ") + "\n"
	}
	_, err := io.WriteString(out, text)
	return err
}

func restoreCommand() *cobra.Command {
	var r upkeep.Restoring
	var asJSON bool
	c := &cobra.Command{
		Use: "restore", Short: "Make an installation of a backup, without losing what came after it", Args: noArguments,
		Long: `Restore makes an installation in a new folder from a backup and the journal: devices
revoked after the backup stay revoked, spent quotas spent, and certificates issued
after it are known. Stop the old server first; it must never run again.

CAs, trust bundles and the roots' lists are as in the backup. If the record knows of later
ones, restore lists what is missing, as "hallmarkd check" does; it exits 0 all the same.

Without the journal it refuses. --accept-losses restores the moment of the backup,
closes every lot and ends open invitations, grants and approvals, and jobs that wait for
one; jobs that ran are paused. Devices revoked and operators disabled later are back and
must be ended again, and devices enrolled later are unknown.`,
		Example: `  hallmarkd restore --from /media/backup/hallmark-2026-11-22.tar --dir /srv/hallmark
  hallmarkd restore --from backup.tar --dir /srv/hallmark --journal /mnt/journal`,
		RunE: func(c *cobra.Command, _ []string) error {
			if r.From == "" || r.Dir == "" {
				return usage(c, errors.New("--from and --dir are needed"))
			}
			if r.AcceptLosses && r.Journal != "" {
				return usage(c, errors.New("--journal and --accept-losses: with a journal nothing is lost"))
			}
			r.Now = time.Now()
			done, err := r.Restore(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(outcome(done))
			}
			return tellRestored(c.OutOrStdout(), done)
		},
	}
	c.Flags().StringVar(&r.From, "from", "", "the backup")
	c.Flags().StringVar(&r.Dir, "dir", "", "the folder to make")
	c.Flags().StringVar(&r.Journal, "journal", "", "the journal's folder (default: where the backup says it was)")
	c.Flags().BoolVar(&r.AcceptLosses, "accept-losses", false, "restore without a journal")
	c.Flags().BoolVar(&asJSON, "json", false, "print what was done, and what is missing, as JSON")
	c.MarkFlagDirname("dir")
	c.MarkFlagDirname("journal")
	return c
}

// whose says who has to be invited again.
func whose(invited []string) string {
	if len(invited) == 0 {
		return ""
	}
	return "; invite again: " + strings.Join(invited, ", ")
}

// anothers names the owner of a folder, for root, unless that is root.
func anothers(dir string) string {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return ""
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || s.Uid == 0 {
		return ""
	}
	id := strconv.Itoa(int(s.Uid))
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// restored is a restore for programs.
type restored struct {
	Config   string    `json:"config"`
	Snapshot time.Time `json:"snapshot"`
	// Replayed counts the groups of the journal.
	Replayed int64 `json:"replayed"`
	Torn     bool  `json:"torn,omitempty"`
	// Lost: there was no journal. What follows was done for that.
	Lost       bool     `json:"lost"`
	ClosedLots []string `json:"closed_lots"`
	Disabled   []string `json:"invite_again"`
	Paused     []paused `json:"paused_jobs"`
	// Missing is what the record knows of and the backup does not have, as check finds it.
	Missing    upkeep.Findings `json:"missing"`
	OldJournal string          `json:"old_journal"`
	Journal    string          `json:"journal"`
}

type paused struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Total   int64  `json:"total"`
	Pending int64  `json:"pending"`
}

func outcome(done upkeep.Restored) restored {
	out := restored{done.Config, done.Snapshot, done.Replayed, done.Torn, done.Lost, append([]string{}, done.ClosedLots...), append([]string{}, done.Disabled...),
		[]paused{}, upkeep.Missing(done.Losses), done.OldJournal, done.Journal}
	for _, j := range done.Paused {
		out.Paused = append(out.Paused, paused{j.ID, j.Kind, j.Total, j.Outcomes[record.OutcomePending]})
	}
	return out
}

func tellRestored(out io.Writer, done upkeep.Restored) error {
	var text strings.Builder
	since := done.Snapshot.Format(time.RFC3339)
	if done.Lost {
		fmt.Fprintf(&text, `Restored as of %s. LOST is what was recorded since then:
- devices revoked or suspended since then count as good: revoke them again
- devices enrolled since then are unknown, and their certificates cannot be revoked
- operators and relying parties disabled since then are back: disable them again
- closed, so that no quota is spent and no ticket used twice: %s
- approvals that were asked for or given have ended, for they may have been used, and jobs
  that waited for one have expired: ask again
- open invitations and grants have ended, for they may have been used%s
`, since, strings.Join(done.ClosedLots, ", "), whose(done.Disabled))
		if len(done.Paused) > 0 {
			text.WriteString("- jobs that ran then are paused, for they may have been cancelled since: see the last steps\n")
		}
	} else {
		fmt.Fprintf(&text, "Restored: the backup of %s, and %d groups of changes from %s.\n", since, done.Replayed, done.OldJournal)
		if done.Torn {
			text.WriteString("The journal ended within a group, as when the power goes before it is answered; it was left out.\n")
		}
	}
	if len(done.Losses) > 0 {
		text.WriteString("MISSING is what the record knows of and the backup does not have:\n")
	}
	for _, l := range done.Losses {
		fmt.Fprintf(&text, "- %s: %s\n  hint: %s\n", l.Subject, strings.ReplaceAll(l.Detail, "\n", "\n  "), l.Hint)
	}
	fmt.Fprintf(&text, "The old installation must never run again.\n\nNext:\n")
	if owner := anothers(done.OldJournal); owner != "" {
		fmt.Fprintf(&text, "  chown -R %s: %s    # as the journal is\n", owner, filepath.Dir(done.Config))
	}
	fmt.Fprintf(&text, "  hallmarkd check --config %[1]s\n  hallmarkd serve --config %[1]s\n", done.Config)
	if done.Journal != done.OldJournal {
		fmt.Fprintf(&text, "  hallmarkd backup --config %s --to NEWFILE    # the journal goes on in %s\n", done.Config, done.Journal)
	}
	for _, j := range done.Paused {
		fmt.Fprintf(&text, "  hallmark job resume %s    # or cancel: %s, %d of %d devices left (hallmark job show %s)\n",
			j.ID, j.Kind, j.Outcomes[record.OutcomePending], j.Total, j.ID)
	}
	_, err := io.WriteString(out, text.String())
	return err
}
