package device_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	softkey "github.com/hallmark-pki/hallmark/attest/softkey/collect"
	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// softHSM is the module as Debian installs it.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// element is a secure element, played by a SoftHSM token with keys 01 and 02, and the reference signer's command for it.
type element struct{ dir, command string }

func newElement(t *testing.T) element {
	t.Helper()
	e := element{dir: t.TempDir()}
	signer := must[string](t)(filepath.Abs("../examples/external-signer/pkcs11"))
	setup := fmt.Sprintf(`set -e; mkdir tokens; echo "directories.tokendir = $PWD/tokens" >conf; export SOFTHSM2_CONF=$PWD/conf
(umask 077; echo 1234 >pin)
softhsm2-util --init-token --free --label element --pin 1234 --so-pin 5678
for id in 01 02; do
	pkcs11-tool --module %s --token-label element --login --pin 1234 --keypairgen --key-type EC:prime256v1 --usage-sign --id $id
done`, softHSM)
	cmd := exec.Command("sh", "-c", setup)
	cmd.Dir = e.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A file of its own, so that a test can put another in its place.
	e.command = filepath.Join(e.dir, "signer")
	e.script(t, fmt.Sprintf(`SOFTHSM2_CONF=%[1]s/conf exec %[2]s %[3]s element "${1:-01}" %[1]s/pin`, e.dir, signer, softHSM))
	return e
}

func (e element) script(t *testing.T, text string) {
	t.Helper()
	next := e.command + ".next"
	// Nothing is started meanwhile: it would have the file open for writing until it runs its own
	// program, and so long nobody can run this one (execve(2), ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := errors.Join(os.WriteFile(next, []byte("#!/bin/sh\n"+text+"\n"), 0o700), os.Rename(next, e.command)); err != nil {
		t.Fatal(err)
	}
}

// A key behind an external signer serves for everything, and no secret is on file.
func TestExternalSigner(t *testing.T) {
	t.Parallel()
	for _, nonceMode := range []bool{false, true} {
		e := newElement(t)
		u := install(t, nonceMode).soft(t, "external:"+e.command)
		u.lot = record.DefaultLot
		if _, err := u.enrol(t, u.ticket(t), "SN-1"); problem(err) != wire.CodeAssurance {
			t.Fatalf("a model that asks for a TPM: %v", err)
		}
		u.lot = "lamps"
		ticket := u.ticket(t)
		u.lose[wire.PathEnrol] = 1
		must[device.Result](t)(u.enrol(t, ticket, "SN-1"))
		u.key = "" // it is on file
		u.renew(t, "idevid")
		first := u.load(t)
		u.renew(t, "ldevid") // before its time: as with other keys, this gives the next one
		second := u.load(t)
		if bytes.Equal(first.LDevID[0], second.LDevID[0]) {
			t.Error("nothing was renewed")
		}
		one := must[*x509.Certificate](t)(x509.ParseCertificate(first.IDevID[0]))
		two := must[*x509.Certificate](t)(x509.ParseCertificate(second.LDevID[0]))
		if !bytes.Equal(one.RawSubjectPublicKeyInfo, two.RawSubjectPublicKeyInfo) {
			t.Error("the element has one key, and two are certified")
		}
		// It is recorded as what it can prove.
		if d := u.device(t, "lamp", "SN-1"); d.Assurance.String() != record.LevelSoftware || d.State != record.StateActive {
			t.Errorf("recorded as %+v", d)
		}
		if s := must[device.Status](t)(device.ReadStatus(u.dir, u.clock())); s.Key != "external:"+e.command || s.TPM != "" || s.Condition != device.OK {
			t.Errorf("%+v", s)
		}
		if out, err := exec.Command("grep", "-rl", "PRIVATE KEY", u.dir).CombinedOutput(); err == nil {
			t.Errorf("keys on file: %s", out)
		}
	}
}

// Whoever puts a PIN into the command finds it in the list of processes, but not in what
// others may read afterwards, nor in what is shown.
func TestSignerCommandIsPrivate(t *testing.T) {
	t.Parallel()
	e := newElement(t)
	u := install(t, false).soft(t, "external:"+e.command+" 01 --pin=4711").enrolled(t, "SN-1")
	u.renew(t, "idevid")
	if s := must[device.Status](t)(device.ReadStatus(u.dir, u.clock())); s.Key != "external:"+e.command+" …" {
		t.Errorf("shown: %q", s.Key)
	}
	key := u.key
	u.key = "file"
	if _, err := u.enrol(t, nil, "SN-1"); !errors.As(err, new(*device.ConflictError)) || strings.Contains(err.Error(), "4711") {
		t.Errorf("%v", err)
	}
	u.key = key
	out, err := exec.Command("find", u.dir, "-type", "f", "-perm", "/077", "-exec", "grep", "-l", "4711", "{}", "+").CombinedOutput()
	if err == nil || len(out) > 0 {
		t.Errorf("others may read %s", out)
	}
	if _, err := exec.Command("grep", "-r", "4711", u.dir).Output(); err != nil {
		t.Errorf("it is not on file, so this shows nothing: %v", err)
	}
}

// A command that somebody else may have written into the state folder is not run.
func TestSignerOfOthers(t *testing.T) {
	t.Parallel()
	e := newElement(t)
	u := install(t, false).soft(t, "external:"+e.command).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	key := u.key
	u.key = ""
	ran := filepath.Join(e.dir, "ran")
	e.script(t, "touch "+ran)
	for _, path := range []string{u.dir, state.At(u.dir).SettingsFile()} {
		info := must[os.FileInfo](t)(os.Stat(path))
		if err := os.Chmod(path, info.Mode()|0o020); err != nil {
			t.Fatal(err)
		}
		if _, err := device.Renew(t.Context(), u.options()); !errors.Is(err, softkey.ErrUnsafe) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := device.OpenCredential(u.dir, ""); !errors.Is(err, softkey.ErrUnsafe) {
			t.Errorf("%s: %v", path, err)
		}
		if err := os.Chmod(path, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Fatal("it was run")
	}
	u.key = key // the one that whoever asks has named
	if _, err := device.Renew(t.Context(), u.options()); !errors.Is(err, softkey.ErrSigner) {
		t.Errorf("%v", err)
	}
}

// A connection, the proxy's kind of connection, and an HTTP client: all sign in the element.
func TestExternalSignerConnects(t *testing.T) {
	t.Parallel()
	e := newElement(t)
	u := install(t, false).soft(t, "external:"+e.command).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	address, roots := u.relyingParty(t)
	identity := must[*device.Identity](t)(device.OpenIdentity(u.options()))
	defer identity.Close()
	dial := func() error {
		conn, err := identity.Dial(t.Context(), device.Connection{To: address, Roots: roots})
		if err != nil {
			return err
		}
		defer conn.Close()
		if said := speak(t, conn); !strings.Contains(said, u.number(t)) {
			t.Errorf("%q, want certificate %s", said, u.number(t))
		}
		return nil
	}
	if err := dial(); err != nil {
		t.Fatal(err)
	}
	// What fails is told from a network that does.
	e.script(t, `echo "reader unplugged" >&2; exit 1`)
	if err := dial(); !errors.Is(err, softkey.ErrSigner) || !strings.Contains(err.Error(), "reader unplugged") {
		t.Errorf("%v", err)
	}
}

// Two holders of one key in two elements: the same as two copies of a file.
func TestForkOfAnExternalKey(t *testing.T) {
	t.Parallel()
	e := newElement(t)
	own := install(t, false).soft(t, "external:"+e.command).enrolled(t, "SN-1")
	event := record.Event{Time: time.Now(), Actor: "test", Verb: "test"}
	if err := own.store.Invite(t.Context(), record.Operator{Name: "anna", Created: time.Now(), Invitation: "i", InvitedUntil: time.Now().Add(time.Hour)}, event); err != nil {
		t.Fatal(err)
	}
	own.renew(t, "idevid")
	twin := own.copied(t)
	own.sleep(21 * 24 * time.Hour)
	twin.now = own.clock
	must[device.Result](t)(device.Renew(t.Context(), own.options()))
	if _, err := device.Renew(t.Context(), twin.options()); problem(err) != wire.CodeForked {
		t.Fatalf("the second holder: %v", err)
	}
	for _, u := range []*unit{own, twin} {
		if _, err := device.Renew(t.Context(), u.options()); problem(err) != wire.CodeSuspended {
			t.Errorf("after the suspension: %v", err)
		}
	}
	told := must[[]record.Event](t)(own.store.Alerts(t.Context(), "anna", 10))
	if !slices.ContainsFunc(told, func(e record.Event) bool {
		return e.Verb == "device.suspended" && e.Object == "lamp:SN-1" && e.Detail["code"] == wire.CodeForked
	}) {
		t.Errorf("the operators do not hear of it: %+v", told)
	}
}

// Whatever a signer does, the device says so and keeps what it has.
func TestSignersThatMisbehave(t *testing.T) {
	t.Parallel()
	e := newElement(t)
	good := must[[]byte](t)(os.ReadFile(e.command))
	u := install(t, false).soft(t, "external:"+e.command).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	before := u.load(t)
	for name, c := range map[string]struct {
		script string
		kind   error
	}{
		"answers garbage":     {"echo hello", softkey.ErrSigner},
		"answers too much":    {"yes", softkey.ErrSigner},
		"is not there":        {"exit 127", softkey.ErrSigner},
		"has another key":     {strings.Replace(string(good), "${1:-01}", "02", 1), softkey.ErrOther},
		"signs with another":  {`read -r line; case $line in *sign*) set -- 02 ;; esac; printf '%s\n' "$line" | { ` + strings.Replace(string(good), "exec ", "", 1) + "\n}", softkey.ErrLie},
		"has no key any more": {strings.Replace(string(good), "${1:-01}", "03", 1), softkey.ErrSigner},
	} {
		e.script(t, strings.TrimPrefix(c.script, "#!/bin/sh\n"))
		_, err := device.Renew(t.Context(), u.options())
		told, ok := errors.AsType[*trouble.Error](err)
		if !errors.Is(err, c.kind) || !ok || told.Hint == "" {
			t.Errorf("a signer that %s: %v", name, err)
		}
		if now := u.load(t); !bytes.Equal(now.LDevID[0], before.LDevID[0]) {
			t.Fatalf("a signer that %s: the certificate is gone", name)
		}
	}
	e.script(t, strings.TrimPrefix(string(good), "#!/bin/sh\n"))
	u.renew(t, "ldevid")
}

func TestExternalSignerCommand(t *testing.T) {
	t.Parallel()
	e := newElement(t)
	u := install(t, false).soft(t, "")
	at := []string{"--state", u.dir}
	expect(t, 2, command(t, "", "enrol", u.ticket(t).String(), "--serial", "SN-1", "--key", "external:", "--state", u.dir))
	expect(t, 5, command(t, "", "enrol", u.ticket(t).String(), "--serial", "SN-1", "--key", "external:exit 1", "--state", u.dir))
	expect(t, 0, command(t, u.ticket(t).String(), append([]string{"enrol", "-", "--serial", "SN-1", "--key", "external:" + e.command}, at...)...))
	expect(t, 0, command(t, "", append([]string{"renew"}, at...)...))
	if o := expect(t, 0, command(t, "", append([]string{"status"}, at...)...)); !strings.Contains(o.out, "key          external:"+e.command+"\n") {
		t.Errorf("%s", o.out)
	}
	address, roots := u.relyingParty(t)
	if o := expect(t, 0, command(t, "hello\n", append([]string{"connect", "--to", address, "--roots", roots}, at...)...)); !strings.Contains(o.out, u.number(t)) {
		t.Errorf("%s", o.out)
	}
}
