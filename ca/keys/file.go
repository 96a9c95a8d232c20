package keys

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/softkms"
	"go.step.sm/crypto/kms/uri"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// maxFile bounds a key file in bytes; an RSA-4096 key in PEM has about 3,300.
const maxFile = 16 << 10

var accepted = []string{"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"}

// file is a private key in a PEM file that only its owner and group can read.
type file struct{ path string }

func newFile(scheme, text, dir string) (file, error) {
	u, err := uri.ParseWithScheme(scheme, text)
	if err != nil {
		return file{}, fmt.Errorf("the %s key URI is malformed", scheme)
	}
	path := u.Path // file:/abs, file:///abs
	if u.Has("path") {
		path = u.Get("path")
	} else if path == "" {
		path = u.Opaque
	}
	if path == "" || u.Host != "" {
		return file{}, fmt.Errorf(`the %s key URI names no local file; write "file:PATH"`, scheme)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return file{path}, nil
}

func (f file) open() (crypto.Signer, error) {
	text, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || !slices.Contains(accepted, block.Type) || block.Headers["Proc-Type"] != "" {
		// Encrypted keys are refused here: pemutil would ask for a password on the terminal.
		return nil, fmt.Errorf("key file %s: it must be one unencrypted private key in PEM (PKCS #8, SEC 1 or PKCS #1)", f.path)
	}
	signer, err := new(softkms.SoftKMS).CreateSigner(&apiv1.CreateSignerRequest{SigningKeyPEM: text})
	if err != nil {
		return nil, fmt.Errorf("key file %s: it does not hold a private key", f.path)
	}
	return signer, nil
}

// read reads a small regular file that others than its owner and group cannot read.
func (f file) read() ([]byte, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return nil, fmt.Errorf("%s is not a key file", f.path)
	case info.Mode().Perm()&0o007 != 0:
		return nil, fmt.Errorf("%s can be read by every user of this machine; type: chmod 600 %s", f.path, f.path)
	}
	return io.ReadAll(io.LimitReader(in, maxFile))
}

func (f file) create() (crypto.Signer, error) {
	kms := new(softkms.SoftKMS)
	key, err := kms.CreateKey(&apiv1.CreateKeyRequest{Name: f.path, SignatureAlgorithm: apiv1.ECDSAWithSHA256})
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key.PrivateKey)
	if err != nil {
		return nil, err
	}
	if err := durable.CreateForOwner(f.path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return kms.CreateSigner(&key.CreateSignerRequest)
}
