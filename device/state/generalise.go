package state

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// AnchorsFile is what Generalise leaves in the folder: the infrastructure roots (PEM) by which a
// board that starts from the image verifies its server.
const AnchorsFile = "infrastructure.pem"

// Generalise removes from the folder what belongs to one board and leaves roots (certificates,
// DER), for an image that many boards start from. It returns what it removed, and what else it
// left in the folder. If cut off it can be repeated.
func (d *Dir) Generalise(roots [][]byte) (removed, left []string, err error) {
	release, err := d.Lock()
	if err != nil {
		return nil, nil, err
	}
	defer release()
	if len(roots) > 0 {
		if err := d.fs.replace(filepath.Join(d.path, AnchorsFile), encodeChain(roots), 0o644); err != nil {
			return nil, nil, err
		}
	}
	// The link is removed first, durably, so that a half-removed set cannot be found.
	if _, err := d.current(); !errors.Is(err, ErrEmpty) {
		if err := errors.Join(d.fs.RemoveAll(filepath.Join(d.path, currentLink)), d.fs.SyncDir(d.path)); err != nil {
			return nil, nil, err
		}
		removed = append(removed, currentLink)
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return removed, nil, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == AnchorsFile || name == lockFile || name == agentFile:
		case ofBoard(name):
			if err := d.fs.RemoveAll(filepath.Join(d.path, name)); err != nil {
				return removed, left, err
			}
			removed = append(removed, name)
		default:
			left = append(left, name)
		}
	}
	return removed, left, d.fs.SyncDir(d.path)
}

// ofBoard reports whether a name in the folder is of a file that this package makes for one
// board.
func ofBoard(name string) bool {
	return strings.HasPrefix(name, setPrefix) ||
		slices.Contains([]string{currentLink, idevidFile, ldevidFile, keyFile, outcomeFile, BirthKeyFile}, strings.TrimSuffix(name, ".new"))
}
