package agent

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

// Priority is how much a line of the log matters, as syslog(3) counts.
type Priority int

const (
	Error   Priority = 3
	Warning Priority = 4
	Notice  Priority = 5
	Info    Priority = 6
)

// maxText bounds what is kept and told of an error, in bytes: servers answer at length, flash
// wears out, and an outcome that is too large is not read again.
const maxText = 1 << 10

// clip is the beginning of a text, in one line: what a server says of a device shall not look
// like what the device says of itself.
func clip(text string) string {
	text = strings.ReplaceAll(text, "\n", " ")
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// NewLog writes lines to w for the reader at its other end: the journal is told the
// priority and knows the time (sd-daemon(3)), anybody else is told the time.
func NewLog(w io.Writer, journal bool, now func() time.Time) func(Priority, string) {
	var mu sync.Mutex
	return func(p Priority, text string) {
		mu.Lock()
		defer mu.Unlock()
		text = Printable(clip(text))
		if journal {
			fmt.Fprintf(w, "<%d>%s\n", p, text)
			return
		}
		fmt.Fprintf(w, "%s %s\n", now().UTC().Format(time.RFC3339), text)
	}
}

// Printable keeps foreign text from steering the terminal: an impostor's certificate has
// names in it, and error messages repeat them. Lines stay lines.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t': // before what cobra suggests
			return ' '
		case r == '\n' || unicode.IsPrint(r):
			return r
		}
		return '?'
	}, text)
}

// IsJournal reports whether a file leads to the journal: JOURNAL_STREAM (systemd.exec(5))
// names its device and inode.
func IsJournal(f *os.File, stream string) bool {
	var st syscall.Stat_t
	if stream == "" || syscall.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
