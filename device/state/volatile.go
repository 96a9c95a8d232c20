package state

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Magic numbers of statfs(2).
const (
	tmpfsMagic   = 0x01021994
	ramfsMagic   = 0x858458f6
	overlayMagic = 0x794c7630
)

// Volatile says why what is written to the folder will not survive a power cut; empty if it
// should. A folder that does not exist yet is judged by its nearest existing parent.
func (d *Dir) Volatile() string {
	path, err := filepath.Abs(d.path)
	for err == nil {
		if _, missing := os.Stat(path); missing == nil || path == "/" {
			break
		}
		path = filepath.Dir(path)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	switch kind := fsType(path); kind {
	case tmpfsMagic, ramfsMagic:
		return path + " is in memory (tmpfs)"
	case overlayMagic:
		f, err := os.Open("/proc/self/mountinfo")
		if err != nil {
			return ""
		}
		defer f.Close()
		mounts := readMounts(f)
		upper := upperDir(mounts, path)
		if upper == "" {
			return path + " is on an overlay without a writable layer"
		}
		if memory(mounts, upper) {
			return fmt.Sprintf("%s is on an overlay whose writable layer %s is in memory (tmpfs)", path, upper)
		}
	}
	return ""
}

func fsType(path string) uint32 {
	var s syscall.Statfs_t
	if syscall.Statfs(path, &s) != nil {
		return 0
	}
	return uint32(s.Type) // an int32 or int64, by architecture
}

// mount is one line of /proc/self/mountinfo (proc(5)).
type mount struct{ point, kind, options string }

// readMounts reads up to a MiB of mountinfo and skips malformed lines.
func readMounts(r io.Reader) (all []mount) {
	lines := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(rest) < 3 {
			continue
		}
		all = append(all, mount{unescape.Replace(fields[4]), rest[0], rest[2]})
	}
	return all
}

// unescape undoes the kernel's octal escapes in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// holding is the mount that holds a path: the longest mount point above it and, of equal ones,
// the last, which hides the others.
func holding(mounts []mount, path string) (best mount) {
	for _, m := range mounts {
		if within(path, m.point) && len(m.point) >= len(best.point) {
			best = m
		}
	}
	return best
}

func within(path, folder string) bool {
	return path == folder || folder == "/" || strings.HasPrefix(path, folder+"/")
}

// upperDir is the writable layer of the overlay that holds a path.
func upperDir(mounts []mount, path string) string {
	for option := range strings.SplitSeq(holding(mounts, path).options, ",") {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return unescape.Replace(upper)
		}
	}
	return ""
}

// memory reports whether a path is in memory. The upper layer's mount may be hidden, if it was
// made before the root was changed: then the mount that hides it is judged, and the answer is a
// guess.
func memory(mounts []mount, path string) bool {
	switch m := holding(mounts, path); m.kind {
	case "tmpfs", "ramfs":
		return true
	case "overlay": // an overlay on an overlay: the root's own
		return strings.HasPrefix(path, "/run/") || strings.HasPrefix(path, "/tmp/") || strings.HasPrefix(path, "/dev/shm/")
	}
	return false
}
