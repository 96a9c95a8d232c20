// Package keys turns a key URI of the configuration into a crypto.Signer, and makes
// new keys where a URI says.
//
// A URI's scheme chooses the backend; the switch in this file is the list of them, one
// file each, all on go.step.sm/crypto/kms. No error repeats a URI: some carry a PIN.
package keys

import (
	"crypto"
	"errors"
	"fmt"
	"strings"
)

// Open opens the key that uri names. Relative paths in it are relative to dir.
func Open(uri, dir string) (crypto.Signer, error) {
	b, err := backendOf(uri, dir)
	if err != nil {
		return nil, err
	}
	return b.open()
}

// Create makes a new P-256 key where uri says and nothing is yet. When it returns, the
// key is durable.
func Create(uri, dir string) (crypto.Signer, error) {
	b, err := backendOf(uri, dir)
	if err != nil {
		return nil, err
	}
	return b.create()
}

// InToken reports whether a URI names a key in a PKCS #11 token, which is logged in to.
func InToken(uri string) bool { return strings.HasPrefix(uri, scheme11+":") }

// backend is one place where a key lives or shall live.
type backend interface {
	open() (crypto.Signer, error)
	create() (crypto.Signer, error)
}

func backendOf(uri, dir string) (backend, error) {
	scheme, _, found := strings.Cut(uri, ":")
	if !found {
		return nil, errors.New(`this is not a key URI; write "file:PATH"`)
	}
	switch scheme {
	case "file", "softkms":
		return newFile(scheme, uri, dir)
	case scheme11:
		return newInToken(uri)
	}
	return nil, fmt.Errorf(`key backend %q is not in this build; it has "file:PATH" (and "softkms:path=PATH", the same) and "pkcs11:token=TOKEN;object=NAME?pin-source=/PATH"`, scheme)
}
