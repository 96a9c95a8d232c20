package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/upkeep"
	"github.com/hallmark-pki/hallmark/record"
)

// Whoever restores with losses is told which jobs wait for him, and what to type.
func TestTellPausedJobs(t *testing.T) {
	var out strings.Builder
	done := upkeep.Restored{Lost: true, Paused: []record.Job{{ID: "j7", Kind: record.JobSuspend, Total: 40, Outcomes: map[string]int64{"": 30, "done": 10}}}}
	if err := tellRestored(&out, done); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"jobs that ran then are paused", "hallmark job resume j7 ", "suspend, 30 of 40 devices left"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

// A program reads the same, and of what is missing what check says.
func TestRestoredAsJSON(t *testing.T) {
	done := upkeep.Restored{Config: "/srv/hallmark/hallmark.yaml", Replayed: 7, Paused: []record.Job{{ID: "j7", Kind: record.JobSuspend, Total: 40, Outcomes: map[string]int64{"": 30, "done": 10}}},
		Losses: []installation.Loss{{Subject: "operational-2", Grave: true, Detail: "is not here", Hint: "bring it back"}, {Subject: "manufacturing-2"}}}
	text, err := json.Marshal(outcome(done))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"replayed":7`, `"lost":false`, `"closed_lots":[]`, `"paused_jobs":[{"id":"j7","kind":"suspend","total":40,"pending":30}]`,
		`"missing":[{"level":"error","subject":"operational-2","detail":"is not here","hint":"bring it back"},{"level":"warning"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in:\n%s", want, text)
		}
	}
}

// Root, who restores for a server with a user of its own, is told to give it the folder.
func TestTellWhoseItWas(t *testing.T) {
	done := upkeep.Restored{Config: "/srv/hallmark/hallmark.yaml", OldJournal: t.TempDir()}
	for _, owner := range []int{0, 4711} {
		if err := os.Chown(done.OldJournal, owner, -1); err != nil && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := tellRestored(&out, done); err != nil {
			t.Fatal(err)
		}
		want := owner == 4711 && os.Geteuid() == 0
		if strings.Contains(out.String(), "  chown -R 4711: /srv/hallmark ") != want || strings.Contains(out.String(), "chown") != want {
			t.Errorf("by user %d of user %d's:\n%s", os.Geteuid(), owner, out.String())
		}
	}
}

// A record on a disk that is away, read-only or full is told from one that is gone.
func TestNextOfDisk(t *testing.T) {
	for _, err := range []error{record.ErrUnavailable, &os.PathError{Op: "open", Path: "x", Err: syscall.EROFS}, syscall.ENOSPC} {
		if next := installation.Next(fmt.Errorf("open database: %w", err)); !strings.Contains(next, "df -h") {
			t.Errorf("%v: hint: %q", err, next)
		}
	}
}

// Whoever may not read a file is told who may.
func TestNextOfPermission(t *testing.T) {
	if _, err := os.ReadFile(t.TempDir() + "/missing"); installation.Next(err) != "" {
		t.Error("a file that is missing")
	}
	denied := fmt.Errorf("open database: %w", &os.PathError{Op: "open", Path: "x", Err: os.ErrPermission})
	if next := installation.Next(denied); !strings.Contains(next, "chown -R") {
		t.Error(next)
	}
}
