package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hallmark-pki/hallmark/internal/ports"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hallmarkd": main})
}

// TestTranscripts runs what a person types; see testdata.
func TestTranscripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			port, err := ports.Free(21000+os.Getpid()%5*1000, 4)
			e.Setenv("PORT", strconv.Itoa(port))
			e.Setenv("STATUS", strconv.Itoa(port+2))
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// await-ready waits for the server whose status listener has the given port, and
			// for the list that its own certificate is on, which it publishes a moment later.
			"await-ready": func(ts *testscript.TestScript, _ bool, args []string) {
				for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
					if answer, err := http.Get("http://127.0.0.1:" + args[0] + "/crl/infrastructure/1.crl"); err == nil {
						answer.Body.Close()
						if answer.StatusCode == http.StatusOK {
							return
						}
					}
				}
				ts.Fatalf("the server is not ready after 30 s")
			},
			// mode MODE FILE compares a file's permissions.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
					ts.Fatalf("%s has mode %s, not %s", args[1], got, args[0])
				}
			},
			// replace OLD NEW FILE changes the one place where OLD stands.
			"replace": func(ts *testscript.TestScript, _ bool, args []string) {
				path := ts.MkAbs(args[2])
				text, err := os.ReadFile(path)
				ts.Check(err)
				if n := strings.Count(string(text), args[0]); n != 1 {
					ts.Fatalf("%q stands in %s %d times", args[0], args[2], n)
				}
				ts.Check(os.WriteFile(path, []byte(strings.Replace(string(text), args[0], args[1], 1)), 0o600))
			},
		},
	})
}
