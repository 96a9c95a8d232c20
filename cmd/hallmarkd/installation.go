package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/cas"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
)

// installation is what a configuration names, opened and held against each other.
type installation struct {
	config  *config.Config
	issuers []issuer
	roots   []status.Root
	trust   *trust.Service
	secret  []byte
}

// issuer is one issuing CA with its key.
type issuer struct {
	name              string
	certificate, root *x509.Certificate
	signer            crypto.Signer
}

// load reads a configuration and everything it names but the record.
func load(path string) (*installation, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	in := &installation{config: c}
	for _, i := range []struct {
		name string
		config.Issuer
	}{
		{profile.Manufacturing, c.Issuers.Manufacturing},
		{profile.Operational, c.Issuers.Operational},
		{profile.Infrastructure, c.Issuers.Infrastructure},
	} {
		opened, err := openIssuer(i.name, i.Issuer, c.Dir)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.name, err)
		}
		root, err := openRoot(c.Trust.Roots, profile.RootOf(i.name), opened.root)
		if err != nil {
			return nil, err
		}
		in.issuers, in.roots = append(in.issuers, opened), append(in.roots, root)
	}
	if in.secret, err = readSecret(c.ServerSecret); err != nil {
		return nil, err
	}
	timeKey, err := keys.Open(c.TimeKey, c.Dir)
	if err != nil {
		return nil, fmt.Errorf("time key: %w", err)
	}
	bundle, err := os.ReadFile(c.Trust.Bundle)
	if err != nil {
		return nil, err
	}
	if in.trust, err = trust.New(bundle, in.issuer(profile.Infrastructure).root, timeKey); err != nil {
		return nil, err
	}
	return in, in.agrees()
}

// agrees holds the configuration against the bundle that devices follow.
func (in *installation) agrees() error {
	if nonce := in.config.ChannelBinding == config.BindingNonce; nonce != in.trust.Bundle().NonceMode {
		return fmt.Errorf("channel_binding is %q in %s, but the trust bundle %s tells devices otherwise", in.config.ChannelBinding, in.config.File, in.config.Trust.Bundle)
	}
	return nil
}

func (in *installation) issuer(name string) issuer {
	for _, i := range in.issuers {
		if i.name == name {
			return i
		}
	}
	panic("no issuer " + name) // load has made all of profile.Issuers
}

func openIssuer(name string, c config.Issuer, dir string) (issuer, error) {
	text, err := os.ReadFile(c.Certificate)
	if err != nil {
		return issuer{}, err
	}
	chain, err := certificates(text)
	if err != nil || len(chain) != 2 {
		return issuer{}, fmt.Errorf("%s does not hold two certificates, the issuer's and its root's", c.Certificate)
	}
	if err := chain[0].CheckSignatureFrom(chain[1]); err != nil {
		return issuer{}, fmt.Errorf("%s: the second certificate did not sign the first: %w", c.Certificate, err)
	}
	signer, err := keys.Open(c.Key, dir)
	if err != nil {
		return issuer{}, err
	}
	if k, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(chain[0].PublicKey) {
		return issuer{}, fmt.Errorf("the key is not that of %s", c.Certificate)
	}
	return issuer{name, chain[0], chain[1], signer}, nil
}

func openRoot(dir, name string, want *x509.Certificate) (status.Root, error) {
	list, err := os.ReadFile(filepath.Join(dir, name+".crl"))
	if err != nil {
		return status.Root{}, err
	}
	der, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return status.Root{}, err
	}
	if !bytes.Equal(der, want.Raw) {
		return status.Root{}, fmt.Errorf("%s.crt in %s is not the root of its issuer's file", name, dir)
	}
	return status.Root{Name: name, Certificate: want, CRL: list}, nil
}

func certificates(text []byte) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		found, text = append(found, c), rest
	}
	return found, nil
}

// secretSize is the length of the server secret in bytes.
const secretSize = 32

func readSecret(path string) ([]byte, error) {
	secret, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(secret) != secretSize {
		return nil, fmt.Errorf("%s does not hold a server secret: it has %d bytes, not %d", path, len(secret), secretSize)
	}
	return secret, nil
}

// openStore is the one place that knows the record's engines.
func openStore(ctx context.Context, uri string) (record.Store, error) {
	engine, place, _ := strings.Cut(uri, ":")
	switch engine {
	case "sqlite":
		return sqlite.Open(ctx, place, sqlite.Options{})
	}
	return nil, fmt.Errorf("database: engine %q is not in this build; it has sqlite:PATH", engine)
}

// authority wires the CA to the record.
func (in *installation) authority(ctx context.Context, store record.Issuance) (*ca.Authority, error) {
	c := ca.Config{
		Store: store, BaseURL: in.config.Public.Status, Organisation: in.config.Name,
		ShardCapacity: in.config.CRLShardCapacity, Now: time.Now,
	}
	for _, i := range in.issuers {
		service, err := cas.New(ctx, cas.Options{Type: in.signerOf(i.name), Chain: []*x509.Certificate{i.certificate, i.root}, Signer: i.signer})
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.name, err)
		}
		c.Issuers = append(c.Issuers, ca.Issuer{Name: i.name, Certificate: i.certificate, Root: i.root, CAS: service})
	}
	return ca.New(c)
}

func (in *installation) signerOf(name string) string {
	switch name {
	case profile.Manufacturing:
		return in.config.Issuers.Manufacturing.Signer
	case profile.Operational:
		return in.config.Issuers.Operational.Signer
	}
	return in.config.Issuers.Infrastructure.Signer
}

// publisher issues through the CA and publishes the shards of what had to be voided,
// so that no caller can forget it.
type publisher struct {
	*ca.Authority
	status *status.Service
}

func (p publisher) Issue(ctx context.Context, e record.Event, reqs ...ca.Request) ([]ca.Issued, error) {
	issued, err := p.Authority.Issue(ctx, e, reqs...)
	var voided *ca.VoidedError
	if errors.As(err, &voided) {
		err = errors.Join(err, p.status.Publish(context.WithoutCancel(ctx), voided.Shards...))
	}
	return issued, err
}
