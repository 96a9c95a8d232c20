package fetch

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A list takes as long as it keeps coming; whoever stops, or sends a byte now and then, is left.
func TestSlow(t *testing.T) {
	const part = 1 << 16
	for _, c := range []struct {
		name  string
		parts int
		every time.Duration
		size  int
		rests time.Duration // behind the last
		good  bool
		in    time.Duration // at most
	}{
		{"1 Mbit/s", 320, part * time.Second / 125_000, part, 0, true, 4 * time.Minute},
		{"silent from the start", 1, time.Hour, part, 0, false, Patience},
		{"a byte a second", 1 << 20, time.Second, 1, 0, false, 2 * Patience},
		{"32 kbit/s", 1 << 20, part * time.Second / 4000, part, 0, false, 2 * Patience},
		{"half, and then nothing", 80, 0, part, time.Hour, false, Patience},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				body, _, err := Get(t.Context(), says(func(w io.Writer) {
					for range c.parts {
						time.Sleep(c.every)
						if _, err := w.Write(make([]byte, c.size)); err != nil {
							return
						}
					}
					time.Sleep(c.rests)
				}), "/", "", 128<<20)
				if took := time.Since(began); took > c.in {
					t.Errorf("after %v, not %v", took, c.in)
				}
				if c.good && (err != nil || len(body) != c.parts*c.size) || !c.good && (err == nil || err.Error() != errSlow.Error()) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
				time.Sleep(2 * time.Hour) // the server ends as well
			})
		})
	}
}

// says is a server that answers everything so.
func says(answer func(w io.Writer)) Send {
	return func(ctx context.Context, _, _ string, _ http.Header, _ io.Reader) (*http.Response, error) {
		r, w := io.Pipe()
		context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
		go func() { answer(w); w.Close() }()
		return &http.Response{StatusCode: http.StatusOK, Body: r}, nil
	}
}

func TestTooLong(t *testing.T) {
	answer := says(func(w io.Writer) { io.WriteString(w, "12345678") })
	if _, _, err := Get(t.Context(), answer, "/list", "", 7); err == nil || !strings.Contains(err.Error(), "/list has more than 7 bytes") {
		t.Error(err)
	}
	if body, _, err := Get(t.Context(), answer, "/list", "", 8); err != nil || string(body) != "12345678" {
		t.Errorf("%q, %v", body, err)
	}
}
