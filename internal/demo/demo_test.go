package main

import (
	"os"
	"strings"
	"testing"
)

// The README shows what the demonstration prints: every step, in its order, and the
// summary.
func TestReadmeShowsTheDemonstration(t *testing.T) {
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rest := string(page)
	for _, want := range append(names((&demo{}).steps()), summary) {
		i := strings.Index(rest, want)
		if i < 0 {
			t.Fatalf("README.md does not show %q, or not in its place", want)
		}
		rest = rest[i+len(want):]
	}
}

func names(steps []step) (all []string) {
	for _, s := range steps {
		all = append(all, s.name)
	}
	return all
}
