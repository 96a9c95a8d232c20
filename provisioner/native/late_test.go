package native_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/simtpm"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// late lets one step begin when the time that a request has is over.
type late struct {
	record.Store
	step string
}

func (l *late) by(ctx context.Context, step string) (context.Context, context.CancelFunc) {
	if step != l.step {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, time.Now())
}

func (l *late) Admit(ctx context.Context, q record.Query, j record.Judge) (record.Device, error) {
	ctx, cancel := l.by(ctx, "admit")
	defer cancel()
	return l.Store.Admit(ctx, q, j)
}

func (l *late) Holder(ctx context.Context, issuer, serial string) (record.Device, error) {
	ctx, cancel := l.by(ctx, "holder")
	defer cancel()
	return l.Store.Holder(ctx, issuer, serial)
}

func (l *late) ReserveShard(ctx context.Context, issuer string, want, capacity int64) (int64, int64, error) {
	ctx, cancel := l.by(ctx, "reserve")
	defer cancel()
	return l.Store.ReserveShard(ctx, issuer, want, capacity)
}

func (l *late) Intend(ctx context.Context, intents []record.Certificate, stands func([]*record.Certificate) []bool) error {
	ctx, cancel := l.by(ctx, "intend")
	defer cancel()
	return l.Store.Intend(ctx, intents, stands)
}

func (l *late) Complete(ctx context.Context, signed []record.Certificate, e record.Event) error {
	ctx, cancel := l.by(ctx, "complete")
	defer cancel()
	return l.Store.Complete(ctx, signed, e)
}

// A device that met the server's time limit is told to come again, whatever was being done.
func TestServerRunsOutOfTime(t *testing.T) {
	slow := &late{}
	i := install(t, settings{wrap: func(s record.Store) record.Store { slow.Store = s; return slow }})
	for _, step := range []string{"reserve", "admit", "intend", "complete", "holder"} {
		u := i.unit(t, simtpm.Options{})
		try := func() error { _, err := u.Enrol(i.ticket(t, nil), "SN-"+step); return err }
		if step == "holder" {
			if err := try(); err != nil {
				t.Fatal(err)
			}
			try = func() error { _, err := u.Renew(u.IDevID); return err }
		}
		slow.step = step
		err := try()
		p := new(wire.Problem)
		if !errors.As(err, &p) || p.Status != http.StatusServiceUnavailable || p.Code != wire.CodeUnavailable {
			t.Errorf("%s: %v: %+v", step, err, p)
		}
		slow.step = ""
		if err := try(); err != nil {
			t.Errorf("%s, again: %v", step, err)
		}
	}
}

// Nor is a device on a line that stalls told that its message is malformed.
func TestMessageRunsOutOfTime(t *testing.T) {
	i := install(t, settings{impatient: true})
	for _, path := range []string{wire.PathTime, wire.PathEnrol, wire.PathPoll} {
		c, err := tls.Dial("tcp", i.server.Address, &tls.Config{RootCAs: i.server.Roots, ServerName: i.server.Name})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", path)
		got, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s", path, got.Status)
		}
	}
}
