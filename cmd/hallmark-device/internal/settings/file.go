package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hallmark-pki/hallmark/device/proxy"
)

// file is a file of settings: lines "name = value", "#" before a comment, and sections [proxy],
// each of which is one socket. There is no quoting: a value is what is between the equals sign
// and the end of the line, without surrounding blanks.
type file struct {
	path    string
	values  map[string]line
	tunnels []proxy.Tunnel
	sites   []proxy.Site
}

type line struct {
	text   string
	number int
}

// maxFile bounds the file, in bytes.
const maxFile = 64 << 10

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	return text, err
}

// parse parses a file. Its errors begin with the line number.
func parse(text []byte) (file, error) {
	f := file{values: make(map[string]line)}
	if !utf8.Valid(text) {
		return f, errors.New("1: not a text file")
	}
	var section *socket
	end := func() error {
		if section == nil {
			return nil
		}
		if err := section.end(&f); err != nil {
			return fmt.Errorf("%d: [proxy]: %w", section.number, err)
		}
		return nil
	}
	for i, text := range strings.Split(string(text), "\n") {
		text, number := strings.TrimSpace(text), i+1
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if text == "[proxy]" {
			if err := end(); err != nil {
				return f, err
			}
			section = &socket{number: number, seen: make(map[string]bool)}
			continue
		}
		name, value, ok := strings.Cut(text, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		var err error
		switch {
		case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			err = errors.New("a control character")
		case !ok || name == "":
			err = errors.New("neither \"name = value\", [proxy] nor a comment")
		case value == "":
			err = fmt.Errorf("%s has no value: leave out the line", name)
		case section != nil:
			err = section.set(name, value)
		default:
			err = f.set(name, value, number)
		}
		if err != nil {
			return f, fmt.Errorf("%d: %w", number, err)
		}
	}
	return f, end()
}

func (f *file) set(name, value string, number int) error {
	if _, ok := find(name); !ok {
		return fmt.Errorf("there is no setting %q", name)
	}
	if before, ok := f.values[name]; ok {
		return fmt.Errorf("%s is set in line %d already", name, before.number)
	}
	f.values[name] = line{value, number}
	return nil
}

// socket is a section [proxy], whose keys are named like the command's flags: a tunnel or, with
// "serve" instead of "listen", a site.
type socket struct {
	proxy.Tunnel
	serve, clients, fail string
	number               int
	seen                 map[string]bool
}

// end adds a complete section to f.
func (t *socket) end(f *file) error {
	if t.serve == "" {
		if t.clients != "" {
			return errors.New("clients belongs to serve, not to listen")
		}
		if t.fail != "" {
			return errors.New("fail belongs to serve, not to listen")
		}
		f.tunnels = append(f.tunnels, t.Tunnel)
		return t.Check()
	}
	if t.Listen+t.Name+t.Roots != "" || len(t.ALPN)+len(t.Users)+len(t.Groups) > 0 {
		return errors.New("beside serve there are to, clients, fail and limit, nothing else")
	}
	site := proxy.Site{Listen: t.serve, To: t.To, Clients: t.clients, Fail: t.fail, Limit: t.Limit}
	f.sites = append(f.sites, site)
	return site.Check()
}

func (t *socket) set(name, value string) (err error) {
	lists := map[string]*[]string{"alpn": &t.ALPN, "user": &t.Users, "group": &t.Groups}
	if list := lists[name]; list != nil {
		*list = append(*list, value)
		return nil
	}
	if t.seen[name] {
		return fmt.Errorf("%s is set already", name)
	}
	t.seen[name] = true
	texts := map[string]*string{"listen": &t.Listen, "serve": &t.serve, "to": &t.To, "name": &t.Name, "roots": &t.Roots, "clients": &t.clients, "fail": &t.fail}
	switch text := texts[name]; {
	case text != nil:
		*text = value
	case name == "limit":
		if t.Limit, err = strconv.Atoi(value); err != nil {
			return fmt.Errorf("%q is not a number", value)
		}
	default:
		return fmt.Errorf("there is no setting %q in [proxy]; the others stand before the first section", name)
	}
	return nil
}
