// Package sdnotify tells systemd how a service does (sd_notify(3)).
package sdnotify

import (
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Notifier speaks to the service manager. A nil Notifier tells nobody.
type Notifier struct {
	conn net.Conn
	// watchdog is within what time systemd wants to hear that the service lives; 0: never.
	watchdog time.Duration
}

// New is the notifier of a process that systemd waits for, and nil for others. It
// takes the variables from the environment: they are not for the children.
func New() *Notifier {
	address, usec, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(name)
	}
	if address == "" {
		return nil
	}
	// Go takes a leading "@" for the abstract namespace, as systemd does.
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return nil
	}
	n := &Notifier{conn: conn}
	if us, err := strconv.ParseInt(usec, 10, 64); err == nil && us > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(us) * time.Microsecond
	}
	return n
}

// send tells the assignments; a service manager that does not listen is no reason to fail.
func (n *Notifier) send(lines ...string) {
	if n != nil {
		n.conn.Write([]byte(strings.Join(lines, "\n")))
	}
}

// Ready tells that the service has begun.
func (n *Notifier) Ready() { n.send("READY=1") }

// Stopping tells that it ends.
func (n *Notifier) Stopping() { n.send("STOPPING=1") }

// Status tells what it does, and that it lives.
func (n *Notifier) Status(line string) {
	n.send("STATUS="+strings.ReplaceAll(line, "\n", " "), "WATCHDOG=1")
}

// Rest is how long the service may be silent: half of what systemd allows, as
// sd_watchdog_enabled(3) advises.
func (n *Notifier) Rest() time.Duration {
	if n == nil || n.watchdog == 0 {
		return math.MaxInt64
	}
	return n.watchdog / 2
}
