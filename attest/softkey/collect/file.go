// Package collect is the device half of identity without a TPM: keys in files that only their
// owner can read, keys behind an external signer, and the signatures that prove possession of
// either. Errors are of type [*trouble.Error] and written for a technician.
package collect

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/internal/durable"
)

// maxKeyFile bounds a key file, in bytes; ours has 241.
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
	der, err := marshal(key)
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
		return nil, &trouble.Error{Kind: ErrMalformed, Detail: "the key file " + detail, Hint: "a P-256 key in PKCS#8 PEM is needed: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"}
	}
	if len(text) > maxKeyFile {
		return malformed("is too large")
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return malformed("is not one PRIVATE KEY block")
	}
	var outer privateKeyInfo
	if rest, err := asn1.Unmarshal(block.Bytes, &outer); err != nil || len(rest) != 0 {
		return malformed("cannot be read")
	}
	if !bytes.Equal(outer.Algorithm.FullBytes, p256) {
		return malformed("holds another kind of key")
	}
	var inner ecPrivateKey
	rest, err := asn1.Unmarshal(outer.Key, &inner)
	if err != nil || len(rest) != 0 || inner.Version != 1 {
		return malformed("cannot be read")
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), inner.Key)
	if err != nil {
		return malformed("holds no key on P-256")
	}
	return newFile(key, bytes.Clone(text))
}

// What follows handles one kind of key; crypto/x509 handles all of them, at a cost of 90 KiB in
// the agent.

func marshal(key *ecdsa.PrivateKey) ([]byte, error) {
	secret, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	inner, err := asn1.Marshal(ecPrivateKey{Version: 1, Key: secret, Public: asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(privateKeyInfo{Algorithm: asn1.RawValue{FullBytes: p256}, Key: inner})
}

// privateKeyInfo is PrivateKeyInfo (RFC 5208 §5); attributes may follow.
type privateKeyInfo struct {
	Version   int
	Algorithm asn1.RawValue
	Key       []byte
}

// ecPrivateKey is ECPrivateKey (RFC 5915 §3). Public is written for other readers: ours derives
// it.
type ecPrivateKey struct {
	Version int
	Key     []byte
	Curve   asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
	Public  asn1.BitString        `asn1:"optional,explicit,tag:1"`
}

// p256 is the AlgorithmIdentifier of a key on P-256: id-ecPublicKey, prime256v1 (RFC 5480 §2.1.1).
var p256 = []byte("\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07")

// Open reads a key from a file that only its owner can read or write. The owner must be the
// caller or root; for root, who may be working in the agent's place, also the owner of the file's
// folder.
func Open(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, &trouble.Error{Kind: ErrMissing, Detail: "there is no key file " + path,
			Hint: "bring it back if there is a copy; otherwise an administrator can let the device take a new key: hallmark device grant SERIAL --new-key"}
	case err != nil:
		return nil, &trouble.Error{Kind: ErrMissing, Detail: "cannot open the key file", Hint: "run as its owner; a symbolic link is not followed", Cause: err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, &trouble.Error{Kind: ErrUnsafe, Detail: path + " is not a file", Hint: "name the file of the key"}
	case mode.Perm()&0o077 != 0:
		return nil, &trouble.Error{Kind: ErrUnsafe, Detail: fmt.Sprintf("the key file %s has mode %04o: others can use the key", path, mode.Perm()),
			Hint: "if nobody has, run: chmod 0600 " + path + "; otherwise tell an administrator"}
	case owner != 0 && int(owner) != os.Geteuid() && (os.Geteuid() != 0 || owner != ownerOf(filepath.Dir(path))):
		return nil, &trouble.Error{Kind: ErrUnsafe, Detail: fmt.Sprintf("the key file %s belongs to user %d, who could replace it", path, owner),
			Hint: "run as that user, or change its owner"}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, &trouble.Error{Kind: ErrMissing, Detail: "cannot read the key file", Cause: err}
	}
	return Parse(text)
}

// ownerOf is the owner of a folder; root if that cannot be found out.
func ownerOf(folder string) uint32 {
	info, err := os.Stat(folder)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// Create makes a key in a new file, mode 0600, or opens the one that is there, since an earlier
// attempt may have been cut off after making it. When it returns, the key is durable.
func Create(path string) (*File, error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return Open(path)
	}
	k, err := New()
	if err != nil {
		return nil, err
	}
	if err := durable.ReplaceForOwner(path, k.text, 0o600); err != nil {
		return nil, fmt.Errorf("writing the key file: %w", err)
	}
	return k, nil
}

// Wire is the key's SubjectPublicKeyInfo.
func (k *File) Wire() []byte { return bytes.Clone(k.spki) }

// Stored is the key's PEM.
func (k *File) Stored() []byte { return bytes.Clone(k.text) }

// Signer is a key with its public half as messages carry it.
type Signer interface {
	crypto.Signer
	Wire() []byte
}

// Prove signs a binding with the IDevID key and, if that is a different key, with the key to be
// certified: the evidence that package softkey verifies.
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
