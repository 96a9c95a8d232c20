package archtest

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// maxLines bounds a package without its tests: what is larger keeps two promises.
const maxLines = 1500

// deviceModules are all that cmd/hallmark-device may link besides this module. Each
// costs flash on a device and trust in a stranger.
var deviceModules = map[string]string{
	"github.com/google/go-tpm":             "TPM structures and commands",
	"github.com/spf13/cobra":               "command line",
	"github.com/spf13/pflag":               "flags of cobra",
	"github.com/inconshreveable/mousetrap": "cobra on Windows",
	"golang.org/x/sys":                     "system calls of go-tpm",
}

// file is one Go file of the module that is not a test.
type file struct {
	pkg, name string
	lines     int
	set       *token.FileSet
	tree      *ast.File
}

func files(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var found []file
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		short, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(set, short, text, parser.ParseComments)
		if err != nil {
			return err
		}
		found = append(found, file{filepath.ToSlash(filepath.Dir(short)), short, bytes.Count(text, []byte("\n")), set, tree})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 20 {
		t.Fatalf("only %d files found under %s: the test looks in the wrong place", len(found), root)
	}
	return found
}

func TestImports(t *testing.T) {
	for _, f := range files(t) {
		for _, i := range f.tree.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if err := judgeImport(f.pkg, imported); err != nil {
				t.Errorf("%v: %v", f.set.Position(i.Pos()), err)
			}
		}
	}
}

func TestCalls(t *testing.T) {
	for _, f := range files(t) {
		names := map[string]string{} // local name of an import: its path
		for _, i := range f.tree.Imports {
			imported, _ := strconv.Unquote(i.Path.Value)
			name := path.Base(imported)
			if i.Name != nil {
				name = i.Name.Name
			}
			names[name] = imported
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if !ok {
				return true
			}
			for _, c := range calls {
				if names[x.Name] == c.path && s.Sel.Name == c.function && !fits(f.pkg, c.from) {
					t.Errorf("%v: %s may not use %s.%s: %s; only %q may", f.set.Position(s.Pos()), f.pkg, c.path, c.function, c.because, c.from)
				}
			}
			return true
		})
	}
}

func TestSizeAndNames(t *testing.T) {
	lines, documented := map[string]int{}, map[string]bool{}
	for _, f := range files(t) {
		lines[f.pkg] += f.lines
		documented[f.pkg] = documented[f.pkg] || f.tree.Doc != nil
		switch name := f.tree.Name.Name; strings.TrimSuffix(name, "s") {
		case "util", "utilitie", "common", "manager", "helper", "misc", "lib", "shared":
			t.Errorf("%s: package %s promises nothing: name it after what it does", f.name, name)
		}
	}
	for pkg, n := range lines {
		if n > maxLines && pkg != "record/recordtest" { // an exam is as long as what it examines
			t.Errorf("%s has %d lines without tests, and %d is the limit: it probably keeps two promises", pkg, n, maxLines)
		}
		if !documented[pkg] {
			t.Errorf("%s does not say in a package comment what it promises", pkg)
		}
	}
}

func TestDeviceLinksLittle(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/hallmark-device")
	list.Dir = "../.."
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	var complaint bytes.Buffer
	list.Stderr = &complaint
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &complaint)
	}
	for _, m := range strings.Fields(string(out)) {
		if m != module && deviceModules[m] == "" {
			t.Errorf("cmd/hallmark-device links %s, which is not on its list: a device pays for it in flash and trust", m)
			deviceModules[m] = "reported"
		}
	}
}

// TestRules shows that the rules catch what they are there for.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		pkg, imports string
		allowed      bool
	}{
		{"wire", "encoding/json", true},
		{"wire", "golang.org/x/crypto/ocsp", false},
		{"wire", module + "/record", false},
		{"device/client", module + "/wire", true},
		{"device/client", module + "/ca", false},
		{"device", module + "/record", false},
		{"device", module + "/attest/tpm2/collect", true},
		{"cmd/hallmark-device", module + "/config", false},
		{"cmd/hallmark", module + "/record", false},
		{"cmd/hallmarkd", module + "/record/sqlite", true},
		{"attest/tpm2", module + "/attest/tpm2/vendorca", true},
		{"attest/tpm2", module + "/attest/idevid", false},
		{"attest/tpm2/collect", module + "/attest/tpm2", true},
		{"attest/tpm2/collect", module + "/attest/idevid", false},
		{"attest/tpm2", "net/http", false},
		{"attest/tpm2", "os", false},
		{"attest/tpm2/vendorca", "github.com/google/go-tpm/tpm2", true},
		{"provisioner", "github.com/google/go-tpm/tpm2", false},
		{"provisioner", module + "/record/sqlite", false},
		{"provisioner/native", module + "/record/sqlite", false},
		{"provisioner/native", module + "/ca", false},
		{"provisioner/decide", module + "/ca", false},
		{"ca", module + "/attest", false},
		{"ca", "github.com/smallstep/certificates/cas/apiv1", false},
		{"ca/cas", "github.com/smallstep/certificates/cas/softcas", true},
		{"ca/cas", "github.com/smallstep/certificates/authority", false},
		{"ca/keys", "go.step.sm/crypto/kms/softkms", true},
		{"ca/cas", "go.step.sm/crypto/kms/softkms", false},
		{"ca/status", module + "/ca", false},
		{"ca/trust", module + "/wire", true},
		{"ca/status", module + "/wire", false},
		{"record/sqlite", "modernc.org/sqlite", true},
		{"record/postgres", "modernc.org/sqlite", false},
		{"admin", "database/sql", false},
		{"admin/client", module + "/admin", false},
		{"newroom", module + "/wire", false},
		{"record", "testing", false},
		{"record", "fmt", true},
	} {
		if err := judgeImport(c.pkg, c.imports); (err == nil) != c.allowed {
			t.Errorf("%s importing %s: allowed %v, judged %v", c.pkg, c.imports, c.allowed, err)
		}
	}
}
