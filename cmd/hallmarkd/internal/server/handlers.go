package server

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/admin"
	"github.com/hallmark-pki/hallmark/admin/bulk"
	"github.com/hallmark-pki/hallmark/admin/consent"
	"github.com/hallmark-pki/hallmark/admin/issuing"
	"github.com/hallmark-pki/hallmark/admin/party"
	"github.com/hallmark-pki/hallmark/admin/renewal"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func (h *hallmark) wireHandlers(in *installation.Installation, store record.Store, p *factory.Permissions, version string, log *slog.Logger) (err error) {
	infrastructure := in.Issuer(profile.Infrastructure)
	bundle := func() wire.SignedBundle {
		signed, _ := in.Trust.Newest()
		return signed
	}
	parties, err := party.New(party.Config{
		Store: store, Status: h.status, Issuer: installation.OwnIssuer{Authority: h.authority}, Permissions: p,
		Issuers: in.Pins(profile.Infrastructure), Root: sha256.Sum256(infrastructure.Root.Raw), Server: in.Config.Public.Devices[0],
		Bundle: bundle, Since: in.Trust.Since, Followed: func() []string { return slices.Sorted(maps.Keys(in.Pins(profile.Operational))) }, Newest: store.LastChange, Feed: h.feed.Handler, Lists: h.status.Handler(), Now: time.Now, Log: log,
	})
	if err != nil {
		return err
	}
	plans := &renewal.Service{Store: store, DefaultPoll: provisioner.DefaultPoll, Changed: h.devices.Replan}
	watch := consent.New(store)
	many, err := bulk.New(bulk.Config{Store: store, Watch: watch, Unsigned: h.status.Unsigned, Wake: h.jobs.Wake, Name: in.Config.Name, Seal: h.seal(infrastructure)})
	if err != nil {
		return err
	}
	authorities := issuing.Service{Store: store, Authorities: issuers{in, h.authority}, Plans: plans, Wake: h.jobs.Wake}
	administration, err := admin.New(admin.Config{
		Name: in.Config.Name, Version: version,
		Store: store, Status: h.status, Issuer: installation.OwnIssuer{Authority: h.authority}, Permissions: p, Watch: watch,
		Issuers: in.Pins(profile.Infrastructure), Root: sha256.Sum256(infrastructure.Root.Raw),
		DeviceServer: in.Config.Public.Devices[0], OperatorServer: in.Config.Public.Operators,
		Bundle: bundle, Since: in.Trust.Since, Further: slices.Concat(parties.Routes(), plans.Routes(), many.Routes(), authorities.Routes()),
		CheckSerial: identity.CheckSerial, ReadAuthorities: vendorca.ReadCertificates, Changed: h.makers.changed,
		Now: time.Now, Log: log,
	})
	if err != nil {
		return err
	}
	h.handlers = handlers{
		devices:   machines(native.Handler(h.devices, h.nativeConfig(in, log)), parties.Handler()),
		operators: administration.Handler(),
		status:    h.public(in.Config.PublicFeed),
		metrics:   h.metrics.handler(h.health(store)),
	}
	return nil
}

// seal gives what signs reports: the responder of the infrastructure issuer that is in use.
func (h *hallmark) seal(issuer installation.Issuer) func(context.Context) ([]*x509.Certificate, crypto.Signer, error) {
	return func(ctx context.Context) ([]*x509.Certificate, crypto.Signer, error) {
		leaf, key, err := h.responders.get(ctx, issuer.Name)
		return []*x509.Certificate{leaf, issuer.Certificate}, key, err
	}
}

// public is what anyone may fetch over plain HTTP.
func (h *hallmark) public(withFeed bool) http.Handler {
	lists, documents := h.status.Handler(), h.feed.Handler(nil)
	if !withFeed {
		return lists
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, wire.PathFeed+"/") {
			documents.ServeHTTP(w, r)
			return
		}
		lists.ServeHTTP(w, r)
	})
}

// machines serves the listener that devices and relays share. Each half recognises its own callers.
func machines(devices, relays http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", devices)
	for _, path := range []string{"/v1/relay/", wire.PathFeed + "/", "/crl/", "/ca/"} {
		mux.Handle(path, relays)
	}
	return mux
}
