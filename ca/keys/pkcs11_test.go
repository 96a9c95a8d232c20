//go:build cgo

package keys_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/hallmark-pki/hallmark/ca/keys"
)

// softHSM is the module as Debian installs it.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// tokens makes a folder of SoftHSM tokens, once: the module reads its configuration once.
var tokens = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "tokens"); err != nil {
		return "", err
	}
	setup := exec.Command("sh", "-ec", `umask 077; mkdir tokens; echo "directories.tokendir = $PWD/tokens" > conf
		for label in made away asked one two few; do softhsm2-util --init-token --free --label "Acme $label" --pin 1234 --so-pin 5678; done`)
	setup.Dir = dir
	setup.Env = append(os.Environ(), "SOFTHSM2_CONF="+filepath.Join(dir, "conf"))
	if out, err := setup.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, os.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "conf"))
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := tokens(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// newToken gives the beginning and the end of the URIs of keys in a token.
func newToken(t *testing.T, label string) (token, pin string) {
	t.Helper()
	if _, err := tokens(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(file, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "pkcs11:module-path=" + softHSM + ";token=Acme%20" + label, "?pin-source=" + file
}

func signs(t *testing.T, k crypto.Signer) {
	t.Helper()
	sum := sha256.Sum256([]byte("x"))
	signature, err := k.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), sum[:], signature) {
		t.Errorf("no signature, or a wrong one: %v", err)
	}
}

// TestToken: keys are made in a token, found there again, and still used after the token was
// away; they do not leave it, and no error says the PIN.
func TestToken(t *testing.T) {
	token, pin := newToken(t, "made")
	uri := token + ";object=operational" + pin
	made, err := keys.Create(uri, "")
	if err != nil {
		t.Fatal(err)
	}
	signs(t, made)
	if _, err := keys.Create(uri, ""); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made again: %v", err)
	}
	opened, err := keys.Open(uri, "")
	if err != nil || !made.Public().(*ecdsa.PublicKey).Equal(opened.Public()) {
		t.Fatalf("another key: %v", err)
	}
	signs(t, opened)
	dir := filepath.Dir(strings.TrimPrefix(pin, "?pin-source="))
	listed, err := exec.Command("pkcs11-tool", "--module", softHSM, "--token-label", "Acme made", "--login", "--pin", "1234", "--list-objects", "--type", "privkey").CombinedOutput()
	if err != nil || !strings.Contains(string(listed), "sensitive, always sensitive, never extractable") {
		t.Errorf("%v: %s", err, listed)
	}
	for what, bad := range map[string]string{
		"no key":          token + pin,
		"another key":     token + ";object=nobody" + pin,
		"another token":   strings.Replace(uri, "Acme", "Emca", 1),
		"no module":       strings.Replace(uri, softHSM, "/nowhere.so", 1),
		"the PIN itself":  token + ";object=operational?pin-value=1234",
		"no file of PINs": uri + "s",
		"a relative path": token + ";object=operational?pin-source=pin",
		"a slip":          token + ";object=operational;modul=x" + pin,
		"two names":       token + ";object=a;object=b" + pin,
		"a fragment":      token + ";object=operational#x" + pin,
		"a slip in PIN":   uri + "%zz",
		"a slip after it": uri + ";max-sessions=4",
		"no key's type":   token + ";type=cert;object=operational" + pin,
		"one session":     token + ";max-sessions=1;object=operational" + pin,
		"minus sessions":  token + ";max-sessions=-5;object=operational" + pin,
	} {
		if _, err := keys.Open(bad, dir); err == nil || strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "pin"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(token+";max-sessions=3;object=operational"+pin, dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a PIN that everybody may read: %v", err)
	}
}

// TestTokenURI: what RFC 7512 writes is understood as it means it.
func TestTokenURI(t *testing.T) {
	token, pin := newToken(t, "made")
	for _, form := range []string{";type=private;object=a+b", ";object=a%2Bb", ";object=a%2bb"} {
		if _, err := keys.Open(token+form+pin, ""); err == nil {
			t.Fatalf("%s is there already", form)
		}
	}
	made, err := keys.Create(token+";object=a+b;id=%01%0a"+strings.Replace(pin, "=", "=file:", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{";type=private;object=a+b", ";object=a%2Bb", ";id=%01%0A", ";id=010a"} {
		if found, err := keys.Open(token+form+pin, ""); err != nil || !made.Public().(*ecdsa.PublicKey).Equal(found.Public()) {
			t.Errorf("%s: %v", form, err)
		}
	}
}

// TestTokenHoldsHalfAKey: what somebody left behind is not taken for half of a new key, and a
// key that cannot be used is not doubled.
func TestTokenHoldsHalfAKey(t *testing.T) {
	token, pin := newToken(t, "made")
	tool := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("pkcs11-tool", append([]string{"--module", softHSM, "--token-label", "Acme made", "--login", "--pin", "1234"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for n := range 4 { // which of two the token finds first is chance
		for _, half := range []string{"privkey", "pubkey"} {
			label := fmt.Sprint(half, n)
			if _, err := keys.Create(token+";object="+label+pin, ""); err != nil {
				t.Fatal(err)
			}
			tool("--delete-object", "--type", half, "--label", label)
			made, err := keys.Create(token+";object="+label+pin, "")
			if err != nil {
				t.Fatal(err)
			}
			signs(t, made)
		}
	}
	tool("--keypairgen", "--key-type", "EC:edwards25519", "--label", "edwards", "--id", "ed")
	if _, err := keys.Create(token+";object=edwards"+pin, ""); err == nil {
		t.Error("two keys of one name")
	}
}

// TestTokenWasAway: an HSM that was started anew knows no session from before.
func TestTokenWasAway(t *testing.T) {
	token, pin := newToken(t, "away")
	key, err := keys.Create(token+";object=operational"+pin, "")
	if err != nil {
		t.Fatal(err)
	}
	signs(t, key)
	keys.Age(t) // it was opened long ago
	module := pkcs11.New(softHSM)
	slots, err := module.GetSlotList(true)
	for _, slot := range slots {
		err = errors.Join(err, module.CloseAllSessions(slot))
	}
	if err != nil {
		t.Fatal(err)
	}
	signs(t, key)
}

// TestTokensAreServed: two tokens of an HSM across a socket. While it hangs nobody is hung, for
// long, and when it was started anew both are used again.
func TestTokensAreServed(t *testing.T) {
	_, pin := newToken(t, "one")
	dir, err := os.MkdirTemp("", "hsm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	t.Setenv("P11_KIT_SERVER_ADDRESS", "unix:path="+socket)
	serve := func() (signal func(syscall.Signal)) {
		os.Remove(socket)
		server := exec.Command("p11-kit", "server", "--foreground", "--name", socket, "--provider", softHSM, "pkcs11:token=Acme%20one", "pkcs11:token=Acme%20two")
		server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has a child for each client
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		signal = func(s syscall.Signal) { syscall.Kill(-server.Process.Pid, s) }
		t.Cleanup(func() { signal(syscall.SIGKILL); server.Wait() })
		for range 1200 {
			if c, err := net.Dial("unix", socket); err == nil { // it is there before anybody listens
				c.Close()
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		return signal
	}
	hsm := serve()
	client, err := filepath.Glob("/usr/lib/*/pkcs11/p11-kit-client.so")
	if err != nil || len(client) != 1 {
		t.Fatal(client, err)
	}
	var made []crypto.Signer
	uri := func(token string) string {
		return "pkcs11:module-path=" + client[0] + ";token=Acme%20" + token + ";object=" + token + pin
	}
	for _, token := range []string{"one", "two"} {
		key, err := keys.Create(uri(token), "")
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, key)
	}

	hsm(syscall.SIGSTOP)
	sign := func(key crypto.Signer) error {
		_, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		return err
	}
	// The first waits for 5 s, as long as it may take; after that nobody does. Who did would at every
	// attempt, and a busy machine is not slow at each.
	if began := time.Now(); sign(made[0]) == nil || time.Since(began) > 20*time.Second {
		t.Errorf("an HSM that hangs: after %v", time.Since(began))
	}
	for what, ask := range map[string]func() error{
		"a signature": func() error { return sign(made[0]) },
		"a key": func() error {
			_, err := keys.Open(strings.Replace(uri("one"), "object=one", "object=other", 1), "")
			return err
		},
	} {
		took := time.Hour
		for n := 0; n < 5 && took > 4*time.Second; n++ {
			began := time.Now()
			if ask() == nil {
				t.Errorf("an HSM that hangs: %s", what)
			}
			took = min(took, time.Since(began))
		}
		if took > 4*time.Second {
			t.Errorf("an HSM that hangs: %s after %v", what, took)
		}
	}
	hsm(syscall.SIGCONT)
	for _, key := range made {
		for deadline := time.Now().Add(time.Minute); sign(key) != nil && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond) // while the signature of before is late
		}
		signs(t, key)
	}

	hsm(syscall.SIGKILL)
	if _, err := made[1].Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("signed by nobody")
	}
	hsm = serve()
	for range 2 { // of which one may find that its login is no more
		for _, key := range made {
			keys.Age(t)
			_, err = key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		}
	}
	for _, key := range made {
		signs(t, key)
	}

	// It says why it is away, and a reload tries again.
	hsm(syscall.SIGKILL)
	serve()
	file := strings.TrimPrefix(pin, "?pin-source=")
	if err := os.WriteFile(file, []byte("4321"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		keys.Age(t)
		_, err = made[0].Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
	}
	if !errors.Is(err, keys.ErrPIN) {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(uri("one"), ""); err != nil {
		t.Error(err)
	}
	signs(t, made[0])
}

// TestTokenRefusesThePIN: a token is not asked until it locks itself.
func TestTokenRefusesThePIN(t *testing.T) {
	token, pin := newToken(t, "asked")
	file := strings.TrimPrefix(pin, "?pin-source=")
	if err := os.WriteFile(file, []byte("4321\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Create(token+";object=operational"+pin, ""); err == nil || !strings.Contains(fmt.Sprint(err), "CKR_PIN_INCORRECT") {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Create(token+";object=operational"+pin, ""); err == nil || !strings.Contains(fmt.Sprint(err), "is empty") {
		t.Errorf("no PIN: %v", err)
	}
}

// fewSessions is SoftHSM but for how many read/write sessions it says that its tokens allow.
const fewSessions = `
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long (*call)();
static call functions[128];
static call tokenInfo;

static unsigned long C_GetTokenInfo(unsigned long slot, unsigned char *info) {
	unsigned long rv = tokenInfo(slot, info), most = atoi(getenv("MOST_SESSIONS"));
	/* CK_TOKEN_INFO: 96 bytes of text, flags, two counts of sessions, ulMaxRwSessionCount. */
	if (rv == 0) memcpy(info + 96 + 3 * sizeof most, &most, sizeof most);
	return rv;
}

unsigned long C_GetFunctionList(call **list) {
	call *real;
	unsigned long rv = ((call)dlsym(dlopen(SOFTHSM, RTLD_NOW), "C_GetFunctionList"))(&real);
	/* CK_FUNCTION_LIST: the version, and 68 functions, of which this is the seventh. */
	memcpy(functions, real, 69 * sizeof *real);
	tokenInfo = functions[7];
	functions[7] = (call)C_GetTokenInfo;
	*list = functions;
	return rv;
}
`

// TestTokenOfOneSession: such a token is refused with a sentence; two sessions are enough.
func TestTokenOfOneSession(t *testing.T) {
	token, pin := newToken(t, "few")
	dir := t.TempDir()
	// A copy: the module is not initialised twice.
	build := exec.Command("sh", "-ec", `cp "$0" softhsm.so; cc -shared -fPIC -w -std=gnu89 -DSOFTHSM="\"$PWD/softhsm.so\"" -o few.so -x c - -ldl`, softHSM)
	build.Dir, build.Stdin = dir, strings.NewReader(fewSessions)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	uri := strings.Replace(token, softHSM, filepath.Join(dir, "few.so"), 1) + ";object=operational" + pin
	t.Setenv("MOST_SESSIONS", "1")
	if _, err := keys.Create(uri, ""); err == nil || !strings.Contains(err.Error(), "one read/write session") {
		t.Fatal(err)
	}
	t.Setenv("MOST_SESSIONS", "2")
	key, err := keys.Create(uri, "")
	if err != nil {
		t.Fatal(err)
	}
	signs(t, key)
}
