package server

import (
	"crypto/sha256"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/admin"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func (h *house) wireHandlers(in *installation.Installation, store record.Store, p *factory.Permissions, version string, log *slog.Logger) (err error) {
	infrastructure := in.Issuer(profile.Infrastructure)
	administration, err := admin.New(admin.Config{
		Name: in.Config.Name, Version: version,
		Store: store, Status: h.status, Issuer: installation.OperatorIssuer{Authority: h.authority}, Permissions: p,
		Authorities: issuers{in, h.authority},
		Issuers:     in.Pins(profile.Infrastructure), Root: sha256.Sum256(infrastructure.Root.Raw),
		DeviceServer: in.Config.Public.Devices[0], OperatorServer: in.Config.Public.Operators,
		Bundle: func() wire.SignedBundle {
			signed, _ := in.Trust.Newest()
			return signed
		},
		CheckSerial: identity.CheckSerial, ReadAuthorities: vendorca.ReadCertificates, Changed: h.makers.changed,
		Now: time.Now, Log: log,
	})
	if err != nil {
		return err
	}
	h.handlers = handlers{
		devices:   native.Handler(h.devices, nativeConfig(in, log)),
		operators: administration.Handler(),
		status:    h.public(in.Config.PublicFeed),
		metrics:   h.metrics.handler(),
	}
	return nil
}

// public is what anyone may fetch over plain HTTP.
func (h *house) public(withFeed bool) http.Handler {
	lists, documents := h.status.Handler(), h.feed.Documents()
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
