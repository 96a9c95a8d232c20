package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/wire"
)

var hostile = wire.Event{Sequence: 7, Time: time.Date(2026, 11, 22, 3, 0, 0, 42000, time.UTC), Actor: "operator:anna|x=y", Verb: "device.revoked",
	Object: "default:SN\\1", Reason: "line one\nrt=0 line two", Detail: map[string]string{"not_before": "a=b", "reason": "key-compromise"}}

// TestFormats: what a device or an operator wrote cannot become another field or line.
func TestFormats(t *testing.T) {
	want := map[string]string{
		"cef": `CEF:0|Hallmark|Hallmark|1.0|device.revoked|device revoked|7|rt=1795316400000 externalId=7 dvchost=ca:8444 suser=operator:anna|x\=y` +
			` duser=default:SN\\1 msg=line one\nrt\=0 line two hallmarknotbefore=a\=b hallmarkreason=key-compromise`,
		"syslog": `<108>1 2026-11-22T03:00:00.000042Z ca:8444 hallmark - device.revoked - @cee: `,
	}
	for name, line := range formats {
		got, err := line("ca:8444", "1.0", hostile)
		if err != nil || strings.ContainsAny(got, "\n\r") || !strings.HasPrefix(got, want[name]) {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, want[name])
		}
		if _, text, ok := strings.Cut(got, "@cee: "); ok || name == "json" {
			if !ok {
				text = got
			}
			var back wire.Event
			if err := json.Unmarshal([]byte(text), &back); err != nil || back.Reason != hostile.Reason {
				t.Errorf("%s does not come back: %v", name, err)
			}
		}
	}
	quiet := wire.Event{Time: hostile.Time, Verb: "device enrolled\nx"}
	if got, _ := syslogLine("", "", quiet); !strings.HasPrefix(got, "<109>1 2026-11-22T03:00:00.000042Z - hallmark - device_enrolled_x - @cee: ") {
		t.Error(got)
	}
}

// Whoever looks at lines on a terminal is not at the mercy of a serial number.
func TestFormatsAreShown(t *testing.T) {
	e := hostile
	e.Object, e.Detail = "SN\x1b[2J\u009b1m\u202e", map[string]string{"k=1 x\x1b[2J": "v\x7f\x00"}
	for name, line := range formats {
		if got, err := line("ca:8444", "1.0", e); err != nil || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%s: %q, %v", name, got, err)
		} else if name == "cef" && !strings.HasSuffix(got, " hallmarkk1_x_[2J=v??") {
			t.Error(got)
		}
	}
}

// What is too long for a datagram is too long the next time as well.
func TestTooLongForADatagram(t *testing.T) {
	collector, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	s, err := openSink("udp://"+collector.LocalAddr().String(), nil, false, func(err error) { t.Errorf("waits: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.write(ctx, strings.Repeat("x", 1<<17)); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}

// TestSinks sends over real sockets.
func TestSinks(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(t.TempDir(), "log")
	local, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	got := make(chan string, 2)
	go func() {
		c, err := tcp.Accept()
		if err != nil {
			return
		}
		r := bufio.NewReader(c)
		for range 2 { // octet counting: a line break inside is no end
			text, _ := r.ReadString(' ')
			n, _ := strconv.Atoi(strings.TrimSpace(text))
			b := make([]byte, n)
			io.ReadFull(r, b)
			got <- string(b)
		}
	}()
	for _, to := range []string{"tcp://" + tcp.Addr().String(), "unix:" + path} {
		s, err := openSink(to, nil, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"one", "two\nlines"} {
			if err := s.write(t.Context(), line); err != nil {
				t.Fatal(to, err)
			}
		}
		s.close()
	}
	for _, want := range []string{"one", "two\nlines"} {
		if v := <-got; v != want {
			t.Errorf("tcp: %q", v)
		}
		b := make([]byte, 100)
		n, _, err := local.ReadFrom(b)
		if err != nil || string(b[:n]) != want {
			t.Errorf("unix: %q, %v", b[:n], err)
		}
	}
	for _, bad := range []string{"tcp://nowhere", "unix:", "http://x:1", "x"} {
		if _, err := openSink(bad, nil, false, nil); err == nil {
			t.Errorf("%s is a sink", bad)
		}
	}
}

// A collector that is away is waited for, and not in silence.
func TestCollectorAway(t *testing.T) {
	told := make(chan error, 9)
	s, err := openSink("unix:"+filepath.Join(t.TempDir(), "away"), nil, false, func(err error) { told <- err })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // for two attempts
	defer cancel()
	if err := s.write(ctx, "line"); err == nil || len(told) != 1 {
		t.Errorf("told %d times: %v", len(told), err)
	}
}

// TestOnceDoesNotWait: a job of a timer fails, and the next goes on where it was.
func TestOnceDoesNotWait(t *testing.T) {
	s, err := openSink("unix:"+filepath.Join(t.TempDir(), "away"), nil, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write(t.Context(), "x"); err == nil {
		t.Error("delivered to nobody")
	}
}

// TestFollowResumes: the number is remembered after the lines are out, not before.
func TestFollowResumes(t *testing.T) {
	var out bytes.Buffer
	s, _ := openSink("", &out, false, nil)
	f := follower{sink: s, state: filepath.Join(t.TempDir(), "seq"), line: func(e wire.Event) (string, error) { return fmt.Sprint(e.Sequence), nil }}
	if last, err := f.begin(t.Context(), -1); err != nil || last != 0 {
		t.Fatal(last, err)
	}
	if err := f.deliver(t.Context(), []wire.Event{{Sequence: 3}, {Sequence: 5}}); err != nil || out.String() != "3\n5\n" {
		t.Fatal(out.String(), err)
	}
	if last, err := f.begin(t.Context(), -1); err != nil || last != 5 {
		t.Errorf("goes on behind %d, %v", last, err)
	}
	if last, err := f.begin(t.Context(), 1); err != nil || last != 1 {
		t.Errorf("--after: %d, %v", last, err)
	}
	f.sink = &sink{out: bufio.NewWriterSize(broken{}, 16)}
	if err := f.deliver(t.Context(), []wire.Event{{Sequence: 6}}); err == nil {
		t.Error("a line that was not written is delivered")
	}
	if last, _ := f.begin(t.Context(), -1); last != 5 {
		t.Errorf("a line that was not written is remembered: %d", last)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestCount(t *testing.T) {
	now := time.Now()
	all := []Access{{Operator: "anna"}, {Operator: "bo"}}
	at := map[string]int{"anna": 0, "bo": 1}
	for _, e := range []wire.Event{
		{Actor: "operator:anna", Verb: "operator.invited", Object: "bo", Time: now.Add(-time.Hour)},
		{Actor: "operator:bo", Verb: "device.revoked", Time: now},
		{Actor: "operator:bo", Verb: "operator.refused", Time: now},
		{Actor: "device:anna", Verb: "device.renewed", Time: now},
		{Actor: "operator:gone", Verb: "device.revoked", Time: now},
	} {
		count(all, at, e, now.Add(-time.Minute))
	}
	if v := all[1]; v.InvitedBy != "anna" || v.Acts != 1 || v.Refused != 1 || !v.LastActed.Equal(now) {
		t.Errorf("bo: %+v", v)
	}
	if v := all[0]; v.Acts != 0 || !v.LastActed.IsZero() {
		t.Errorf("anna acted before the period: %+v", v)
	}
}

// What opens a review opens no link by it.
func TestCSVHoldsNoFormula(t *testing.T) {
	c := &cobra.Command{}
	var out bytes.Buffer
	c.SetOut(&out)
	if err := writeCSV(c, []Access{{Operator: "=HYPERLINK(1)", State: "+1", InvitedBy: "@x\x1b", Certificates: []string{"-1", "2"}}}); err != nil {
		t.Fatal(err)
	}
	if _, row, _ := strings.Cut(out.String(), "\n"); row != "'=HYPERLINK(1),'+1,,'@x?,,'-1 2,,0,0,\n" {
		t.Error(row)
	}
}
