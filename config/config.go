// Package config reads hallmark.yaml and returns a checked value: after [Load] no setting is
// invalid and no named file is missing.
//
// It is strict. An unknown key, a key given twice, a wrong unit and a missing file are errors
// with line, column, reason and what to write instead.
package config

import (
	"path/filepath"
	"strings"
	"time"
)

// Config is hallmark.yaml. Paths in it are relative to the file; [Load] makes them
// absolute. Keys without a default must be present.
type Config struct {
	// Name of the installation: the organisation in every certificate it issues, 1 to 64
	// characters. Changing it changes new certificates only.
	Name string `yaml:"name"`
	// Listen says where the server listens, one address for each public.
	Listen Listen `yaml:"listen"`
	// Public says how the listeners are reached from outside.
	Public Public `yaml:"public"`
	// Database is the record: "sqlite:PATH". Default: "sqlite:hallmark.db". `hallmarkd
	// init` makes it; a missing one is an error, never a fresh record.
	Database string `yaml:"database"`
	// Journal is a folder, made if missing, in which the record writes down every change
	// before it is answered. With a backup and the journal `hallmarkd restore` loses
	// nothing, so it belongs on another disk than the database; a journal that cannot be
	// written stops all changes. It grows until old parts are deleted, which `hallmarkd
	// backup` names. Default: journal.
	Journal string `yaml:"journal"`
	// Issuers are the three issuing CAs. Each has a root of its own, so that a relying
	// party which trusts one does not trust the others.
	Issuers Issuers `yaml:"issuers"`
	// IssuerKeys says where the key of a further issuing CA is made: a key URI in which
	// {name} stands for the issuer's name. Default: file:keys/{name}.key.
	IssuerKeys string `yaml:"issuer_keys"`
	// Trust is what devices and relying parties are told to trust.
	Trust Trust `yaml:"trust"`
	// TimeKey is the URI of the key that signs the time for devices with a wrong clock;
	// the trust bundle lists its public half.
	TimeKey string `yaml:"time_key"`
	// ServerSecret is the path of 32 random bytes from which tickets and sessions are derived.
	// Losing it makes open tickets worthless; anyone who reads it can make tickets.
	ServerSecret string `yaml:"server_secret"`
	// LDevIDLifetime is the life of a working certificate, 1m to 398d, unless its model
	// says otherwise. Devices renew at two thirds. A shorter life ends a revoked device
	// sooner where nobody reads CRLs and costs more renewals. Default: 30d.
	LDevIDLifetime Duration `yaml:"ldevid_lifetime"`
	// SessionLifetime is how long a device may take to answer a challenge, 10s to 5m.
	// Default: 5m.
	SessionLifetime Duration `yaml:"session_lifetime"`
	// ChannelBinding says what ties evidence to a connection: "exporter" (RFC 9266) where
	// devices' TLS ends here, "nonce" where a proxy ends it. Devices follow the trust
	// bundle, so the two must agree. Default: exporter.
	ChannelBinding string `yaml:"channel_binding"`
	// AcceptSimulatedTPMs accepts TPMs whose certificates say that they are software. For
	// demonstrations and tests: it lets anyone with a ticket make up a device. Default: false.
	AcceptSimulatedTPMs bool `yaml:"accept_simulated_tpms"`
	// CRLShardCapacity is how many certificates share one CRL, 1 to 65536. Changing it
	// changes new shards only. At 16384 a list stays under 1 MiB, the smallest limit known
	// among gateways, even with every certificate revoked. Default: 16384.
	CRLShardCapacity int64 `yaml:"crl_shard_capacity"`
	// PublicFeed serves the signed deny-list and filter on the status listener too, to
	// anyone who asks. Like the CRLs there they name certificates by number alone, but a
	// filter also tells how many devices hold one. Default: false.
	PublicFeed bool `yaml:"public_feed"`
	// Log says what is logged, to standard error.
	Log Log `yaml:"log"`

	// Dir is the folder of the file: key URIs are relative to it.
	Dir string `yaml:"-"`
	// File is the path of the file itself.
	File string `yaml:"-"`
	// Anchored are the keys whose paths lead into Dir without being relative to it: those of a
	// copy of the folder lead back to this one. The journal's may: a restored record goes on in it.
	Anchored []string `yaml:"-"`
}

// Listen holds addresses as HOST:PORT; an empty host means every interface. No two
// may be equal.
type Listen struct {
	// Devices is TLS for devices and stations. Default: ":8443".
	Devices string `yaml:"devices"`
	// Operators is TLS for administration. Default: ":8444".
	Operators string `yaml:"operators"`
	// Status is plain HTTP for CRLs, OCSP and CA certificates, which are signed in
	// themselves. Default: ":8445".
	Status string `yaml:"status"`
	// Metrics is plain HTTP for Prometheus and must be a loopback address, since it tells
	// how a factory runs. Default: "127.0.0.1:8446".
	Metrics string `yaml:"metrics"`
}

// Public holds URLs as others reach them, without a path.
type Public struct {
	// Devices are https URLs of the devices' listener, best first. They go into tickets
	// and the trust bundle, and their hosts into the server's certificate.
	Devices []string `yaml:"devices"`
	// Operators is the https URL of the operators' listener.
	Operators string `yaml:"operators"`
	// Status is the http URL that certificates name for CRL and OCSP. It stands in every
	// certificate ever issued: it must stay reachable as long as they live.
	Status string `yaml:"status"`
}

// Issuers are the issuing CAs.
type Issuers struct {
	// Manufacturing signs IDevIDs and attestation key certificates.
	Manufacturing Issuer `yaml:"manufacturing"`
	// Operational signs LDevIDs, the only certificates that relying parties accept.
	Operational Issuer `yaml:"operational"`
	// Infrastructure signs the certificates of servers and operators.
	Infrastructure Issuer `yaml:"infrastructure"`
}

// Issuer is one issuing CA.
type Issuer struct {
	// Certificate is a PEM file: the issuer's certificate, then its root's.
	Certificate string `yaml:"certificate"`
	// Key is the URI of the issuer's key: "file:PATH" for a PEM file of mode 0600,
	// "pkcs11:token=TOKEN;object=NAME?pin-source=/PATH" for one in an HSM (RFC 7512).
	Key string `yaml:"key"`
	// Signer is the service that signs with the key. Default, and the only one that
	// signs exactly what was recorded beforehand: softcas.
	Signer string `yaml:"signer"`
}

// Trust is what `hallmarkd init` made for others.
type Trust struct {
	// Bundle is the signed trust bundle that devices fetch. Default: trust/bundle.json.
	Bundle string `yaml:"bundle"`
	// Roots is a folder with each root's certificate (NAME.crt) and CRL (NAME.crl), as
	// served on the status listener. Default: trust/roots.
	Roots string `yaml:"roots"`
}

// Log says what is logged.
type Log struct {
	// Level is the least level: debug, info, warn or error. Default: info.
	Level string `yaml:"level"`
	// Format is text or json. Default: text.
	Format string `yaml:"format"`
}

// Values of ChannelBinding.
const (
	BindingExporter = "exporter"
	BindingNonce    = "nonce"
)

// defaults is a Config that holds only the defaults.
func defaults() Config {
	issuer := Issuer{Signer: "softcas"}
	return Config{
		Listen:           Listen{Devices: ":8443", Operators: ":8444", Status: ":8445", Metrics: "127.0.0.1:8446"},
		Database:         "sqlite:hallmark.db",
		Journal:          "journal",
		Issuers:          Issuers{Manufacturing: issuer, Operational: issuer, Infrastructure: issuer},
		IssuerKeys:       IssuerKeys,
		Trust:            Trust{Bundle: "trust/bundle.json", Roots: "trust/roots"},
		LDevIDLifetime:   Duration(30 * day),
		SessionLifetime:  Duration(5 * time.Minute),
		ChannelBinding:   BindingExporter,
		CRLShardCapacity: 16384,
		Log:              Log{Level: "info", Format: "text"},
	}
}

// Inside returns path relative to the folder of the configuration; false if it is outside.
func (c *Config) Inside(path string) (relative string, inside bool) {
	relative, err := filepath.Rel(c.Dir, path)
	return relative, err == nil && filepath.IsLocal(relative)
}

// IssuerKeys is the default of Config.IssuerKeys, in which NamePart stands for the issuer's name.
const (
	IssuerKeys = "file:keys/" + NamePart + ".key"
	NamePart   = "{name}"
)

// KeyFile is the path of the file that a key URI names; false if it names none.
func (c *Config) KeyFile(uri string) (path string, ok bool) {
	for _, scheme := range fileSchemes {
		if path, ok = strings.CutPrefix(uri, scheme); ok {
			return c.abs(path), true
		}
	}
	return "", false
}

// fileSchemes are how the URIs of keys in files begin (ca/keys).
var fileSchemes = []string{"file:", "softkms:path=", "softkms:"}

// Secrets lists the local files with keys and the server's secret.
func (c *Config) Secrets() []string {
	paths := []string{c.ServerSecret}
	uris := []string{c.TimeKey}
	for _, i := range c.issuers() {
		uris = append(uris, i.Key)
	}
	for _, uri := range uris {
		if path, ok := c.KeyFile(uri); ok {
			paths = append(paths, path)
		}
	}
	return paths
}

// Files lists every local file that the configuration names, itself included, but not
// the record, its journal and the folder of roots.
func (c *Config) Files() []string {
	paths := append([]string{c.File, c.Trust.Bundle}, c.Secrets()...)
	for _, i := range c.issuers() {
		paths = append(paths, i.Certificate)
	}
	return paths
}
