package acceptance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pages are run from top to bottom, each in an empty folder: every line of a console
// block that begins with "$ " is typed, and must succeed unless it says "# exits N".
var pages = []string{"README.md", "docs/factory.md", "docs/administrator.md", hsmPage, "docs/device.md", programsPage, "docs/external-signer.md", "docs/relay.md", "docs/revocation.md"}

func TestDocumentedCommands(t *testing.T) {
	for _, page := range pages {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "..", page))
			if err != nil {
				t.Fatal(err)
			}
			commands := console(string(text))
			if len(commands) < 5 {
				t.Fatalf("only %d commands found", len(commands))
			}
			port, err := freePorts()
			if err != nil {
				t.Fatal(err)
			}
			s := newStage(t)
			if page == hsmPage {
				s.withPKCS11(t)
			}
			s.bash(t, script(commands, port))
		})
	}
}

const hsmPage = "docs/hsm.md"

// console collects the commands of a page.
func console(page string) (commands []string) {
	inside := false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			commands = append(commands, line[2:])
		}
	}
	return commands
}

// script types the commands one after another in one shell, as a reader would, and waits for
// each server to come up. It changes only the port, since another process may be using it.
func script(commands []string, port int) string {
	var b strings.Builder
	b.WriteString("trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n")
	for _, c := range commands {
		want := 0
		c = strings.ReplaceAll(c, ":8443", fmt.Sprintf(":%d", port))
		if before, code, ok := strings.Cut(c, "# exits "); ok {
			c = strings.TrimSpace(before)
			want, _ = strconv.Atoi(code)
		}
		if strings.HasSuffix(c, "&") {
			fmt.Fprintf(&b, "%s\nfor i in $(seq 1200); do (exec 3<>/dev/tcp/127.0.0.1/%d) 2>/dev/null && break; sleep 0.05; done\n", c, port)
			continue
		}
		fmt.Fprintf(&b, "%s\ncode=$?; if [ $code -ne %d ]; then echo \"exit code $code, not %d:\" %s; exit 1; fi\n", c, want, want, quote(c))
	}
	return b.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Where there is no TPM, what README.md puts in its place serves its commands, and tpm2-tools.
func TestStandIn(t *testing.T) {
	port, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t)
	t.Cleanup(func() { s.bash(t, "kill $(cat tpm/pid)") })
	s.bash(t, "unset HALLMARK_TPM TPM2TOOLS_TCTI\n"+block(t, "README.md", "sh", 1)+"\ntpm2_createek --ek-context ek.ctx --key-algorithm ecc --public ek.pub || exit 1\n"+
		script(console(string(read(t, "../..", "README.md"))), port))
}

// codes are the constants Code… of a folder and those below it: the codes that its programs can be
// refused with, or say.
func codes(t *testing.T, folder string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "Code") {
				return true
			}
			code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatalf("%s: %s: %v", file, spec.Names[0].Name, err)
			}
			all = append(all, code)
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Every code that a client can be refused with is explained in docs/errors.md, and no other.
func TestErrorsAreDocumented(t *testing.T) {
	page := string(read(t, "../../docs", "errors.md"))
	var known []string
	for _, folder := range []string{"wire", "attest", "device"} {
		known = append(known, codes(t, filepath.Join("../..", folder))...)
	}
	for _, code := range known {
		if !strings.Contains(page, "`"+code+"`") {
			t.Errorf("docs/errors.md does not explain %s", code)
		}
	}
	listed := 0
	code := regexp.MustCompile("`([a-z0-9]+(?:-[a-z0-9]+)*)`")
	for _, row := range regexp.MustCompile("(?m)^\\| ([^|]*`[^|]*) \\|").FindAllStringSubmatch(page, -1) {
		for _, found := range code.FindAllStringSubmatch(row[1], -1) {
			if listed++; !slices.Contains(known, found[1]) && found[1] != "hallmark" && found[1] != "hallmarkd" && found[1] != "hallmark-device" {
				t.Errorf("docs/errors.md explains %s, which is no code", found[1])
			}
		}
	}
	if len(known) < 90 || listed < 60 {
		t.Errorf("only %d codes found, and %d explained", len(known), listed)
	}
}

// anchors returns the names by which links refer to a page's headings.
func anchors(page string) map[string]bool {
	found := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		found[strings.ReplaceAll(name, " ", "-")] = true
	}
	return found
}

// A link leads to a page, or to a heading of one.
func TestLinksBetweenPages(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^):#]*)#?([^):]*)\)`)
	checked := 0
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/decisions/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range link.FindAllStringSubmatch(string(text), -1) {
				checked++
				page := file
				if found[1] != "" {
					page = filepath.Join(filepath.Dir(file), found[1])
				}
				if _, err := os.Stat(page); err != nil {
					t.Errorf("%s links to %s: %v", file, found[1], err)
				} else if found[2] != "" {
					if text, err := os.ReadFile(page); err != nil || !anchors(string(text))[found[2]] {
						t.Errorf("%s links to %s, which has no heading %q", file, page, found[2])
					}
				}
			}
		}
	}
	if checked < 15 {
		t.Errorf("only %d links found", checked)
	}
}
