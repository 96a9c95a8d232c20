// Package installation is what stands in an installation's folder: it makes one, opens one, and
// checks that its parts agree, so that the keys, certificates, roots and trust bundle of an
// [Installation] belong together.
package installation

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/cas"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/status"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/wire"
)

// Installation is what a configuration names, opened and checked to agree.
type Installation struct {
	Config *config.Config
	// Issuers are in the order of profile.Issuers, within a line the one that issues first;
	// Roots are theirs.
	Issuers []Issuer
	Roots   []status.Root
	Trust   *trust.Service
	// Secret is the server secret, from which tickets and sessions are derived.
	Secret []byte
}

// Issuer is one issuing CA with its key.
type Issuer struct {
	Name              string
	Certificate, Root *x509.Certificate
	Signer            crypto.Signer
	// service is the kind of ca/cas that signs with it.
	service string
}

// Load reads a configuration, or the one in a folder, and everything it names but the record, and
// checks that they agree: what it returns can be served.
func Load(path string) (*Installation, error) {
	in, err := Open(path)
	if err != nil {
		return nil, err
	}
	return in, in.Agrees()
}

// Open is Load before a change of what issues: the trust bundle need not agree with that yet.
func Open(path string) (*Installation, error) { return open(path, true) }

// Read is Open where nothing is signed by issuers. Those whose keys are in tokens have no Signer
// then: an HSM may be away, or lost, and counts wrong PINs.
func Read(path string) (*Installation, error) { return open(path, false) }

func open(path string, tokens bool) (*Installation, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, ConfigFile)
	}
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	if err := private(c.Secrets()); err != nil {
		return nil, err
	}
	in := &Installation{Config: c}
	succession, err := ReadSuccession(c)
	if err != nil {
		return nil, err
	}
	for _, i := range succession.issuers(c) {
		opened, err := openIssuer(i.name, i.Issuer)
		if err == nil && (tokens || !keys.InToken(i.Key)) {
			err = opened.openKey(i.Issuer, c.Dir)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = Hint(err, "bring it back, from the old machine or a backup of after it was made")
		}
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.name, err)
		}
		root, err := openRoot(c.Trust.Roots, profile.RootOf(i.name), opened.Root)
		if err != nil {
			return nil, err
		}
		in.Issuers, in.Roots = append(in.Issuers, opened), append(in.Roots, root)
	}
	if in.Secret, err = readSecret(c.ServerSecret); err != nil {
		return nil, err
	}
	return in, in.openTrust()
}

// Agrees says why the configuration does not fit the bundle that devices follow, or nil.
func (in *Installation) Agrees() error {
	if nonce := in.Config.ChannelBinding == config.BindingNonce; nonce != in.Trust.Bundle().NonceMode {
		return Hint(fmt.Errorf("channel_binding is %q in %s, but the trust bundle %s tells devices otherwise", in.Config.ChannelBinding, in.Config.File, in.Config.Trust.Bundle),
			"hallmarkd trust propose --from-config --config %s, then sign and publish it", in.Config.File)
	}
	for _, line := range profile.Issuers() {
		if i := in.Issuer(line); !in.Lists(i) {
			return Hint(fmt.Errorf("issuer %s is in use, but the trust bundle does not list its root: nobody would trust what it issues", i.Name), "publish a bundle with that root, or put another issuer to use: hallmarkd trust activate --help")
		}
	}
	return nil
}

// Issuer finds the issuer in use of one of the lines profile.Issuers.
func (in *Installation) Issuer(line string) Issuer {
	for _, i := range in.Issuers {
		if profile.LineOf(i.Name) == line {
			return i
		}
	}
	panic("no issuer " + line) // Load has made all of profile.Issuers
}

// Find gives the place of an issuer, and of its root, by the issuer's name.
func (in *Installation) Find(name string) (at int, err error) {
	at = slices.IndexFunc(in.Issuers, func(i Issuer) bool { return i.Name == name })
	if at < 0 {
		err = Hint(fmt.Errorf("there is no issuer %q", name), "hallmarkd trust show lists them")
	}
	return at, err
}

func openIssuer(name string, c config.Issuer) (Issuer, error) {
	text, err := os.ReadFile(c.Certificate)
	if err != nil {
		return Issuer{}, err
	}
	chain, err := certificates(text)
	if err != nil || len(chain) != 2 {
		return Issuer{}, fmt.Errorf("%s does not hold two certificates, the issuer's and its root's", c.Certificate)
	}
	if err := chain[0].CheckSignatureFrom(chain[1]); err != nil {
		return Issuer{}, fmt.Errorf("%s: the second certificate did not sign the first: %w", c.Certificate, err)
	}
	return Issuer{Name: name, Certificate: chain[0], Root: chain[1], service: c.Signer}, nil
}

func (i *Issuer) openKey(c config.Issuer, dir string) (err error) {
	if i.Signer, err = keys.Open(c.Key, dir); err != nil {
		return err
	}
	if k, ok := i.Signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(i.Certificate.PublicKey) {
		return fmt.Errorf("the key is not that of %s", c.Certificate)
	}
	return nil
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

// private refuses a key or secret that others than its owner and group can read: the server secret is
// enough to make tickets and redeem sessions.
func private(paths []string) error {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
			return Hint(fmt.Errorf("%s has mode %04o: every user of this machine can use it", path, info.Mode().Perm()), "chmod 600 %s", path)
		}
	}
	return nil
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

// OpenStore opens the record. It and UpgradeStore are the one place that knows the record's engines.
// One of an older program is refused: looking at an installation before its upgrade must not cut off
// the way back.
func (in *Installation) OpenStore(ctx context.Context) (record.Store, error) {
	return in.openStore(ctx, false)
}

// UpgradeStore is OpenStore for a server and a restore, which bring the record to this
// program's schema.
func (in *Installation) UpgradeStore(ctx context.Context) (record.Store, error) {
	return in.openStore(ctx, true)
}

func (in *Installation) openStore(ctx context.Context, upgrade bool) (record.Store, error) {
	path, err := in.Database()
	if err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, path, sqlite.Options{Journal: in.Config.Journal, Upgrade: upgrade})
}

// Database is the path of the record.
func (in *Installation) Database() (string, error) {
	engine, path, _ := strings.Cut(in.Config.Database, ":")
	if engine != "sqlite" {
		return "", fmt.Errorf("database: engine %q is not in this build; it has sqlite:PATH", engine)
	}
	return path, nil
}

// Authority wires the CA to the record.
func (in *Installation) Authority(ctx context.Context, store record.Issuance) (*ca.Authority, error) {
	c := ca.Config{
		Store: store, BaseURL: in.Config.Public.Status, Organisation: in.Config.Name,
		ShardCapacity: in.Config.CRLShardCapacity, Now: time.Now,
	}
	for _, i := range in.Issuers {
		service, err := cas.New(ctx, cas.Options{Type: i.service, Chain: []*x509.Certificate{i.Certificate, i.Root}, Signer: i.Signer})
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.Name, err)
		}
		c.Issuers = append(c.Issuers, ca.Issuer{Name: i.Name, Certificate: i.Certificate, Root: i.Root, CAS: service})
	}
	return ca.New(c)
}

// ownLife is the life of operators' and relays' certificates. `hallmark` renews them by
// itself after two thirds.
const ownLife = 90 * 24 * time.Hour

// OwnIssuer issues operators' and relays' certificates (admin.Issuer, party.Issuer).
type OwnIssuer struct {
	Authority interface {
		Issue(ctx context.Context, e record.Event, reqs ...ca.Request) ([]ca.Issued, error)
	}
}

// IssueOperator gives the chain, DER, leaf first, without the root.
func (o OwnIssuer) IssueOperator(ctx context.Context, operator string, key crypto.PublicKey, e record.Event) ([][]byte, error) {
	return o.issue(ctx, profile.Operator, operator, key, e)
}

// IssueRelay gives the chain, DER, leaf first, without the root.
func (o OwnIssuer) IssueRelay(ctx context.Context, party string, key crypto.PublicKey, e record.Event) ([][]byte, error) {
	return o.issue(ctx, profile.Relay, party, key, e)
}

func (o OwnIssuer) issue(ctx context.Context, kind profile.Kind, name string, key crypto.PublicKey, e record.Event) ([][]byte, error) {
	issued, err := o.Authority.Issue(ctx, e, ca.Request{Profile: kind, Content: profile.Content{Principal: name, Key: key, Lifetime: ownLife}})
	if _, void := errors.AsType[*ca.VoidedError](err); void && !errors.Is(err, record.ErrDisabled) {
		err = fmt.Errorf("%w: %w", gate.Refuse(http.StatusServiceUnavailable, wire.CodeUnavailable, "try again in a minute; the server's log says more", "the CA cannot sign now"), err)
	}
	if err != nil {
		return nil, err
	}
	return issued[0].Chain, nil
}
