// Package relay runs beside a relying party, a broker, gateway or proxy that accepts
// working certificates, and sees to it that what is revoked is refused there.
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
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// Times that a relay keeps to.
const (
	// pollEvery is how often lists are asked for, changed or not: lists are signed anew
	// without a change, and the connection stays warm for when there is one.
	pollEvery = 20 * time.Second
	// baseEvery is how often everything is fetched anew, whatever the stream said.
	baseEvery = time.Hour
	// exchangeTimeout bounds one exchange but for the stream.
	exchangeTimeout = 60 * time.Second
	// DefaultTimeout bounds a command.
	DefaultTimeout = 30 * time.Second
	maxBackoff     = time.Minute
)

// Send makes one exchange with the server as this relay (admin/client.Client.Send).
type Send func(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error)

// Config is what a relay is made of.
type Config struct {
	// Dir is the relay's own folder: its lock, its status, what it trusts.
	Dir  string
	Send Send
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
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// File is one file that is kept fresh.
type File struct{ Format, Path string }

// Check says what is wrong with a configuration, and what to write instead.
func (c *Config) Check() error {
	formats := []string{wire.FormatCRL, wire.FormatSerials, wire.FormatMap, wire.FormatDenylist, wire.FormatFilter}
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
	roots   *x509.CertPool
	issuers []string           // in the server's order
	sources map[string]*source // by issuer
	pending []wire.Change      // seen, not yet enforced
	seen    int64              // the position in the stream
	based   time.Time          // when everything was last fetched
	kept    map[string][]byte  // contents of files, by path, as the program has them
	state   state
	said    string // the problem that was last said
}

// New prepares a relay. It fails if another one works in the folder.
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
	if unlock, err = lock(c.Dir); err != nil {
		return nil, nil, err
	}
	r = &Relay{Config: c, sources: map[string]*source{}, kept: map[string][]byte{}}
	if r.state, err = readState(c.Dir); err != nil {
		unlock()
		return nil, nil, err
	}
	if err := r.loadRoots(); err != nil {
		unlock()
		return nil, nil, err
	}
	for _, f := range c.Files {
		if text, err := readFile(f.Path); err == nil {
			r.kept[f.Path] = text
		}
	}
	return r, unlock, nil
}

// Run works until ctx ends. Whatever fails is said and tried again.
func (r *Relay) Run(ctx context.Context) error {
	backoff := time.Second
	for {
		began := r.Now()
		err := r.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if r.Now().Sub(began) > maxBackoff {
			backoff = time.Second
		}
		r.problem(ctx, err)
		r.expire(ctx)
		// Half of it at random: relays that lost one server must not come back as one.
		wait := backoff/2 + rand.N(backoff/2)
		backoff = min(2*backoff, maxBackoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// session begins with everything and goes on with changes until something fails.
func (r *Relay) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := r.base(ctx); err != nil {
		return err
	}
	events := make(chan event, 64)
	failed := make(chan error, 1)
	go func() { failed <- r.follow(ctx, r.seen, events) }()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err = <-failed:
		case e := <-events:
			err = r.take(ctx, e, events)
		case <-poll.C:
			err = r.poll(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// take notes an event and all that wait behind it, and acts once it knows where the
// stream stands: many changes are one reload.
func (r *Relay) take(ctx context.Context, e event, more <-chan event) error {
	current := false
	for {
		if e.change != nil {
			r.note(*e.change)
		} else {
			current = true
		}
		r.seen = max(r.seen, e.number)
		select {
		case e = <-more:
			continue
		default:
		}
		if !current {
			return nil // the stream's position follows
		}
		return r.enforce(ctx, false)
	}
}

// note takes a change into what is known.
func (r *Relay) note(c wire.Change) {
	if s := r.sources[c.Issuer]; s != nil {
		s.apply(c)
		r.pending = append(r.pending, c)
		return
	}
	r.based = time.Time{} // a new issuer: begin anew at the next poll
}

// poll asks for lists that were signed anew, and for everything once in a while.
func (r *Relay) poll(ctx context.Context) error {
	if r.Now().Sub(r.based) >= baseEvery {
		return r.base(ctx)
	}
	if err := r.enforce(ctx, true); err != nil {
		return err
	}
	r.expire(ctx)
	return nil
}

// base fetches what to trust and every list, and enforces it.
func (r *Relay) base(ctx context.Context) error {
	if err := r.fetchTrust(ctx); err != nil {
		return err
	}
	number := int64(-1)
	for name, s := range r.sources {
		n, err := r.fetchList(ctx, name, s)
		if err != nil {
			return fmt.Errorf("deny-list of %s: %w", name, err)
		}
		if number < 0 || n < number {
			number = n
		}
	}
	if number < r.seen {
		r.Log.Warn("the feed went back: the server was restored", "from", r.seen, "to", number)
		r.pending = nil
	}
	if r.Each != "" && r.state.Number >= 0 && r.state.Number < number {
		// The commands want each change that happened meanwhile, which only the stream tells.
		number = r.state.Number
	}
	r.seen, r.based = number, r.Now()
	return r.enforce(ctx, true)
}
