// Package acceptance runs the built programs as people do: every command that the
// documentation shows, and real relying parties against real certificates.
package acceptance

import (
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/build"
	"github.com/hallmark-pki/hallmark/internal/ports"
	"github.com/hallmark-pki/hallmark/internal/swtpm"
)

// programs builds the three programs, once, as `make build` does.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hallmark-bin")
	if err != nil {
		return "", err
	}
	return dir, build.Programs(dir+"/", []string{"CGO_ENABLED=0"}, nil, "./cmd/...")
})

// serverWithPKCS11 builds hallmarkd, once, as `make build HSM=1` does, in a folder of programs.
var serverWithPKCS11 = sync.OnceValues(func() (string, error) {
	dir, err := programs()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "hsm")
	return dir, build.Programs(dir+"/", []string{"CGO_ENABLED=1"}, nil, "./cmd/hallmarkd")
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// stage is a folder with the programs in the path, a chip, and its maker's root in
// tpm-makers/.
type stage struct {
	dir string
	env []string
	tpm *swtpm.TPM
	// port is the first of four that found's installation listens on.
	port int
}

// found makes an installation in the folder acme that takes software TPMs.
func (s *stage) found(t *testing.T) {
	t.Helper()
	var err error
	if s.port, err = freePorts(); err != nil {
		t.Fatal(err)
	}
	s.bash(t, fmt.Sprintf(`hallmarkd init --dir acme --name "Acme Devices" --root-out roots --listen 127.0.0.1:%d --public-url https://localhost:%[1]d &&
		sed -i 's/accept_simulated_tpms: false/accept_simulated_tpms: true/' acme/hallmark.yaml`, s.port))
}

// at is where the nth listener is: that for devices, for operators, for relying parties.
func (s *stage) at(n int) string { return fmt.Sprintf("127.0.0.1:%d", s.port+n) }

func newStage(t *testing.T) *stage {
	t.Helper()
	s, err := makeStage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// makeStage sets a stage in a folder.
func makeStage(dir string) (*stage, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	chip, err := os.MkdirTemp("", "tpm") // a socket's path must be short
	if err != nil {
		return nil, err
	}
	s := &stage{dir: dir}
	if s.tpm, err = swtpm.Run(chip); err != nil {
		return nil, err
	}
	maker, err := swtpm.NewMaker(swtpm.P384, time.Now())
	if err != nil {
		return nil, err
	}
	// A vendor ID as chips on boards have, so that nothing needs to be configured.
	if err := maker.Manufacture(s.tpm, swtpm.Options{P256: true, IntermediateInNV: true, VendorID: "id:49465800"}); err != nil {
		return nil, err
	}
	makers := filepath.Join(s.dir, "tpm-makers")
	if err := os.Mkdir(makers, 0o755); err != nil {
		return nil, err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: maker.Root.Raw})
	if err := os.WriteFile(filepath.Join(makers, "root.pem"), root, 0o644); err != nil {
		return nil, err
	}
	signers, err := filepath.Abs("../../examples/external-signer")
	if err != nil {
		return nil, err
	}
	s.env = append(os.Environ(), "SIGNERS="+signers, "PATH="+bin+":"+os.Getenv("PATH")+":/usr/sbin", "HALLMARK_TPM="+s.tpm.Spec(), "TPM2TOOLS_TCTI="+s.tpm.TCTI(), "HOME="+s.dir)
	return s, nil
}

func (s *stage) close() {
	s.tpm.Kill()
	os.RemoveAll(s.tpm.Dir())
}

// freePorts gives the first of four for hallmarkd's listeners; of this and another run of
// the tests at the same time each begins elsewhere.
func freePorts() (int, error) { return ports.Free(10000+os.Getpid()%5*1000, 4) }

// bash runs a script in the stage and gives its output.
func (s *stage) bash(t *testing.T, script string) string {
	t.Helper()
	out, err := s.try(script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (s *stage) try(script string) (string, error) {
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir, cmd.Env = s.dir, s.env
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// await waits until something listens.
func await(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing listens on %s: %v", address, err)
		}
	}
}
