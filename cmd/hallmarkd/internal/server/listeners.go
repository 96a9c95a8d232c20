package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/wire"
)

// Bounds of every listener. A device on a slow radio link sends at most 64 KiB, and an
// operator a list of EK Names of some MiB.
const (
	headerTimeout   = 30 * time.Second // also bounds the TLS handshake, and its wait in a crowd
	readTimeout     = 60 * time.Second
	writeTimeout    = 90 * time.Second
	idleTimeout     = 30 * time.Second
	unacknowledged  = 45 * time.Second
	requestTimeout  = 60 * time.Second
	shutdownTimeout = 20 * time.Second
	maxHeader       = 16 << 10
	maxConnections  = 4096 // on each listener
	hostShare       = 4    // one host has a quarter of them: it must not keep operators from revoking
	ownFiles        = 128  // that the record and the keys need to be open
	maxDeviceBody   = 128 << 10
	maxOperatorBody = 16 << 20
	maxStatusBody   = 64 << 10
	maxHandshakes   = 128                    // that go on at once, on each listener; others wait
	handshakePlace  = 250 * time.Millisecond // how long one handshake may keep a place
)

// handlers are what the listeners serve.
type handlers struct{ devices, operators, status, metrics http.Handler }

// listener serves one audience of the server, apart from the others (design decision 18).
type listener struct {
	name, address string
	handler       http.Handler
	maxBody       int64
	tls           *tls.Config // nil: plain HTTP
}

func (h *hallmark) listeners(c config.Listen) []listener {
	return []listener{
		{"devices", c.Devices, h.handlers.devices, maxDeviceBody, h.tlsConfig()},
		{"operators", c.Operators, h.handlers.operators, maxOperatorBody, h.tlsConfig()},
		{"status", c.Status, h.handlers.status, maxStatusBody, nil},
		{"metrics", c.Metrics, h.handlers.metrics, 0, nil},
	}
}

// tlsConfig is TLS 1.3 only. A client certificate is requested, with proof of its key; whose
// it must be is decided by each handler, which pins issuer and profile.
// Session tickets are off: resumption would skip both the TPM and the revocation
// check (design decision 7).
func (h *hallmark) tlsConfig() *tls.Config {
	handshakes := make(crowd, maxHandshakes)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequestClientCert,
		NextProtos:             []string{"http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if err := handshakes.enter(hello.Context()); err != nil {
				return nil, err
			}
			return h.own.get(hello.Context(), time.Now())
		},
	}
}

// run serves until ctx ends or a listener fails, then shuts down in order.
func (h *hallmark) run(ctx context.Context, doors *Doors, in *installation.Installation, version string, log *slog.Logger) error {
	all := h.listeners(in.Config.Listen)
	sockets, err := doors.openAll(all, in.Config)
	if err != nil {
		return err
	}
	if _, err := h.own.get(ctx, time.Now()); err != nil {
		return fmt.Errorf("the server's own certificate: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var background sync.WaitGroup
	background.Go(func() { h.status.Run(ctx) })
	background.Go(func() { h.jobs.Run(ctx) })
	// Streams never end by themselves, so they are ended before the listeners wait for requests.
	streaming, hangUp := context.WithCancel(ctx)
	defer hangUp()
	background.Go(func() { h.feed.Run(streaming) })
	failed := make(chan error, len(all))
	servers, limits := make([]*http.Server, len(all)), make([]*limit, len(all))
	places := places(len(all), openFiles())
	if places < maxConnections {
		log.Warn("the limit on open files leaves fewer connections than there could be", "each listener", places, "instead of", maxConnections)
	}
	for i, l := range all {
		servers[i] = h.server(l, log)
		limits[i] = newLimit(sockets[i], places)
		go func() { failed <- serveOn(servers[i], limits[i], l) }()
	}
	doors.served = true
	log.Info("ready", "name", in.Config.Name, "version", version, "devices", in.Config.Public.Devices, "operators", in.Config.Public.Operators,
		"status", in.Config.Public.Status, "metrics", in.Config.Listen.Metrics)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	log.Info("stopping")
	hangUp()
	for _, l := range limits {
		l.Close()
	}
	h.fresh.settle(limits)
	err = errors.Join(err, shutdown(servers))
	stop()
	background.Wait()
	return err
}

// fresh are the connections that have not sent a request yet. net/http closes them at
// shutdown, and a client that is just sending one could not tell whether it was carried out.
type fresh struct {
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (f *fresh) note(c net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state != http.StateNew {
		delete(f.open, c)
		return
	}
	if f.open == nil {
		f.open = map[net.Conn]bool{}
	}
	f.open[c] = true
}

// settleTimeout bounds the wait for a handshake and a request; a slow TPM can sign within it.
const settleTimeout = 3 * time.Second

// settle waits until there are none, not even one that was accepted and is not noted yet.
func (f *fresh) settle(closed []*limit) {
	deadline := time.Now().Add(settleTimeout)
	for _, l := range closed {
		select {
		case <-l.refused:
		case <-time.After(time.Until(deadline)):
		}
	}
	for ; time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		n := len(f.open)
		f.mu.Unlock()
		if n == 0 {
			return
		}
	}
}

func serveOn(s *http.Server, limited *limit, l listener) error {
	err := error(nil)
	if l.tls != nil {
		err = s.ServeTLS(limited, "", "")
	} else {
		err = s.Serve(limited)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("listener for %s: %w", l.name, err)
}

func shutdown(servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var wait sync.WaitGroup
	errs := make([]error, len(servers))
	for i, s := range servers {
		wait.Go(func() {
			if errs[i] = s.Shutdown(ctx); errs[i] != nil {
				s.Close()
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (h *hallmark) server(l listener, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           h.metrics.count(l.name, guard(l, log)),
		TLSConfig:         l.tls,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ConnState:      h.fresh.note,
		ErrorLog:       slog.NewLogLogger(log.With("listener", l.name).Handler(), slog.LevelDebug), // strangers' handshakes, mostly
		Protocols:      new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	return s
}

// guard bounds each request and turns a panic into an answer: one bad request must not
// take the others with it.
func guard(l listener, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			log.Error("panic", "listener", l.name, "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			w.Header().Set("Content-Type", wire.ProblemType)
			w.WriteHeader(http.StatusInternalServerError)
			json.NewEncoder(w).Encode(wire.Problem{Status: http.StatusInternalServerError, Code: wire.CodeInternal,
				Detail: "the server made an error; it is in its log"})
		}()
		ctx := r.Context()
		if r.URL.Path != wire.PathChanges { // a stream has no end
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, requestTimeout)
			defer cancel()
		}
		r.Body = http.MaxBytesReader(w, r.Body, l.maxBody)
		l.handler.ServeHTTP(w, r.WithContext(ctx))
	})
}
