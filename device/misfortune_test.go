package device_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
)

// isolated runs a script in a mount namespace of its own, as root of it. $DEVICE is the
// command, with the TPM in its environment.
func (u *unit) isolated(t *testing.T, script string) string {
	t.Helper()
	flags := []string{"--mount"}
	if os.Getuid() != 0 {
		flags = append(flags, "--map-root-user")
	}
	cmd := exec.Command("unshare", append(flags, "sh", "-euc", script)...)
	cmd.Env = append(os.Environ(), "DEVICE="+must[string](t)(binary()), "STATE="+u.dir, "HALLMARK_TPM="+u.chip.Spec(), "AWAY="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// fails is a shell function: a command must fail with a code and say a text.
const fails = `fails() { code=$1 text=$2; shift 2; set +e; said=$("$@" 2>&1); got=$?; set -e
	case "$got $said" in "$code "*"$text"*) ;; *) echo "exit code $got, not $code with \"$text\": $said"; exit 1;; esac; }
`

// A disk that is full or read-only costs a renewal, not the identity; on a root that is
// read-only one folder is enough, and no privilege.
func TestStateFolderOnABadDisk(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	u.isolated(t, fails+`
		mount -t tmpfs -o size=128k none "$AWAY"
		cp -a "$STATE/." "$AWAY"
		before=$(readlink "$AWAY/current")
		dd if=/dev/zero of="$AWAY/filler" bs=1k 2>/dev/null || true
		fails 1 'no space left' "$DEVICE" renew --state "$AWAY"
		test "$(readlink "$AWAY/current")" = "$before"
		"$DEVICE" status --state "$AWAY" | grep -q 'condition    ok'
		"$DEVICE" status --state "$AWAY" | grep -q 'warning      this will be lost: .* is in memory (tmpfs)'
		rm "$AWAY/filler"
		"$DEVICE" renew --state "$AWAY"
		test "$(readlink "$AWAY/current")" != "$before"
		cp -a "$AWAY/." "$STATE"
	`)
	u.isolated(t, fails+`
		rm -f "$STATE/agent.lock"
		mount --bind "$STATE" "$STATE"
		mount -o remount,bind,ro "$STATE"
		fails 1 'hint: the state folder must be on a file system that can be written' "$DEVICE" run --state "$STATE" # for the first time
		umount "$STATE"
		"$DEVICE" run --once --state "$STATE"
		mount --bind "$STATE" "$STATE"
		mount -o remount,bind,ro "$STATE"
		"$DEVICE" status --state "$STATE" | grep -q 'condition    ok'
		fails 7 'not before' "$DEVICE" needs-renewal --state "$STATE"
		fails 1 'hint: the state folder must be on a file system that can be written' "$DEVICE" renew --state "$STATE"
		printf '%s\n' '[proxy]' "listen = unix:$AWAY/socket" 'to = broker.invalid:8883' > "$AWAY/conf"
		"$DEVICE" run --state "$STATE" --config "$AWAY/conf" & agent=$!
		until test -S "$AWAY/socket"; do kill -0 $agent; sleep 0.1; done # other programs keep the identity
		kill $agent; wait $agent
	`)
	if err := os.Chmod(u.chip.Socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	for path := u.chip.Dir(); path != "/"; path = filepath.Dir(path) {
		if err := opened(path); err != nil {
			t.Fatal(err)
		}
	}
	u.isolated(t, `
		bin="$AWAY/hallmark-device"; state="$AWAY/state"
		cp "$DEVICE" "$bin"; cp -a "$STATE" "$state"; chmod 755 "$AWAY"
		mount --bind "$state" "$state"
		drop="--no-new-privs --bounding-set=-all --inh-caps=-all" # as init/systemd does
		if setpriv --reuid=65534 --clear-groups $drop true 2>/dev/null; then
			chown -R 65534 "$state"; as="setpriv --reuid=65534 --regid=65534 --clear-groups $drop"
			for d in "$AWAY" $(dirname "$AWAY") $(dirname $(dirname "$AWAY")); do chmod a+x "$d"; done
		else as=; fi
		mount -o remount,bind,ro /
		if touch /x 2>/dev/null; then echo "the root is not read-only"; exit 1; fi
		cd /
		$as "$bin" run --once --state "$state"
		$as "$bin" renew --state "$state"
		$as "$bin" status --healthy --state "$state"
	`)
}

// opened lets others through a folder of this test.
func opened(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&0o001 != 0 {
		return err
	}
	return os.Chmod(path, info.Mode()|0o011)
}

// State that another version has written, with more in it or less, serves this one.
func TestStateOfAnotherVersion(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	settings := filepath.Join(u.dir, "current", "settings.json")
	text := must[[]byte](t)(os.ReadFile(settings))
	for name, change := range map[string]func() []byte{
		"newer": func() []byte { return bytes.Replace(text, []byte("{"), []byte(`{"invented": {"later": [1]},`), 1) },
		"older": func() []byte {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(text, &fields); err != nil {
				t.Fatal(err)
			}
			for _, since := range []string{"steering", "network", "next"} {
				delete(fields, since)
			}
			return must[[]byte](t)(json.Marshal(fields))
		},
	} {
		if err := os.WriteFile(settings, change(), 0o644); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"current/novelty.bin": "\x00", "outcome.json": `{"invented": 1, "failures": 0}`} {
			if err := os.WriteFile(filepath.Join(u.dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := u.agent().Check(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		u.renew(t, "ldevid")
	}
}

// What a crash or a worn-out flash has left of the newest state is passed over; nothing
// left at all is a case for enrolling again.
func TestHalfWrittenState(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	u.now = u.clock
	u.renew(t, "idevid")
	u.renew(t, "ldevid")
	tear := func(set string) {
		for _, name := range []string{"settings.json", "idevid.pem"} {
			if err := os.Truncate(filepath.Join(set, name), 20); err != nil {
				t.Fatal(err)
			}
		}
	}
	tear(filepath.Join(u.dir, "current"))
	if s := u.agent().Status(); s.Damaged == "" || s.LDevID == nil {
		t.Fatalf("%+v", s)
	}
	if _, err := u.agent().Renew(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for _, set := range must[[]string](t)(filepath.Glob(filepath.Join(u.dir, "set-*"))) {
		tear(set)
	}
	a := u.agent()
	if s := a.Status(); s.Healthy || s.Unreadable == "" {
		t.Fatalf("%+v", s)
	}
	a.Servers, a.Roots = []string{u.url}, [][]byte{u.root.Raw}
	u.live(t, a, time.Minute)
	if s := a.Status(); !s.Healthy || s.Device != "default:SN-1" {
		t.Fatalf("%+v; said %q", s, u.said)
	}
}

// A certificate with a flipped bit is no certificate, although its file looks well: the set
// before serves instead.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	u := install(t, false).soft(t, "file")
	u.sleep(0)
	u.enrolled(t, "SN-1")
	for _, c := range []struct {
		name, before string
		bit          byte
	}{
		{"ldevid.pem", "CERTIFICATE-----\n", 1},
		{"idevid.pem", "CERTIFICATE-----\n", 1},
		{"settings.json", `"bundle": "eyJudW1iZXIiOjEsIm5hbWUiOiJBY21`, 1}, // the last letter of its name
		{"settings.json", `"server": "`, 1},
		{"settings.json", "\"pins\": [\n    \"", 0x10}, // no digit any more
	} {
		u.sleep(time.Minute)
		must[device.Result](t)(device.Renew(t.Context(), u.options()))
		path := filepath.Join(u.dir, "current", c.name)
		text := must[[]byte](t)(os.ReadFile(path))
		_, after, found := bytes.Cut(text, []byte(c.before))
		if !found {
			t.Fatalf("no %q in %s", c.before, text)
		}
		after[0] ^= c.bit
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		a := u.agent()
		a.Servers, a.Roots = []string{u.url}, [][]byte{u.root.Raw}
		u.live(t, a, 2*time.Minute)
		if s := a.Status(); !s.Healthy {
			t.Fatalf("%s: %+v; said %q", path, s, u.said)
		}
	}
}

// A challenge that the server does not take is not offered to it for ever: it may be damaged, or
// be a mistake of the server's.
func TestUselessChallenge(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t).enrolled(t, "SN-1")
	for _, session := range [][]byte{nil, make([]byte, 60_000)} {
		s := u.load(t)
		s.Next.Session = session
		if err := state.At(u.dir).Save(s); err != nil {
			t.Fatal(err)
		}
		if _, err := device.Renew(t.Context(), u.options()); err == nil {
			t.Fatal("the challenge was taken")
		}
		if _, err := device.Renew(t.Context(), u.options()); err != nil {
			t.Errorf("with a session of %d bytes: %v", len(session), err)
		}
	}
}

// A key file that was eaten does not keep the device from its servers until the next renewal.
func TestEatenKeyFile(t *testing.T) {
	t.Parallel()
	for _, u := range []*unit{install(t, false).unit(t), install(t, false).soft(t, "file")} {
		u.sleep(0)
		u.enrolled(t, "SN-1")
		must[device.Result](t)(device.Renew(t.Context(), u.options()))
		if err := os.Truncate(filepath.Join(u.dir, "current", "ldevid.key"), 20); err != nil {
			t.Fatal(err)
		}
		u.live(t, u.agent(), day)
		c, err := device.OpenCredential(u.dir, "")
		if err != nil {
			t.Fatalf("%v; said %q", err, u.said)
		}
		c.Close()
	}
}

func TestTPMMisfortunes(t *testing.T) {
	t.Parallel()
	i := install(t, false)
	u := i.unit(t).enrolled(t, "SN-1")
	u.renew(t, "idevid")
	renew := func(chip string) outcome { return command(t, "", "renew", "--state", u.dir, "--tpm", chip) }
	says := func(o outcome, text string) {
		t.Helper()
		if !strings.Contains(o.errors, text) {
			t.Fatalf("%q is not said: %s", text, o.errors)
		}
	}
	before := u.load(t)
	says(expect(t, 5, renew("/dev/no-such-tpm")), "cannot open the TPM")
	says(expect(t, 5, renew(i.chip(t).Spec())), "has another TPM")
	busy := must[net.Conn](t)(net.Dial("unix", u.chip.Socket()))
	says(expect(t, 5, renew(u.chip.Spec())), "another program")
	busy.Close()
	if after := u.load(t); !bytes.Equal(after.LDevIDKey, before.LDevIDKey) {
		t.Fatal("the working key was given up")
	}
	// A locked-out chip refuses keys that it protects from guessing; ours have no secret to guess.
	u.lockOut(t)
	expect(t, 0, renew(u.chip.Spec()))
	tpm := u.raw(t)
	must[*gotpm.ClearResponse](t)(gotpm.Clear{AuthHandle: gotpm.AuthHandle{Handle: gotpm.TPMRHPlatform, Auth: gotpm.PasswordAuth(nil)}}.Execute(tpm))
	tpm.Close()
	says(expect(t, 0, renew(u.chip.Spec())), "showing the IDevID")
}

// lockOut guesses until the chip refuses to be guessed at.
func (u *unit) lockOut(t *testing.T) {
	t.Helper()
	tpm := u.raw(t)
	defer tpm.Close()
	made := must[*gotpm.CreatePrimaryResponse](t)(gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHOwner,
		InSensitive: gotpm.TPM2BSensitiveCreate{Sensitive: &gotpm.TPMSSensitiveCreate{UserAuth: gotpm.TPM2BAuth{Buffer: []byte("right")}}},
		InPublic:    gotpm.New2B(gotpm.ECCSRKTemplate)}.Execute(tpm))
	public := gotpm.ECCSRKTemplate
	public.ObjectAttributes.NoDA = false
	guarded := must[*gotpm.CreatePrimaryResponse](t)(gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHOwner,
		InSensitive: gotpm.TPM2BSensitiveCreate{Sensitive: &gotpm.TPMSSensitiveCreate{UserAuth: gotpm.TPM2BAuth{Buffer: []byte("right")}}},
		InPublic:    gotpm.New2B(public)}.Execute(tpm))
	for range 100 {
		_, err := gotpm.Create{ParentHandle: gotpm.AuthHandle{Handle: guarded.ObjectHandle, Name: guarded.Name, Auth: gotpm.PasswordAuth([]byte("wrong"))},
			InPublic: gotpm.New2B(gotpm.ECCSRKTemplate)}.Execute(tpm)
		if errors.Is(err, gotpm.TPMRCLockout) {
			for _, h := range []gotpm.TPMHandle{made.ObjectHandle, guarded.ObjectHandle} {
				gotpm.FlushContext{FlushHandle: h}.Execute(tpm)
			}
			return
		}
	}
	t.Fatal("the chip lets itself be guessed at")
}

// The daemon as systemd runs it: it says when it is ready and how it does, logs for the
// journal, lets people act by hand and no second agent in, and ends when told.
func TestDaemon(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t)
	folder := t.TempDir()
	notify := must[*net.UnixConn](t)(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "n"), Net: "unixgram"}))
	defer notify.Close()
	log := must[*os.File](t)(os.Create(filepath.Join(folder, "journal")))
	defer log.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(log.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	party, roots := u.relyingParty(t)
	config, socket := filepath.Join(folder, "device.conf"), filepath.Join(folder, "socket")
	settings := fmt.Sprintf("state = %s\ntpm = %s\nserial = SN-1\n[proxy]\nlisten = unix:/no/such/folder\nto = %[4]s\n[proxy]\nlisten = unix:%[3]s\nto = %[4]s\nroots = %[5]s\n",
		u.dir, u.chip.Spec(), socket, party, roots)
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(must[string](t)(binary()), "run", "--config", config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(folder, "n"), fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino),
		"WATCHDOG_USEC=2000000", "HALLMARK_TICKET="+u.ticket(t).String())
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	told := func(text string) {
		t.Helper()
		message := make([]byte, 4096)
		var all []string
		notify.SetReadDeadline(time.Now().Add(time.Minute))
		for {
			n, err := notify.Read(message)
			if err != nil {
				journal, _ := os.ReadFile(log.Name())
				t.Fatalf("%q is not told, but %q\n%s", text, all, journal)
			}
			if all = append(all, string(message[:n])); strings.Contains(all[len(all)-1], text) {
				return
			}
		}
	}
	told("READY=1")
	told("STATUS=default:SN-1: ok; asking when to renew at ")
	told("WATCHDOG=1") // again, although there is nothing to do
	hello := func() {
		t.Helper()
		lent := must[net.Conn](t)(net.Dial("unix", socket))
		defer lent.Close()
		fmt.Fprintln(lent, "hello")
		if line, err := bufio.NewReader(lent).ReadString('\n'); err != nil || !strings.HasPrefix(line, "default:SN-1 ") || !strings.HasSuffix(line, " said hello\n") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	hello()
	o := expect(t, 1, command(t, "", "run", "--config", config))
	if want := fmt.Sprintf("process %d (hallmark-device run) is using", cmd.Process.Pid); !strings.Contains(o.errors, want) {
		t.Fatalf("%q is not said: %s", want, o.errors)
	}
	if !strings.Contains(o.errors, "stop it first") {
		t.Fatalf("a hint that never comes true: %s", o.errors)
	}
	expect(t, 0, command(t, "", "renew", "--state", u.dir, "--tpm", u.chip.Spec()))
	o = expect(t, 0, command(t, "", "status", "--state", u.dir))
	if !strings.Contains(o.out, fmt.Sprintf("agent        process %d (hallmark-device run)\nnext         asking when to renew, ", cmd.Process.Pid)) {
		t.Fatal(o.out)
	}
	if err := os.RemoveAll(u.dir); err != nil { // somebody wipes the folder under its feet
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGHUP)
	told("STATUS=at work: enrolling")
	told("STATUS=default:SN-1: ok") // the ticket's server knows the board
	hello()
	cmd.Process.Signal(syscall.SIGTERM)
	told("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if left := u.loaded(t); len(left) > 0 {
		t.Errorf("the agent leaves keys in the TPM: %#x", left)
	}
	journal := string(must[[]byte](t)(os.ReadFile(log.Name())))
	for line := range strings.Lines(journal) {
		if line[0] != '<' || line[2] != '>' || strings.Contains(line, time.Now().Format("2006-01-02T15:04")) && !strings.Contains(line, "until") {
			t.Errorf("not for the journal: %q", line)
		}
	}
	if !strings.Contains(journal, "<5>enrolled as default:SN-1\n") {
		t.Fatal(journal)
	}
	if _, _, err := state.At(u.dir).Load(); err != nil {
		t.Fatal(err)
	}
}

// raw speaks to the chip itself.
func (u *unit) raw(t *testing.T) interface {
	Send([]byte) ([]byte, error)
	Close() error
} {
	t.Helper()
	tpm, err := u.chip.Open()
	if err != nil {
		t.Fatal(err)
	}
	return tpm
}

// loaded are the transient objects in the chip.
func (u *unit) loaded(t *testing.T) []gotpm.TPMHandle {
	t.Helper()
	tpm := u.raw(t)
	defer tpm.Close()
	r := must[*gotpm.GetCapabilityResponse](t)(gotpm.GetCapability{Capability: gotpm.TPMCapHandles, Property: 0x80000000, PropertyCount: 8}.Execute(tpm))
	return must[*gotpm.TPMLHandle](t)(r.CapabilityData.Data.Handles()).Handle
}
