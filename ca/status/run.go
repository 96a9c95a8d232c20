package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// Run keeps the CRLs fresh until ctx ends. It signs every shard once at the start,
// whatever its age: a process that died between recording a revocation and publishing
// it is made good by that. From then on it signs what is missing, an hour old or left
// behind by a failed publication. Failures are tried again, after a second at first
// and a minute at most; the last good lists are served meanwhile.
func (s *Service) Run(ctx context.Context) {
	const tick = time.Minute
	started, first := s.now().Truncate(time.Second), true
	backoff := time.Second
	for {
		oldest := s.now().Add(-resignAfter)
		if first {
			oldest = started
		}
		wait := tick
		if err := s.refresh(ctx, oldest); err == nil {
			first, backoff = false, time.Second
		} else if ctx.Err() == nil {
			s.log.Error("some CRLs could not be renewed; the last ones are served", "error", err, "again_in", backoff)
			wait, backoff = backoff, min(2*backoff, tick)
		}
		if !s.pause(ctx, wait, backoff) {
			return
		}
	}
}

// pause waits, less long if a publication fails meanwhile. It reports whether ctx goes on.
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
			wake = nil // once: failing again and again must not put it off for ever
		}
	}
}

// refresh publishes every shard that is missing, behind, or signed before oldest (or,
// after the clock went back, in the future).
func (s *Service) refresh(ctx context.Context, oldest time.Time) error {
	var failed error
	for name := range s.issuers {
		shards, err := s.store.Shards(ctx, name, s.now().Add(-crlLife))
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("shards of %s: %w", name, err))
			continue
		}
		for _, number := range shards {
			failed = errors.Join(failed, s.refreshShard(ctx, number, oldest))
		}
	}
	return failed
}

func (s *Service) refreshShard(ctx context.Context, name record.Shard, oldest time.Time) error {
	sh, err := s.shard(name)
	if err != nil {
		return err
	}
	if sh.newest.Load() == nil {
		if err := s.load(ctx, sh); err != nil {
			return err
		}
	}
	l := sh.newest.Load()
	if l != nil && !sh.behind.Load() && !l.ThisUpdate.Before(oldest) && !l.ThisUpdate.After(s.now()) {
		return nil
	}
	return s.publish(ctx, sh)
}
