// Package relay runs beside a relying party, a broker, gateway or proxy that accepts working
// certificates, and makes sure that what is revoked is refused there.
//
// It follows the feed of changes, keeps files fresh (CRLs, deny-lists, a filter), has the
// program take them up, and only then reports that a change is enforced. A file is
// replaced by what was verified, whole, or not at all; what cannot be done is said: in the
// log, in the status, and to the server.
package relay

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/internal/sdnotify"
	"github.com/hallmark-pki/hallmark/relay/disk"
	"github.com/hallmark-pki/hallmark/relay/fetch"
	"github.com/hallmark-pki/hallmark/relay/stream"
	"github.com/hallmark-pki/hallmark/wire"
)

// Times that a relay keeps to.
const (
	// pollEvery is how often lists are asked for, changed or not: lists are signed anew
	// without a change, and the connection stays warm for when there is one.
	pollEvery = 20 * time.Second
	// baseEvery is how often everything is fetched anew, whatever the stream said.
	baseEvery = time.Hour
	// DefaultTimeout bounds a command.
	DefaultTimeout = 30 * time.Second
	maxBackoff     = time.Minute
)

// Config is what a relay is made of.
type Config struct {
	// Dir is the relay's own folder: its lock, its status, what it trusts.
	Dir string
	// Send makes one exchange with the server as this relay (admin/client.Client.Send).
	Send fetch.Send
	// Pinned are the SHA-256 of the infrastructure roots, which sign what to trust.
	Pinned [][32]byte
	// Files to keep fresh: formats (wire.FormatCRL …) and paths.
	Files []File
	// Reload is a command for the shell that makes the program take up changed files; Each
	// one that is run for every change, with the change in its environment. Either may be
	// empty; Timeout bounds each run, 0 means DefaultTimeout.
	Reload, Each string
	Timeout      time.Duration
	// Fail is wire.FailOpen or wire.FailClosed.
	Fail string
	// Program is what the files are for, Version the relay's; both only reported.
	Program, Version string
	Log              *slog.Logger
	// Systemd is notified of the relay's state; nil notifies nobody.
	Systemd *sdnotify.Notifier
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// File is one file that is kept fresh.
type File struct{ Format, Path string }

// Check says what is wrong with a configuration, and what to write instead.
func (c *Config) Check() error {
	formats := []string{wire.FormatRoots, wire.FormatCRL, wire.FormatSerials, wire.FormatMap, wire.FormatDenylist, wire.FormatFilter}
	paths := map[string]bool{}
	for _, f := range c.Files {
		switch clean := filepath.Clean(f.Path); {
		case !slices.Contains(formats, f.Format):
			return fmt.Errorf("there is no format %q: write some of %s", f.Format, strings.Join(formats, ", "))
		case f.Path == "":
			return fmt.Errorf("write %s: the file's name is missing, as in %s=/etc/hallmark/%s", f.Format, f.Format, f.Format)
		case paths[clean]:
			return fmt.Errorf("%s is to be written twice", clean)
		default:
			paths[clean] = true
		}
		if f.Format == wire.FormatCRL && c.Fail == wire.FailOpen {
			return errors.New("every program refuses everybody once a CRL has ended, so a CRL cannot fail open: write serials, nginx-map or denylist instead, or say closed")
		}
	}
	switch {
	case len(c.Files) == 0 && c.Each == "":
		return errors.New("there is nothing to do: name files to write, or a command for each change")
	case c.Fail != wire.FailOpen && c.Fail != wire.FailClosed:
		return errors.New("say what shall happen when the lists end without contact: fail closed (nobody is let in) or open (whoever was not denied before is)")
	}
	return nil
}

// Relay is one relay at work; its methods are Run's alone.
type Relay struct {
	Config
	roots     *x509.CertPool
	trusted   []byte             // the same, PEM
	issuers   []string           // sorted
	sources   map[string]*source // by issuer
	pending   []wire.Change      // seen, not yet enforced
	queued    []stream.Event     // received, and looked at once what is pending is enforced
	events    chan stream.Event  // the stream
	failed    chan error         // why it ended
	lost      bool               // the stream no longer reaches back to state.Number
	owed      int64              // the command has not been run for all changes up to it
	seen      int64              // the position in the stream
	fetched   time.Time          // when everything was last fetched; zero: it is due now
	unnamed   map[string]bool    // issuers of changes whom the server did not name
	installed map[string][]byte  // contents of files, by path, as the program last took them up
	state     state
	said      string // the problem that was last said
	ready     bool   // the service manager was told
}

// New prepares a relay. It fails if another relay uses the folder or writes one of the files.
func New(c Config) (r *Relay, unlock func(), err error) {
	if err := c.Check(); err != nil {
		return nil, nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	unlockDir, err := lock(c.Dir)
	if err != nil {
		return nil, nil, err
	}
	unlockFiles, err := lockFiles(c.Files)
	if err != nil {
		unlockDir()
		return nil, nil, err
	}
	unlock = func() { unlockFiles(); unlockDir() }
	r = &Relay{Config: c, sources: map[string]*source{}, unnamed: map[string]bool{}}
	if r.state, err = readState(c.Dir); err == nil {
		if c.Each == "" {
			r.state.Failing, r.state.Passed = nil, 0
		}
		err = r.loadRoots()
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	r.installed = disk.ReadAll(r.stale(nil)) // all that stand beside
	for _, f := range c.Files {
		if text, err := disk.Read(f.Path); err == nil {
			r.installed[f.Path] = text
		}
	}
	return r, unlock, nil
}

// Run works until ctx ends. Whatever fails is reported and tried again.
func (r *Relay) Run(ctx context.Context) error {
	_ = r.expire(ctx) // before the program is started, and Hallmark is waited for; it is said if that fails
	// Even while Hallmark cannot be reached: the files that are there are good for days.
	if missing := slices.ContainsFunc(r.Files, func(f File) bool { return r.installed[f.Path] == nil }); !missing {
		r.tellReady()
	}
	backoff, cut := time.Second, 0
	for {
		began := r.Now()
		err := r.session(ctx)
		if cut++; !errors.Is(err, errCut) {
			cut = 0
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil || 0 < cut && cut < 3: // all is due again, perhaps for every relay at once: the server may have reloaded
			pause(ctx, rand.N(time.Second/2))
			continue
		case r.Now().Sub(began) > maxBackoff:
			backoff = time.Second
		}
		r.problem(and(err, r.expire(ctx)))
		// Often it is the server that cannot be reached; then it is told later.
		if err := r.report(ctx); err != nil {
			r.Log.Debug("the problem could not be reported", "err", err)
		}
		// Half of it is random: relays that lost the same server must not return all at once.
		wait := backoff/2 + rand.N(backoff/2)
		backoff = min(2*backoff, maxBackoff)
		pause(ctx, wait)
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, wait time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

func and(a, b error) error {
	if a == nil || b == nil {
		return errors.Join(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}

// session fetches everything and then follows changes, until something fails or everything is due
// again (nil).
func (r *Relay) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := r.begin(ctx); err != nil {
		return err
	}
	r.events, r.failed, r.queued = make(chan stream.Event, 64), make(chan error, 1), nil
	go func(after int64, events chan<- stream.Event, failed chan<- error) {
		failed <- r.follow(ctx, after, events)
	}(r.seen, r.events, r.failed)
	if err := r.enforce(ctx, true); err != nil {
		return err
	}
	if err := r.again(ctx); err != nil {
		return err
	}
	poll, polled := time.NewTicker(pollEvery), time.Now()
	defer poll.Stop()
	for {
		for len(r.queued) > 0 {
			if err := r.take(ctx); err != nil || r.fetched.IsZero() {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-r.failed:
			var p *wire.Problem
			r.lost = errors.As(err, &p) && p.Code == wire.CodeFeedGone
			return err
		case e := <-r.events:
			r.queued = stream.Add(r.queued, e)
		case <-r.due(polled):
			if err := r.again(ctx); err != nil {
				return err
			}
		case <-poll.C:
			polled = time.Now()
			if r.Now().Sub(r.fetched) >= baseEvery {
				clear(r.unnamed)
				return nil
			}
			if err := r.enforce(ctx, true); err != nil {
				return err
			}
		}
	}
}

// maxTogether bounds how many changes are enforced together; twice as many may come before the stream
// says where it stands. maxPending bounds how many wait, and are held that are not yet in a signed
// list: a fleet of a million in some hundred megabytes.
const (
	maxTogether = 32_768
	// slowestChange is how long a change may take to come, beyond fetch.Patience for all: over 0.5 Mbit/s.
	slowestChange = 10 * time.Millisecond
	maxPending    = 1 << 20
)

// take notes the queued events and enforces them once the stream has said where it stands, so that
// many changes cost one reload. That must come to an end, however slowly or fast changes come, and when
// the lists that stand do: until then no list is asked for, and none found to have ended.
func (r *Relay) take(ctx context.Context) error {
	began, taken := time.Now(), len(r.queued)
	var ended <-chan time.Time
	if left := r.state.Until.Sub(r.Now()); left > 0 {
		ended = time.After(left)
	}
	for current := false; ; {
		for len(r.queued) > 0 {
			e := r.queued[0]
			r.queued = r.queued[1:]
			r.note(e)
			current = e.Change == nil
			switch {
			case taken > maxTogether && current:
				return r.enforce(ctx, false)
			case taken > 2*maxTogether || len(r.pending) > maxPending:
				return errors.New("the feed sends changes without end")
			}
		}
		if n := r.drain(); n > 0 {
			taken += n
			continue
		}
		if current {
			return r.enforce(ctx, false)
		}
		// The stream's position follows.
		select {
		case e := <-r.events:
			r.queued, taken = stream.Add(r.queued, e), taken+1
		case err := <-r.failed:
			r.fetched = time.Time{}
			return err
		case <-time.After(time.Until(began.Add(fetch.Patience + time.Duration(taken)*slowestChange))):
			return errors.New("the feed stops in the middle of changes")
		case <-ended:
			return errEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain queues what the stream has delivered, and reports how much that was.
func (r *Relay) drain() (n int) {
	for n < maxTogether && len(r.queued) < maxTogether {
		select {
		case e := <-r.events:
			r.queued, n = stream.Add(r.queued, e), n+1
		default:
			return n
		}
	}
	return n
}

// note applies an event to what is known.
func (r *Relay) note(e stream.Event) {
	r.seen = max(r.seen, e.Number)
	if e.Change == nil {
		return
	}
	if s := r.sources[e.Change.Issuer]; s != nil {
		if s.apply(*e.Change); s.told > maxPending { // what is in no signed list is not held without end
			r.fetched = time.Time{}
		}
		r.pending = append(r.pending, *e.Change)
	} else if !r.unnamed[e.Change.Issuer] && len(r.unnamed) < wire.MaxFollowed { // a new one, or one that nobody trusts any more
		r.unnamed[e.Change.Issuer], r.fetched = true, time.Time{} // begin anew
	}
}

// begin fetches the trust bundle and the deny-lists, from which the stream continues.
func (r *Relay) begin(ctx context.Context) error {
	if err := r.fetchTrust(ctx); err != nil {
		return err
	}
	number, err := r.fetchLists(ctx, max(r.seen, r.state.Number))
	if err != nil {
		return err
	}
	if number < r.seen {
		r.Log.Warn("the feed went back: the server was restored", "from", r.seen, "to", number)
	}
	r.owed = 0
	switch told := r.state.Told; {
	case r.Each == "" || r.state.Number < 0 || told >= number:
		r.state.ResetTo(number)
	case r.lost:
		r.Log.Warn("the command is not run for changes that the feed no longer knows", "from", told, "to", number)
		r.state.ResetTo(number)
	default:
		r.owed, number = number, told // the stream tells the command what happened meanwhile
	}
	r.lost, r.pending = false, nil
	r.seen, r.fetched = number, r.Now()
	return nil
}

// fetchLists fetches the deny-list of every issuer and returns the change up to which all of them are
// complete. The server caches a list for a moment, so one that is behind what is known here is
// fetched again.
func (r *Relay) fetchLists(ctx context.Context, known int64) (number int64, err error) {
	for deadline := time.Now().Add(settle); ; {
		number = -1
		for name, s := range r.sources {
			n, err := r.fetchList(ctx, name, s)
			if err != nil {
				return 0, fmt.Errorf("deny-list of %s: %w", name, err)
			}
			if number < 0 || n < number {
				number = n
			}
		}
		if number >= known || time.Now().After(deadline) {
			return number, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
