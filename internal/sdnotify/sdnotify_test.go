package sdnotify

import (
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "60000000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	n := New()
	if os.Getenv("NOTIFY_SOCKET") != "" || n.Rest() != 30*time.Second {
		t.Fatalf("rests for %v", n.Rest())
	}
	n.Ready()
	n.Status("one\ntwo")
	n.Stopping()
	for _, want := range []string{"READY=1", "STATUS=one two\nWATCHDOG=1", "STOPPING=1"} {
		text := make([]byte, 100)
		size, err := l.Read(text)
		if err != nil || string(text[:size]) != want {
			t.Fatalf("%q, %v", text[:size], err)
		}
	}
	none := New()
	none.Ready()
	none.Status("nobody listens")
	if none != nil || none.Rest() != math.MaxInt64 {
		t.Fatal("somebody is told")
	}
	// Another process's watchdog is none of ours, and an absent manager no reason to fail.
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "60000000")
	t.Setenv("WATCHDOG_PID", "1")
	if n := New(); n.Rest() != math.MaxInt64 {
		t.Fatalf("rests for %v", n.Rest())
	}
	t.Setenv("NOTIFY_SOCKET", path+"-gone")
	if New() != nil {
		t.Fatal("a socket that is not there")
	}
}
