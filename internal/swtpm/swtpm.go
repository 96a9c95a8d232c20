// Package swtpm runs real software TPMs (the swtpm program) for tests and for the
// demonstration, and manufactures them the way a TPM maker would.
//
// A TPM is one process and one folder; the folder is the chip, so a killed process
// that is started again on it is the same chip after a power cut. Nothing here is
// part of the product: a server refuses these chips unless its configuration
// accepts simulated TPMs.
package swtpm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

const (
	// socketLimit is the room for a path in sockaddr_un on Linux, its final NUL included.
	socketLimit = 108
	// startLimit bounds the wait for a new process to listen; it takes 0.1 s.
	startLimit = time.Minute
)

// TPM is one software TPM. Its methods are not for concurrent use.
type TPM struct {
	dir     string
	process *os.Process
	done    chan struct{} // closed when the process has ended
}

// TB is the part of testing.TB that Start needs; the demonstration must not link the
// testing package.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
}

// Start runs a new TPM for the length of a test. Its folder is a short one under the
// system's temporary folder, since a socket's path is limited to 107 bytes and
// t.TempDir's are long.
func Start(t TB) *TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tpm, err := Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tpm.Kill)
	return tpm
}

// Run starts a TPM whose state is in dir, which is made if missing. The process ends
// with the calling one at the latest.
func Run(dir string) (*TPM, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	t := &TPM{dir: dir}
	if n := len(t.Socket()) + len(".ctrl"); n >= socketLimit {
		return nil, fmt.Errorf("swtpm: the path of the socket is %d bytes long and %d is the limit: use a shorter folder than %s", n, socketLimit-1, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := t.start(); err != nil {
		return nil, err
	}
	return t, nil
}

// Socket is the path of the socket that takes TPM commands, one client at a time.
func (t *TPM) Socket() string { return filepath.Join(t.dir, "sock") }

// Spec is the socket as hallmark-device's --tpm takes it.
func (t *TPM) Spec() string { return "unix:" + t.Socket() }

// TCTI is the socket as tpm2-tools take it in TPM2TOOLS_TCTI.
func (t *TPM) TCTI() string { return "swtpm:path=" + t.Socket() }

// Dir is the folder that is the chip.
func (t *TPM) Dir() string { return t.dir }

// Open connects to the TPM.
func (t *TPM) Open() (transport.TPMCloser, error) { return linuxudstpm.Open(t.Socket()) }

// Kill cuts the power: no TPM2_Shutdown, no time to write anything. Killing a TPM
// that does not run does nothing.
func (t *TPM) Kill() {
	if t.process == nil {
		return
	}
	t.process.Kill()
	<-t.done
	t.process = nil
}

// Restart cuts the power and gives it back.
func (t *TPM) Restart() error {
	t.Kill()
	return t.start()
}

func (t *TPM) start() error {
	socket := t.Socket()
	for _, path := range []string{socket, socket + ".ctrl"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	logPath := filepath.Join(t.dir, "log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+t.dir,
		"--server", "type=unixio,path="+socket,
		// Only the TCTI of tpm2-tools needs the control channel, at this very path.
		"--ctrl", "type=unixio,path="+socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	t.done = make(chan struct{})
	go func(done chan struct{}) {
		// Pdeathsig fires when the thread that started the process ends, not the
		// program; so this thread stays with the process to its end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(done)
	}(t.done)
	if err := <-started; err != nil {
		return fmt.Errorf("swtpm does not start: %w; scripts/setup installs it", err)
	}
	t.process = cmd.Process
	return t.await(logPath)
}

// await returns when the TPM answers connections.
func (t *TPM) await(logPath string) error {
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", t.Socket()); err == nil {
			return c.Close()
		}
		select {
		case <-t.done:
			t.process = nil
			text, _ := os.ReadFile(logPath)
			return fmt.Errorf("swtpm ended at once: %s", text)
		default:
		}
	}
	t.Kill()
	return fmt.Errorf("swtpm does not listen after %v; see %s", startLimit, logPath)
}
