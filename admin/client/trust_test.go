package client

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// root is one that vouches for the server by being its certificate.
type root struct {
	key *ecdsa.PrivateKey
	der []byte
}

func newRoot(t *testing.T) root {
	key, der := pair(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	return root{key, der}
}

func bundle(t *testing.T, number int64, signers []root, listed ...root) wire.SignedBundle {
	t.Helper()
	b := wire.Bundle{Number: number, Name: "Acme", Created: time.Now(), Servers: []string{"https://ca.example"}}
	for _, r := range listed {
		b.Infrastructure = append(b.Infrastructure, r.der)
	}
	spki, err := x509.MarshalPKIXPublicKey(listed[0].key.Public())
	if err != nil {
		t.Fatal(err)
	}
	b.Operational, b.Manufacturing, b.TimeKeys = b.Infrastructure, b.Infrastructure, [][]byte{spki}
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	signed := wire.SignedBundle{Bundle: text}
	digest := wire.BundleDigest(text)
	for _, r := range signers {
		signature, err := ecdsa.SignASN1(rand.Reader, r.key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(r.der)
		signed.Signatures = append(signed.Signatures, wire.BundleSignature{Signer: hex.EncodeToString(sum[:]), Signature: signature})
	}
	return signed
}

func number(t *testing.T, s wire.SignedBundle) int64 {
	t.Helper()
	var b wire.Bundle
	if err := json.Unmarshal(s.Bundle, &b); err != nil {
		t.Fatal(err)
	}
	return b.Number
}

// A server that has moved to another root is followed as its trust bundles lead, and by
// nothing less; none leads back.
func TestFollowsToNewRoots(t *testing.T) {
	old, next, last, stranger := newRoot(t), newRoot(t), newRoot(t), newRoot(t)
	both := bundle(t, 2, []root{old}, old, next)
	for name, c := range map[string]struct {
		shows root
		steps []wire.SignedBundle
		held  int64 // number of the bundle on file
		roots []root
		want  int64 // number afterwards; 0: refused
	}{
		"one step":                    {next, []wire.SignedBundle{both}, 1, []root{old}, 2},
		"a folder from before":        {next, []wire.SignedBundle{both}, 0, []root{old}, 2},
		"two at once":                 {next, []wire.SignedBundle{both, bundle(t, 3, []root{next}, next)}, 1, []root{old}, 3},
		"three at once":               {last, []wire.SignedBundle{both, bundle(t, 3, []root{next}, next, last), bundle(t, 4, []root{last}, last)}, 1, []root{old}, 4},
		"signed by a stranger":        {stranger, []wire.SignedBundle{bundle(t, 2, []root{stranger}, old, stranger)}, 1, []root{old}, 0},
		"a step left out":             {last, []wire.SignedBundle{both, bundle(t, 4, []root{last}, last)}, 1, []root{old}, 0},
		"without the server's root":   {stranger, []wire.SignedBundle{both}, 1, []root{old}, 0},
		"back to a root of yesterday": {old, []wire.SignedBundle{bundle(t, 2, []root{old, next}, old, next)}, 3, []root{next}, 0},
		"no bundle at all":            {next, nil, 1, []root{old}, 0},
	} {
		whoami := 0
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == wire.PathWhoami:
				whoami++
				json.NewEncoder(w).Encode(wire.Whoami{Name: "Acme"})
			case len(c.steps) == 0:
				http.NotFound(w, r)
			case r.URL.Path != wire.PathTrust || len(r.TLS.PeerCertificates) > 0:
				t.Errorf("%s: %s", name, r.URL)
			case r.URL.RawQuery == "":
				json.NewEncoder(w).Encode(c.steps[len(c.steps)-1])
			default:
				answer := wire.TrustSteps{Newest: number(t, c.steps[len(c.steps)-1])}
				for _, step := range c.steps {
					if strconv.FormatInt(number(t, step), 10) > r.URL.Query().Get("after") && len(answer.Bundles) < 2 {
						answer.Bundles = append(answer.Bundles, step)
					}
				}
				json.NewEncoder(w).Encode(answer)
			}
		}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{c.shows.der}, PrivateKey: c.shows.key}}, ClientAuth: tls.RequestClientCert}
		s.StartTLS()
		settings := write(t, s.URL, old.der, 24*time.Hour)
		b := wire.Bundle{Number: c.held}
		for _, r := range c.roots {
			b.Infrastructure = append(b.Infrastructure, r.der)
		}
		file := filepath.Join(filepath.Dir(settings), rootsFile)
		text := rootsText(b)
		if c.held == 0 {
			_, after, _ := strings.Cut(string(text), "\n")
			text = []byte(after)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		cl, err := Load(settings, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		_, err = cl.Whoami(t.Context())
		s.Close()
		after, readErr := os.ReadFile(file)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if c.want > 0 && (err != nil || whoami != 1 || bundleNumber(after) != c.want) {
			t.Errorf("%s: %v; bundle %d on file, want %d", name, err, bundleNumber(after), c.want)
		}
		if c.want == 0 && (err == nil || whoami != 0 || string(after) != string(text)) {
			t.Errorf("%s: %v; bundle %d on file", name, err, bundleNumber(after))
		}
	}
}

// A root that was retired is trusted until the next day at most; one that the server never had
// is another's.
func TestForgetsRetiredRoots(t *testing.T) {
	old, next, others := newRoot(t), newRoot(t), newRoot(t)
	way, asked := []wire.SignedBundle{bundle(t, 1, []root{old}, old), bundle(t, 2, []root{old}, old, next)}, 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == wire.PathWhoami {
			json.NewEncoder(w).Encode(wire.Whoami{Name: "Acme"})
			return
		}
		if r.URL.RawQuery != "" {
			json.NewEncoder(w).Encode(wire.TrustSteps{Bundles: way, Newest: int64(len(way))})
			return
		}
		asked++
		json.NewEncoder(w).Encode(way[len(way)-1])
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{next.der}, PrivateKey: next.key}}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	settings := write(t, s.URL, old.der, 24*time.Hour)
	file := filepath.Join(filepath.Dir(settings), rootsFile)
	if err := os.WriteFile(file, rootsText(wire.Bundle{Number: 2, Infrastructure: [][]byte{old.der, others.der, next.der}}), 0o644); err != nil {
		t.Fatal(err)
	}
	whoami := func() int {
		t.Helper()
		cl, err := Load(settings, func(warning string) { t.Error(warning) })
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := cl.Whoami(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(fingerprints(text), sha256.Sum256(others.der)) {
			t.Error("another installation's root is gone")
		}
		return len(fingerprints(text)) - 1
	}
	long := func() {
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(-2*lookAgain)); err != nil {
			t.Fatal(err)
		}
	}
	long()
	if n := whoami(); n != 2 || asked != 1 {
		t.Errorf("nothing has changed: %d roots, asked %d times", n, asked)
	}
	way = append(way, bundle(t, 3, []root{old, next}, next))
	if n := whoami(); n != 2 || asked != 1 {
		t.Errorf("on the same day: %d roots, asked %d times", n, asked)
	}
	long()
	if n := whoami(); n != 1 || asked != 2 {
		t.Errorf("on another day: %d roots, asked %d times", n, asked)
	}
}

// Who may not write the file is told so only when there is something to be written.
func TestReadOnly(t *testing.T) {
	for err, want := range map[error]bool{syscall.EROFS: true, syscall.EACCES: true, syscall.EPERM: true, syscall.ENOSPC: false, errNoNewer: false} {
		if got := readOnly(&os.PathError{Op: "chtimes", Path: rootsFile, Err: err}); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
