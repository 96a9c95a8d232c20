package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/attest/tpm2"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/provisioner/session"
	"github.com/hallmark-pki/hallmark/record"
)

func serveCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "serve", Short: "Serve devices, operators and relying parties", Args: noArguments,
		Long: `Serve runs until it gets SIGTERM or SIGINT, then finishes what it is doing. It logs
to standard error, one line "ready" when every listener accepts.`,
		Example: "  hallmarkd serve --config /srv/hallmark/hallmark.yaml",
		RunE:    func(c *cobra.Command, _ []string) error { return serve(c.Context(), path) },
	}
	configFlag(c, &path)
	return c
}

// serve wires the house and runs it until ctx ends.
func serve(ctx context.Context, path string) error {
	in, err := load(path)
	if err != nil {
		return err
	}
	log := logger(in.config.Log)
	unlock, err := lock(in.config.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	store, err := openStore(ctx, in.config.Database)
	if err != nil {
		return err
	}
	defer store.Close()
	h, err := wire(ctx, in, store, log)
	if err != nil {
		return err
	}
	return h.run(ctx, in, log)
}

// house is the wired rooms that listeners serve.
type house struct {
	authority publisher
	status    *status.Service
	devices   *provisioner.Service
	own       *own
	makers    *makers
	metrics   *metrics
	handlers  handlers
}

func wire(ctx context.Context, in *installation, store record.Store, log *slog.Logger) (*house, error) {
	authority, err := in.authority(ctx, store)
	if err != nil {
		return nil, err
	}
	// Before the first Issue: what a crash left open is revoked, never signed again.
	void, err := authority.Recover(ctx)
	if err != nil {
		return nil, err
	}
	h := &house{makers: &makers{store: store, log: log}}
	h.status, err = status.New(status.Config{
		Store: store, Issuers: in.statusIssuers(), Roots: in.roots, BaseURL: in.config.Public.Status,
		Responder: newResponders(in, authority, log).get, Now: time.Now, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if err := h.status.Publish(ctx, void...); err != nil {
		return nil, err
	}
	h.authority = publisher{authority, h.status}
	h.own = &own{request: in.serverRequest(), authority: h.authority, log: log}
	if err := h.makers.reload(ctx); err != nil {
		return nil, err
	}
	permissions, err := factory.NewPermissions(in.secret)
	if err != nil {
		return nil, err
	}
	if h.devices, err = in.provisioner(store, h, permissions, log); err != nil {
		return nil, err
	}
	h.metrics = newMetrics(h.status)
	h.handlers, err = in.handlers(store, h, permissions, log)
	return h, err
}

func (in *installation) provisioner(store record.Store, h *house, p *factory.Permissions, log *slog.Logger) (*provisioner.Service, error) {
	sessions, err := session.New(in.secret)
	if err != nil {
		return nil, err
	}
	return provisioner.New(provisioner.Config{
		Store: store, Authority: h.authority,
		Verifier: tpm2.New(h.makers.set.Load, in.config.AcceptSimulatedTPMs),
		Sessions: sessions, Permissions: p,
		Manufacturing: in.issuer(profile.Manufacturing).certificate, Operational: in.issuer(profile.Operational).certificate,
		SessionLife: in.config.SessionLifetime.Std(), LDevIDLife: in.config.LDevIDLifetime.Std(),
		Now: time.Now, Log: log,
	})
}

func (in *installation) native(log *slog.Logger) native.Config {
	return native.Config{
		Bundle: in.trust.Newest, SignTime: in.trust.SignTime,
		NonceMode: in.config.ChannelBinding == config.BindingNonce, Now: time.Now, Log: log,
	}
}

func (in *installation) statusIssuers() []status.Issuer {
	var all []status.Issuer
	for _, i := range in.issuers {
		all = append(all, status.Issuer{Name: i.name, Certificate: i.certificate, Signer: i.signer})
	}
	return all
}

// makers is the set of TPM makers' certificates, read again when operators change it.
type makers struct {
	store record.Authorities
	log   *slog.Logger
	set   atomic.Pointer[vendorca.Set]
}

func (m *makers) reload(ctx context.Context) error {
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
	m.set.Store(set)
	return nil
}

// changed is reload for those who cannot wait or fail: the old set stays.
func (m *makers) changed() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.reload(ctx); err != nil {
		m.log.Error("the change of TPM makers takes effect at the next start", "err", err)
	}
}

// logger writes to standard error in the form that the configuration wants.
func logger(c config.Log) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Level)) // config has checked it
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// lock keeps a second server from the same installation: it would revoke what the
// first is about to sign (ca.Authority.Recover). The lock ends with the process.
func lock(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "serve.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, hinted(errors.New("another hallmarkd serves this installation"), "stop it first; fuser %s shows which it is", path)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

var _ provisioner.Authority = publisher{}
