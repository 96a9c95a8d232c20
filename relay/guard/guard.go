// Package guard lets a Go server refuse the certificates that a relay has written down as
// denied, also on connections that are open already.
//
//	g, err := guard.New("/etc/hallmark/denylist", guard.Options{Roots: "/etc/hallmark/relying-parties.pem", Fail: guard.Closed})
//	listener := g.Listener(tcp, config)
//	go g.Watch(ctx, time.Second)
//
// The file is the relay's format "denylist" or "filter", and is verified when it is read. The
// roots, its format "roots", are read with it, for they change when the next CA comes.
package guard

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/relay/disk"
	"github.com/hallmark-pki/hallmark/wire/denylist"
)

// Fail is what happens once the file has ended without a newer one.
type Fail int

// The zero value is Closed.
const (
	// Closed refuses everybody.
	Closed Fail = iota
	// Open goes on with what the file says.
	Open
)

// ErrDenied: the certificate is revoked or on hold.
var ErrDenied = errors.New("the certificate is revoked or on hold")

// ErrEnded: the deny-list has ended without a newer one.
var ErrEnded = errors.New("the deny-list has ended: is the relay running?")

// ErrNotCovered: the filter was made before the certificate, or it is of another issuer.
var ErrNotCovered = errors.New("the deny-list does not cover the certificate")

// Options is how a Guard judges. Roots is needed.
type Options struct {
	// Roots is the file of the roots to trust, relying-parties.pem.
	Roots string
	Fail  Fail
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Guard judges certificates by a file. Its methods may be called concurrently.
type Guard struct {
	path string
	Options
	known atomic.Pointer[known]
	mu    sync.Mutex
	open  map[*conn]bool
}

// known is what was read: the roots, and a deny-list or a filter for each issuer.
type known struct {
	text      []byte // the roots, PEM
	roots     *x509.CertPool
	lists     []*denylist.List
	filters   []*denylist.Filter
	documents []denylist.Document // the heads of all
	files     []os.FileInfo       // as they were read
}

// New reads the file at path, and those of further issuers beside it (path.ISSUER). It fails if one
// is missing or cannot be verified.
func New(path string, o Options) (*Guard, error) {
	if o.Roots == "" {
		return nil, errors.New("guard: the file of the roots that relying parties trust is needed")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Guard{path: path, Options: o, open: map[*conn]bool{}}
	return g, g.Reload()
}

// Reload reads the files again if one changed and closes open connections that they deny. If they
// cannot be verified the last good ones stay in force.
func (g *Guard) Reload() error {
	paths := append([]string{g.Roots, g.path}, disk.Beside(g.path)...)
	k := &known{roots: x509.NewCertPool()}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("guard: %w", err)
		}
		k.files = append(k.files, info)
	}
	before := g.known.Load()
	if before != nil && slices.EqualFunc(before.files, k.files, same) {
		return nil
	}
	var err error
	if k.text, err = os.ReadFile(g.Roots); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if !k.roots.AppendCertsFromPEM(k.text) {
		return fmt.Errorf("guard: %s holds no certificates", g.Roots)
	}
	for _, path := range paths[1:] {
		// None of another root's certificates is let in, whatever such a list says.
		if err := g.read(k, path); err != nil && (path == g.path || !errors.As(err, new(x509.UnknownAuthorityError))) {
			return fmt.Errorf("guard: %s: %w", path, err)
		}
	}
	if before != nil && k.older(before) {
		return fmt.Errorf("guard: %s was made before the one that is known", g.path)
	}
	if before != nil && g.Fail == Open {
		k.keep(before)
	}
	g.known.Store(k)
	g.sweep(before == nil || !bytes.Equal(k.text, before.text))
	return nil
}

// same reports whether a file has not been replaced. Two that were written one after the other may be
// of one size, and of one time, for the kernel's clock ticks every few milliseconds.
func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Name() == b.Name() && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// read adds one file.
func (g *Guard) read(k *known, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, denylist.MaxDocument+1))
	if err != nil {
		return err
	}
	list, err := denylist.OpenList(data, k.roots, g.Now())
	if err == nil {
		k.lists, k.documents = append(k.lists, list), append(k.documents, list.Document)
	}
	if !errors.Is(err, denylist.ErrNotDocument) {
		return err
	}
	filter, err := denylist.OpenFilter(data, k.roots, g.Now())
	if err == nil {
		k.filters, k.documents = append(k.filters, filter), append(k.documents, filter.Document)
	}
	return err
}

// ends is when the first of the documents does.
func (k *known) ends() (at time.Time) {
	for _, d := range k.documents {
		if at.IsZero() || d.NextUpdate.Before(at) {
			at = d.NextUpdate
		}
	}
	return at
}

// older reports whether a document was made before the one of its issuer that was read before.
// Those of two issuers say nothing of each other.
func (k *known) older(before *known) bool {
	for _, was := range before.documents {
		if slices.ContainsFunc(k.documents, func(d denylist.Document) bool { return d.Issuer == was.Issuer && d.Time.Before(was.Time) }) {
			return true
		}
	}
	return false
}

// keep takes over what was said of issuers that no file is about any more, as long as their roots are
// trusted: where nobody is refused for want of a list, those that it denied would be let in. The relay
// replaces one file after the other.
func (k *known) keep(before *known) {
	gone := func(issuer *x509.Certificate) bool {
		said := slices.ContainsFunc(k.lists, func(l *denylist.List) bool { return l.Authority().Equal(issuer) }) ||
			slices.ContainsFunc(k.filters, func(f *denylist.Filter) bool { return f.Authority().Equal(issuer) })
		_, err := issuer.Verify(x509.VerifyOptions{Roots: k.roots, CurrentTime: issuer.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return !said && err == nil
	}
	for _, l := range before.lists {
		if gone(l.Authority()) {
			k.lists, k.documents = append(k.lists, l), append(k.documents, l.Document)
		}
	}
	for _, f := range before.filters {
		if gone(f.Authority()) {
			k.filters, k.documents = append(k.filters, f), append(k.documents, f.Document)
		}
	}
}

// Watch reloads whenever the file changed, until ctx ends, and returns why it last could
// not; nil if it could.
func (g *Guard) Watch(ctx context.Context, every time.Duration) (last error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
			last = g.Reload()
			g.sweep(false) // a list may have ended meanwhile
		}
	}
}

// Check judges a certificate whose chain has been verified; nil lets it in.
func (g *Guard) Check(c *x509.Certificate) error {
	k := g.known.Load()
	if g.Fail == Closed && g.Now().After(k.ends()) {
		return ErrEnded
	}
	serial, ok := denylist.SerialOf(c)
	if !ok {
		return ErrNotCovered
	}
	covered := false
	for _, l := range k.lists {
		if _, denied := l.Lookup(serial); denied {
			return ErrDenied
		}
		covered = covered || l.Covers(c)
	}
	if covered {
		return nil
	}
	for _, f := range k.filters {
		if !f.Covers(c) {
			continue
		}
		switch f.Lookup(serial, c.NotBefore) {
		case denylist.Good:
			return nil
		case denylist.Denied:
			return ErrDenied
		}
	}
	// Younger than the filter: nobody can have revoked it before the filter was made. Or of
	// an issuer that the relay has yet to hear of.
	if g.Fail == Open {
		return nil
	}
	return ErrNotCovered
}

// VerifyConnection is for a tls.Config whose ClientAuth is tls.RequireAnyClientCert. It judges
// the client's chain and its certificate on every handshake, resumed ones included. Unlike a Listener,
// it closes no connection that stands.
func (g *Guard) VerifyConnection(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("guard: no client certificate")
	}
	if err := g.trusts(state.PeerCertificates, g.Now()); err != nil {
		return err
	}
	return g.Check(state.PeerCertificates[0])
}

// trusts says why no root leads to a client's chain.
func (g *Guard) trusts(chain []*x509.Certificate, at time.Time) error {
	o := x509.VerifyOptions{Roots: g.known.Load().roots, Intermediates: x509.NewCertPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(o)
	return err
}

// Listener speaks TLS on inner as config, or its GetConfigForClient, says, except that clients are
// judged here: it refuses those that are not trusted or are denied, and closes the connection of one
// that becomes so.
func (g *Guard) Listener(inner net.Listener, config *tls.Config) net.Listener {
	return &listener{inner, g, config.Clone()}
}

type listener struct {
	net.Listener
	guard  *Guard
	config *tls.Config
}

// Accept gives a connection whose handshake is still to come, as tls.Listen does.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, guard: l.guard, since: l.guard.Now()}
	return tls.Server(c, c.judged(l.config)), nil
}

// judged is a configuration, and what its GetConfigForClient puts in its place, in which the guard
// judges the client of this connection.
func (c *conn) judged(by *tls.Config) *tls.Config {
	config := by.Clone()
	config.ClientAuth = tls.RequireAnyClientCert
	before, choose := config.VerifyConnection, config.GetConfigForClient
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if before != nil {
			if err := before(state); err != nil {
				return err
			}
		}
		c.track(state.PeerCertificates) // before it is judged: a sweep finds what is denied from now on
		return c.guard.VerifyConnection(state)
	}
	if choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return nil, err
			}
			return c.judged(chosen), nil
		}
	}
	return config
}

// conn is the raw connection beneath TLS: closing it ends both.
type conn struct {
	net.Conn
	guard *Guard
	since time.Time
	chain []*x509.Certificate
}

func (c *conn) track(chain []*x509.Certificate) {
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	c.chain = chain
	c.guard.open[c] = true
}

// Close forgets the connection.
func (c *conn) Close() error {
	c.guard.mu.Lock()
	delete(c.guard.open, c)
	c.guard.mu.Unlock()
	return c.Conn.Close()
}

// sweep closes the connections of clients that are denied by now and, if the roots have changed, of
// those whose root is gone. A filter older than a certificate that was let in says nothing against
// it.
func (g *Guard) sweep(rootsChanged bool) {
	g.mu.Lock()
	var denied []*conn
	for c := range g.open {
		err := g.Check(c.chain[0])
		if rootsChanged && (err == nil || errors.Is(err, ErrNotCovered)) {
			err = g.trusts(c.chain, c.since)
		}
		if err != nil && !errors.Is(err, ErrNotCovered) {
			denied = append(denied, c)
		}
	}
	g.mu.Unlock()
	for _, c := range denied {
		_ = c.Close()
	}
}
