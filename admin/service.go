// Package admin is what an operator sees and does, as an HTTP API (package wire).
//
// Every request is judged and answered in one place (package gate): who calls is
// established from the connection and the record, a change carries the event that is
// written with it in the same transaction, and a refused change is written down too.
package admin

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hallmark-pki/hallmark/admin/consent"
	"github.com/hallmark-pki/hallmark/admin/credential"
	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Store is what operators' requests ask of the record.
type Store interface {
	record.Factory
	record.Inventory
	record.Operators
	record.Authorities
	record.EKTypes
	record.Audit
	record.Grants
	record.Tombstones
	Alerts(ctx context.Context, operator string, limit int) ([]record.Event, error)
	// Status is record.Revocations.Status.
	Status(ctx context.Context, issuer, serial string) (record.Certificate, error)
	// Suspend, Restore and Revoke are record.Revocations'.
	Suspend(ctx context.Context, device string, at time.Time, e record.Event) ([]record.Shard, error)
	Restore(ctx context.Context, device string, at time.Time, e record.Event) ([]record.Shard, error)
	Revoke(ctx context.Context, device string, at time.Time, reason int, why string, e record.Event) ([]record.Shard, error)
}

// Issuer makes operators' certificates.
type Issuer interface {
	// IssueOperator gives the chain (DER, leaf first, without the root) for a key that
	// the operator was shown to hold.
	IssueOperator(ctx context.Context, operator string, key crypto.PublicKey, e record.Event) (chain [][]byte, err error)
}

// Config is what a Service is made of; every field but Further is needed.
type Config struct {
	// Name is the installation's name, Version the server's version.
	Name, Version string
	Store         Store
	Status        *status.Service
	Issuer        Issuer
	Permissions   credential.Permissions
	// Watch says what takes two operators.
	Watch *consent.Watch
	// Issuers are those whose operator certificates may speak here.
	Issuers profile.Pins
	// Root is the SHA-256 of the infrastructure root, DeviceServer and OperatorServer
	// the https URLs of the two listeners: tickets and invitations carry them.
	Root                         [32]byte
	DeviceServer, OperatorServer string
	// Bundle gives the newest signed trust bundle.
	Bundle func() wire.SignedBundle
	// Since gives the bundles that follow a number (ca/trust.Service.Since); nil: none but the newest.
	Since func(after int64) wire.TrustSteps
	// CheckSerial says why a text cannot be a device's serial number
	// (provisioner/identity.CheckSerial).
	CheckSerial func(serial string) error
	// ReadAuthorities reads TPM makers' CA certificates and counts what is none
	// (attest/tpm2/vendorca.ReadCertificates).
	ReadAuthorities func(file []byte) (certificates []*x509.Certificate, skipped int)
	// Further are the routes of other packages for operators; may be nil.
	Further []gate.Route
	// Changed is called after the set of TPM makers' certificates changed.
	Changed func()
	Now     func() time.Time
	Log     *slog.Logger
}

// Service answers operators.
type Service struct {
	Config
	// acting keep acts on one device apart, by its ID's checksum.
	acting [64]sync.Mutex
}

// New checks that nothing is missing.
func New(c Config) (*Service, error) {
	if c.Name == "" || c.Store == nil || c.Status == nil || c.Issuer == nil || c.Permissions == nil || c.Watch == nil ||
		len(c.Issuers) == 0 || c.Root == [32]byte{} || c.Bundle == nil || c.CheckSerial == nil ||
		c.ReadAuthorities == nil || c.Changed == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("admin: a part is missing")
	}
	for _, server := range []string{c.DeviceServer, c.OperatorServer} {
		if _, err := wire.ServerURL(server); err != nil {
			return nil, err
		}
	}
	return &Service{Config: c}, nil
}
