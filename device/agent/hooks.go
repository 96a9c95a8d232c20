package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/internal/program"
)

// Hooks are programs that run after the working certificate was replaced, so that others reload
// it.
type Hooks struct {
	// Dir is the folder whose executable files are run in the order of their names; it need not
	// exist.
	Dir string
	// NamedBy is the file that names Dir, which others must not be able to write; empty if none
	// does.
	NamedBy string
	// Limit is how long each may take; 0 means DefaultHookLimit.
	Limit time.Duration
}

// DefaultHookLimit is how long a hook may take by default.
const DefaultHookLimit = 30 * time.Second

const (
	// hookGrace is the time between SIGTERM and SIGKILL.
	hookGrace = 2 * time.Second
	// maxHookOutput bounds how much of a hook's output is kept, in bytes.
	maxHookOutput = 4 << 10
	// maxHookLine bounds how much of that is logged.
	maxHookLine = 300
)

// firstHookPause and maxHookPause bound the delay before failed hooks are retried: it begins with
// the next look and doubles, since each retry may write to the flash.
const (
	firstHookPause = lookAgain - time.Minute
	maxHookPause   = 6 * time.Hour
)

// runHooks runs the hooks that have not succeeded for this certificate. Their failure does not
// affect the certificate, which is in use already.
func (a *Agent) runHooks(ctx context.Context, s device.Status, o state.Outcome) {
	if a.Hooks.Dir == "" || s.LDevID == nil {
		return
	}
	var done []string
	if o.Hooked == s.LDevID.SerialNumber {
		if len(o.HookFailures) == 0 || time.Now().Before(a.hookAgain) {
			return
		}
		done = o.HooksDone
	} else {
		a.hookPause = 0
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
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(done, name) })
	if len(names)+len(failures)+len(done) == 0 && o.Hooked != s.LDevID.SerialNumber {
		return
	}
	environment := hookEnvironment(folder, s)
	for _, name := range names {
		a.Systemd.Status("running hook " + name)
		if err := hooks.run(ctx, name, environment); err != nil {
			failures = append(failures, fmt.Sprintf("hook %s: %v", name, err))
			continue
		}
		done = append(done, name)
	}
	if ctx.Err() != nil {
		return // all of them run next time
	}
	a.hookPause = min(max(2*a.hookPause, firstHookPause), maxHookPause)
	a.hookAgain = time.Now().Add(a.hookPause)
	if !slices.Equal(failures, o.HookFailures) {
		for _, f := range failures {
			a.log(Error, "%s", f)
		}
	}
	if len(failures) == 0 {
		a.log(Info, "hooks were run: %s", strings.Join(done, ", "))
		done = nil
	}
	o.Hooked, o.HookFailures, o.HooksDone = s.LDevID.SerialNumber, failures, done
	a.remember(o)
}

// list returns the names of the hooks. Files that are not hooks are silently skipped only if they
// look like leftovers of an editor or a package.
func (h Hooks) list() (names, failures []string) {
	entries, err := os.ReadDir(h.Dir) // sorted
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = program.Safe(h.Dir)
	}
	if err == nil && h.NamedBy != "" {
		if err = program.Guarded(h.NamedBy); err != nil {
			err = fmt.Errorf("no hooks are run: %s names their folder, and %w", h.NamedBy, err)
		}
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
			err = program.Safe(path)
		}
		if err != nil {
			failures = append(failures, err.Error())
			continue
		}
		names = append(names, name)
	}
	return names, failures
}

// run runs one hook and, if it takes too long, kills it and all that it has started.
func (h Hooks) run(ctx context.Context, name string, environment []string) error {
	path, limit := filepath.Join(h.Dir, name), cmp.Or(h.Limit, DefaultHookLimit)
	if err := program.Safe(path); err != nil { // the hook before it may have taken long
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it had not finished after %v and was ended", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Dir = environment, "/"
	said := program.Tail{Max: maxHookOutput}
	cmd.Stdout, cmd.Stderr = &said, &said
	err := program.Run(cmd, hookGrace)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if last := lastLine(said.Text); err != nil && last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// hookEnvironment is the agent's own and the variables for hooks (docs/device.md).
func hookEnvironment(folder string, s device.Status) []string {
	return append(program.Environment(), "HALLMARK_EVENT=renewed", "HALLMARK_STATE="+folder, "HALLMARK_DEVICE="+s.Device,
		"HALLMARK_CERT_FILE="+filepath.Join(folder, "ldevid.pem"), "HALLMARK_KEY_FILE="+filepath.Join(folder, "ldevid.key"),
		"HALLMARK_CERT_SERIAL="+s.LDevID.SerialNumber, "HALLMARK_NOT_AFTER="+s.LDevID.NotAfter.UTC().Format(time.RFC3339))
}

func lastLine(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	last := bytes.TrimSpace(lines[len(lines)-1])
	return plain.Text(string(last[:min(len(last), maxHookLine)]))
}
