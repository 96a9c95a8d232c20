package native_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// The rooms behind the protocol may not import wire, so they write their codes out:
// each must be one that wire names, or no client could act on it.
func TestCodesOfThePipelineAreOfTheWire(t *testing.T) {
	var known []string
	each(t, "../../wire/problem.go", func(n ast.Node) {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			known = append(known, text(spec.Values[0]))
		}
	})
	found := 0
	judge := func(file string, code ast.Expr) {
		if found++; text(code) == "" || !slices.Contains(known, text(code)) {
			t.Errorf("%s: wire has no code %q", file, text(code))
		}
	}
	each(t, "../events.go", func(n ast.Node) { // Reason writes those of others' errors out
		if f, ok := n.(*ast.FuncDecl); ok && f.Name.Name == "Reason" {
			ast.Inspect(f, func(n ast.Node) bool {
				if r, ok := n.(*ast.ReturnStmt); ok && text(r.Results[0]) != "" {
					judge("../events.go", r.Results[0])
				}
				return true
			})
		}
	})
	for _, room := range []string{"..", "../decide", "../identity"} {
		files, err := filepath.Glob(room + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			each(t, file, func(n ast.Node) {
				field, ok := n.(*ast.KeyValueExpr)
				if !ok {
					return
				}
				if name, ok := field.Key.(*ast.Ident); !ok || name.Name != "Code" {
					return
				}
				judge(file, field.Value)
			})
		}
	}
	if found < 20 {
		t.Errorf("only %d codes found", found)
	}
}

func each(t *testing.T, file string, do func(ast.Node)) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		do(n)
		return true
	})
}

// text is a string literal's value; "" for what is none.
func text(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, _ := strconv.Unquote(l.Value)
	return s
}
