package collect

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/attest/trouble"
)

// signer writes a signer with a key of its own, whose answers are made by openssl; sign is
// what it does with a digest in the file $d.
func signer(t *testing.T, sign string) string {
	t.Helper()
	dir := t.TempDir()
	key, err := New()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "signer")
	script := fmt.Sprintf(`#!/bin/sh
d=%s/digest
read -r request
case $request in
*public*) echo '{"public":"%s"}' ;;
*) request=${request#*'"digest":"'}; echo "${request%%%%\"*}" | base64 -d >$d; %s ;;
esac
`, dir, base64.StdEncoding.EncodeToString(key.Wire()), sign)
	// Nothing is started meanwhile: it would have the file open for writing until it runs its own
	// program, and so long nobody can run this one (execve(2), ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := errors.Join(os.WriteFile(path, []byte(script), 0o700), os.WriteFile(dir+"/key", key.Stored(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return "cd " + dir + " && ./signer"
}

const honest = `echo "{\"signature\":\"$(openssl pkeyutl -sign -inkey key -in $d | base64 -w0)\"}"`

func TestExternal(t *testing.T) {
	t.Parallel()
	k, err := OpenExternal(signer(t, honest))
	if err != nil {
		t.Fatal(err)
	}
	// A TLS 1.2 server may ask for a longer hash than the curve has room for.
	for _, size := range []int{32, 48, 64} {
		if _, err := k.Sign(nil, bytes.Repeat([]byte{7}, size), crypto.SHA256); err != nil {
			t.Errorf("a digest of %d bytes: %v", size, err)
		}
	}
	if _, err := k.Sign(nil, make([]byte, 20), crypto.SHA1); err == nil {
		t.Error("SHA-1 is signed")
	}
	if k.Runs() != 4 || k.Stored() != nil {
		t.Errorf("%d runs, stored %q", k.Runs(), k.Stored())
	}
}

func TestSignersThatFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sign string
		kind error
		says string
	}{
		"nothing":               {"true", ErrSigner, "answer that cannot be used"},
		"garbage":               {"echo garbage", ErrSigner, "answer that cannot be used"},
		"an unknown key":        {`echo '{"signatur":"AAAA"}'`, ErrSigner, "unknown field"},
		"two answers":           {honest + "; " + honest, ErrSigner, "more after"},
		"two things":            {`echo '{"signature":"AAAA","error":"no"}'`, ErrSigner, "more than one"},
		"its own words":         {`echo '{"error":"the PIN is locked\u001b[2J"}'`, ErrSigner, "says: the PIN is locked [2J"},
		"words and a code":      {`echo '{"error":"no token"}'; exit 1`, ErrSigner, "says: no token"},
		"a code":                {`echo "no reader" >&2; exit 7`, ErrSigner, "exit status 7: no reader"},
		"a signal":              {`kill -9 $$`, ErrSigner, "exit status 137"},
		"too much":              {`yes`, ErrSigner, "more than 4096 bytes"},
		"too much of complaint": {`yes | head -c 1000000 >&2; exit 1`, ErrSigner, "y y y"},
		"another key":           {`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key 2>/dev/null; ` + honest, ErrLie, "not its key's"},
		"another digest":        {`echo another.digest.of.thirty-two.byte >$d; ` + strings.Replace(honest, "-in $d", "-rawin -in $d", 1), ErrLie, "not its key's"},
		"a raw signature":       {fmt.Sprintf(`echo '{"signature":"%s"}'`, base64.StdEncoding.EncodeToString(make([]byte, 64))), ErrLie, "not its key's"},
	} {
		k, err := OpenExternal(signer(t, c.sign))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = k.Sign(nil, make([]byte, 32), crypto.SHA256)
		told, ok := errors.AsType[*trouble.Error](err)
		if !errors.Is(err, c.kind) || !ok || told.Hint == "" || !strings.Contains(err.Error(), c.says) || strings.ContainsRune(err.Error(), '\x1b') || len(err.Error()) > 500 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, answer := range map[string]string{
		"no key":     `{"public":"AAAA"}`,
		"another's":  `{"public":"MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEAAAA"}`,
		"Ed25519":    `{"public":"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="}`,
		"no answer":  ``,
		"signatures": `{"signature":"AAAA"}`,
	} {
		if _, err := OpenExternal("echo '" + answer + "'"); !errors.As(err, new(*trouble.Error)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A signer that hangs is ended with all that it has started.
func TestSignerThatHangs(t *testing.T) {
	t.Parallel()
	child := filepath.Join(t.TempDir(), "child")
	var text []byte
	for limit := time.Second; len(text) == 0; limit *= 2 { // a busy machine may not come to it within the first
		_, err := openExternal("sleep 1000 & echo $! >"+child+"; wait", limit)
		if !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
		if text, err = os.ReadFile(child); err != nil && limit > time.Minute {
			t.Fatal(err)
		}
	}
	ended(t, string(text))
}

// Tickets and passwords are none of the signer's business, and a PIN in its command is
// nobody's: errors and hints are logged.
func TestSignerAndSecrets(t *testing.T) {
	t.Setenv("HALLMARK_TICKET", "hmt1.secret")
	t.Setenv("HALLMARK_PROXY", "http://name:secret@proxy:3128")
	_, err := OpenExternal(`: --pin 4711; echo "ticket=$HALLMARK_TICKET proxy=$HALLMARK_PROXY path=${PATH:+set}" >&2; exit 1`)
	told, ok := errors.AsType[*trouble.Error](err)
	if !ok || !strings.Contains(err.Error(), "ticket= proxy= path=set") || strings.Contains(err.Error()+told.Hint, "4711") {
		t.Errorf("%v, %+v", err, told)
	}
}

// The shell is the system's, whatever stands before it in PATH.
func TestSignerPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/sh", []byte("#!/bin/sh\ntouch "+dir+"/run\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := OpenExternal(signer(t, honest)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/run"); err == nil {
		t.Error("another sh was run")
	}
}

// What a signer leaves running neither spoils its answer nor adds up, run after run.
func TestSignerThatForks(t *testing.T) {
	t.Parallel()
	children := filepath.Join(t.TempDir(), "children")
	k, err := OpenExternal("sleep 1000 & echo $! >>" + children + "; " + signer(t, honest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(children)
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range strings.Fields(string(text)) {
		ended(t, child)
	}
}

// ended waits for a process to be gone, and ends it if it does not go.
func ended(t *testing.T, child string) {
	t.Helper()
	var pid int
	fmt.Sscan(child, &pid)
	gone := func() bool {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(state), ") Z ") // nobody may be there to reap it
	}
	for deadline := time.Now().Add(time.Minute); !gone(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("what the signer started lives on")
		}
	}
}

func FuzzSignerAnswer(f *testing.F) {
	for _, seed := range []string{`{"public":"AAAA"}`, `{"signature":"AAAA"}`, `{"error":"no"}`, `{"error":"a","public":"AA=="}`, `[]`, ``, `{"public":null}`, `{"error":"a"}{}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parseAnswer(text)
		if err != nil {
			return
		}
		if n := len(a.Public) + len(a.Signature) + len(a.Error); n == 0 || n > len(text) && len(a.Error) == 0 {
			t.Errorf("%q: %+v", text, a)
		}
	})
}
