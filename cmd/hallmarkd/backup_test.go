package main

import (
	"strings"
	"testing"

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
