package state

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/wire"
)

// set is a whole set in which everything says n.
func set(n byte) Set {
	return Set{
		Settings: Settings{Device: "m:" + string(n), Server: "https://localhost:8443", Pins: []string{strings.Repeat("0", 64)},
			Trust: bundle(int64(n)), Next: &wire.Challenge{Session: []byte{n}}, RenewAfter: time.Unix(int64(n), 0).UTC()},
		IDevID: [][]byte{certificate(n, 1), certificate(n, 2)}, AK: [][]byte{certificate(n, 3)}, LDevID: [][]byte{certificate(n, 4)}, LDevIDKey: []byte{n},
	}
}

// bundle is always the same for the same number.
func bundle(number int64) wire.SignedBundle {
	made, ok := bundles.Load(number)
	if !ok {
		made, _ = bundles.LoadOrStore(number, newBundle(number))
	}
	return made.(wire.SignedBundle)
}

var bundles sync.Map

func newBundle(number int64) wire.SignedBundle {
	must := func(der []byte, err error) []byte {
		if err != nil {
			panic(err)
		}
		return der
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	root := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	text := must(json.Marshal(wire.Bundle{Number: number, Created: time.Unix(1, 0).UTC(), Infrastructure: [][]byte{root}, Operational: [][]byte{root}, Manufacturing: [][]byte{root},
		TimeKeys: [][]byte{must(x509.MarshalPKIXPublicKey(key.Public()))}, Servers: []string{"https://localhost:8443"}}))
	digest, sum := wire.BundleDigest(text), sha256.Sum256(root)
	return wire.SignedBundle{Bundle: text, Signatures: []wire.BundleSignature{{Signer: hex.EncodeToString(sum[:]), Signature: must(ecdsa.SignASN1(rand.Reader, key, digest[:]))}}}
}

var signer = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// certificate is always the same for the same numbers.
func certificate(n ...byte) []byte {
	template := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(n), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(nil, template, template, signer.Public(), signer)
	if err != nil {
		panic(err)
	}
	return der
}

// number says which set s is, or fails if it is a mix.
func number(t *testing.T, s Set) byte {
	t.Helper()
	n := s.LDevIDKey[0]
	want, err := set(n).files()
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.files()
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if !bytes.Equal(want[i].data, got[i].data) {
			t.Fatalf("a mix of sets: %s is not set %q's", want[i].name, n)
		}
	}
	return n
}

func load(t *testing.T, d *Dir) Set {
	t.Helper()
	s, damaged, err := d.Load()
	if err != nil || damaged != nil {
		t.Fatal(err, damaged)
	}
	return s
}

func TestSaveAndLoad(t *testing.T) {
	d := At(t.TempDir())
	if _, _, err := d.Load(); !errors.Is(err, ErrEmpty) {
		t.Fatalf("an empty folder: %v", err)
	}
	for n := byte('a'); n < 'f'; n++ {
		if err := d.Save(set(n)); err != nil {
			t.Fatal(err)
		}
		if got := number(t, load(t, d)); got != n {
			t.Fatalf("set %q, want %q", got, n)
		}
		// What other programs see.
		key, err := os.ReadFile(filepath.Join(d.Path(), "ldevid.key"))
		if err != nil || key[0] != n {
			t.Fatalf("ldevid.key: %q, %v", key, err)
		}
		if info, err := os.Stat(filepath.Join(d.Path(), "ldevid.key")); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("ldevid.key: %v, %v", info.Mode(), err)
		}
	}
	if kept := d.numbers(); len(kept) != 2 {
		t.Fatalf("%d sets are kept, want the current and the one before", len(kept))
	}
	// The second set has no LDevID; nothing of the first's may shine through.
	bare := set('z')
	bare.LDevID, bare.LDevIDKey = nil, nil
	if err := d.Save(bare); err != nil {
		t.Fatal(err)
	}
	if s := load(t, d); s.LDevID != nil || s.LDevIDKey != nil {
		t.Fatal("the new set has the old LDevID")
	}
}

// A reader meanwhile sees whole sets only.
func TestReadWhileSaving(t *testing.T) {
	d := At(t.TempDir())
	if err := d.Save(set('a')); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for n := range 60 {
			if err := d.Save(set('a' + byte(n%26))); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for reads := 0; ; reads++ {
		select {
		case err := <-done:
			if err != nil || reads == 0 {
				t.Fatalf("%d reads, %v", reads, err)
			}
			return
		default:
			number(t, load(t, d))
		}
	}
}

// A set that a worn-out flash has eaten is passed over for the one before.
func TestDamagedSet(t *testing.T) {
	for name, text := range map[string][]byte{settingsFile: make([]byte, 10), idevidFile: make([]byte, 10), ldevidFile: encodeChain([][]byte{{1}})} {
		d := At(t.TempDir())
		for _, n := range []byte("ab") {
			if err := d.Save(set(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(d.Path(), currentLink, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
		half, err := set('c').files()
		if err != nil {
			t.Fatal(err)
		}
		// Nor is one looked at that a power cut has left half written.
		if err := d.stage(filepath.Join(d.Path(), setName(3)), half[:1]); err != nil {
			t.Fatal(err)
		}
		s, damaged, err := d.Load()
		if err != nil || damaged == nil || number(t, s) != 'a' {
			t.Fatalf("%s: %v, %v", name, damaged, err)
		}
		if err := os.RemoveAll(filepath.Join(d.Path(), setName(1))); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Load(); err == nil || errors.Is(err, ErrEmpty) {
			t.Fatalf("%s: nothing can be read, yet %v", name, err)
		}
	}
}

// A file that is larger than any of ours is not read.
func TestOversizedFile(t *testing.T) {
	d := At(t.TempDir())
	if err := d.Save(set('a')); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path(), currentLink, settingsFile), make([]byte, maxFile+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Fatal(err)
	}
}

// syncs is the disk and remembers which folders were synced.
type syncs struct {
	disk
	folders []string
}

func (s *syncs) SyncDir(path string) error {
	s.folders = append(s.folders, path)
	return s.disk.SyncDir(path)
}

// A second agent is told who holds the folder.
func TestLock(t *testing.T) {
	if os.Getenv("STATE_LOCK") != "" {
		_, err := At(os.Getenv("STATE_LOCK")).Lock()
		if held, ok := errors.AsType[*HeldError](err); !ok || held.PID != os.Getppid() || held.Command != filepath.Base(os.Args[0]) {
			t.Fatalf("%v; want it to name process %d", err, os.Getppid())
		}
		return
	}
	root, disk := t.TempDir(), &syncs{}
	d := On(filepath.Join(root, "made", "by", "lock"), disk)
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{filepath.Join(root, "made", "by"), filepath.Join(root, "made"), root}; !slices.Equal(disk.folders, want) {
		t.Errorf("a power cut leaves the names in %q", disk.folders)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestLock$", "-test.v")
	child.Env = append(os.Environ(), "STATE_LOCK="+d.Path())
	if out, err := child.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Fatalf("%v\n%s", err, out)
	}
	release()
	// Another user who can open the file could lock it; one of an earlier version can be opened.
	path := filepath.Join(d.Path(), lockFile)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	release, err = d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	release()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Whoever asks who has the folder keeps nobody from having it.
func TestLockWhileSomebodyAsks(t *testing.T) {
	d := At(t.TempDir())
	done := make(chan bool)
	asked := make(chan bool)
	go func() {
		defer close(asked)
		for {
			select {
			case <-done:
				return
			default:
				d.Holder()
			}
		}
	}()
	for n := range 500 {
		release, err := d.Lock()
		if err != nil {
			t.Errorf("attempt %d: %v", n, err)
			break
		}
		release()
	}
	close(done)
	<-asked
}

// A link in the place of the lock does not empty the file that it leads to.
func TestLockIsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim, contents := filepath.Join(dir, "victim"), []byte("precious")
	if err := os.WriteFile(victim, contents, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if release, err := At(dir).Lock(); err == nil {
		release()
		t.Error("the folder was locked by a link")
	}
	if got, err := os.ReadFile(victim); err != nil || !bytes.Equal(got, contents) {
		t.Errorf("the file is now %q, %v", got, err)
	}
}

// What root does in the folder of a user leaves nothing that the user cannot go on with.
func TestRootHelps(t *testing.T) {
	folder, owner := t.TempDir(), os.Geteuid()
	if owner == 0 {
		owner = 65534
	}
	if err := os.Chown(folder, owner, -1); err != nil {
		t.Fatal(err)
	}
	d := At(folder)
	release, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := errors.Join(d.Save(set('a')), d.Save(set('b')), d.SaveOutcome(Outcome{})); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type() == fs.ModeSymlink {
			return err
		}
		info, err := e.Info()
		if err == nil && int(info.Sys().(*syscall.Stat_t).Uid) != owner {
			t.Errorf("%s is not its folder's owner's", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Nor does it depend on the umask of who helps whether others can read the certificates.
func TestUmask(t *testing.T) {
	d := At(t.TempDir())
	defer syscall.Umask(syscall.Umask(0o077))
	if err := d.Save(set('a')); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{".": 0o755, ldevidFile: 0o644, settingsFile: 0o644, keyFile: 0o600} {
		if info, err := os.Stat(filepath.Join(d.Path(), currentLink, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func FuzzChain(f *testing.F) {
	f.Add(encodeChain([][]byte{certificate(1), certificate(2)}))
	f.Fuzz(func(t *testing.T, text []byte) {
		chain, err := DecodeChain(text)
		if err != nil {
			return
		}
		again, err := DecodeChain(encodeChain(chain))
		if err != nil || len(again) != len(chain) {
			t.Fatalf("%d certificates, then %d: %v", len(chain), len(again), err)
		}
	})
}
