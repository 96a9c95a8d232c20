package migrations

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"
)

var (
	comment = regexp.MustCompile(`--.*`)
	adds    = regexp.MustCompile(`^(CREATE TABLE|CREATE INDEX|ALTER TABLE \w+ ADD COLUMN \w+ \w+ NOT NULL DEFAULT|ALTER TABLE \w+ ADD COLUMN \w+ \w+$)`)
)

// What the first step made is only added to.
func TestStepsAdd(t *testing.T) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil || len(names) < 2 || names[0] != "0016_schema.sql" {
		t.Fatalf("%v, %v", names, err)
	}
	for _, name := range names[1:] {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		for statement := range strings.SplitSeq(comment.ReplaceAllString(string(text), ""), ";") {
			if s := strings.TrimSpace(statement); s != "" && !adds.MatchString(s) {
				t.Errorf("%s: a journal of before may not run on what this leaves: %s", name, s)
			}
		}
	}
}
