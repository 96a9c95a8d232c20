package native

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// TestTheTimeKeyFails: that is the server's fault and not the device's, is logged, and is
// not for strangers to read.
func TestTheTimeKeyFails(t *testing.T) {
	var log bytes.Buffer
	h := Handler(nil, Config{Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil)),
		SignTime: func([]byte, time.Time) (wire.TimeAnswer, error) {
			return wire.TimeAnswer{}, errors.New("slot 3: token removed")
		}})
	for size, want := range map[int]int{wire.MinNonce - 1: http.StatusBadRequest, wire.MinNonce: http.StatusInternalServerError, wire.MaxNonce + 1: http.StatusBadRequest} {
		log.Reset()
		text, err := json.Marshal(wire.TimeRequest{Nonce: make([]byte, size)})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, wire.PathTime, bytes.NewReader(text)))
		if w.Code != want || strings.Contains(w.Body.String(), "token") || strings.Contains(log.String(), "token") != (want >= 500) {
			t.Errorf("nonce of %d bytes: %d %s, logged %q", size, w.Code, w.Body, log.String())
		}
	}
}
