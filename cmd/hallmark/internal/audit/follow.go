package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/wire"

	"github.com/hallmark-pki/hallmark/internal/durable"
	"github.com/hallmark-pki/hallmark/internal/plain"
)

// pause is how long follow waits when it has seen everything.
const pause = 2 * time.Second

func follow(a *terminal.App, version string) *cobra.Command {
	c := &cobra.Command{Use: "follow", Short: "Print events as they happen, for a log collector",
		Long: `Print every event as one line, and go on as new ones happen, until interrupted.

--format json is JSON Lines; syslog is RFC 5424 (facility 13, the event as JSON after
"@cee:"); cef is ArcSight's Common Event Format.

With --state FILE it remembers the last event that was delivered and goes on behind it
the next time; a crash may repeat events, and never loses one. --to sends each line to a
syslog server instead of printing it: tcp://HOST:PORT (octet counting, RFC 6587 §3.4.1),
udp://HOST:PORT or unix:PATH. Syslog acknowledges nothing: what such a server had not read
when it crashed is lost, so where each line counts, or the network is not trusted, print to
a local collector, which forwards over TLS.`,
		Example: "  hallmark audit follow --state /var/lib/hallmark/audit.seq >> audit.jsonl\n  hallmark audit follow --format cef --state audit.seq --to tcp://siem.example:514\n  hallmark audit follow --after 0 --once --format json",
		Args:    cobra.NoArgs, ValidArgsFunction: terminal.Nothing}
	format := c.Flags().String("format", "json", "json, syslog or cef")
	c.RegisterFlagCompletionFunc("format", terminal.Words("json", "syslog", "cef"))
	after := c.Flags().Int64("after", -1, "begin after this sequence number; 0 is the beginning (default: what --state remembers, else now)")
	state := c.Flags().String("state", "", "file that remembers the last event delivered")
	to := c.Flags().String("to", "", "send the lines to a syslog server instead of printing them")
	once := c.Flags().Bool("once", false, "end when everything so far is delivered, or cannot be")
	c.RunE = terminal.Run(func(c *cobra.Command, _ []string) error {
		line := formats[*format]
		if line == nil {
			return terminal.Usage(fmt.Errorf("--format %q: json, syslog or cef", *format))
		}
		cl, err := a.Open(c)
		if err != nil {
			return err
		}
		sink, err := openSink(*to, c.OutOrStdout(), *once, func(err error) { waiting(c.ErrOrStderr(), err) })
		if err != nil {
			return terminal.Usage(err)
		}
		defer sink.close()
		f := follower{client: cl, sink: sink, state: *state, once: *once, warn: c.ErrOrStderr(),
			line: func(e wire.Event) (string, error) { return line(cl.Server(), version, e) }}
		if f.last, err = f.begin(c.Context(), *after); err != nil {
			return err
		}
		return f.run(c.Context())
	})
	return c
}

// follower delivers events in order, each at least once.
type follower struct {
	client *client.Client
	sink   *sink
	line   func(wire.Event) (string, error)
	state  string
	once   bool
	warn   io.Writer
	last   int64
}

// begin is the sequence number behind which to begin.
func (f *follower) begin(ctx context.Context, after int64) (int64, error) {
	if after >= 0 {
		return after, nil
	}
	if f.state != "" {
		text, err := os.ReadFile(f.state)
		if err == nil {
			last, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err != nil || last < 0 {
				return 0, terminal.Hinted(fmt.Errorf("%s holds no sequence number", f.state), "give --after N once")
			}
			return last, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		return 0, nil // a collector that begins wants everything
	}
	newest, err := f.client.LastEvents(ctx, 1)
	if err != nil || len(newest.Items) == 0 {
		return 0, err
	}
	return newest.Items[0].Sequence, nil
}

// run delivers until ctx ends, or with once until there is nothing left. A server that
// is away is waited for: a collector that dies at every restart of the server is one
// that somebody must watch.
func (f *follower) run(ctx context.Context) error {
	for complained := false; ; {
		got, err := f.client.EventsAfter(ctx, f.last, wire.MaxPage)
		var away *client.Unreachable
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &away) && !f.once:
			if !complained {
				waiting(f.warn, away)
				complained = true
			}
		case err != nil:
			return err
		default:
			complained = false
			if err := f.deliver(ctx, got.Items); err != nil {
				return err
			}
			if len(got.Items) == wire.MaxPage {
				continue
			}
			if f.once {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func waiting(out io.Writer, err error) {
	fmt.Fprintln(out, "hallmark: waiting for", plain.Line(err.Error()))
}

func (f *follower) deliver(ctx context.Context, events []wire.Event) error {
	if len(events) == 0 {
		return nil
	}
	for _, e := range events {
		line, err := f.line(e)
		if err != nil {
			return err
		}
		if err := f.sink.write(ctx, line); err != nil {
			return err
		}
	}
	if err := f.sink.flush(); err != nil {
		return err
	}
	f.last = events[len(events)-1].Sequence
	return f.remember()
}

// remember notes the last number: a cut leaves the one before, or this one.
func (f *follower) remember() error {
	if f.state == "" {
		return nil
	}
	return durable.Replace(f.state, fmt.Appendln(nil, f.last), 0o600)
}

// sink is where lines go: standard output, or a syslog server.
type sink struct {
	out           *bufio.Writer
	network, addr string
	conn          net.Conn
	once          bool // a server that is away is not waited for
	warn          func(error)
}

// openSink does not connect yet. warn is told once when lines have to wait.
func openSink(to string, out io.Writer, once bool, warn func(error)) (*sink, error) {
	if to == "" {
		return &sink{out: bufio.NewWriter(out)}, nil
	}
	for prefix, network := range map[string]string{"tcp://": "tcp", "udp://": "udp", "unix:": "unixgram"} {
		addr, ok := strings.CutPrefix(to, prefix)
		if !ok {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil && network != "unixgram" || addr == "" {
			break
		}
		return &sink{network: network, addr: addr, once: once, warn: warn}, nil
	}
	return nil, fmt.Errorf("--to %q: tcp://HOST:PORT, udp://HOST:PORT or unix:PATH", to)
}

// write delivers one line. A broken connection is made anew once a second until ctx
// ends.
func (s *sink) write(ctx context.Context, line string) error {
	if s.out != nil {
		_, err := s.out.WriteString(line + "\n")
		return err
	}
	if s.network == "tcp" {
		line = strconv.Itoa(len(line)) + " " + line // RFC 6587 §3.4.1
	}
	for complained := false; ; {
		err := s.send(ctx, line)
		if err == nil {
			return nil
		}
		if errors.Is(err, syscall.EMSGSIZE) {
			return terminal.Hinted(fmt.Errorf("an event of %d bytes is too long for %s: %w", len(line), s.network, err), "send it with tcp://, or print it")
		}
		if s.close(); s.once {
			return terminal.Hinted(err, "with --state the next run begins with what was not delivered")
		}
		if !complained {
			s.warn(err)
			complained = true
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func (s *sink) send(ctx context.Context, line string) (err error) {
	if s.conn == nil {
		d := net.Dialer{Timeout: 10 * time.Second}
		if s.conn, err = d.DialContext(ctx, s.network, s.addr); err != nil {
			s.conn = nil
			return err
		}
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	_, err = io.WriteString(s.conn, line)
	return err
}

func (s *sink) flush() error {
	if s.out == nil {
		return nil
	}
	return s.out.Flush()
}

func (s *sink) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}
