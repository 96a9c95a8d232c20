package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// Run keeps the CRLs, and the OCSP answers in demand, fresh until ctx ends. It signs every shard
// once at the start, whatever its age, in case a process died between recording a revocation and
// publishing it. From then on it signs what is missing, an hour old, or left behind by a failed
// publication. Failures are retried, after a second at first and a minute at most; the last good
// lists are served meanwhile.
func (s *Service) Run(ctx context.Context) {
	const tick = time.Minute
	// Lists carry whole seconds: one of this second may be the previous process's.
	started, first := s.now().Truncate(time.Second).Add(time.Second), true
	backoff := time.Second
	for {
		oldest := s.now().Add(-resignAfter)
		if first {
			oldest = started
		}
		wait := tick
		if err := errors.Join(s.refresh(ctx, oldest), s.signAhead(ctx)); err == nil {
			first, backoff = false, time.Second
		} else if ctx.Err() == nil {
			s.log.Error("some CRLs or OCSP answers could not be renewed; the last ones are served", "error", err, "again_in", backoff)
			wait, backoff = backoff, min(2*backoff, tick)
		}
		if !s.pause(ctx, wait, backoff) {
			return
		}
	}
}

// pause waits, for a shorter time if a publication fails meanwhile. It reports whether ctx is
// still alive.
func (s *Service) pause(ctx context.Context, wait, afterFailure time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	wake := s.wake
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-wake:
			timer.Reset(min(wait, afterFailure))
			wake = nil // only once, or repeated failures would postpone it for ever
		}
	}
}

// refresh publishes every shard whose list is missing, behind, or signed before oldest (or in the
// future, after the clock was set back), and forgets shards that are no longer listed.
func (s *Service) refresh(ctx context.Context, oldest time.Time) error {
	var failed error
	var due []record.Shard
	for name := range s.issuers {
		shards, err := s.listed(ctx, name)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("shards of %s: %w", name, err))
			continue
		}
		s.forget(name, shards)
		for _, sh := range shards {
			is, err := s.due(ctx, sh, oldest)
			if is {
				due = append(due, sh)
			}
			failed = errors.Join(failed, err)
		}
	}
	if len(due) > 0 {
		failed = errors.Join(failed, s.Publish(ctx, due...))
	}
	return failed
}

// listed are the shards of an issuer that have a list, in order: those with certificates that
// expired less than crlLife ago, so that each appears on a last list, and the shard that will be
// opened next, so that its list is published before its first certificate.
func (s *Service) listed(ctx context.Context, issuer string) ([]record.Shard, error) {
	shards, err := s.store.Shards(ctx, issuer, s.now().Add(-crlLife))
	next := record.Shard{Issuer: issuer, Number: 1}
	if n := len(shards); n > 0 {
		next.Number = shards[n-1].Number + 1
	}
	return append(shards, next), err
}

// forget drops the shards of an issuer that are no longer listed.
func (s *Service) forget(issuer string, listed []record.Shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := listed[len(listed)-1].Number
	for name := range s.shards {
		if name.Issuer == issuer && name.Number < next && !slices.Contains(listed, name) {
			delete(s.shards, name)
		}
	}
}

func (s *Service) due(ctx context.Context, name record.Shard, oldest time.Time) (bool, error) {
	sh, err := s.shard(name)
	if err != nil {
		return false, err
	}
	if sh.newest.Load() == nil {
		if err := s.load(ctx, sh); err != nil {
			return false, err
		}
	}
	l := sh.newest.Load()
	return l == nil || sh.behind.Load() || l.ThisUpdate.Before(oldest) || l.ThisUpdate.After(s.now()), nil
}
