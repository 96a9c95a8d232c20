// Package server runs an installation: it wires its services together, in one place, and
// serves each audience on a listener of its own until it is told to stop.
package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallmark-pki/hallmark/admin/job"
	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/softkey"
	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/ca/status/feed"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/provisioner/session"
	"github.com/hallmark-pki/hallmark/record"
)

// Run serves an installation until ctx ends, and then finishes what it is doing.
func (d *Doors) Run(ctx context.Context, in *installation.Installation, version string) error {
	log := Logger(in.Config.Log)
	d.served = false
	collectSeldom()
	record, err := in.Database()
	if err != nil {
		return err
	}
	if err := d.lock(filepath.Join(in.Config.Dir, lockFile), record+".lock"); err != nil {
		return err
	}
	store, err := in.UpgradeStore(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	if doubt, err := installation.ClockDoubt(ctx, store, time.Now()); err != nil {
		return err
	} else if doubt != "" {
		log.Warn("is this machine's clock right? Devices take the time from here", "because", doubt)
	}
	ctx, stop := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { tellLosses(ctx, in, store, log) })
	defer telling.Wait()
	defer stop()
	h, err := assemble(ctx, in, store, version, log)
	if err != nil {
		return err
	}
	return h.run(ctx, d, in, version, log)
}

// collectSeldom trades memory for time: an enrolment leaves garbage and the live heap is
// small, 4 MiB, so at Go's own pace a tenth of the processor goes into collecting it
// (docs/performance.md). GOGC and GOMEMLIMIT, if set, decide instead.
func collectSeldom() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" && ballast == nil { // once per process: a second one could reuse heap memory, which is zeroed and so becomes resident
		ballast = make([]byte, 76<<20)
	}
}

// ballast counts as live heap and is never touched, so it takes no memory: it lets 76 MiB
// more of garbage gather before a collection, whatever the heap's size. A greater GOGC would
// do as much for a small heap and far too much for a large one: thousands of idle
// connections are a hundred MiB.
//
//lint:ignore U1000 that nobody reads it is the point
var ballast []byte

// hallmark is the services that the listeners serve, wired together.
type hallmark struct {
	authority  *publisher
	status     *status.Service
	feed       *feed.Feed
	devices    *provisioner.Service
	jobs       *job.Runner
	own        *own
	responders responders
	makers     *makers
	metrics    *metrics
	handlers   handlers
	fresh      fresh
}

func assemble(ctx context.Context, in *installation.Installation, store record.Store, version string, log *slog.Logger) (*hallmark, error) {
	authority, err := in.Authority(ctx, store)
	if err != nil {
		return nil, err
	}
	// Before the first Issue: what a crash left open is revoked, never signed again.
	void, err := authority.Recover(ctx)
	if err != nil {
		return nil, err
	}
	h := &hallmark{metrics: newMetrics(version), makers: &makers{store: store, log: log}}
	h.authority = &publisher{Authority: authority, metrics: h.metrics}
	h.responders = newResponders(in, h.authority, log)
	h.status, err = status.New(status.Config{
		Store: store, Issuers: statusIssuers(in), Roots: in.Roots, BaseURL: in.Config.Public.Status,
		Responder: h.responders.get, Now: time.Now, Log: log,
	})
	if err != nil {
		return nil, err
	}
	h.authority.status = h.status // each needs the other: the responders' certificates are the CA's
	if err := h.status.Publish(ctx, void...); err != nil {
		return nil, err
	}
	if h.feed, err = feed.New(ctx, feed.Config{
		Store: store, Lists: h.status, Issuers: operational(in), Responder: h.responders.get, Now: time.Now, Log: log,
	}); err != nil {
		return nil, err
	}
	h.jobs = job.New(store, h.status.Publish, time.Now, log)
	h.own = &own{request: serverRequest(in), authority: h.authority, log: log}
	if err := h.makers.reload(ctx); err != nil {
		return nil, err
	}
	permissions, err := factory.NewPermissions(in.Secret)
	if err != nil {
		return nil, err
	}
	if h.devices, err = h.provisioner(in, store, permissions, log); err != nil {
		return nil, err
	}
	h.metrics.watch(h.status)
	return h, h.wireHandlers(in, store, permissions, version, log)
}

// pace is how often in a minute one device is given certificates. The shortest life of
// an LDevID, a minute, asks for two.
const pace = 10

func (h *hallmark) provisioner(in *installation.Installation, store record.Store, p *factory.Permissions, log *slog.Logger) (*provisioner.Service, error) {
	sessions, err := session.New(in.Secret)
	if err != nil {
		return nil, err
	}
	return provisioner.New(provisioner.Config{
		Store: store, Authority: h.authority, Suspender: h.status,
		Verifier: attest.Verifiers{
			attest.KindTPM2:    tpm2.New(h.makers.set.Load, in.Config.AcceptSimulatedTPMs),
			attest.KindSoftKey: softkey.Verifier{},
		},
		Sessions: sessions, Permissions: p,
		Issuers:     in.Pins(profile.Manufacturing, profile.Operational),
		SessionLife: in.Config.SessionLifetime.Std(), LDevIDLife: in.Config.LDevIDLifetime.Std(), Pace: pace,
		Makers: func() string { return h.makers.set.Load().Name() },
		Now:    time.Now, Log: log,
	})
}

func (h *hallmark) nativeConfig(in *installation.Installation, log *slog.Logger) native.Config {
	return native.Config{
		Bundle: in.Trust.Newest, Since: in.Trust.Since, SignTime: in.Trust.SignTime,
		NonceMode: in.Config.ChannelBinding == config.BindingNonce, Now: time.Now, Log: log,
		Refused: func(code string) { h.metrics.refused.WithLabelValues(code).Inc() },
	}
}

func statusIssuers(in *installation.Installation) []status.Issuer {
	var all []status.Issuer
	for _, i := range in.Issuers {
		all = append(all, status.Issuer{Name: i.Name, Certificate: i.Certificate, Signer: i.Signer})
	}
	return all
}

// operational are the issuers that relying parties accept, by name.
func operational(in *installation.Installation) map[string]*x509.Certificate {
	all := map[string]*x509.Certificate{}
	for _, i := range in.Issuers {
		if profile.LineOf(i.Name) == profile.Operational {
			all[i.Name] = i.Certificate
		}
	}
	return all
}

// makers is the set of TPM makers' certificates, read again when operators change it.
type makers struct {
	store record.Authorities
	log   *slog.Logger
	set   atomic.Pointer[vendorca.Set]
}

// reload reads again what was overtaken by another who read: of two changes at once, the first
// would otherwise bring back what the second has taken out.
func (m *makers) reload(ctx context.Context) error {
	for {
		before := m.set.Load()
		recorded, err := m.store.Authorities(ctx)
		if err != nil {
			return fmt.Errorf("TPM makers' certificates: %w", err)
		}
		var ders [][]byte
		for _, a := range recorded {
			ders = append(ders, a.DER)
		}
		set, err := vendorca.New(ders)
		if err != nil {
			m.log.Warn("some TPM makers' certificates are of no use", "err", err)
		}
		if m.set.CompareAndSwap(before, set) {
			return nil
		}
	}
}

// changed is reload for callers that cannot handle an error: the old set stays in use.
func (m *makers) changed() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.reload(ctx); err != nil {
		m.log.Error("the change of TPM makers takes effect at the next start", "err", err)
	}
}

// Logger writes to standard error in the form that the configuration wants.
func Logger(c config.Log) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Level)) // config has checked it
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

var _ provisioner.Authority = (*publisher)(nil)
