package party

import (
	"context"
	"net/http"
	"sync"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/wire"
)

// maxStreams is how many streams one relying party may have open: its relay has one, and a connection
// that broke unnoticed is gone within a minute. Open streams keep their place: relays that share a
// certificate would otherwise push each other out for ever, and none of them would say why.
const maxStreams = 8

// follow serves the stream of changes for as long as its follower is recognised.
func (s *Service) follow(_ context.Context, c *gate.Call) (any, error) {
	name, connection := c.Caller.Name, c.Request.TLS
	leave := s.streams.enter(name)
	if leave == nil {
		return nil, gate.Refuse(http.StatusTooManyRequests, wire.CodeStreams,
			"give each relay a name and a certificate of its own: hallmark relying-party invite NAME", "%q follows the feed %d times already", name, maxStreams)
	}
	still := func(ctx context.Context) bool {
		_, err := s.callers().Recognise(ctx, connection)
		return err == nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer leave()
		ctx, cancel := context.WithTimeout(r.Context(), c.Caller.Certificate.NotAfter.Sub(c.Now))
		defer cancel()
		s.Feed(still).ServeHTTP(w, r.WithContext(ctx))
	}), nil
}

// streams counts those that are open, by relying party. The zero value counts none.
type streams struct {
	mu   sync.Mutex
	open map[string]int
}

// enter takes a place and returns the function that gives it up; nil if there is none.
func (s *streams) enter(name string) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[name] >= maxStreams {
		return nil
	}
	if s.open == nil {
		s.open = map[string]int{}
	}
	s.open[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[name]--; s.open[name] == 0 {
			delete(s.open, name)
		}
	}
}
