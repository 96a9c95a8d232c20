package acceptance

import (
	"context"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hallmark-pki/hallmark/device"
)

// TestScripts runs the transcripts in testdata/script: they read like a manual and say
// what is printed, errors and hints above all. Beside testscript's own commands,
// "exits N PROGRAM ARGS..." wants an exit code, "await PORT" a listener, "untilok
// PROGRAM ARGS..." a success within a minute, "keep NAME" puts the last standard
// output into a variable, and "poll STATE" asks the server when to renew, as the agent
// does every few hours.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			s, err := makeStage(e.WorkDir)
			if err != nil {
				return err
			}
			e.Defer(s.close)
			port, err := freePorts()
			if err != nil {
				return err
			}
			e.Setenv("PORT", strconv.Itoa(port))
			e.Setenv("OPERATORS", strconv.Itoa(port+1))
			for _, v := range s.env {
				if name, value, _ := strings.Cut(v, "="); name == "PATH" || name == "HALLMARK_TPM" || name == "HOME" {
					e.Setenv(name, value)
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "await": awaitPort, "untilok": untilOK, "keep": keep, "poll": poll},
	})
}

// exits runs a program and wants this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N PROGRAM ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := err.(*exec.ExitError); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
}

// awaitPort waits for a server that was started. One that was told to read its files again listens
// all the while.
func awaitPort(ts *testscript.TestScript, neg bool, args []string) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+args[0]); err == nil {
			c.Close()
			return
		}
	}
	ts.Fatalf("nothing listens on port %s", args[0])
}

func untilOK(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: untilok PROGRAM ARGS...")
	}
	for deadline := time.Now().Add(time.Minute); ts.Exec(args[0], args[1:]...) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("not within a minute: %s", strings.Join(args, " "))
		}
	}
}

func keep(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func poll(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: poll STATE")
	}
	_, err := device.Poll(context.Background(), device.Options{State: ts.MkAbs(args[0])})
	ts.Check(err)
}
