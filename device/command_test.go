package device_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/build"
	"github.com/hallmark-pki/hallmark/record"
)

// built is the folder of the binary once a test has needed it.
var built string

// binary builds cmd/hallmark-device as it is shipped.
var binary = sync.OnceValues(func() (string, error) {
	var err error
	if built, err = os.MkdirTemp("", "hallmark-device"); err != nil {
		return "", err
	}
	path := filepath.Join(built, "hallmark-device")
	return path, build.Programs(path, []string{"CGO_ENABLED=0"}, []string{"-trimpath", "-ldflags", "-s -w"}, "./cmd/hallmark-device")
})

func TestMain(m *testing.M) {
	code := m.Run()
	for _, end := range slices.Backward(afterwards) {
		end()
	}
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// outcome is what a run of the command came to.
type outcome struct {
	code        int
	out, errors string
	peak        int // resident memory in KiB, as last seen
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

func command(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command(must[string](t)(binary()), args...)
	var out, errors bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errors
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var o outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
			if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); err == nil {
				if m := highWater.FindSubmatch(text); m != nil {
					o.peak, _ = strconv.Atoi(string(m[1]))
				}
			}
		}
	}
	o.code, o.out, o.errors = cmd.ProcessState.ExitCode(), out.String(), errors.String()
	return o
}

// expect wants an exit code, and for a failure an error and a hint.
func expect(t *testing.T, code int, o outcome) outcome {
	t.Helper()
	if o.code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", o.code, code, o.out, o.errors)
	}
	if code != 0 && (!strings.Contains(o.errors, "error: ") || !strings.Contains(o.errors, "\nhint: ")) {
		t.Fatalf("no error with a hint:\n%s", o.errors)
	}
	return o
}

func TestCommand(t *testing.T) {
	t.Parallel()
	u := install(t, false).unit(t)
	at := []string{"--state", u.dir, "--tpm", u.chip.Spec()}
	run := func(args ...string) outcome { t.Helper(); return command(t, "", append(args, at...)...) }
	status := []string{"status", "--state", u.dir}

	if o := expect(t, 0, command(t, "", status...)); !strings.Contains(o.out, "not enrolled") {
		t.Fatalf("%q", o.out)
	}
	expect(t, 1, run("renew"))
	ticket := u.ticket(t)
	o := expect(t, 0, command(t, ticket.String()+"\n", append([]string{"enroll", "-", "--serial-from", "cmd:echo SN-7", "--json"}, at...)...))
	var r struct{ Device string }
	if err := json.Unmarshal([]byte(o.out), &r); err != nil || r.Device != "default:SN-7" {
		t.Fatalf("%v: %s", err, o.out)
	}
	// The figure to reach is 16 MiB.
	t.Logf("peak memory of an enrolment: %d KiB", o.peak)
	if o.peak == 0 || o.peak > 16<<10 {
		t.Errorf("an enrolment takes %d KiB", o.peak)
	}
	if o := expect(t, 0, run("enrol", ticket.String())); !strings.Contains(o.out, "already enrolled as default:SN-7") {
		t.Fatalf("%q", o.out)
	}
	o = expect(t, 0, run("renew"))
	t.Logf("peak memory of a renewal: %d KiB", o.peak)
	if o := expect(t, 0, command(t, "", append(status, "--json")...)); !strings.Contains(o.out, `"condition": "ok"`) {
		t.Fatalf("%q", o.out)
	}

	// The folder is lost, and the device comes back with server and roots alone.
	if err := os.RemoveAll(u.dir); err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(t.TempDir(), "infrastructure.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: u.root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, 2, run("enrol"))
	if o := expect(t, 0, run("enrol", "--server", u.url, "--roots", roots)); !strings.Contains(o.out, "default:SN-7") {
		t.Fatalf("%q", o.out)
	}

	expect(t, 0, run("renew"))
	address, _ := u.relyingParty(t)
	if o := expect(t, 6, run("connect", "--to", address)); !strings.Contains(o.errors, "--roots FILE") {
		t.Errorf("no hint for a server that nobody vouches for: %q", o.errors)
	}

	// Refused for now, and for good.
	d := must[[]record.Device](t)(u.store.DevicesNamed(t.Context(), "default", "SN-7"))[0]
	e := record.Event{Time: time.Now(), Actor: "test", Verb: "x"}
	must[[]record.Shard](t)(u.store.Suspend(t.Context(), d.ID, time.Now(), e))
	expect(t, 3, run("renew"))
	must[[]record.Shard](t)(u.store.Revoke(t.Context(), d.ID, time.Now(), record.ReasonKeyCompromise, "test", e))
	expect(t, 4, run("renew"))
	if err := os.RemoveAll(u.dir); err != nil {
		t.Fatal(err)
	}
	expect(t, 4, run("enrol", u.ticket(t).String(), "--serial", "SN-7"))

	// Neither TPM nor server.
	elsewhere := filepath.Join(t.TempDir(), "state")
	expect(t, 5, command(t, "", "enrol", ticket.String(), "--tpm", "/dev/no-such-tpm", "--state", elsewhere))
	dead := *ticket
	dead.Server = "https://127.0.0.1:1"
	expect(t, 6, command(t, "", "enrol", dead.String(), "--tpm", u.chip.Spec(), "--state", elsewhere))
	foreign := *ticket
	foreign.Root[0] ^= 1
	expect(t, 6, command(t, "", "enrol", foreign.String(), "--tpm", u.chip.Spec(), "--state", elsewhere))
	expect(t, 1, command(t, "", "connect", "--to", "127.0.0.1:1", "--state", elsewhere))
	expect(t, 1, command(t, "", "enrol", ticket.String(), "--state", elsewhere, "--serial-from", "file:/nonexistent", "--tpm", u.chip.Spec()))
	expect(t, 2, command(t, "", "enrol", ticket.String(), "--state", elsewhere, "--serial-from", "bios", "--tpm", u.chip.Spec()))
	expect(t, 1, command(t, "", "enrol", ticket.String(), "--state", elsewhere, "--roots", "/etc/hostname"))
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"nonsense"}, {"--nonsense"}, {"enrol", "--nonsense"}, {"enrol", "a", "b"}, {"enrol", "not-a-ticket"}, {"enrol", "-"},
		{"enrol", "--serial", "a", "--serial-from", "dmi"}, {"renew", "now"}, {"connect"}, {"status", "x"},
	} {
		o := expect(t, 2, command(t, "", args...))
		if strings.Contains(o.errors, "Usage:") || len(strings.Split(strings.TrimSpace(o.errors), "\n")) != 2 {
			t.Errorf("%q: more than two lines:\n%s", args, o.errors)
		}
	}
	for _, name := range []string{"", "enrol", "renew", "run", "needs-renewal", "status", "connect", "proxy", "generalise", "config", "version"} {
		args := []string{name, "--help"}
		if name == "" {
			args = args[1:]
		}
		if o := expect(t, 0, command(t, "", args...)); !strings.Contains(o.out, "Examples:\n  ") {
			t.Errorf("%q: the help shows no example:\n%s", args, o.out)
		}
	}
	for _, args := range [][]string{{"version"}, {"--version"}, {"completion", "bash"}} {
		if o := expect(t, 0, command(t, "", args...)); !strings.Contains(o.out, "hallmark-device") {
			t.Errorf("%q: %s", args, o.out)
		}
	}
	// A ticket in an error would end up in a log.
	secret := "hmt1.abcdefghijklmnop.c2VjcmV0.x.y"
	if o := command(t, "", "enrol", secret); strings.Contains(o.errors, "c2VjcmV0") {
		t.Errorf("the secret is repeated: %s", o.errors)
	}
}

// Whatever the command waits for, here for the rest of a line, a second Ctrl-C ends it.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	// What a script starts in the background ignores Ctrl-C, and so does all that it starts, but for
	// what it catches itself (sigaction(2)).
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, os.Interrupt)
	defer signal.Stop(caught)
	cmd := exec.Command(must[string](t)(binary()), "enrol", "-", "--state", t.TempDir())
	typed, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer typed.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	time.Sleep(time.Second) // or it would be ended before it hears at all
	for range 100 {
		cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			if err == nil {
				t.Error("it ended as if all were well")
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	cmd.Process.Kill()
	t.Error("it waits on")
}
