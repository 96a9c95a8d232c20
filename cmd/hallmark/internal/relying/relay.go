package relying

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/program"
	"github.com/hallmark-pki/hallmark/internal/sdnotify"
	"github.com/hallmark-pki/hallmark/relay"
	"github.com/hallmark-pki/hallmark/wire"
)

// optionsFile is what `relay run` does, in the relay's folder; flags come before it.
const optionsFile = "relay.yaml"

// options is relay.yaml.
type options struct {
	// Write are the files to keep fresh, by format.
	Write map[string]string `yaml:"write"`
	// Reload and Each are commands for the shell; Timeout bounds each run.
	Reload  string `yaml:"reload"`
	Each    string `yaml:"each"`
	Timeout string `yaml:"timeout"`
	// Fail is "open" or "closed".
	Fail string `yaml:"fail"`
	// Program is what the files are for.
	Program string `yaml:"program"`
}

// Relay is `hallmark relay`.
func Relay(version string) *cobra.Command {
	return terminal.Group("relay", "Keep a broker, gateway or proxy informed of what is revoked", "  hallmark relay run --dir /var/lib/hallmark-relay",
		join(), run(version), status())
}

func dirFlag(c *cobra.Command) *string {
	dir := c.Flags().String("dir", "", "the relay's own folder")
	_ = c.MarkFlagRequired("dir")
	_ = c.MarkFlagDirname("dir")
	return dir
}

func join() *cobra.Command {
	c := &cobra.Command{Use: "join INVITATION", Short: "Become the relay of a relying party on this computer",
		Long: `Become the relay of a relying party on this computer: make a key, fetch a certificate for
it, and write both to the relay's folder. Write the invitation as "-" to give it on
standard input, out of the list of processes.`,
		Example: "  hallmark relay join - --dir /var/lib/hallmark-relay < invitation",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: terminal.Nothing}
	dir := dirFlag(c)
	c.RunE = terminal.Run(func(c *cobra.Command, args []string) error {
		invitation, err := terminal.Invitation(c, args[0])
		if err != nil {
			return err
		}
		name, _, err := client.AcceptRelay(c.Context(), invitation, *dir)
		if err != nil {
			return err
		}
		return terminal.Say(c, "this is the relay of %s; go on with: hallmark relay run --dir %s", name, *dir)
	})
	return c
}

func run(version string) *cobra.Command {
	var o options
	c := &cobra.Command{Use: "run", Short: "Follow what is revoked and keep files fresh",
		Long: `Follow what is revoked, keep files fresh and have the program beside take them up.

--write FORMAT=FILE,… names the files: roots (what to trust, PEM), crl (PEM, for nginx,
mosquitto, OpenSSL), serials (one a line, for haproxy), nginx-map, denylist and filter
(signed, for Go).

--reload runs after files have changed, once for many changes; --each runs for every
change, which is in $HALLMARK_STATUS (good, hold, revoked), _NAME, _DEVICE, _SERIAL,
_REASON, _FINGERPRINT, _SUCCESSOR, _ISSUER and _CHANGE. What is enforced is reported when
both have succeeded.

--fail says what shall happen when the lists end without contact, after seven days: closed
(nobody is let in) or open (whoever was not denied before is). All of these
options can stand in relay.yaml in the folder instead.`,
		Example: `  hallmark relay run --dir /var/lib/hallmark-relay \
    --write roots=/etc/mosquitto/devices.pem,crl=/etc/mosquitto/crls.pem \
    --reload 'systemctl try-reload-or-restart mosquitto' --fail closed`,
		Args: cobra.NoArgs}
	dir := dirFlag(c)
	f := c.Flags()
	f.StringToStringVar(&o.Write, "write", nil, "files to keep fresh, as FORMAT=FILE,…")
	f.StringVar(&o.Reload, "reload", "", "command that makes the program take up changed files")
	f.StringVar(&o.Each, "each", "", "command for every change")
	f.StringVar(&o.Timeout, "timeout", "", "how long a command may take (default 30s)")
	f.StringVar(&o.Fail, "fail", "", "open or closed")
	f.StringVar(&o.Program, "program", "", "what the files are for, as operators see it")
	_ = c.RegisterFlagCompletionFunc("fail", terminal.Words(wire.FailClosed, wire.FailOpen))
	c.RunE = terminal.Run(func(c *cobra.Command, _ []string) error {
		if err := o.complete(*dir); err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
		cl, err := client.LoadRelay(*dir, func(w string) { log.Warn(w) })
		if errors.Is(err, fs.ErrNotExist) {
			return joinFirst(err, *dir)
		} else if err != nil {
			return err
		}
		config, err := o.config(*dir, cl)
		if err != nil {
			return err
		}
		config.Version, config.Log = version, log
		config.Systemd = sdnotify.New()
		r, unlock, err := relay.New(config)
		if err != nil {
			return err
		}
		defer unlock()
		log.Info("relay", "relying_party", cl.Operator(), "server", cl.Server(), "fail", config.Fail)
		go cl.Keep(c.Context())
		return r.Run(c.Context())
	})
	return c
}

// complete takes what flags did not say from relay.yaml. Commands are not taken from a file
// that others may write: they would act as the relay, which is root's mostly.
func (o *options) complete(dir string) error {
	path := filepath.Join(dir, optionsFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var file options
	if err == nil {
		err = yaml.UnmarshalWithOptions(text, &file, yaml.Strict())
	}
	if err == nil && file.Reload+file.Each != "" {
		err = program.Safe(path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if o.Write == nil {
		o.Write = file.Write
	}
	for _, p := range []struct {
		to   *string
		from string
	}{{&o.Reload, file.Reload}, {&o.Each, file.Each}, {&o.Timeout, file.Timeout}, {&o.Fail, file.Fail}, {&o.Program, file.Program}} {
		if *p.to == "" {
			*p.to = p.from
		}
	}
	return nil
}

func (o *options) config(dir string, cl *client.Client) (relay.Config, error) {
	c := relay.Config{Dir: dir, Send: cl.Send, Reload: o.Reload, Each: o.Each, Fail: o.Fail, Program: o.Program}
	for format, path := range o.Write {
		c.Files = append(c.Files, relay.File{Format: format, Path: path})
	}
	var err error
	if o.Timeout != "" {
		if c.Timeout, err = time.ParseDuration(o.Timeout); err != nil || c.Timeout <= 0 {
			return c, terminal.Usage(fmt.Errorf("timeout %q is not a time, as in 30s", o.Timeout))
		}
	}
	if err := c.Check(); err != nil {
		return c, terminal.Usage(err)
	}
	c.Pinned, err = cl.Pinned()
	return c, err
}

func joinFirst(err error, dir string) error {
	return terminal.Hinted(err, "hallmark relay join INVITATION --dir "+dir+" comes first")
}

func status() *cobra.Command {
	c := &cobra.Command{Use: "status", Short: "Show what the relay of this computer enforces",
		Long:    "Show what the relay of this computer enforces. It exits 1 if that is not as it should be:\nthe relay does not run, something failed, or half the life of its lists has passed\nwithout a fresh one.",
		Example: "  hallmark relay status --dir /var/lib/hallmark-relay", Args: cobra.NoArgs}
	dir := dirFlag(c)
	asJSON := terminal.JSONFlag(c)
	c.RunE = terminal.Run(func(c *cobra.Command, _ []string) error {
		st, err := relay.ReadStatus(*dir, time.Now())
		if errors.Is(err, fs.ErrNotExist) {
			return joinFirst(err, *dir)
		} else if err != nil {
			return err
		}
		change := "nothing yet"
		if st.Number >= 0 {
			change = fmt.Sprintf("up to change %d", st.Number)
		}
		running := "no"
		if st.Running {
			running = "yes"
		}
		var failing []string
		for _, f := range st.Failing {
			failing = append(failing, fmt.Sprintf("%s (since %s, %s)", f.Device, terminal.Exactly(f.Since), terminal.Count(int(f.Times), "time")))
		}
		err = terminal.Show(c, *asJSON, st, [2]string{"Running", running}, [2]string{"Enforced", change}, [2]string{"Since", terminal.Exactly(st.Since)},
			[2]string{"Last contact", terminal.Exactly(st.Contact)}, [2]string{"Lists end", terminal.Exactly(st.Until)}, [2]string{"Failing", strings.Join(failing, ", ")}, [2]string{"Problem", st.Problem})
		if err == nil && st.Problem != "" {
			err = errors.New(strings.TrimSpace(st.Problem))
		}
		return err
	})
	return c
}
