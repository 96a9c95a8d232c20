package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"log/slog"
	"time"

	"github.com/hallmark-pki/hallmark/admin"
	"github.com/hallmark-pki/hallmark/attest/tpm2/vendorca"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/provisioner"
	"github.com/hallmark-pki/hallmark/provisioner/factory"
	"github.com/hallmark-pki/hallmark/provisioner/identity"
	"github.com/hallmark-pki/hallmark/provisioner/native"
	"github.com/hallmark-pki/hallmark/record"
	wireformat "github.com/hallmark-pki/hallmark/wire"
)

// operatorLife is the life of an operator's certificate. `hallmark` renews it by
// itself after two thirds.
const operatorLife = 90 * 24 * time.Hour

func (in *installation) handlers(store record.Store, h *house, p *factory.Permissions, log *slog.Logger) (handlers, error) {
	infrastructure := in.issuer(profile.Infrastructure)
	administration, err := admin.New(admin.Config{
		Name: in.config.Name, Version: version,
		Store: store, Status: h.status, Issuer: operatorIssuer{h.authority}, Permissions: p,
		Infrastructure: infrastructure.certificate, Root: sha256.Sum256(infrastructure.root.Raw),
		DeviceServer: in.config.Public.Devices[0], OperatorServer: in.config.Public.Operators,
		Bundle: func() wireformat.SignedBundle {
			signed, _ := in.trust.Newest()
			return signed
		},
		CheckSerial: identity.CheckSerial, ReadAuthorities: vendorca.ReadCertificates, Changed: h.makers.changed,
		Now: time.Now, Log: log,
	})
	if err != nil {
		return handlers{}, err
	}
	return handlers{
		devices:   native.Handler(h.devices, in.native(log)),
		operators: administration.Handler(),
		status:    h.status.Handler(),
		metrics:   h.metrics.handler(),
	}, nil
}

// operatorIssuer issues operators' certificates for admin.
type operatorIssuer struct{ provisioner.Authority }

func (o operatorIssuer) IssueOperator(ctx context.Context, operator string, key crypto.PublicKey, e record.Event) ([][]byte, error) {
	issued, err := o.Issue(ctx, e, ca.Request{Profile: profile.Operator,
		Content: profile.Content{Operator: operator, Key: key, Lifetime: operatorLife}})
	if err != nil {
		return nil, err
	}
	return issued[0].Chain, nil
}
