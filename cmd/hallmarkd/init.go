package main

import (
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
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/ca"
	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite"
	wireformat "github.com/hallmark-pki/hallmark/wire"
)

// firstOperator is whom init makes a certificate for.
const firstOperator = "admin"

// founding is what init is asked for.
type founding struct {
	dir, name, listen, rootOut string
	public                     []string
}

func initCommand() *cobra.Command {
	var f founding
	c := &cobra.Command{
		Use: "init", Short: "Make a new installation: three roots, their issuers, the record and a first operator", Args: noArguments,
		Long: `Init makes a new installation in a folder: hallmark.yaml, three roots and their
issuing CAs, the record, and operator/ with the first operator's certificate, which
the hallmark command finds through --config or HALLMARK_CONFIG.

The root keys are written apart (--root-out). The server never needs them: put them
where no thief of the server finds them. A folder that holds a CA is refused.

--listen is the address for devices; operators, status (CRL and OCSP) and metrics
get the next three ports. --public-url says how they are reached from outside: https
for devices (repeat it for further names; operators use the first one's host), http
for status. The status URL stands in every certificate: choose a name that lasts.`,
		Example: `  hallmarkd init --dir /srv/hallmark --name "Acme Devices" \
    --public-url https://ca.acme.example:8443 --public-url http://pki.acme.example \
    --root-out /media/safe/hallmark-roots`,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.dir == "" || f.name == "" {
				return usage(c, errors.New("--dir and --name are needed"))
			}
			return f.run(c.Context(), c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&f.dir, "dir", "", "the folder to make")
	c.Flags().StringVar(&f.name, "name", "", "the organisation's name, as it stands in certificates")
	c.Flags().StringVar(&f.listen, "listen", ":8443", "HOST:PORT of the devices' listener")
	c.Flags().StringArrayVar(&f.public, "public-url", nil, "how the listeners are reached: https for devices, http for status")
	c.Flags().StringVar(&f.rootOut, "root-out", "", "the folder to write the root keys to (default DIR/root-keys)")
	return c
}

// run makes everything in a folder beside the wanted one and renames it at the end:
// an init that was interrupted leaves no half installation that could be served.
func (f founding) run(ctx context.Context, out io.Writer) (err error) {
	if f.dir, err = filepath.Abs(f.dir); err != nil {
		return err
	}
	if err := f.free(); err != nil {
		return err
	}
	address, err := f.addresses()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(f.dir), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(f.dir), "."+filepath.Base(f.dir)+".init-") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) // fails to find it once it is renamed
	rootKeys := filepath.Join(work, rootKeysDir)
	if err := found(ctx, work, rootKeys, f.name, address); err != nil {
		return err
	}
	if f.rootOut != "" {
		// First the keys that cannot be made again, then the installation that needs them.
		if err := moveKeys(rootKeys, f.rootOut); err != nil {
			return err
		}
	}
	if err := install(work, f.dir); err != nil {
		return err
	}
	return f.tell(out, address)
}

// rootKeysDir is where root keys are written if nobody says where.
const rootKeysDir = "root-keys"

// free refuses a folder that holds anything, and one for root keys that holds some.
func (f founding) free() error {
	entries, err := os.ReadDir(f.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if configuration := filepath.Join(f.dir, "hallmark.yaml"); exists(configuration) {
		return hinted(fmt.Errorf("%s holds a CA already", f.dir), "a CA is made once; serve it: hallmarkd serve --config %s", configuration)
	}
	if len(entries) > 0 {
		return hinted(fmt.Errorf("%s is not empty", f.dir), "name a folder that does not exist yet")
	}
	if f.rootOut == "" {
		return nil
	}
	if others, err := filepath.Glob(filepath.Join(f.rootOut, "*-root.key")); err != nil || len(others) > 0 {
		return hinted(fmt.Errorf("%s holds another CA's root keys", f.rootOut), "name another folder with --root-out")
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// address is where the listeners listen and how they are reached.
type address struct {
	Listen config.Listen
	Public config.Public
}

func (f founding) addresses() (address, error) {
	host, text, err := net.SplitHostPort(f.listen)
	port, bad := strconv.Atoi(text)
	if err != nil || bad != nil || port < 1 || port > 65535-3 {
		return address{}, failure{fmt.Errorf("--listen %q is not HOST:PORT with three more ports above it", f.listen), "as in --listen :8443", exitUsage}
	}
	at := func(host string, offset int) string { return net.JoinHostPort(host, strconv.Itoa(port+offset)) }
	a := address{Listen: config.Listen{Devices: at(host, 0), Operators: at(host, 1), Status: at(host, 2), Metrics: at("127.0.0.1", 3)}}
	for _, text := range f.public {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" {
			return a, failure{fmt.Errorf("--public-url %q is not a URL", text), "as in --public-url https://ca.example:8443", exitUsage}
		}
		switch u.Scheme {
		case "https":
			a.Public.Devices = append(a.Public.Devices, strings.TrimRight(text, "/"))
		case "http":
			if a.Public.Status != "" {
				return a, failure{errors.New("two http --public-url: certificates name one place for their status"), "give one", exitUsage}
			}
			a.Public.Status = strings.TrimRight(text, "/")
		default:
			return a, failure{fmt.Errorf("--public-url %q is neither https (devices) nor http (status)", text), "as in --public-url https://ca.example:8443", exitUsage}
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

// found writes a whole installation to dir, and the root keys to rootKeys.
func found(ctx context.Context, dir, rootKeys, name string, a address) error {
	for _, d := range []string{"keys", "issuers", "trust/roots", "operator"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	if err := os.Mkdir(rootKeys, 0o700); err != nil {
		return err
	}
	now := time.Now()
	founded, err := ca.Found(ca.Founding{Organisation: name, BaseURL: a.Public.Status, Now: now, Key: func(name string) (crypto.Signer, error) {
		if strings.HasSuffix(name, "-root") {
			return keys.Create("file:"+name+".key", rootKeys)
		}
		return keys.Create("file:keys/"+name+".key", dir)
	}})
	if err != nil {
		return err
	}
	secret := make([]byte, secretSize)
	rand.Read(secret)
	files := map[string][]byte{"keys/server.secret": secret}
	for _, f := range founded {
		files["issuers/"+f.Name+".pem"] = certificatesPEM(f.Certificate, f.Root)
		root := profile.RootOf(f.Name)
		files["trust/roots/"+root+".crt"], files["trust/roots/"+root+".crl"] = f.Root.Raw, f.RootCRL
	}
	timeKey, err := keys.Create("file:keys/time.key", dir)
	if err != nil {
		return err
	}
	if err := addTrust(files, founded, timeKey, name, a, now); err != nil {
		return err
	}
	if err := addConfig(files, name, a); err != nil {
		return err
	}
	store, err := sqlite.Create(ctx, filepath.Join(dir, "hallmark.db"), sqlite.Options{})
	if err != nil {
		return err
	}
	defer store.Close()
	for name, contents := range files {
		if err := os.WriteFile(filepath.Join(dir, name), contents, 0o600); err != nil {
			return err
		}
	}
	for _, public := range []string{"trust/infrastructure.pem", "trust/relying-parties.pem"} {
		if err := os.Chmod(filepath.Join(dir, public), 0o644); err != nil {
			return err
		}
	}
	return foundOperator(ctx, dir, store)
}

// addTrust makes what others are told to trust: devices follow the bundle, relying
// parties get the operational root alone.
func addTrust(files map[string][]byte, founded []ca.Founded, timeKey crypto.Signer, name string, a address, now time.Time) error {
	spki, err := x509.MarshalPKIXPublicKey(timeKey.Public())
	if err != nil {
		return err
	}
	bundle := wireformat.Bundle{Number: 1, Name: name, Created: now.UTC().Truncate(time.Second), TimeKeys: [][]byte{spki}, Servers: a.Public.Devices}
	var signer trust.Root
	for _, f := range founded {
		root := [][]byte{f.Root.Raw}
		switch f.Name {
		case profile.Manufacturing:
			bundle.Manufacturing = root
		case profile.Operational:
			bundle.Operational = root
			files["trust/relying-parties.pem"] = certificatesPEM(f.Root)
		case profile.Infrastructure:
			bundle.Infrastructure = root
			files["trust/infrastructure.pem"] = certificatesPEM(f.Root)
			signer = trust.Root{Certificate: f.Root, Signer: f.RootSigner}
		}
	}
	signed, err := trust.Sign(bundle, signer)
	if err != nil {
		return err
	}
	files["trust/bundle.json"], err = json.Marshal(signed)
	return err
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

issuers:{{range .Issuers}}
  {{.}}:
    certificate: issuers/{{.}}.pem
    key: file:keys/{{.}}.key{{end}}

trust:
  bundle: trust/bundle.json
  roots: trust/roots

time_key: file:keys/time.key
server_secret: keys/server.secret

ldevid_lifetime: 30d
session_lifetime: 5m
channel_binding: exporter    # nonce, if a proxy ends the devices' TLS
accept_simulated_tpms: false # for demonstrations and tests only
`))

func addConfig(files map[string][]byte, name string, a address) error {
	var text strings.Builder
	err := configText.Execute(&text, struct {
		Name string
		address
		Issuers []string
	}{name, a, profile.Issuers()})
	files["hallmark.yaml"] = []byte(text.String())
	return err
}

// foundOperator makes the first operator and writes operator/, after holding all that
// was written against each other as serve will.
func foundOperator(ctx context.Context, dir string, store record.Store) error {
	in, err := load(filepath.Join(dir, "hallmark.yaml"))
	if err != nil {
		return err
	}
	return in.recover(ctx, store, firstOperator, filepath.Join(dir, "operator"))
}

// recover makes or re-enables an operator and writes the settings with a fresh
// certificate to dir.
func (in *installation) recover(ctx context.Context, store record.Store, name, dir string) error {
	authority, err := in.authority(ctx, store)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	e := record.Event{Time: time.Now(), Actor: "host", Verb: "operator.recovered", Object: name}
	if err := store.RecoverOperator(ctx, name, e.Time, e); err != nil {
		return err
	}
	e.Verb = "certificate.issued"
	chain, err := operatorIssuer{authority}.IssueOperator(ctx, name, key.Public(), e)
	if err != nil {
		return err
	}
	_, err = client.Write(dir, in.config.Public.Operators, [][]byte{in.issuer(profile.Infrastructure).root.Raw}, key, chain)
	return err
}

func certificatesPEM(certificates ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
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
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := writeNew(filepath.Join(to, e.Name()), text); err != nil {
			return err
		}
	}
	if err := syncPath(to); err != nil {
		return err
	}
	return os.RemoveAll(from)
}

// install makes dir of the finished work: durable, then visible, in one step.
func install(work, dir string) error {
	err := filepath.WalkDir(work, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
	if err != nil {
		return err
	}
	// Rename refuses a folder that is not empty; an empty one it replaces.
	if err := os.Rename(work, dir); err != nil {
		return err
	}
	return syncPath(filepath.Dir(dir))
}

// writeNew writes a file that must not exist, 0600 and durable.
func writeNew(path string, contents []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(contents)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (f founding) tell(out io.Writer, a address) error {
	rootKeys := f.rootOut
	warning := ""
	if rootKeys == "" {
		rootKeys = filepath.Join(f.dir, rootKeysDir)
		warning = fmt.Sprintf("\nMOVE THE ROOT KEYS AWAY: whoever has %s\nowns every identity for ever. The server runs without them; check warns while they are near.\n", rootKeys)
	}
	_, err := fmt.Fprintf(out, `%s is a CA now: manufacturing, operational and infrastructure, each with a root of its own.
Root keys: %s
%s
Next:
  hallmarkd serve --config %s
  export HALLMARK_CONFIG=%s
  hallmark ticket create

Devices reach it at %s; relying parties trust %s.
`, f.name, rootKeys, warning, filepath.Join(f.dir, "hallmark.yaml"), filepath.Join(f.dir, "operator", client.SettingsFile),
		strings.Join(a.Public.Devices, ", "), filepath.Join(f.dir, "trust", "relying-parties.pem"))
	return err
}
