package party

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A list reaches a relay over a line that is too slow for the listener's own limit.
func TestSlowLine(t *testing.T) {
	list := bytes.Repeat([]byte("list"), 8<<20) // more than is sent before it is read
	s := &Service{Config: Config{Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
	server := httptest.NewUnstartedServer(s.unhurried(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(list))
	})))
	server.Config.WriteTimeout = 100 * time.Millisecond
	server.Start()
	defer server.Close()
	r, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	time.Sleep(5 * server.Config.WriteTimeout)
	if text, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(text, list) {
		t.Errorf("%d bytes of %d, %v", len(text), len(list), err)
	}
}
