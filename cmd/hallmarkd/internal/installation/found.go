package installation

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	"github.com/hallmark-pki/hallmark/wire"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// FirstOperator is whom Found makes a certificate for.
const FirstOperator = "admin"

// OperatorDir is the folder, in the installation's, of the first operator's settings.
const OperatorDir = "operator"

// Founding is what a new installation is made of.
type Founding struct {
	// Dir is the folder to make, Name the organisation.
	Dir, Name string
	// Listen is HOST:PORT of the devices' listener; operators, status and metrics get the
	// next three ports. Empty means the port by which Public says that devices reach it.
	Listen string
	// Public are the URLs under which listeners are reached: https for devices, http for
	// status; what is missing is made of the host's name.
	Public []string
	// RootOut is where the root keys are made: a folder, or a key URI with config.NamePart
	// in it; empty means root-keys in Dir.
	RootOut string
	// IssuerKeys is where those of the issuing CAs are made: such a URI, relative to Dir;
	// empty means config.IssuerKeys.
	IssuerKeys string
	// TrustKeys is how many keys, beside the roots', shall sign trust bundles, and Threshold
	// how many of them must; 0 means that the infrastructure root does.
	TrustKeys, Threshold int

	// inToken names the keys made in tokens, which outlive an attempt that fails.
	inToken *[]string
}

// Founded says what was made.
type Founded struct {
	// Config, Operator, RelyingParties and RootKeys are the paths of the configuration,
	// the first operator's settings, what relying parties trust and the root keys' folder.
	Config, Operator, RelyingParties, RootKeys string
	// Devices are the URLs that devices know the installation by.
	Devices []string
	// Forward are the URLs at whose ports no listener is, each with the listener's address.
	Forward [][2]string
}

// Found makes an installation. A folder that holds a CA, or anything, is refused.
func (f Founding) Found(ctx context.Context) (made Founded, err error) {
	if f.Dir, err = filepath.Abs(f.Dir); err != nil {
		return made, err
	}
	if err := f.free(); err != nil {
		return made, err
	}
	if f.TrustKeys < 0 || f.TrustKeys > maxTrustKeys || f.Threshold > f.TrustKeys || f.TrustKeys > 0 && f.Threshold < 1 {
		return made, Hint(fmt.Errorf("%d of %d keys cannot sign trust bundles", f.Threshold, f.TrustKeys), "as in --trust-keys 3 --trust-threshold 2; at most %d", maxTrustKeys)
	}
	if f.IssuerKeys = cmp.Or(f.IssuerKeys, config.IssuerKeys); !strings.Contains(f.IssuerKeys, config.NamePart) {
		return made, Hint(errors.New("--issuer-keys: two issuers would share a key"), "a key URI with %s in it", config.NamePart)
	}
	address, err := f.addresses()
	if err != nil {
		return made, err
	}
	var left []string
	f.inToken = &left
	err = Make(f.Dir, func(work string) error {
		rootKeys := KeysIn(f.RootOut)
		if rootKeys.Dir == "" && f.RootOut != "" {
			return f.found(ctx, work, rootKeys, address)
		}
		rootKeys = KeysIn(filepath.Join(work, rootKeysDir))
		if err := f.found(ctx, work, rootKeys, address); err != nil || f.RootOut == "" {
			return err
		}
		// First the keys that cannot be made again, then the installation that needs them.
		return moveKeys(rootKeys.Dir, f.RootOut)
	})
	if err != nil && len(left) > 0 {
		err = Hint(err, "these keys were made and stay in their token: %s; delete them (pkcs11-tool --delete-object), or name others, as in object=second-%s", strings.Join(left, ", "), config.NamePart)
	}
	made = Founded{
		Config: filepath.Join(f.Dir, ConfigFile), Operator: filepath.Join(f.Dir, OperatorDir, client.SettingsFile),
		RelyingParties: filepath.Join(f.Dir, RelyingParties), RootKeys: f.RootOut, Devices: address.Public.Devices, Forward: address.forward(),
	}
	if f.RootOut == "" {
		made.RootKeys = filepath.Join(f.Dir, rootKeysDir)
	}
	return made, err
}

// Keys is where keys are made, each under a name.
type Keys struct {
	// URI is a key URI with config.NamePart in it. Paths in it are relative to Dir.
	URI, Dir string
}

// CheckKeys refuses a key URI, which is no folder, that gives every key the same place.
func CheckKeys(place string) error {
	if scheme, _, found := strings.Cut(place, ":"); found && !strings.Contains(scheme, "/") && !strings.Contains(place, config.NamePart) {
		return Hint(fmt.Errorf("--root-out: a key URI without %s would give all keys one place", config.NamePart), "as in pkcs11:token=TOKEN;object=%s?pin-source=/PATH; of a folder with such a name write ./%s:…", config.NamePart, scheme)
	}
	return nil
}

// KeysIn is a folder of key files, or what a key URI with config.NamePart in it says.
func KeysIn(place string) Keys {
	if strings.Contains(place, config.NamePart) {
		return Keys{URI: place}
	}
	return Keys{"file:" + config.NamePart + ".key", place}
}

// Of is the URI of the key with a name.
func (k Keys) Of(name string) string { return strings.ReplaceAll(k.URI, config.NamePart, name) }

// Where says where it is.
func (k Keys) Where(name string) string {
	if k.Dir == "" {
		return k.Of(name)
	}
	return filepath.Join(k.Dir, name+".key")
}

// Make makes it, and the folder of its file.
func (k Keys) Make(name string) (crypto.Signer, error) {
	uri := k.Of(name)
	if path, ok := strings.CutPrefix(uri, "file:"); ok {
		if !filepath.IsAbs(path) {
			path = filepath.Join(k.Dir, path)
		}
		if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
	}
	return keys.Create(uri, k.Dir)
}

// Names in an installation's folder.
const (
	// ConfigFile is the configuration.
	ConfigFile = "hallmark.yaml"

	// RelyingParties and Infrastructure are the roots for others, PEM.
	RelyingParties = "trust/relying-parties.pem"
	Infrastructure = "trust/infrastructure.pem"

	rootKeysDir = "root-keys"
)

// maxTrustKeys leaves room in a bundle for as many successors.
const maxTrustKeys = 8

// free refuses a folder that holds anything, and one for root keys that holds some.
func (f Founding) free() error {
	if err := Free(f.Dir); err != nil {
		return err
	}
	if err := CheckKeys(f.RootOut); err != nil || KeysIn(f.RootOut).Dir == "" {
		return err
	}
	if others, err := filepath.Glob(filepath.Join(f.RootOut, "*-root.key")); err != nil || len(others) > 0 {
		return Hint(fmt.Errorf("%s holds another CA's root keys", f.RootOut), "name another folder with --root-out")
	}
	return nil
}

// address is where the listeners listen and how they are reached.
type address struct {
	Listen config.Listen
	Public config.Public
}

// forward pairs the URLs of ports that are not the listeners' with the listeners' addresses.
func (a address) forward() (pairs [][2]string) {
	for _, public := range append(slices.Clone(a.Public.Devices), a.Public.Status) {
		u, err := url.Parse(public)
		if err != nil {
			continue
		}
		listen, port := a.Listen.Devices, cmp.Or(u.Port(), "443")
		if u.Scheme == "http" {
			listen, port = a.Listen.Status, cmp.Or(u.Port(), "80")
		}
		if !strings.HasSuffix(listen, ":"+port) {
			pairs = append(pairs, [2]string{public, listen})
		}
	}
	return pairs
}

// defaultListen is the devices' listener that is made where nobody says which.
const defaultListen = ":8443"

// listen is where devices are served: unless said, at the port where they look. One below
// 1024 is root's (ip(7)), and what serves it forwards to ours.
func (f Founding) listen() string {
	if f.Listen != "" {
		return f.Listen
	}
	for _, text := range f.Public {
		if u, err := url.Parse(text); err == nil && u.Scheme == "https" {
			if port, err := strconv.Atoi(u.Port()); err == nil && port >= 1024 {
				return ":" + u.Port()
			}
			break
		}
	}
	return defaultListen
}

func (f Founding) addresses() (address, error) {
	f.Listen = f.listen()
	host, text, err := net.SplitHostPort(f.Listen)
	port, bad := strconv.Atoi(text)
	if err != nil || bad != nil || port < 1 || port > 65535-3 {
		return address{}, Hint(fmt.Errorf("--listen %q is not HOST:PORT with three more ports above it", f.Listen), "as in --listen %s", defaultListen)
	}
	at := func(host string, offset int) string { return net.JoinHostPort(host, strconv.Itoa(port+offset)) }
	a := address{Listen: config.Listen{Devices: at(host, 0), Operators: at(host, 1), Status: at(host, 2), Metrics: at("127.0.0.1", 3)}}
	for _, text := range f.Public {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			return a, Hint(fmt.Errorf("--public-url %q is not a URL", text), "as in --public-url https://ca.example:8443")
		}
		switch u.Scheme {
		case "https":
			a.Public.Devices = append(a.Public.Devices, strings.TrimRight(text, "/"))
		case "http":
			if a.Public.Status != "" {
				return a, Hint(errors.New("two http --public-url: certificates name one place for their status"), "give one")
			}
			if u.Port() == strconv.Itoa(port) {
				return a, Hint(fmt.Errorf("--public-url %q: http is for CRLs and OCSP, and at port %d devices speak https", text, port), "as in --public-url https://%s", u.Host)
			}
			a.Public.Status = strings.TrimRight(text, "/")
		default:
			return a, Hint(fmt.Errorf("--public-url %q is neither https (devices) nor http (status)", text), "as in --public-url https://ca.example:8443")
		}
	}
	if len(a.Public.Devices) == 0 {
		name, err := os.Hostname()
		if err != nil {
			return a, err
		}
		a.Public.Devices = []string{"https://" + at(name, 0)}
	}
	first, err := url.Parse(a.Public.Devices[0])
	if err != nil {
		return a, err
	}
	a.Public.Operators = "https://" + at(first.Hostname(), 1)
	if a.Public.Status == "" {
		a.Public.Status = "http://" + at(first.Hostname(), 2)
	}
	return a, nil
}

// found writes a whole installation to dir, and makes the root keys in rootKeys.
func (f Founding) found(ctx context.Context, dir string, rootKeys Keys, a address) error {
	for _, d := range []string{"keys", "issuers", "trust/roots", "trust/" + earlierDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	now := time.Now()
	founded, err := ca.Found(ca.Founding{Organisation: f.Name, BaseURL: a.Public.Status, Now: now, Key: func(name string) (crypto.Signer, error) {
		if strings.HasSuffix(name, "-root") {
			return f.key(rootKeys, name)
		}
		return f.key(Keys{f.IssuerKeys, dir}, name)
	}})
	if err != nil {
		return err
	}
	secret := make([]byte, secretSize)
	rand.Read(secret)
	files := map[string][]byte{"keys/server.secret": secret}
	for _, f := range founded {
		files["issuers/"+f.Name+".pem"] = CertificatesPEM(f.Certificate.Raw, f.Root.Raw)
		root := profile.RootOf(f.Name)
		files["trust/roots/"+root+".crt"], files["trust/roots/"+root+".crl"] = f.Root.Raw, f.RootCRL
	}
	timeKey, err := keys.Create("file:keys/time.key", dir)
	if err != nil {
		return err
	}
	if err := f.addTrust(files, founded, timeKey, rootKeys, a, now); err != nil {
		return err
	}
	if err := f.addConfig(files, a); err != nil {
		return err
	}
	store, err := sqlite.Create(ctx, filepath.Join(dir, "hallmark.db"), sqlite.Options{Journal: filepath.Join(dir, "journal")})
	if err != nil {
		return err
	}
	defer store.Close()
	for name, contents := range files {
		if err := os.WriteFile(filepath.Join(dir, name), contents, 0o600); err != nil {
			return err
		}
	}
	for _, public := range []string{Infrastructure, RelyingParties} {
		if err := os.Chmod(filepath.Join(dir, public), 0o644); err != nil {
			return err
		}
	}
	return foundOperator(ctx, dir, store)
}

func (f Founding) key(where Keys, name string) (crypto.Signer, error) {
	key, err := where.Make(name)
	if err == nil && keys.InToken(where.URI) {
		*f.inToken = append(*f.inToken, name)
	}
	return key, err
}

// addTrust makes what others are told to trust: devices follow the bundle, relying
// parties get the operational root alone.
func (f Founding) addTrust(files map[string][]byte, founded []ca.Founded, timeKey crypto.Signer, rootKeys Keys, a address, now time.Time) error {
	spki, err := x509.MarshalPKIXPublicKey(timeKey.Public())
	if err != nil {
		return err
	}
	bundle := wire.Bundle{Number: 1, Name: f.Name, Created: now.UTC().Truncate(time.Second), TimeKeys: [][]byte{spki}, Servers: a.Public.Devices}
	var signer trust.Root
	for _, f := range founded {
		root := [][]byte{f.Root.Raw}
		switch f.Name {
		case profile.Manufacturing:
			bundle.Manufacturing = root
		case profile.Operational:
			bundle.Operational = root
			files[RelyingParties] = CertificatesPEM(root...)
		case profile.Infrastructure:
			bundle.Infrastructure = root
			files[Infrastructure] = CertificatesPEM(root...)
			signer = trust.Root{Certificate: f.Root, Signer: f.RootSigner}
		}
	}
	signed, err := trust.Sign(bundle, signer)
	if err != nil {
		return err
	}
	files["trust/bundle.json"], err = json.Marshal(signed)
	if err != nil || f.TrustKeys == 0 {
		return err
	}
	files["trust/"+earlierDir+"/1.json"] = files["trust/bundle.json"]
	if signed, err = f.handOver(signed, bundle, signer.Signer, rootKeys); err != nil {
		return err
	}
	files["trust/bundle.json"], err = json.Marshal(signed)
	return err
}

// handOver makes the keys that sign trust bundles from now on, and the bundle in which
// the infrastructure root, which signed the first, names them.
func (f Founding) handOver(first wire.SignedBundle, next wire.Bundle, root crypto.Signer, rootKeys Keys) (wire.SignedBundle, error) {
	signers := []crypto.Signer{root}
	for n := range f.TrustKeys {
		key, err := f.key(rootKeys, fmt.Sprintf("trust-%d", n+1))
		if err != nil {
			return first, err
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return first, err
		}
		signers, next.Signers = append(signers, key), append(next.Signers, spki)
	}
	next.Threshold = f.Threshold
	p, err := trust.Propose(first, next)
	if err != nil {
		return first, err
	}
	for _, key := range signers {
		if _, err := p.Sign(key, next.Created); err != nil {
			return first, err
		}
	}
	return p.Signed()
}

// configText is the configuration that init writes. What each key means stands in
// package config.
var configText = template.Must(template.New("").Funcs(template.FuncMap{"yaml": strconv.Quote}).Parse(`# Hallmark. Paths are relative to this file; hallmarkd check says what is wrong.
name: {{yaml .Name}}

listen:
  devices: {{yaml .Listen.Devices}}      # TLS 1.3
  operators: {{yaml .Listen.Operators}}    # TLS 1.3
  status: {{yaml .Listen.Status}}       # plain HTTP: CRL, OCSP, CA certificates
  metrics: {{yaml .Listen.Metrics}}      # plain HTTP, loopback only

# How the listeners are reached. The status URL stands in every certificate ever
# issued. After a change of a device URL the trust bundle must be signed again.
public:
  devices:{{range .Public.Devices}}
    - {{yaml .}}{{end}}
  operators: {{yaml .Public.Operators}}
  status: {{yaml .Public.Status}}

database: sqlite:hallmark.db
# Every change since the last backup. Name a folder on another disk: with a backup and
# the journal a restore loses nothing.
journal: journal

issuers:{{range .Issuers}}
  {{.}}:
    certificate: issuers/{{.}}.pem
    key: {{$.Keys.Of . | yaml}}{{end}}
issuer_keys: {{yaml .Keys.URI}} # of those that come later

trust:
  bundle: trust/bundle.json
  roots: trust/roots

time_key: file:keys/time.key
server_secret: keys/server.secret

ldevid_lifetime: 30d         # of working certificates, unless their model says otherwise
session_lifetime: 5m         # how long a device may take to answer a challenge
channel_binding: exporter    # nonce, if a proxy ends the devices' TLS
accept_simulated_tpms: false # for demonstrations and tests only
crl_shard_capacity: 16384    # certificates that share one CRL
public_feed: false           # deny-list and filter at the status URL, for everybody
log:
  level: info                # debug, info, warn or error
  format: text               # or json
`))

func (f Founding) addConfig(files map[string][]byte, a address) error {
	var text strings.Builder
	err := configText.Execute(&text, struct {
		Name string
		address
		Issuers []string
		Keys    Keys
	}{f.Name, a, profile.Issuers(), Keys{URI: f.IssuerKeys}})
	files[ConfigFile] = []byte(text.String())
	return err
}

// foundOperator makes the first operator and writes operator/, after loading all that was written as
// serve will.
func foundOperator(ctx context.Context, dir string, store record.Store) error {
	in, err := Load(filepath.Join(dir, ConfigFile))
	if err != nil {
		return err
	}
	return in.RecoverOperator(ctx, store, FirstOperator, filepath.Join(dir, OperatorDir))
}

// RecoverOperator makes or re-enables an operator and writes settings with a fresh
// certificate to dir. Only the host may: it needs the issuer's key.
func (in *Installation) RecoverOperator(ctx context.Context, store record.Store, name, dir string) error {
	authority, err := in.Authority(ctx, store)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	others, err := store.Operators(ctx)
	if err != nil {
		return err
	}
	e := record.Event{Time: time.Now(), Actor: "host", Verb: "operator.recovered", Object: name, Alert: len(others) > 0}
	if err := store.RecoverOperator(ctx, name, e.Time, e); err != nil {
		return err
	}
	e.Verb, e.Alert = "certificate.issued", false
	chain, err := OwnIssuer{authority}.IssueOperator(ctx, name, key.Public(), e)
	if err != nil {
		return err
	}
	_, err = client.Write(dir, in.Config.Public.Operators, in.Trust.Bundle(), key, chain)
	return err
}

// CertificatesPEM is certificates (DER each) as a PEM file.
func CertificatesPEM(certificates ...[]byte) []byte {
	var text []byte
	for _, der := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

// moveKeys copies root keys to another folder, perhaps on another medium, makes them
// durable there and only then removes them here.
func moveKeys(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := durable.Create(filepath.Join(to, e.Name()), text); err != nil {
			return err
		}
	}
	return os.RemoveAll(from)
}
