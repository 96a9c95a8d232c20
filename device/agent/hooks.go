package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
)

// Hooks are programs that are run after a working certificate was swapped, so that others
// read it again.
type Hooks struct {
	// Dir is the folder whose executable files are run in the order of their names; one
	// that does not exist has none.
	Dir string
	// Limit is how long each may take; 0 means DefaultHookLimit.
	Limit time.Duration
}

// DefaultHookLimit is how long a hook may take if nothing else is said.
const DefaultHookLimit = 30 * time.Second

const (
	// hookGrace is what a hook has between SIGTERM and SIGKILL.
	hookGrace = 2 * time.Second
	// maxHookOutput bounds what is kept of what a hook says, in bytes.
	maxHookOutput = 4 << 10
)

// runHooks runs the hooks if they were not run for this certificate yet. Whatever becomes
// of them, the certificate is in use already and stays so.
func (a *Agent) runHooks(ctx context.Context, s device.Status, o state.Outcome) {
	if a.Hooks.Dir == "" || s.LDevID == nil || o.Hooked == s.LDevID.SerialNumber {
		return
	}
	hooks := a.Hooks
	folder, err := filepath.Abs(a.dir().Path())
	if err == nil {
		hooks.Dir, err = filepath.Abs(hooks.Dir) // hooks run in the root folder
	}
	if err != nil {
		a.log(Error, "hooks: %v", err)
		return
	}
	names, failures := hooks.list()
	if len(names)+len(failures) == 0 {
		return
	}
	environment := hookEnvironment(os.Environ(), folder, s)
	for _, name := range names {
		a.Systemd.Status("running hook " + name)
		if err := hooks.run(ctx, name, environment); err != nil {
			failures = append(failures, fmt.Sprintf("hook %s: %v", name, err))
		}
	}
	if ctx.Err() != nil {
		return // all of them next time
	}
	for _, f := range failures {
		a.log(Error, "%s", f)
	}
	if len(failures) == 0 {
		a.log(Info, "hooks were run: %s", strings.Join(names, ", "))
	}
	o.Hooked, o.HookFailures = s.LDevID.SerialNumber, failures
	a.remember(o)
}

// list names the hooks. What lies in the folder and is no hook is passed over silently
// only if it looks like something that an editor or a package left there.
func (h Hooks) list() (names, failures []string) {
	entries, err := os.ReadDir(h.Dir) // sorted
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = owned(h.Dir)
	}
	if err != nil {
		return nil, []string{err.Error()}
	}
	for _, e := range entries {
		name, path := e.Name(), filepath.Join(h.Dir, e.Name())
		if strings.HasPrefix(name, ".") || strings.ContainsAny(name, "~") || strings.Contains(name, ".dpkg-") || strings.EqualFold(name, "README") {
			continue
		}
		info, err := os.Stat(path)
		switch {
		case err != nil:
		case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
			err = fmt.Errorf("%s is not an executable file", path)
		default:
			err = owned(path)
		}
		if err != nil {
			failures = append(failures, err.Error())
			continue
		}
		names = append(names, name)
	}
	return names, failures
}

// owned refuses a file by which somebody else would act as this user.
func owned(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() || info.Mode()&0o022 != 0 {
		return fmt.Errorf("%s is not run: others may change it (chmod go-w, chown root)", path)
	}
	return nil
}

// run runs one hook and, if it takes too long, ends it and all that it has started.
func (h Hooks) run(ctx context.Context, name string, environment []string) error {
	limit := h.Limit
	if limit == 0 {
		limit = DefaultHookLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it had not finished after %v and was ended", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(h.Dir, name))
	cmd.Env, cmd.Dir = environment, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = hookGrace
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		if cmd.Process != nil { // what did not hear
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		err = cause
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it left something running that holds its output
		return nil
	}
	if last := said.lastLine(); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// hookEnvironment is the agent's own without what is meant for it alone, and what a hook
// wants to know (docs/device.md).
func hookEnvironment(own []string, folder string, s device.Status) []string {
	var list []string
	for _, v := range own {
		name, _, _ := strings.Cut(v, "=")
		if name != "HALLMARK_TICKET" && name != "NOTIFY_SOCKET" && !strings.HasPrefix(name, "WATCHDOG_") {
			list = append(list, v)
		}
	}
	return append(list, "HALLMARK_EVENT=renewed", "HALLMARK_STATE="+folder, "HALLMARK_DEVICE="+s.Device,
		"HALLMARK_CERT_FILE="+filepath.Join(folder, "ldevid.pem"), "HALLMARK_KEY_FILE="+filepath.Join(folder, "ldevid.key"),
		"HALLMARK_CERT_SERIAL="+s.LDevID.SerialNumber, "HALLMARK_NOT_AFTER="+s.LDevID.NotAfter.UTC().Format(time.RFC3339))
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.kept = append(t.kept, b...)
	if over := len(t.kept) - maxHookOutput; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(b), nil
}

func (t *tail) lastLine() string {
	lines := bytes.Split(bytes.TrimSpace(t.kept), []byte("\n"))
	return string(bytes.TrimSpace(lines[len(lines)-1]))
}
