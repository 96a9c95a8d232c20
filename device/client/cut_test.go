package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/wire"
)

// scissors is a relay that cuts each connection after so many bytes of the server's; a
// negative number cuts none.
type scissors struct{ after atomic.Int64 }

func (s *scissors) between(t *testing.T, server string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.carry(c, server)
		}
	}()
	return l.Addr().String()
}

func (s *scissors) carry(c net.Conn, server string) {
	defer c.Close()
	up, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer up.Close()
	go io.Copy(up, c)
	from := io.Reader(up)
	if after := s.after.Load(); after >= 0 {
		from = io.LimitReader(up, after)
	}
	io.Copy(c, from)
}

// A connection that is cut after any byte of the server's is a connection that was lost:
// never half an answer, and never anything worse.
func TestCutAfterEachByte(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	want := wire.Answer{Identity: &wire.Identity{Device: "d:1", Model: "d", Serial: "1"}}
	s.answer[wire.PathActivate] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		json.NewEncoder(w).Encode(want)
	}
	cut := new(scissors)
	cut.after.Store(-1)
	s.bundle.Servers = []string{"https://" + cut.between(t, s.url[len("https://"):])}
	ask := func() (answer *wire.Answer, received int64, err error) {
		c := newClient(t, s, func(c *client.Config) { c.Servers, c.Trust = s.bundle.Servers, s.signed() })
		answer, err = c.Activate(t.Context(), wire.Activate{Session: []byte{1}}, nil)
		_, received = c.Bytes()
		return answer, received, err
	}
	_, total, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	whole := int64(-1) // the first cut after which the answer was there
	for n := range total {
		cut.after.Store(n)
		got, _, err := ask()
		if err == nil {
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			if !bytes.Equal(a, b) {
				t.Fatalf("cut after %d bytes of %d: half an answer: %s", n, total, a)
			}
			if whole < 0 {
				whole = n
			}
			continue
		}
		var lost *client.NetworkError
		if !errors.As(err, &lost) || lost.Code != client.CodeLost && lost.Code != client.CodeAnswer {
			t.Fatalf("cut after %d bytes of %d: %v", n, total, err)
		}
	}
	if total < 1000 || whole >= 0 && whole < total-100 {
		t.Fatalf("%d bytes in all, and enough after %d", total, whole)
	}
}
