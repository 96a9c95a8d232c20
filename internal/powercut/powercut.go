// Package powercut records what is written to a folder and says what a power cut at any
// moment would leave of it: what was not synced may be lost, whole or in part, and in any
// order. It is for tests.
package powercut

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// ErrCut: the power is gone.
var ErrCut = errors.New("power cut")

// Recorder makes changes to a folder on the real disk and records them; it is
// device/state.Files. From change number Cut on, counted from 0, it makes none any more
// and answers ErrCut; below 0, never.
type Recorder struct {
	Root string
	Cut  int

	changes []change
	tree    map[string]*node // by path, as the disk has it now
}

// New records what is changed below root, which is a folder that is all on the disk.
func New(root string, cut int) (*Recorder, error) {
	r := &Recorder{Root: root, Cut: cut, tree: map[string]*node{}}
	return r, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n := &node{mode: d.Type()}
		switch {
		case d.Type() == fs.ModeSymlink:
			n.target, err = os.Readlink(path)
		case d.Type().IsRegular():
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				n.mode = info.Mode()
				n.data, err = os.ReadFile(path)
			}
		}
		r.tree[path] = n
		return err
	})
}

// node is a file, a folder or a link. Its data are in the order in which they came; what
// is synced of them survives.
type node struct {
	mode   fs.FileMode
	target string
	data   []byte
}

// change is one thing that was done.
type change struct {
	kind string // "link": path stands for node from now on; "unlink"; "write"; "sync"
	path string
	// old is another path that stands for the node no more: a rename.
	old  string
	node *node
	data []byte
}

// Changes is how many changes were made.
func (r *Recorder) Changes() int { return len(r.changes) }

func (r *Recorder) note(c change) error {
	if r.Cut >= 0 && len(r.changes) >= r.Cut {
		return ErrCut
	}
	r.changes = append(r.changes, c)
	return nil
}

// Mkdir makes a folder.
func (r *Recorder) Mkdir(path string) error {
	n := &node{mode: fs.ModeDir | 0o755}
	if err := r.note(change{kind: "link", path: path, node: n}); err != nil {
		return err
	}
	r.tree[path] = n
	return os.Mkdir(path, 0o755)
}

// Create makes a file that must not exist.
func (r *Recorder) Create(path string, mode os.FileMode) (interface {
	io.WriteCloser
	Sync() error
}, error) {
	n := &node{mode: mode}
	if err := r.note(change{kind: "link", path: path, node: n}); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	r.tree[path] = n
	return &handle{f, r, n}, nil
}

type handle struct {
	*os.File
	r *Recorder
	n *node
}

func (h *handle) Write(b []byte) (int, error) {
	if err := h.r.note(change{kind: "write", node: h.n, data: slices.Clone(b)}); err != nil {
		return 0, err
	}
	return h.File.Write(b)
}

func (h *handle) Sync() error {
	return h.r.note(change{kind: "sync", node: h.n}) // the real disk may take its time
}

// Symlink makes a symbolic link.
func (r *Recorder) Symlink(target, path string) error {
	n := &node{mode: fs.ModeSymlink, target: target}
	if err := r.note(change{kind: "link", path: path, node: n}); err != nil {
		return err
	}
	r.tree[path] = n
	return os.Symlink(target, path)
}

// Rename puts what is at one path in the place of another, in the same folder.
func (r *Recorder) Rename(from, to string) error {
	n := r.tree[from]
	if n == nil || filepath.Dir(from) != filepath.Dir(to) {
		return fmt.Errorf("renaming %s to %s is not what is recorded here", from, to)
	}
	if err := r.note(change{kind: "link", path: to, old: from, node: n}); err != nil {
		return err
	}
	delete(r.tree, from)
	r.tree[to] = n
	return os.Rename(from, to)
}

// Remove removes a file or a link.
func (r *Recorder) Remove(path string) error {
	if r.tree[path] == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	if err := r.note(change{kind: "unlink", path: path}); err != nil {
		return err
	}
	delete(r.tree, path)
	return os.Remove(path)
}

// RemoveAll removes what is there, one name after the other.
func (r *Recorder) RemoveAll(path string) error {
	var all []string
	for p := range r.tree {
		if p == path || strings.HasPrefix(p, path+"/") {
			all = append(all, p)
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(all))) // what is within goes first
	for _, p := range all {
		if err := r.note(change{kind: "unlink", path: p}); err != nil {
			return err
		}
		delete(r.tree, p)
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes the names in a folder durable.
func (r *Recorder) SyncDir(path string) error { return r.note(change{kind: "sync", path: path}) }

// Left is one thing that a power cut may leave.
type Left struct {
	// What says how it came about.
	What string
	tree map[string]*node
}

// After gives what a power cut after the first n changes may leave, begun with what New
// found, the same outcome once. What was synced is there. Of the names changed since the
// folder was synced, and of the data written since the file was, there may be: none, all,
// all but one, one alone, or the first few; data may also be cut in half.
func (r *Recorder) After(before *Recorder, n int) (all []Left) {
	seen := map[string]bool{}
	pending := 0
	add := func(what string, keep func(i int) bool, data func([]byte) []byte) {
		var tree map[string]*node
		tree, pending = survive(r.Root, before.tree, r.changes[:n], keep, data)
		if sum := digest(tree); !seen[sum] {
			seen[sum] = true
			all = append(all, Left{fmt.Sprintf("after change %d: %s", n, what), tree})
		}
	}
	whole := func(b []byte) []byte { return b }
	none := func(b []byte) []byte { return nil }
	half := func(b []byte) []byte { return b[:len(b)/2] }
	add("nothing lost", func(int) bool { return true }, whole)
	add("unsynced data lost", func(int) bool { return true }, none)
	add("unsynced data torn", func(int) bool { return true }, half)
	add("everything unsynced lost", func(int) bool { return false }, none)
	for i := range pending {
		add(fmt.Sprintf("unsynced name %d lost", i), func(j int) bool { return j != i }, whole)
		add(fmt.Sprintf("of unsynced names only %d kept", i), func(j int) bool { return j == i }, whole)
		add(fmt.Sprintf("unsynced names from %d on lost", i), func(j int) bool { return j < i }, whole)
	}
	return all
}

// survive plays changes and loses what keep, asked for the ith unsynced change of a name,
// and data decide. It says how many such changes there were.
func survive(root string, before map[string]*node, changes []change, keep func(int) bool, data func([]byte) []byte) (map[string]*node, int) {
	tree := map[string]*node{}
	for path, n := range before {
		copied := *n
		tree[path] = &copied
	}
	lastSync := map[string]int{} // of a folder
	for i, c := range changes {
		if c.kind == "sync" && c.node == nil {
			lastSync[c.path] = i
		}
	}
	contents, pending := written(changes, data), 0
	for i, c := range changes {
		if c.kind != "link" && c.kind != "unlink" {
			continue
		}
		if synced, ok := lastSync[filepath.Dir(c.path)]; !ok || i > synced {
			kept := keep(pending)
			pending++
			if !kept {
				continue
			}
		}
		if c.old != "" {
			delete(tree, c.old)
		}
		if c.kind == "unlink" {
			delete(tree, c.path)
			continue
		}
		n := contents[c.node]
		if n == nil {
			n = &node{mode: c.node.mode, target: c.node.target}
			if c.node.data != nil { // from before the recording
				n.data = c.node.data
			}
		}
		tree[c.path] = n
		if n.mode.IsDir() { // an older folder of that name took its contents with it
			maps.DeleteFunc(tree, func(path string, _ *node) bool { return strings.HasPrefix(path, c.path+"/") })
		}
	}
	// What stands in a folder that was lost is lost with it.
	for _, path := range slices.Sorted(maps.Keys(tree)) {
		if path != root && tree[filepath.Dir(path)] == nil {
			delete(tree, path)
		}
	}
	return tree, pending
}

// written plays what was written to files, and gives each as it survives when data decides about
// what was not synced.
func written(changes []change, data func([]byte) []byte) map[*node]*node {
	lastSync := map[*node]int{}
	for i, c := range changes {
		if c.kind == "sync" && c.node != nil {
			lastSync[c.node] = i
		}
	}
	contents := map[*node]*node{}
	for i, c := range changes {
		if c.kind != "write" {
			continue
		}
		n := contents[c.node]
		if n == nil {
			n = &node{mode: c.node.mode}
			contents[c.node] = n
		}
		if synced, ok := lastSync[c.node]; ok && i < synced {
			n.data = append(n.data, c.data...)
		} else {
			n.data = append(n.data, data(c.data)...)
		}
	}
	return contents
}

func digest(tree map[string]*node) string {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(tree)) {
		n := tree[path]
		fmt.Fprintf(h, "%q %o %q %d %x\n", path, n.mode, n.target, len(n.data), n.data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Write makes a folder of what is left. It must not exist.
func (l Left) Write(root, to string) error {
	for _, path := range slices.Sorted(maps.Keys(l.tree)) { // a folder before what is in it
		n, at := l.tree[path], filepath.Join(to, strings.TrimPrefix(path, root))
		var err error
		switch {
		case n.mode.IsDir():
			err = os.Mkdir(at, 0o755)
		case n.mode&fs.ModeSymlink != 0:
			err = os.Symlink(n.target, at)
		default:
			err = os.WriteFile(at, n.data, n.mode.Perm())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
