//go:build machine

package acceptance

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// machine is an emulated PC with Debian 12: a kernel that drives the stage's chip, a root
// file system that is read-only, and one partition that is not.
type machine struct {
	*stage
	port int
}

// bootLimit bounds one boot with all its steps; without KVM it takes minutes.
const bootLimit = 20 * time.Minute

// TestMachine is what docs/device.md tells a firmware engineer to do, done on a machine.
// scripts/machine runs it and says in MACHINE where the root file system is.
func TestMachine(t *testing.T) {
	m := newMachine(t)
	stop := m.serve(t)
	m.bash(t, `set -eu
bash "$HOUSE/internal/acceptance/testdata/machine/image" "$ARCHIVE"
export HALLMARK_CONFIG=$PWD/acme/operator/hallmark.yaml
hallmark model create trial --ldevid-lifetime 1m --assurance first-use
hallmark lot create T1 --model trial --quota 10
echo "HALLMARK_TICKET=$(hallmark ticket create --lot T1 --serial SN-0001 --ttl 8h)" >trial/env
chmod 600 trial/env`)
	const systemd = "/lib/systemd/systemd"
	m.boot(t, "systemd", systemd, "systemd.mask=hallmark-healthy.service systemd.mask=rauc-mark-good.service")
	m.boot(t, "openrc", "/sbin/init", "")
	m.boot(t, "slot", systemd, "")
	stop()
	m.bash(t, `mkdir -p trial/run/systemd/system/hallmark-healthy.service.d
printf '%s\n' '[Service]' ExecStart= 'ExecStart=/usr/bin/hallmark-device status --healthy --wait 5s' >trial/run/systemd/system/hallmark-healthy.service.d/impatient.conf`)
	m.boot(t, "closed", systemd, "")
	m.bash(t, "grep -aq BOOT_A_LEFT=1 disk.environment || { echo RAUC has marked the slot; exit 1; }")
}

func newMachine(t *testing.T) *machine {
	m := &machine{stage: newStage(t)}
	var err error
	if m.port, err = freePorts(); err != nil {
		t.Fatal(err)
	}
	m.env = append(m.env, "ARCHIVE="+os.Getenv("MACHINE"), fmt.Sprintf("PORT=%d", m.port), "HOUSE="+house(t))
	m.bash(t, `set -eu
hallmarkd init --dir acme --name "Acme Devices" --root-out acme-root-keys --listen 127.0.0.1:$PORT \
	--public-url https://ca.test:$PORT --public-url https://localhost:$PORT
sed -i s/ca.test/localhost/ acme/operator/hallmark.yaml # the name is one of the machine's hosts file`)
	return m
}

func house(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// serve starts the server; stop ends it.
func (m *machine) serve(t *testing.T) (stop func()) {
	t.Helper()
	server := exec.Command("bash", "-c", "exec hallmarkd serve --config acme/hallmark.yaml 2>server.log")
	server.Dir, server.Env = m.dir, m.env
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			server.Process.Kill()
			server.Wait()
		}
	}
	t.Cleanup(stop)
	await(t, "localhost:"+strconv.Itoa(m.port+1))
	return stop
}

// boot starts the machine with an init, which runs the steps in testdata/machine, and says
// what came of each.
func (m *machine) boot(t *testing.T, steps, init, arguments string) {
	t.Run(steps, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
		defer cancel()
		m.tpm.Kill() // the emulator has it now
		cmd := exec.CommandContext(ctx, "bash", filepath.Join(house(t), "internal/acceptance/testdata/machine/boot"), steps, init, m.tpm.Dir(), arguments)
		cmd.Dir, cmd.Env, cmd.WaitDelay = m.dir, m.env, 10*time.Second
		console, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = cmd.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		began, whole, line := time.Now(), false, ""
		for lines := bufio.NewScanner(console); lines.Scan(); {
			line = strings.TrimSpace(lines.Text())
			if strings.HasPrefix(line, "FAIL ") {
				t.Error(line)
			}
			whole = whole || line == "ok whole"
			t.Logf("%4.0f s  %s", time.Since(began).Seconds(), line)
		}
		if err := cmd.Wait(); err != nil || !whole {
			t.Errorf("the machine ended before its last step: %v; %s", err, line)
		}
	})
}
