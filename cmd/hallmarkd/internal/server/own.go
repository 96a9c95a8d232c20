package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/record"
)

const (
	// ownLife is the life of the certificates that the server issues to itself. Their
	// keys are in memory only, so a restart replaces them anyway.
	ownLife = 30 * 24 * time.Hour
	// retryOwn is how long after a failed renewal the next is tried.
	retryOwn = time.Minute
)

// own is one certificate that the server issues to itself, renewed at two thirds of
// its life with a new key while the old one goes on serving.
type own struct {
	request   ca.Request // without a key
	authority interface {
		Issue(ctx context.Context, e record.Event, reqs ...ca.Request) ([]ca.Issued, error)
	}
	log *slog.Logger

	mu       sync.Mutex
	current  *tls.Certificate
	due      time.Time
	failed   error // of the last attempt, when there was none to serve on with
	failedAt time.Time
}

// get returns a certificate that is valid now. Only the caller that begins a renewal waits
// for it: a record that is slow to answer must not stop every handshake.
func (o *own) get(ctx context.Context, now time.Time) (*tls.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.current
	// The clock may have been ahead, and set since.
	serves := old != nil && !now.Before(old.Leaf.NotBefore) && !now.After(old.Leaf.NotAfter)
	if serves && now.Before(o.due) {
		return old, nil
	}
	// Each failed attempt may add a voided certificate to the CRL and the feed.
	if since := now.Sub(o.failedAt); !serves && since >= 0 && since < retryOwn {
		return nil, o.failed
	}
	if serves {
		o.due = now.Add(retryOwn) // until then others use the old one
		o.mu.Unlock()
	}
	fresh, err := o.issue(ctx, now)
	if serves {
		o.mu.Lock()
	}
	if err == nil {
		leaf := fresh.Leaf
		o.current, o.due = fresh, ca.Due(leaf.NotBefore, leaf.NotAfter)
		return fresh, nil
	}
	if !serves {
		o.failed, o.failedAt = err, now
		return nil, err
	}
	o.log.Error("the server's own certificate could not be renewed; the old one serves on",
		"profile", o.request.Profile, "until", old.Leaf.NotAfter, "err", err)
	return old, nil
}

func (o *own) issue(ctx context.Context, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	request := o.request
	request.Content.Key, request.Content.Lifetime = key.Public(), ownLife
	// A caller that hangs up must not take the renewal of all others with it.
	issued, err := o.authority.Issue(context.WithoutCancel(ctx), record.Event{
		Time: now, Actor: "server", Verb: "certificate.issued", Object: strings.TrimSpace(string(request.Profile) + " " + request.Issuer)}, request)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: issued[0].Chain, PrivateKey: key, Leaf: issued[0].Certificate}, nil
}

// serverRequest asks for a TLS server certificate for every host in the public URLs.
func serverRequest(in *installation.Installation) ca.Request {
	r := ca.Request{Profile: profile.Server}
	seen := map[string]bool{}
	for _, text := range append([]string{in.Config.Public.Operators}, in.Config.Public.Devices...) {
		u, err := url.Parse(text)
		if err != nil || seen[u.Hostname()] {
			continue // config has checked them
		}
		seen[u.Hostname()] = true
		if ip := net.ParseIP(u.Hostname()); ip != nil {
			r.Content.IPs = append(r.Content.IPs, ip)
		} else {
			r.Content.DNSNames = append(r.Content.DNSNames, u.Hostname())
		}
	}
	return r
}

// responders keeps one OCSP responder certificate for each issuer.
type responders map[string]*own

func newResponders(in *installation.Installation, a *publisher, log *slog.Logger) responders {
	r := responders{}
	for _, i := range in.Issuers {
		r[i.Name] = &own{request: ca.Request{Profile: profile.OCSP, Issuer: i.Name}, authority: a, log: log}
	}
	return r
}

// get is status.Config.Responder.
func (r responders) get(ctx context.Context, issuer string) (*x509.Certificate, crypto.Signer, error) {
	c, err := r[issuer].get(ctx, time.Now())
	if err != nil {
		return nil, nil, err
	}
	return c.Leaf, c.PrivateKey.(crypto.Signer), nil
}

// publisher issues through the CA and publishes the shards of what had to be voided,
// so that no caller can forget it. It also counts for the metrics.
type publisher struct {
	*ca.Authority
	status  *status.Service
	metrics *metrics
}

func (p *publisher) Issue(ctx context.Context, e record.Event, reqs ...ca.Request) ([]ca.Issued, error) {
	issued, err := p.Authority.Issue(ctx, e, reqs...)
	var voided *ca.VoidedError
	if errors.As(err, &voided) {
		p.metrics.unsigned.Inc()
		err = errors.Join(err, p.status.Publish(context.WithoutCancel(ctx), voided.Shards...))
	}
	for _, i := range issued {
		if !i.Again {
			p.metrics.issued.WithLabelValues(i.Record.Profile).Inc()
		}
	}
	return issued, err
}
