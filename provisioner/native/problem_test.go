package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// TestWhatIsLogged: a request that ran into its time limit is the server's failure, for now; one
// whose device has hung up is nobody's.
func TestWhatIsLogged(t *testing.T) {
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	for _, c := range []struct {
		ctx  context.Context
		want bool
	}{{late, true}, {gone, false}} {
		var log bytes.Buffer
		h := &handler{Config: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}}
		w := httptest.NewRecorder()
		h.fail(w, httptest.NewRequestWithContext(c.ctx, "POST", wire.PathRenew, nil), c.ctx.Err())
		if strings.Contains(log.String(), "request failed") != c.want {
			t.Errorf("%v is logged as %q", c.ctx.Err(), log.String())
		}
		if c.want && (w.Code != 503 || w.Header().Get("Retry-After") == "") {
			t.Errorf("%v is answered by %d, %v", c.ctx.Err(), w.Code, w.Header())
		}
	}
}

// TestUnavailable: a certificate that was signed and could not be recorded is not the fault of
// the key that signed it.
func TestUnavailable(t *testing.T) {
	for err, want := range map[error]string{
		errors.New("the HSM is away"): "the CA cannot sign now",
		record.ErrUnavailable:         "the record cannot be written now",
	} {
		if p := problem(fmt.Errorf("%w: %w", provisioner.ErrNotSigned, err)); p.Status != 503 || p.Detail != want {
			t.Errorf("%v: %d, %s", err, p.Status, p.Detail)
		}
	}
}

// TestWrongListener: an operator who asks where devices do is told.
func TestWrongListener(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(nil, Config{Log: slog.New(slog.DiscardHandler)}).ServeHTTP(w, httptest.NewRequest("GET", "/v1/whoami", nil))
	if w.Code != 404 || !strings.Contains(w.Body.String(), "this address is for devices and relays") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}
