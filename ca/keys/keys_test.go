package keys_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/ca/keys"
)

// TestCreateAndOpen: what is created signs, is found again under each form of its URI,
// is for its owner alone, and is never replaced.
func TestCreateAndOpen(t *testing.T) {
	dir := t.TempDir()
	made, err := keys.Create("file:ca.key", dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ca.key")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	public, ok := made.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		t.Fatalf("key %T", made.Public())
	}
	for _, uri := range []string{"file:ca.key", "file:./ca.key", "file:" + path, "file://" + path, "softkms:path=ca.key", "softkms:path=" + path, "softkms:ca.key"} {
		k, err := keys.Open(uri, dir)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
			continue
		}
		sum := sha256.Sum256([]byte("x"))
		signature, err := k.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(public, sum[:], signature) {
			t.Errorf("%s: another key, %v", uri, err)
		}
	}
	before, _ := os.ReadFile(path)
	if _, err := keys.Create("file:ca.key", dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating again: %v", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the key was replaced")
	}
	if _, err := keys.Create("file:missing/ca.key", dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
}

// TestOpenSSLKeys: keys that OpenSSL made, in each of its formats.
func TestOpenSSLKeys(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"pkcs8.key": {"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"p384.key":  {"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"sec1.key":  {"ecparam", "-name", "prime256v1", "-genkey", "-noout"},
		"rsa.key":   {"genrsa", "-traditional", "2048"},
	} {
		text, err := exec.Command("openssl", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Open("file:"+name, dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := keys.Create("file:good.key", dir); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, "good.key"))
	if err != nil {
		t.Fatal(err)
	}
	encrypted := exec.Command("openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", filepath.Join(dir, "good.key"))
	locked, err := encrypted.Output()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), text, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("open.key", good, 0o604)
	write("locked.key", locked, 0o600)
	write("two.key", append(good, good...), 0o600)
	write("public.key", []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), 0o600)
	write("broken.key", []byte(strings.Replace(string(good), "M", "N", 1)), 0o600)
	write("empty.key", nil, 0o600)
	write("huge.key", append(good, make([]byte, 1<<20)...), 0o600)
	for uri, want := range map[string]string{
		"good.key":                         "not a key URI",
		"":                                 "not a key URI",
		"file:":                            "names no local file",
		"file://host/good.key":             "names no local file",
		"file:%zz":                         "malformed",
		"file:missing.key":                 "no such file",
		"file:.":                           "not a key file",
		"file:open.key":                    "chmod 600",
		"file:locked.key":                  "unencrypted",
		"file:two.key":                     "does not hold a private key",
		"file:public.key":                  "unencrypted private key",
		"file:broken.key":                  "does not hold a private key",
		"file:empty.key":                   "unencrypted private key",
		"file:huge.key":                    "not a key file",
		"yubikey:slot-id=9a;pin-value=123": `"yubikey" is not in this build`,
		"pkcs11:object=ca;pin-value=123":   "a PIN does not belong",
	} {
		_, err := keys.Open(uri, dir)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", uri, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "123") {
			t.Errorf("the error holds the PIN: %v", err)
		}
	}
}
