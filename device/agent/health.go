package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/wire"
)

// Status is what is on file about a device and the outcome of the agent's work.
type Status struct {
	device.Status
	// Healthy: the device has a working certificate that it can use and renew. Unhealthy says why
	// not.
	Healthy   bool   `json:"healthy"`
	Unhealthy string `json:"unhealthy,omitempty"`
	// Next is what the agent does next; empty if it cannot do anything.
	Next    string        `json:"next,omitempty"`
	NextAt  time.Time     `json:"next_at,omitzero"`
	Outcome state.Outcome `json:"outcome"`
	// Volatile says why the state folder will be lost when the power goes.
	Volatile string `json:"volatile,omitempty"`
	// Agent is the process that works in the folder, or runs as its agent; empty if there is
	// none.
	Agent string `json:"agent,omitempty"`
	// Unreadable says why the state could not be read.
	Unreadable string `json:"unreadable,omitempty"`
}

// Status reads what is on file, without TPM or server.
func (a *Agent) Status() Status {
	read, now, err := a.read()
	s := Status{Status: read, Outcome: a.outcome(), Volatile: a.dir().Volatile()}
	if err != nil {
		s.Unreadable = err.Error()
	}
	if h := a.dir().Holder(); h != nil && h.PID != os.Getpid() {
		s.Agent = fmt.Sprintf("process %d (%s)", h.PID, h.Command)
	}
	s.Unhealthy = s.unhealthy(now)
	s.Healthy = s.Unhealthy == ""
	if next := a.next(read, err, s.Outcome, now); next.act != enrol || a.canEnrol() {
		s.Next, s.NextAt = string(next.act), next.at
	}
	return s
}

// unhealthy says why the device cannot use its certificate, or not for much longer; empty if it
// can.
func (s *Status) unhealthy(now time.Time) string {
	failure, failed := s.Outcome.Failure, ""
	if failure != nil {
		failed = ": " + failure.Detail
	}
	switch {
	case s.Unreadable != "":
		return s.Unreadable
	case s.Condition == device.NotEnrolled:
		return "the device is not enrolled" + failed
	case s.Outcome.Final != nil:
		return "refused for good: " + s.Outcome.Final.Detail
	case s.LDevID == nil:
		return "there is no working certificate yet" + failed
	case s.Condition == device.Expired:
		return "the working certificate has ended" + failed
	case failure != nil && failure.Code == codeTPM:
		return "the key cannot be used" + failed
	case failure != nil && refuses(failure.Code):
		return "the server refuses this device" + failed
	case failure != nil && now.After(s.RenewAfter.Add(s.LDevID.NotAfter.Sub(s.RenewAfter)/2)):
		return "the renewal is long due" + failed
	}
	return ""
}

// refuses reports whether a code is a server's refusal of the device, and not a temporary
// condition.
func refuses(code string) bool {
	switch code {
	case wire.CodeUnavailable, wire.CodeTurn, wire.CodeInternal, wire.CodeTooOften, wire.CodeSession:
		return false
	}
	return (&WaitError{Failure: state.Failure{Code: code}}).Class() == Refused
}

// boot identifies the current boot; empty if the kernel does not say.
var boot = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
})

// publish updates the files for monitoring and systemd's status line.
func (a *Agent) publish() {
	s := a.Status()
	a.Systemd.Status(s.line())
	if a.HealthFile != "" {
		a.write(a.HealthFile, s.health())
	}
	if a.MetricsFile != "" {
		a.write(a.MetricsFile, s.metrics(a.Version))
	}
}

// write replaces a file for monitoring. It logs each reason for failing once.
func (a *Agent) write(path string, text []byte) {
	err := durable.Replace(path, text, 0o644)
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // it has the path of a temporary file
	}
	if err == nil {
		return
	}
	if complaint := fmt.Sprintf("%s cannot be written: %v", path, err); complaint != a.unwritten {
		a.unwritten = complaint
		a.log(Warning, "%s", complaint)
	}
}

// line is the status in one line.
func (s *Status) line() string {
	text := cmp.Or(s.Unhealthy, s.Condition)
	if s.Device != "" {
		text = s.Device + ": " + text
	}
	if !s.NextAt.IsZero() {
		text += fmt.Sprintf("; %s at %s", s.Next, s.NextAt.UTC().Format(time.RFC3339))
	}
	return text
}

// health is the health file: one word in the first line, then the output of status --json.
func (s *Status) health() []byte {
	word := "healthy"
	if !s.Healthy {
		word = "unhealthy"
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return []byte(word + "\n")
	}
	return append([]byte(word+"\n"), append(text, '\n')...)
}

// metrics is a file for the node exporter's textfile collector (Prometheus text format
// 0.0.4).
func (s *Status) metrics(version string) []byte {
	var b bytes.Buffer
	gauge := func(name, help, labels string, value any) {
		fmt.Fprintf(&b, "# HELP hallmark_device_%s %s\n# TYPE hallmark_device_%s gauge\nhallmark_device_%s%s %v\n", name, help, name, name, labels, value)
	}
	moment := func(name, help string, t time.Time) {
		if !t.IsZero() {
			gauge(name+"_timestamp_seconds", help, "", t.Unix())
		}
	}
	gauge("info", "Names of the device and of its program.", fmt.Sprintf(`{device="%s",version="%s",condition="%s"}`, label(s.Device), label(version), label(s.Condition)), 1)
	gauge("healthy", "Whether the device holds a working certificate that it can use and keep fresh.", "", number(s.Healthy))
	if s.LDevID != nil {
		moment("certificate_not_before", "Begin of the working certificate.", s.LDevID.NotBefore)
		moment("certificate_not_after", "End of the working certificate.", s.LDevID.NotAfter)
	}
	moment("renew_after", "When the working certificate is to be renewed.", s.RenewAfter)
	moment("contact", "When the server last accepted the device.", s.Outcome.Contact)
	moment("attempt", "When the agent last tried something.", s.Outcome.Attempt)
	moment("next", "When the agent tries something again.", s.NextAt)
	gauge("failures", "Failures in a row.", "", s.Outcome.Failures)
	gauge("refused_for_good", "Whether the server has refused the device for good.", "", number(s.Outcome.Final != nil))
	gauge("hook_failures", "Failures of the hooks after the last swap.", "", len(s.Outcome.HookFailures))
	gauge("trust_bundle", "Number of the trust bundle on file.", "", s.Trust)
	return b.Bytes()
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// label escapes a label's value.
var label = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace
