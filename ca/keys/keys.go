// Package keys turns a key URI of the configuration into a crypto.Signer, opening the key or
// making it.
//
// A URI's scheme chooses the backend, in the switch in this file; all are built on
// go.step.sm/crypto/kms. No error repeats a URI: some carry a PIN.
package keys

import (
	"crypto"
	"errors"
	"fmt"
	"strings"
)

// Open opens the key that uri names. Paths in it are relative to dir.
func Open(uri, dir string) (crypto.Signer, error) {
	b, err := backendOf(uri, dir)
	if err != nil {
		return nil, err
	}
	return b.open()
}

// Create makes a new P-256 key at uri, where there must be none. When it returns, the key is
// durable.
func Create(uri, dir string) (crypto.Signer, error) {
	b, err := backendOf(uri, dir)
	if err != nil {
		return nil, err
	}
	return b.create()
}

// InToken reports whether a URI names a key in a PKCS #11 token.
func InToken(uri string) bool { return strings.HasPrefix(uri, scheme11+":") }

// backend is one place for a key.
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
