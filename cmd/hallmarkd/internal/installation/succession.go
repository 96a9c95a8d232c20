package installation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hallmark-pki/hallmark/ca/keys"
	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/ca/trust"
	"github.com/hallmark-pki/hallmark/config"
	"github.com/hallmark-pki/hallmark/wire"

	"github.com/hallmark-pki/hallmark/internal/durable"
)

// Succession is issuers.json, beside the trust bundle: the issuers that came after those
// of the configuration, and which of each line issues. The commands keep it.
type Succession struct {
	// Added are in the order in which they were added. Paths and key URIs are relative to
	// the installation's folder.
	Added []Successor `json:"added"`
	// InUse names the issuer of a line that issues; a line that is missing has never
	// changed hands.
	InUse map[string]string `json:"in_use"`
}

// Successor is an added issuer.
type Successor struct {
	Name        string `json:"name"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// TrustFile is the path of a file or folder beside the trust bundle.
func TrustFile(c *config.Config, name string) string {
	return filepath.Join(filepath.Dir(c.Trust.Bundle), name)
}

// Names beside the trust bundle.
const (
	successionFile = "issuers.json"
	earlierDir     = "earlier"
)

// ReadSuccession reads issuers.json; there is none before the first successor.
func ReadSuccession(c *config.Config) (s Succession, err error) {
	path := TrustFile(c, successionFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = wire.DecodeBytes(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	known := profile.Issuers()
	for _, a := range s.Added {
		if line := profile.LineOf(a.Name); line == "" || slices.Contains(known, a.Name) {
			return s, fmt.Errorf("%s: %q is not the name of a successor, or stands there twice", path, a.Name)
		}
		known = append(known, a.Name)
	}
	for line, name := range s.InUse {
		if profile.LineOf(name) != line || !slices.Contains(known, name) {
			return s, fmt.Errorf("%s: there is no issuer %q to be in use for %q", path, name, line)
		}
	}
	return s, nil
}

// Write replaces issuers.json.
func (s Succession) Write(c *config.Config) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return durable.ReplaceForOwner(TrustFile(c, successionFile), append(text, '\n'), 0o600)
}

// Next names the issuer that a line's next successor will be.
func (s Succession) Next(line string) string {
	last := line
	for _, a := range s.Added {
		if profile.LineOf(a.Name) == line {
			last = a.Name
		}
	}
	return profile.Successor(last)
}

// issuers lists what is to be opened: line by line, the one in use first.
func (s Succession) issuers(c *config.Config) []named {
	all := []named{
		{profile.Manufacturing, c.Issuers.Manufacturing},
		{profile.Operational, c.Issuers.Operational},
		{profile.Infrastructure, c.Issuers.Infrastructure},
	}
	for _, a := range s.Added {
		configured := all[slices.Index(profile.Issuers(), profile.LineOf(a.Name))]
		all = append(all, named{a.Name, config.Issuer{
			Certificate: filepath.Join(c.Dir, a.Certificate), Key: a.Key, Signer: configured.Signer}})
	}
	rank := func(n named) int {
		line := profile.LineOf(n.name)
		r := slices.Index(profile.Issuers(), line) * 2
		if used := s.InUse[line]; n.name != used && (used != "" || n.name != line) {
			r++
		}
		return r
	}
	slices.SortStableFunc(all, func(a, b named) int { return rank(a) - rank(b) })
	return all
}

type named struct {
	name string
	config.Issuer
}

// Pins are the issuers of some lines whose certificates are accepted here: those whose root the trust
// bundle lists. A retired root takes its issuers with it, however good their signatures.
func (in *Installation) Pins(lines ...string) profile.Pins {
	pins := profile.Pins{}
	for _, i := range in.Issuers {
		if slices.Contains(lines, profile.LineOf(i.Name)) && in.Lists(i) {
			pins[i.Name] = i.Certificate
		}
	}
	return pins
}

// Lists reports whether the trust bundle lists an issuer's root.
func (in *Installation) Lists(i Issuer) bool {
	b := in.Trust.Bundle()
	return trust.Lists(Roots(&b, profile.LineOf(i.Name)), i.Root.Raw)
}

// Roots are a line's roots in a bundle.
func Roots(b *wire.Bundle, line string) [][]byte { return *RootList(b, line) }

// RootList is where a line's roots stand in a bundle.
func RootList(b *wire.Bundle, line string) *[][]byte {
	switch line {
	case profile.Manufacturing:
		return &b.Manufacturing
	case profile.Operational:
		return &b.Operational
	}
	return &b.Infrastructure
}

// EarlierBundle is where a bundle is kept once another has followed it.
func EarlierBundle(c *config.Config, number int64) string {
	return filepath.Join(TrustFile(c, earlierDir), strconv.FormatInt(number, 10)+".json")
}

// openTrust reads the bundle in use and the way that led to it.
func (in *Installation) openTrust() error {
	timeKey, err := keys.Open(in.Config.TimeKey, in.Config.Dir)
	if err != nil {
		return fmt.Errorf("time key: %w", err)
	}
	newest, err := os.ReadFile(in.Config.Trust.Bundle)
	if err != nil {
		return err
	}
	var earlier [][]byte
	for n := int64(1); n <= wire.MaxSteps; n++ {
		text, err := os.ReadFile(EarlierBundle(in.Config, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		// A crash between keeping a bundle and replacing it leaves it in both places.
		if !bytes.Equal(text, newest) {
			earlier = append(earlier, text)
		}
	}
	in.Trust, err = trust.New(newest, in.Issuer(profile.Infrastructure).Root, timeKey, earlier...)
	return err
}

// Files lists the files that issuers.json names; what the configuration names is
// config.Config.Files.
func (in *Installation) Files() ([]string, error) {
	s, err := ReadSuccession(in.Config)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, a := range s.Added {
		paths = append(paths, filepath.Join(in.Config.Dir, a.Certificate))
		if path, ok := in.Config.KeyFile(a.Key); ok {
			paths = append(paths, path)
		}
	}
	return paths, nil
}
