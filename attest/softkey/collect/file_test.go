package collect

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hallmark-pki/hallmark/attest/trouble"
)

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// What is written is what crypto/x509 writes, byte for byte, and OpenSSL's files are read.
func TestKeyFilesAreEverybodys(t *testing.T) {
	t.Parallel()
	made := must[*File](t)(New())
	block, _ := pem.Decode(made.Stored())
	if want := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(made.PrivateKey)); !bytes.Equal(block.Bytes, want) {
		t.Fatalf("%x, want %x", block.Bytes, want)
	}
	if again := must[*File](t)(Parse(made.Stored())); !again.Equal(made.PrivateKey) || !bytes.Equal(again.Wire(), made.Wire()) {
		t.Fatal("another key")
	}
	text := must[[]byte](t)(exec.Command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256").Output())
	block, _ = pem.Decode(text)
	if want := must[any](t)(x509.ParsePKCS8PrivateKey(block.Bytes)).(*ecdsa.PrivateKey); !must[*File](t)(Parse(text)).Equal(want) {
		t.Fatal("another key than OpenSSL's")
	}
}

// Other kinds of keys, and what is no key, are refused.
func TestKeyFilesOfOtherKinds(t *testing.T) {
	t.Parallel()
	good, _ := pem.Decode(must[*File](t)(New()).Stored())
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encoded := func(key any) []byte { return must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key)) }
	zero := bytes.Clone(good.Bytes)
	copy(zero[36:68], make([]byte, 32))
	for name, der := range map[string][]byte{
		"P-384":       encoded(must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))),
		"RSA":         encoded(must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))),
		"Ed25519":     encoded(edwards),
		"zero":        zero,
		"cut off":     good.Bytes[:60],
		"more behind": append(bytes.Clone(good.Bytes), 5, 0),
		"nothing":     {},
	} {
		_, err := Parse(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if e, ok := errors.AsType[*trouble.Error](err); !ok || e.Kind != ErrMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A key that root makes in an agent's folder is the agent's, and root may go on with it;
// a key that another user could replace is nobody's.
func TestKeyFilesOfAnAgent(t *testing.T) {
	t.Parallel()
	folder, agent := t.TempDir(), os.Geteuid()
	if agent == 0 {
		agent = 65534
	}
	path := filepath.Join(folder, "key")
	if err := os.Chown(folder, agent, -1); err != nil {
		t.Fatal(err)
	}
	made := must[*File](t)(Create(path))
	if owner := must[os.FileInfo](t)(os.Stat(path)).Sys().(*syscall.Stat_t).Uid; int(owner) != agent {
		t.Errorf("it belongs to user %d, not %d", owner, agent)
	}
	if again := must[*File](t)(Open(path)); !again.Equal(made.PrivateKey) {
		t.Error("another key")
	}
	if os.Geteuid() != 0 {
		return // nobody else can give files away
	}
	if err := os.Chown(path, agent-1, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrUnsafe) {
		t.Errorf("another user's: %v", err)
	}
}

// Whatever is in a key file, what is taken is stored as it came and can sign.
func FuzzParse(f *testing.F) {
	key, err := New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key.Stored())
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := Parse(text)
		if err != nil {
			return
		}
		digest := make([]byte, 32)
		signature, err := key.Sign(rand.Reader, digest, nil)
		if err != nil || !ecdsa.VerifyASN1(&key.PublicKey, digest, signature) || !bytes.Equal(key.Stored(), text) {
			t.Fatal(err)
		}
	})
}
