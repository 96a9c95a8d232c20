// Package collect is the device half of identity without a TPM: keys in files that
// only their owner can read, keys behind an external signer, and the signatures by
// which either proves that it is held. Errors are of type [*Error] and written for a
// technician.
package collect

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// maxKeyFile bounds a key file; ours has 241 bytes.
const maxKeyFile = 8 << 10

// File is an ECDSA P-256 key that is kept as PKCS#8 PEM.
type File struct {
	*ecdsa.PrivateKey
	spki, text []byte
}

// New makes a fresh key, which is stored nowhere yet.
func New() (*File, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return newFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func newFile(key *ecdsa.PrivateKey, text []byte) (*File, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	return &File{key, spki, text}, err
}

// Parse reads a key from its PEM.
func Parse(text []byte) (*File, error) {
	malformed := func(detail string) (*File, error) {
		return nil, &Error{Kind: ErrMalformed, Detail: "the key file " + detail, Hint: "a P-256 key in PKCS#8 PEM is needed: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"}
	}
	if len(text) > maxKeyFile {
		return malformed("is too large")
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return malformed("is not one PRIVATE KEY block")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return malformed("cannot be read")
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return malformed("holds another kind of key")
	}
	return newFile(key, bytes.Clone(text))
}

// Open reads a key from a file that nobody but its owner, who is the caller, or root, can
// read or write.
func Open(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &Error{Kind: ErrMissing, Detail: "there is no key file " + path,
			Hint: "bring it back if there is a copy; otherwise an administrator can let the device take a new key: hallmark device grant SERIAL --new-key"}
	case err != nil:
		return nil, &Error{Kind: ErrMissing, Detail: "cannot open the key file", Hint: "run as its owner; a symbolic link is not followed", cause: err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, &Error{Kind: ErrUnsafe, Detail: path + " is not a file", Hint: "name the file of the key"}
	case mode.Perm()&0o077 != 0:
		return nil, &Error{Kind: ErrUnsafe, Detail: fmt.Sprintf("the key file %s has mode %04o: others can use the key", path, mode.Perm()),
			Hint: "if nobody has, run: chmod 0600 " + path + "; otherwise tell an administrator"}
	case owner != 0 && int(owner) != os.Geteuid():
		return nil, &Error{Kind: ErrUnsafe, Detail: fmt.Sprintf("the key file %s belongs to user %d, who could replace it", path, owner),
			Hint: "run as that user, or change its owner"}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, &Error{Kind: ErrMissing, Detail: "cannot read the key file", cause: err}
	}
	return Parse(text)
}

// Create makes a key in a new file, mode 0600, or opens the one that is there: a power
// cut may have come after it was made. When it returns, the key is durable.
func Create(path string) (*File, error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return Open(path)
	}
	k, err := New()
	if err != nil {
		return nil, err
	}
	if err := durable.Replace(path, k.text, 0o600); err != nil {
		return nil, fmt.Errorf("writing the key file: %w", err)
	}
	return k, nil
}

// Wire is the key's SubjectPublicKeyInfo.
func (k *File) Wire() []byte { return bytes.Clone(k.spki) }

// Stored is the key's PEM.
func (k *File) Stored() []byte { return bytes.Clone(k.text) }

// Signer is a key that knows how messages name it.
type Signer interface {
	crypto.Signer
	Wire() []byte
}

// Prove signs a binding with the IDevID key and, if it is another, with the key to be
// certified: the evidence of package softkey.
func Prove(birth, key Signer, binding [32]byte) (statement, signature []byte, err error) {
	if signature, err = birth.Sign(rand.Reader, binding[:], crypto.SHA256); err != nil {
		return nil, nil, err
	}
	if bytes.Equal(birth.Wire(), key.Wire()) {
		return nil, signature, nil
	}
	statement, err = key.Sign(rand.Reader, binding[:], crypto.SHA256)
	return statement, signature, err
}
