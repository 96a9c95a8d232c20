package party

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/wire"
)

// One relying party does not take everybody's streams; one that ends makes room for its
// next; and a stream ends with the certificate that it was opened with.
func TestStreamsOfOneRelyingParty(t *testing.T) {
	s := &Service{Config: Config{Feed: func(func(context.Context) bool) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	}}}
	now := time.Now()
	follow := func(name string, ends time.Time) (*http.Request, http.Handler, error) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, wire.PathChanges, nil)
		answer, err := s.follow(t.Context(), &gate.Call{Request: r, Now: now, Caller: gate.Caller{Name: name, Certificate: &x509.Certificate{NotAfter: ends}}})
		stream, _ := answer.(http.Handler)
		return r, stream, err
	}
	first, stream, err := follow("broker-1", now.Add(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	for range maxStreams - 1 {
		if _, _, err := follow("broker-1", now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	var p *wire.Problem
	if _, _, err := follow("broker-1", now.Add(time.Hour)); !errors.As(err, &p) || p.Code != wire.CodeStreams || p.Status != http.StatusTooManyRequests || p.Hint == "" {
		t.Errorf("one stream too many: %v", err)
	}
	if _, _, err := follow("broker-2", now.Add(time.Hour)); err != nil {
		t.Errorf("another relying party: %v", err)
	}
	stream.ServeHTTP(httptest.NewRecorder(), first) // returns: its certificate has ended
	if _, _, err := follow("broker-1", now.Add(time.Hour)); err != nil {
		t.Errorf("in the place of one that ended: %v", err)
	}
}
