// Package terminal is how the operator's command meets a person: finding the settings,
// printing tables and JSON, completing names, and ending with an error, a hint and an
// exit code. What a command does is said beside it, in the package of its noun.
package terminal

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// ConfigVariable names the settings file in the environment.
const ConfigVariable = "HALLMARK_CONFIG"

// App is what every command starts from.
type App struct {
	// Config is the value of --config: the settings file or its folder.
	Config string
}

// Settings finds the settings file: --config, HALLMARK_CONFIG, the user's folder. The
// working folder is not searched: whoever can leave a file there could send an
// operator to a server that only says that it revoked.
func (a *App) Settings() (path string, err error) {
	if a.Config != "" {
		return a.Config, nil
	}
	if path := os.Getenv(ConfigVariable); path != "" {
		return path, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", Hinted(errors.New("no operator's settings are named"), "set "+ConfigVariable)
	}
	return filepath.Join(base, "hallmark", client.SettingsFile), nil
}

// Open is a client for a command that changes nothing. On a terminal it says whom it asks.
func (a *App) Open(c *cobra.Command) (*client.Client, error) {
	cl, err := a.load(c)
	if err == nil && Interactive(c.ErrOrStderr()) {
		saying(c, cl)
	}
	return cl, err
}

func saying(c *cobra.Command, cl *client.Client) {
	Note(c, "hallmark: %s as %s", cl.Server(), cl.Operator())
}

func (a *App) load(c *cobra.Command) (*client.Client, error) {
	path, err := a.Settings()
	if err != nil {
		return nil, err
	}
	cl, err := client.Load(path, func(warning string) { Note(c, "hallmark: warning: %s", warning) })
	return cl, withoutSettings(err)
}

// withoutSettings adds what to do when the settings are missing or another user's.
func withoutSettings(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return Hinted(err, "they are another user's: run this as that user, or with settings of your own (hallmark operator accept INVITATION)")
	case errors.Is(err, os.ErrNotExist):
		return Hinted(err, "name the settings with --config or "+ConfigVariable+" (hallmarkd init wrote operator/"+client.SettingsFile+"), or make them: hallmark operator accept INVITATION")
	}
	return err
}

// Asking is what a command does that asks the server.
func (a *App) Asking(do Act) func(*cobra.Command, []string) error { return with(a.Open, do) }

// Changing is what a command does that changes something: it says where and as whom first.
func (a *App) Changing(do Act) func(*cobra.Command, []string) error { return with(a.Change, do) }

// Act is what a command does with the server.
type Act func(c *cobra.Command, cl *client.Client, args []string) error

func with(open func(*cobra.Command) (*client.Client, error), do Act) func(*cobra.Command, []string) error {
	return Run(func(c *cobra.Command, args []string) error {
		cl, err := open(c)
		if err != nil {
			return err
		}
		return do(c, cl, args)
	})
}

// Change is a client for a command that changes something: it says where and as whom.
func (a *App) Change(c *cobra.Command) (*client.Client, error) {
	cl, err := a.load(c)
	if err == nil {
		saying(c, cl)
	}
	return cl, err
}

// JSONFlag is --json of a command that lists or shows.
func JSONFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("json", false, "print JSON")
}

// Show prints v as JSON, or as lines of a name and a value each.
func Show(c *cobra.Command, asJSON bool, v any, lines ...[2]string) error {
	if asJSON {
		text, err := json.MarshalIndent(v, "", "  ")
		if err == nil {
			_, err = c.OutOrStdout().Write(plain.JSON(append(text, '\n')))
		}
		return err
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, line := range lines {
		if line[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", line[0]+":", plain.Line(line[1]))
		}
	}
	return w.Flush()
}

// Say prints a line. Texts among args are others': none steers the terminal, or begins a line.
func Say(c *cobra.Command, format string, args ...any) error {
	return say(c.OutOrStdout(), format, args...)
}

// Note is Say beside the output.
func Note(c *cobra.Command, format string, args ...any) { say(c.ErrOrStderr(), format, args...) }

// Unsigned tells whose CRLs a change could not be put on (wire.StatusChange), also beside JSON.
func Unsigned(c *cobra.Command, all map[string]string) {
	for _, issuer := range slices.Sorted(maps.Keys(all)) {
		Note(c, "hallmark: warning: %s: %s\nhint: hallmarkd check, on the server, says what to bring back", issuer, all[issuer])
	}
}

func say(w io.Writer, format string, args ...any) error {
	for i, a := range args {
		if text, ok := a.(string); ok {
			args[i] = plain.Line(text)
		}
	}
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}

// Shown prints v as JSON unless there is an error.
func Shown(c *cobra.Command, v any, err error) error {
	if err != nil {
		return err
	}
	return Show(c, true, v)
}

// List prints every page of a listing, at most limit rows if limit is not 0: a table,
// or a JSON array.
func List[T any](c *cobra.Command, asJSON bool, limit int, header string, row func(T) []string, page func(limit int, after string) (wire.List[T], error)) error {
	out := bufio.NewWriter(c.OutOrStdout())
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !asJSON {
		fmt.Fprintln(table, header)
	}
	printed := 0
	err := EachPage(func(after string) (string, error) {
		size := wire.MaxPage
		if limit > 0 {
			size = min(size, limit-printed)
		}
		got, err := page(size, after)
		if err != nil {
			return "", err
		}
		if limit > 0 {
			got.Items = got.Items[:min(len(got.Items), size)]
		}
		for _, item := range got.Items {
			if asJSON {
				err = printElement(out, item, printed == 0)
			} else {
				_, err = fmt.Fprintln(table, cells(row(item)))
			}
			if err != nil {
				return "", err
			}
			printed++
		}
		if limit > 0 && printed >= limit {
			got.After = ""
		}
		return got.After, cmp.Or(table.Flush(), out.Flush())
	})
	if err != nil {
		return err
	}
	if asJSON {
		_, err := io.WriteString(c.OutOrStdout(), map[bool]string{true: "[]\n", false: "\n]\n"}[printed == 0])
		return err
	}
	return nil
}

// EachPage asks for pages until there is no cursor. A server that gives one for the second time
// would go round in circles: one cursor is kept for as many pages as there were before it (R. P.
// Brent, "An improved Monte Carlo factorization algorithm", 1980, §3), which finds every circle.
func EachPage(page func(after string) (next string, err error)) error {
	kept, keep := "", 1
	for n, after := 1, ""; ; n++ {
		next, err := page(after)
		switch {
		case err != nil || next == "":
			return err
		case next == kept:
			return errors.New("the server gives the same pages again and again")
		case n == keep:
			kept, keep = next, 2*keep
		}
		after = next
	}
}

// Table is a command that prints all that a verb of the client lists.
func Table[T any](a *App, c *cobra.Command, header string, list func(*client.Client, context.Context) (wire.List[T], error), row func(T) []string) *cobra.Command {
	c.Args = cobra.NoArgs
	asJSON := JSONFlag(c)
	c.RunE = a.Asking(func(c *cobra.Command, cl *client.Client, _ []string) error {
		return List(c, *asJSON, 0, header, row, func(int, string) (wire.List[T], error) { return list(cl, c.Context()) })
	})
	return c
}

func printElement(w io.Writer, v any, first bool) error {
	text, err := json.MarshalIndent(v, "  ", "  ")
	if err != nil {
		return err
	}
	before := ",\n  "
	if first {
		before = "[\n  "
	}
	_, err = io.WriteString(w, before+string(plain.JSON(text)))
	return err
}

// maxCell bounds a cell of a table, in bytes: every row of a page is padded to the longest. What
// is longer, --json prints; the server takes no expression that is.
const maxCell = 4 << 10

func cells(values []string) string {
	for i, v := range values {
		if len(v) > maxCell {
			v = strings.ToValidUTF8(v[:maxCell], "") + "…"
		}
		if values[i] = plain.Line(v); v == "" {
			values[i] = "-"
		}
	}
	return strings.Join(values, "\t")
}

// ListFlags are the flags of a listing; limit 0 means everything.
func ListFlags(c *cobra.Command) (asJSON *bool, limit *int) {
	return JSONFlag(c), c.Flags().Int("limit", 0, "print at most this many rows (default all)")
}

// When writes a time for a table, in the local zone; "-" for none.
func When(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// Exactly writes a time to the second, in the local zone; empty for none.
func Exactly(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case t.Year() == 9999:
		return "never" // 99991231235959Z, RFC 5280 §4.1.2.5
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}

// Count words a number of things.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// Days is a flag that takes Go's durations and days: "15m", "36h", "30d".
type Days time.Duration

func (d *Days) String() string {
	v := time.Duration(*d)
	switch {
	case v == 0:
		return ""
	case v%(24*time.Hour) == 0:
		return strconv.FormatInt(int64(v/(24*time.Hour)), 10) + "d"
	}
	return strings.NewReplacer("m0s", "m", "h0m0s", "h").Replace(v.String()) // "15m0s", "36h0m0s"
}

func (d *Days) Type() string { return "duration" }

func (d *Days) Set(text string) error {
	v, err := time.ParseDuration(text)
	if n, ok := strings.CutSuffix(text, "d"); ok {
		var whole uint64
		whole, err = strconv.ParseUint(n, 10, 16)
		v = time.Duration(whole) * 24 * time.Hour
	}
	if err != nil || v < time.Second {
		return errors.New("write a number and a unit, like 15m, 36h or 30d")
	}
	*d = Days(v)
	return nil
}

func (d Days) Seconds() int64 { return int64(time.Duration(d) / time.Second) }

// Line reads one line of at most limit bytes, and nothing after it: what else was pasted
// is for the shell. A line that was pasted while the shell had the terminal ends in CR.
func Line(r io.Reader, limit int) string {
	var line []byte
	for one := make([]byte, 1); len(line) < limit; {
		if n, err := r.Read(one); n == 1 && one[0] != '\n' && one[0] != '\r' {
			line = append(line, one[0])
		} else if n == 1 || err != nil {
			break
		}
	}
	return string(line)
}

// Invitation is an argument or, if it is "-", a line of standard input.
func Invitation(c *cobra.Command, argument string) (string, error) {
	if argument == "-" {
		if argument = Line(c.InOrStdin(), 4096); argument == "" {
			return "", Usage(errors.New("standard input holds no invitation"))
		}
	}
	return argument, nil
}

// Interactive reports whether a person is at the other end of this stream.
func Interactive(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
