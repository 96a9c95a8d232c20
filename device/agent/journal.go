package agent

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/internal/plain"
)

// Priority is the priority of a log line, as in syslog(3).
type Priority int

const (
	Error   Priority = 3
	Warning Priority = 4
	Notice  Priority = 5
	Info    Priority = 6
)

// maxText bounds how much of an error is kept and logged, in bytes: servers may answer at length,
// flash wears out, and an outcome that is too large cannot be read back.
const maxText = 1 << 10

// clip is the beginning of a text, in one printable line: a server's text must neither fake log
// lines nor control the terminal on which the health file or systemd's status is shown.
func clip(text string) string {
	text = strings.ReplaceAll(plain.Text(text), "\n", " ")
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// NewLog writes lines to w: for the journal with their priority (sd-daemon(3)), otherwise with
// the time.
func NewLog(w io.Writer, journal bool, now func() time.Time) func(Priority, string) {
	var mu sync.Mutex
	return func(p Priority, text string) {
		mu.Lock()
		defer mu.Unlock()
		text = clip(text)
		if journal {
			fmt.Fprintf(w, "<%d>%s\n", p, text)
			return
		}
		fmt.Fprintf(w, "%s %s\n", now().UTC().Format(time.RFC3339), text)
	}
}

// IsJournal reports whether a file is connected to the journal: then JOURNAL_STREAM
// (systemd.exec(5)) holds its device and inode.
func IsJournal(f *os.File, stream string) bool {
	var st syscall.Stat_t
	if stream == "" || syscall.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
