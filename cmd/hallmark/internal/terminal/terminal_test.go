package terminal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/wire"
	"github.com/spf13/cobra"
)

// TestDiagnose: what a script can tell from the exit code.
func TestDiagnose(t *testing.T) {
	does := func(err error) error { return Run(func(*cobra.Command, []string) error { return err })(nil, nil) }
	for status, want := range map[int]int{400: ExitUsage, 401: ExitRefused, 403: ExitRefused, 409: ExitRefused, 404: ExitNotFound, 413: ExitError, 503: ExitError} {
		err := does(fmt.Errorf("after 3 tickets: %w", &wire.Problem{Status: status, Detail: "d", Hint: "h"}))
		if code, hint := Diagnose(err); code != want || hint != "h" {
			t.Errorf("status %d: exit %d, hint %q", status, code, hint)
		}
	}
	if code, _ := Diagnose(does(&client.Unreachable{Err: net.ErrClosed})); code != ExitNetwork {
		t.Errorf("unreachable: exit %d", code)
	}
	if code, _ := Diagnose(does(&client.Unreachable{Err: client.ErrInterrupted})); code != ExitError {
		t.Errorf("interrupted: exit %d", code)
	}
}

// Whoever has no settings is told where they come from, whoever may not read them whose they are.
func TestWithoutSettings(t *testing.T) {
	for err, want := range map[error]string{os.ErrNotExist: "hallmark operator accept", os.ErrPermission: "as that user"} {
		lost := withoutSettings(fmt.Errorf("settings: %w", &os.PathError{Op: "open", Path: "hallmark.yaml", Err: err}))
		if _, hint := Diagnose(Run(func(*cobra.Command, []string) error { return lost })(nil, nil)); !strings.Contains(hint, want) {
			t.Errorf("%v: %q", err, hint)
		}
	}
	if withoutSettings(nil) != nil {
		t.Error("an error of nothing")
	}
}

func TestDays(t *testing.T) {
	for text, want := range map[string]time.Duration{"15m": 15 * time.Minute, "90d": 90 * 24 * time.Hour, "36h": 36 * time.Hour, "1h30m": 90 * time.Minute} {
		var d Days
		if err := d.Set(text); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v, %v", text, time.Duration(d), err)
		}
		if d.String() != text {
			t.Errorf("%s is printed as %s", text, d.String())
		}
	}
	for _, bad := range []string{"", "15", "d", "-1d", "1.5d", "-5m", "0", "1ms", "99999d", "1y"} {
		var d Days
		if err := d.Set(bad); err == nil {
			t.Errorf("%q is %v", bad, time.Duration(d))
		}
	}
}

func TestListPages(t *testing.T) {
	rows := []wire.Model{{Name: "a"}, {Name: "b\x1b[2J"}, {Name: "c\u009b"}}
	page := func(limit int, after string) (wire.List[wire.Model], error) {
		i := len(after)
		if i == 2 || limit == 1 {
			return wire.List[wire.Model]{Items: rows[i : i+1], After: strings.Repeat("x", i+1)[:(i+1)%3]}, nil
		}
		return wire.List[wire.Model]{Items: rows[i : i+2], After: "xx"}, nil
	}
	print := func(asJSON bool, limit int) string {
		c := &cobra.Command{}
		var out bytes.Buffer
		c.SetOut(&out)
		if err := List(c, asJSON, limit, "MODEL\tASSURANCE", func(m wire.Model) []string { return []string{m.Name, m.Assurance} }, page); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got, want := print(false, 0), "MODEL  ASSURANCE\na      -\nb?[2J  -\nc?  -\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if shown := print(true, 0); strings.Contains(shown, "\u009b") {
		t.Errorf("the terminal is steered by %q", shown)
	}
	for limit, want := range map[int]int{0: 3, 1: 1, 3: 3} {
		var got []wire.Model
		if err := json.Unmarshal([]byte(print(true, limit)), &got); err != nil || len(got) != want {
			t.Errorf("limit %d: %d rows, %v", limit, len(got), err)
		}
	}
}

// A page may be empty although another follows.
func TestListOfEmptyPages(t *testing.T) {
	c := &cobra.Command{}
	var out bytes.Buffer
	c.SetOut(&out)
	err := List(c, false, 0, "MODEL", func(m wire.Model) []string { return []string{m.Name} }, func(_ int, after string) (wire.List[wire.Model], error) {
		if after != "xx" {
			return wire.List[wire.Model]{After: after + "x"}, nil
		}
		return wire.List[wire.Model]{Items: []wire.Model{{Name: "a"}}}, nil
	})
	if want := "MODEL\na\n"; err != nil || out.String() != want {
		t.Errorf("got\n%s, %v, want\n%s", out.String(), err, want)
	}
}

// What was pasted after the line is left to the shell.
func TestLine(t *testing.T) {
	for text, want := range map[string][2]string{
		"4\nhallmark job list\n":       {"4", "hallmark job list\n"},
		"hallmark job list\rwhoami\r":  {"hallmark job list", "whoami\r"},
		"hmi1.abc":                     {"hmi1.abc", ""},
		"":                             {"", ""},
		"an invitation without an end": {"an invitation withou", "t an end"},
	} {
		r := strings.NewReader(text)
		line := Line(r, 20)
		if rest, _ := io.ReadAll(r); line != want[0] || string(rest) != want[1] {
			t.Errorf("%q: read %q and left %q", text, line, rest)
		}
	}
}

// A server that goes round in circles, after whatever beginning, is left soon; a listing of a
// million is not.
func TestPagesInCircles(t *testing.T) {
	for _, c := range []struct{ pages, back int }{{1, 1}, {9, 1}, {9, 3}, {9, 9}, {5000, 0}} {
		asked, at := 0, 0
		err := EachPage(func(after string) (string, error) {
			if asked++; asked > 10_000 {
				return "", errors.New("for ever")
			}
			if at++; at > c.pages {
				if at -= c.back; c.back == 0 {
					return "", nil
				}
			}
			return strconv.Itoa(at), nil
		})
		if circles := c.back > 0; circles != (err != nil) || circles && asked > 50 {
			t.Errorf("%+v: %v after %d", c, err, asked)
		}
	}
}

// Nobody gets more rows than were asked for, or one that every other is padded to.
func TestWideRows(t *testing.T) {
	c := &cobra.Command{}
	var out bytes.Buffer
	c.SetOut(&out)
	rows := make([]wire.Model, 100)
	rows[0].Name = strings.Repeat("é", 1<<16)
	err := List(c, false, 50, "MODEL\tX", func(m wire.Model) []string { return []string{m.Name, ""} }, func(int, string) (wire.List[wire.Model], error) {
		return wire.List[wire.Model]{Items: rows, After: "x"}, nil
	})
	where := strings.Repeat("w", 4<<10) // as long as the server takes expressions: whoever approves one sees all of it
	if got := cells([]string{where}); got != where {
		t.Errorf("an expression is cut after %d bytes", len(got))
	}
	if n := strings.Count(out.String(), "\n"); err != nil || n != 51 || out.Len() > 51*(maxCell+10) {
		t.Errorf("%d lines of %d bytes, %v", n, out.Len(), err)
	}
}

// What a server gave for the name of something neither steers the terminal nor makes a line.
func TestSay(t *testing.T) {
	c := &cobra.Command{}
	var out bytes.Buffer
	c.SetOut(&out)
	if err := Say(c, "%s is %s; %d\n", "a\x1b[2J", "good\nhallmark: done\u009b\u200b\u2028", 3); err != nil || out.String() != "a?[2J is good?hallmark: done???; 3\n\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if got := plainly([]string{"a\tb c", "x\x1b]0;y\a", "y\nz", "_activeHelp_ hi", "n\tm\u202e", strings.Repeat("w", 999), "p1\t" + strings.Repeat("w", 999)}); !slices.Equal(got, []string{"a\tb c", "n\tm?", "p1\t" + strings.Repeat("w", maxCompletion)}) {
		t.Errorf("completed with %q", got)
	}
}
