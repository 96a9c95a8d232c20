package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/goccy/go-yaml"

	"github.com/hallmark-pki/hallmark/wire"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// SettingsFile, rootsFile and identityFile are the files of an operator's folder.
const (
	SettingsFile = "hallmark.yaml"
	rootsFile    = "roots.pem"
	identityFile = "identity.pem"
)

// maxFile bounds each file that is read.
const maxFile = 1 << 20

// settings is an operator's hallmark.yaml. Paths are relative to the file.
type settings struct {
	// Server is the https URL of the operators' listener.
	Server string `yaml:"server"`
	// Roots is a PEM file of the infrastructure roots: no other CA may vouch for the server.
	Roots string `yaml:"roots"`
	// Identity is a PEM file, mode 0600, of the operator's private key and certificate
	// chain. They share a file so that renewal replaces both in one step.
	Identity string `yaml:"identity"`
}

// Write makes or replaces an operator's folder and returns the path of its settings.
// Trust names the roots of the server; the chain is DER, leaf first.
func Write(dir, server string, trust wire.Bundle, key *ecdsa.PrivateKey, chain [][]byte) (string, error) {
	if err := makeFolder(dir); err != nil {
		return "", err
	}
	settings, err := yaml.Marshal(settings{Server: server, Roots: rootsFile, Identity: identityFile})
	if err != nil {
		return "", err
	}
	if err := writeIdentity(filepath.Join(dir, identityFile), key, chain); err != nil {
		return "", err
	}
	if err := durable.ReplaceForOwner(filepath.Join(dir, rootsFile), rootsText(trust), 0o644); err != nil {
		return "", err
	}
	// The settings come last: while they are missing, nobody takes the folder for whole.
	path := filepath.Join(dir, SettingsFile)
	return path, durable.ReplaceForOwner(path, settings, 0o644)
}

// makeFolder makes a folder if it is missing. As with its files, what root makes in the
// folder of a user is the user's: the server backs it up, a relay renews what is in it.
func makeFolder(dir string) error {
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := durable.MkdirForOwner(dir, 0o700); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// readSettings reads hallmark.yaml, or the one in a folder, and makes its paths absolute.
func readSettings(path string) (settings, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, SettingsFile)
	}
	text, err := readFile(path)
	if err != nil {
		return settings{}, fmt.Errorf("settings: %w", err)
	}
	var s settings
	if err := yaml.UnmarshalWithOptions(text, &s, yaml.Strict()); err != nil {
		beside := filepath.Join(filepath.Dir(path), "operator", SettingsFile)
		if _, missing := os.Stat(beside); missing == nil {
			return settings{}, fmt.Errorf("settings: %s is the server's configuration: the first operator's settings are %s", path, beside)
		}
		return settings{}, fmt.Errorf("settings %s: %w", path, err)
	}
	if _, err := wire.ServerURL(s.Server); err != nil {
		return settings{}, fmt.Errorf("settings %s: server: %w", path, err)
	}
	for name, file := range map[string]*string{"roots": &s.Roots, "identity": &s.Identity} {
		if *file == "" {
			return settings{}, fmt.Errorf("settings %s: %s is missing: it names a PEM file", path, name)
		}
		if !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(path), *file)
		}
	}
	return s, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("roots: %s holds no PEM certificate", path)
	}
	return pool, nil
}

func readIdentity(path string) (*tls.Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("identity: others can read the private key in %s: chmod 600 %s", path, path)
	}
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w", path, err)
	}
	return &pair, nil
}

func writeIdentity(path string, key crypto.PrivateKey, chain [][]byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return durable.ReplaceForOwner(path, append(text, certificatesPEM(chain)...), 0o600)
}

func certificatesPEM(chain [][]byte) []byte {
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file of at most 1 MiB")}
	}
	return os.ReadFile(path)
}
