// Package state stores what a device must not lose: the servers and roots that it trusts, its
// certificates and its working key. A reader at any moment, even after a power cut, sees one
// complete set, the old or the new, never a mix.
//
// A set is a folder of its own, written and synced in full before the symbolic link "current" is
// switched to it; the set before is kept. Other programs find the working certificate and key
// under fixed names that lead through the link: ldevid.pem and ldevid.key, and idevid.pem.
package state

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/wire"
)

// DefaultDir is the state folder of a device.
const DefaultDir = "/var/lib/hallmark-device"

// ErrEmpty: there is no state in the folder, the device is not enrolled.
var ErrEmpty = errors.New("the device is not enrolled")

// Set is everything that a device stores. The zero value of a field means that there is none.
type Set struct {
	Settings
	// IDevID, AK and LDevID are chains, DER, leaf first. Without IDevID it was lost.
	IDevID, AK, LDevID [][]byte
	// LDevIDKey is the working key's file (TSS2 PEM, or PKCS#8 PEM without a TPM), which belongs
	// to LDevID.
	LDevIDKey []byte
	// Page is the chain of the device's own web page, for the same key.
	Page [][]byte
	// Fresh, FreshPage and FreshKey are the successors of LDevID, Page and LDevIDKey until they
	// have worked.
	Fresh, FreshPage [][]byte
	FreshKey         []byte
}

// Settings is the part of a Set other than certificates and keys (settings.json).
type Settings struct {
	// Device, Model and Serial name the device as its certificates do.
	Device string `json:"device"`
	Model  string `json:"model"`
	Serial string `json:"serial"`
	// TPM says which TPM holds the keys (collect.Open).
	TPM string `json:"tpm"`
	// Key says where the keys are (package keys); empty means the TPM.
	Key string `json:"key,omitempty"`
	// Server is the https URL that the device enrolled at; it is tried after those of the bundle.
	Server string `json:"server"`
	// Pins are the SHA-256 of the infrastructure roots trusted from the start, hex.
	Pins []string `json:"pins"`
	// Trust is the newest trust bundle, exactly as signed.
	Trust wire.SignedBundle `json:"trust"`
	// Next is the challenge whose secret the next renewal returns.
	Next *wire.Challenge `json:"next,omitempty"`
	// RenewAfter is when the next renewal is due, the moment that the device picked in
	// the server's window; zero before the first.
	RenewAfter time.Time `json:"renew_after,omitzero"`
	// Steering is the window, and how often to ask; zero if the server gave none.
	Steering wire.Steering `json:"steering,omitzero"`
	// Network is what was learned about reaching the server; it may be lost.
	Network client.Memory `json:"network,omitzero"`
}

// Bundle is the content of Trust, which was verified before it was kept.
func (s Settings) Bundle() (b wire.Bundle, err error) {
	err = json.Unmarshal(s.Trust.Bundle, &b)
	return b, err
}

// Names of the files of a set.
const (
	settingsFile = "settings.json"
	idevidFile   = "idevid.pem"
	akFile       = "ak.pem"
	ldevidFile   = "ldevid.pem"
	keyFile      = "ldevid.key"
	pageFile     = "server.pem"
	freshFile    = "ldevid-fresh.pem"
	freshPage    = "server-fresh.pem"
	freshKeyFile = "ldevid-fresh.key"
	currentLink  = "current"
	setPrefix    = "set-"
)

// BirthKeyFile is the IDevID key of a device that keeps its keys in files (package keys). It is
// outside of the sets, since it never changes and must outlive them.
const BirthKeyFile = "idevid.key"

// maxFile bounds every file read, in bytes.
const maxFile = 256 << 10

// Dir is a state folder.
type Dir struct {
	path string
	fs   steps
}

// At is the state folder at path; empty means DefaultDir. Nothing is read or made yet.
func At(path string) *Dir {
	if path == "" {
		path = DefaultDir
	}
	return On(path, disk{})
}

// On is At with f making the changes.
func On(path string, f Files) *Dir { return &Dir{path, steps{f}} }

// Path is the folder.
func (d *Dir) Path() string { return d.path }

// Version changes whenever another set becomes the current one, even if the folder was wiped and
// its sets are numbered from 1 again. ErrEmpty if there is none.
func (d *Dir) Version() (string, error) {
	set, err := d.current()
	if err != nil {
		return "", err
	}
	link, err := os.Lstat(filepath.Join(d.path, currentLink))
	if err != nil {
		return "", fmt.Errorf("reading the state: %w", err)
	}
	return set + link.ModTime().String(), nil
}

// current is the name of the current set. ErrEmpty if there is none.
func (d *Dir) current() (string, error) {
	target, err := os.Readlink(filepath.Join(d.path, currentLink))
	if errors.Is(err, os.ErrNotExist) {
		return "", ErrEmpty
	}
	if err != nil {
		return "", fmt.Errorf("reading the state: %w", err)
	}
	return target, nil
}

// Load reads the current set; ErrEmpty if there is none. If the current set cannot be
// read (a worn-out flash) the one before it is read instead, and damaged says why.
func (d *Dir) Load() (s Set, damaged error, err error) {
	var target string
	for range 10 {
		if target, err = d.current(); err != nil {
			return Set{}, nil, err
		}
		s, err = d.read(target)
		// A set that was replaced meanwhile may be half removed, and its missing files would look
		// as if they had never existed.
		if again, _ := os.Readlink(filepath.Join(d.path, currentLink)); again != target {
			err = errors.New("the state is replaced faster than it can be read")
			continue
		}
		if err == nil {
			return s, nil, nil
		}
		break
	}
	damaged = err
	for _, n := range d.numbers() {
		if name := setName(n); name < target { // a later one was never finished
			if s, older := d.read(name); older == nil {
				return s, damaged, nil
			}
		}
	}
	return Set{}, nil, fmt.Errorf("reading the state: %w", damaged)
}

// Save makes s the current set. When it returns nil the set is durable; when it returns an error
// the current set is the old one or, if only the last sync failed, the new one, and complete in
// either case.
func (d *Dir) Save(s Set) error {
	if err := d.save(s); err != nil {
		return fmt.Errorf("writing the state folder %s: %w", d.path, err)
	}
	return nil
}

func (d *Dir) save(s Set) error {
	contents, err := s.files()
	if err != nil {
		return err
	}
	present := d.numbers()
	var next int64 = 1
	if len(present) > 0 {
		next = present[0] + 1
	}
	name, current := setName(next), filepath.Join(d.path, currentLink)
	previous, _ := os.Readlink(current)
	if err := d.stage(filepath.Join(d.path, name), contents); err != nil {
		d.fs.RemoveAll(filepath.Join(d.path, name)) // a full disk needs the room
		return err
	}
	if err := d.fs.link(name, current); err != nil {
		return err
	}
	if err := d.fs.SyncDir(d.path); err != nil {
		return err
	}
	for _, n := range present {
		if old := setName(n); old != previous {
			d.fs.RemoveAll(filepath.Join(d.path, old)) // what cannot be removed now is removed next time
		}
	}
	return nil
}

// stage writes a set that is not current yet.
func (d *Dir) stage(folder string, contents []file) error {
	if err := d.fs.mkdir(folder); err != nil {
		return err
	}
	for _, f := range contents {
		if err := d.fs.write(filepath.Join(folder, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	if err := d.fs.SyncDir(folder); err != nil {
		return err
	}
	return d.fixedNames()
}

// fixedNames makes the links that other programs follow. Only "current" ever changes, so that
// certificate and key change together.
func (d *Dir) fixedNames() error {
	for _, name := range []string{ldevidFile, keyFile, idevidFile} {
		path, target := filepath.Join(d.path, name), filepath.Join(currentLink, name)
		if have, err := os.Readlink(path); err == nil && have == target {
			continue
		}
		if err := d.fs.link(target, path); err != nil {
			return err
		}
	}
	return nil
}

type file struct {
	name string
	data []byte
	mode os.FileMode
}

// files is the set as files: the keys readable only by their owner, the rest by everybody.
func (s Set) files() ([]file, error) {
	settings, err := json.MarshalIndent(s.Settings, "", "  ")
	if err != nil {
		return nil, err
	}
	list := []file{{settingsFile, append(settings, '\n'), 0o644}}
	if strings.HasPrefix(s.Key, "external:") {
		list[0].mode = 0o600 // there may be a PIN in the command
	}
	for _, c := range s.chains() {
		if len(*c.chain) > 0 {
			list = append(list, file{c.file, encodeChain(*c.chain), 0o644})
		}
	}
	if len(s.LDevIDKey) > 0 {
		list = append(list, file{keyFile, s.LDevIDKey, 0o600})
	}
	if len(s.FreshKey) > 0 {
		list = append(list, file{freshKeyFile, s.FreshKey, 0o600})
	}
	return list, nil
}

type chainFile struct {
	file  string
	chain *[][]byte
}

func (s *Set) chains() []chainFile {
	return []chainFile{{idevidFile, &s.IDevID}, {akFile, &s.AK}, {ldevidFile, &s.LDevID}, {pageFile, &s.Page}, {freshFile, &s.Fresh}, {freshPage, &s.FreshPage}}
}

// read reads one set.
func (d *Dir) read(name string) (Set, error) {
	var s Set
	settings, err := d.readFile(name, settingsFile)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(settings, &s.Settings); err != nil {
		return s, fmt.Errorf("%s: %w", filepath.Join(d.path, name, settingsFile), err)
	}
	for _, c := range s.chains() {
		text, err := d.readFile(name, c.file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			*c.chain, err = DecodeChain(text)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", filepath.Join(d.path, name, c.file), err)
		}
	}
	for _, k := range []struct {
		file string
		key  *[]byte
	}{{keyFile, &s.LDevIDKey}, {freshKeyFile, &s.FreshKey}} {
		if *k.key, err = d.readFile(name, k.file); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return s, err
		}
	}
	if err := s.Settings.check(); err != nil {
		return s, fmt.Errorf("%s: %w", filepath.Join(d.path, name, settingsFile), err)
	}
	return s, nil
}

// check finds what flash can have damaged while there is still a set to fall back to.
func (s Settings) check() error {
	if s.Device == "" {
		return errors.New("no device is named")
	}
	if _, err := wire.ServerURL(s.Server); err != nil {
		return fmt.Errorf("server %q: %w", s.Server, err)
	}
	for _, text := range s.Pins {
		if _, err := client.ParsePin(text); err != nil {
			return err
		}
	}
	if len(s.Trust.Bundle) == 0 {
		return nil
	}
	_, err := wire.ReadBundle(s.Trust)
	return err
}

func (d *Dir) readFile(set, name string) ([]byte, error) {
	path := filepath.Join(d.path, set, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

// numbers lists the sets in the folder, the newest first.
func (d *Dir) numbers() []int64 {
	entries, _ := os.ReadDir(d.path) // sorted by name, which is by number
	var numbers []int64
	for i := len(entries) - 1; i >= 0; i-- {
		digits, ok := strings.CutPrefix(entries[i].Name(), setPrefix)
		if n, err := strconv.ParseInt(digits, 10, 64); ok && err == nil && setName(n) == entries[i].Name() {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

func setName(n int64) string { return fmt.Sprintf("%s%08d", setPrefix, n) }

func encodeChain(chain [][]byte) []byte {
	var out bytes.Buffer
	for _, der := range chain {
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return out.Bytes()
}

// DecodeChain reads a PEM file that holds only certificates (DER each). It parses each, so that a
// set with a damaged one is rejected while there is still a set to fall back to.
func DecodeChain(text []byte) ([][]byte, error) {
	var chain [][]byte
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("not a PEM file of certificates")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, err
		}
		chain, text = append(chain, block.Bytes), rest
	}
	if chain == nil {
		return nil, errors.New("empty")
	}
	return chain, nil
}
