package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxSize bounds the file; a full one has about 2 KiB.
const maxSize = 64 << 10

// Load reads the file, fills in defaults and checks every value, and that every file it names
// exists. The error joins everything that is wrong, one line each, in the form FILE:LINE:COLUMN:
// KEY: REASON.
func Load(path string) (*Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	text, err := read(path)
	if err != nil {
		return nil, err
	}
	c, p, err := parse(path, text)
	if err != nil {
		return nil, err
	}
	check(c, p)
	if err := p.err(); err != nil {
		return nil, err
	}
	checkFiles(c, p)
	if err := p.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no configuration at %s: name it with --config, or make an installation with hallmarkd init", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("%s is larger than %d bytes: this is not a Hallmark configuration", path, maxSize)
	}
	return text, nil
}

// parse decodes text over the defaults. The problems keep the tree, for line numbers.
func parse(path string, text []byte) (*Config, *problems, error) {
	p := &problems{file: path}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, nil, p.syntax(err)
	}
	if len(tree.Docs) > 1 {
		return nil, nil, fmt.Errorf("%s: more than one YAML document: remove what follows the second \"---\"", path)
	}
	p.tree = tree
	c := defaults()
	if err := yaml.UnmarshalWithOptions(text, &c, yaml.Strict()); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, cmp.Or(anothers(path, text), p.syntax(err))
	}
	c.File, c.Dir = path, filepath.Dir(path)
	return &c, p, nil
}

// anothers says so if the file is what operators and relays have under the same name.
func anothers(path string, text []byte) error {
	var s struct{ Server, Identity string }
	if err := yaml.Unmarshal(text, &s); err != nil || s.Server == "" || s.Identity == "" {
		return nil
	}
	where := "the folder that hallmarkd init made holds that"
	above := filepath.Join(filepath.Dir(filepath.Dir(path)), filepath.Base(path))
	if _, err := os.Stat(above); err == nil {
		where = "that may be " + above
	}
	return fmt.Errorf("%s is what the hallmark command needs, not the server's configuration: %s", path, where)
}

// problems collects what is wrong and knows on which line each key stands.
type problems struct {
	file  string
	tree  *ast.File
	found []error
}

func (p *problems) err() error { return errors.Join(p.found...) }

// add records that the value of the key, given as a dotted path, is wrong.
func (p *problems) add(key, format string, args ...any) {
	where := p.file
	if t := p.find(key); t != nil {
		where = position(p.file, t)
	}
	p.found = append(p.found, fmt.Errorf("%s: %s: %s", where, key, fmt.Sprintf(format, args...)))
}

// find returns the position of a key's value, or of its nearest ancestor in the file.
func (p *problems) find(key string) *token.Token {
	for {
		path, err := yaml.PathString("$." + key)
		if err == nil {
			if node, err := path.FilterFile(p.tree); err == nil && node != nil {
				if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
					return m.Values[0].Key.GetToken()
				}
				return node.GetToken()
			}
		}
		dot := strings.LastIndexByte(key, '.')
		if dot < 0 {
			return nil
		}
		key = key[:dot]
	}
}

// syntax turns an error of the YAML library into one line with a position.
func (p *problems) syntax(err error) error {
	if e, ok := errors.AsType[*yaml.TypeError](err); ok && e.Token != nil && kinds[e.DstType.Kind()] != "" {
		return fmt.Errorf("%s: %q is not %s", position(p.file, e.Token), e.Token.Value, kinds[e.DstType.Kind()])
	}
	var y yaml.Error
	if errors.As(err, &y) && y.GetToken() != nil {
		return fmt.Errorf("%s: %s", position(p.file, y.GetToken()), y.GetMessage())
	}
	return fmt.Errorf("%s: %w", p.file, err)
}

// kinds are the types of values in words.
var kinds = map[reflect.Kind]string{
	reflect.Bool: "true or false", reflect.String: "a text", reflect.Slice: "a list", reflect.Struct: "a group of keys",
	reflect.Int: "a whole number", reflect.Int64: "a whole number",
}

func position(file string, t *token.Token) string {
	return fmt.Sprintf("%s:%d:%d", file, t.Position.Line, t.Position.Column)
}
