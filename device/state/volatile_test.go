package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVolatile(t *testing.T) {
	if why := At("/dev/shm/not/made/yet").Volatile(); !strings.Contains(why, "tmpfs") {
		t.Errorf("/dev/shm: %q", why)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/shm", link); err != nil {
		t.Fatal(err)
	}
	if why := At(link).Volatile(); !strings.Contains(why, "tmpfs") {
		t.Errorf("a link to /dev/shm: %q", why)
	}
	if why := At("/proc").Volatile(); why != "" {
		t.Errorf("/proc: %q", why)
	}
}

// Lines as OpenWrt, Yocto's overlayfs-etc and a live Debian show them.
const mountinfo = `21 1 0:20 / / ro,relatime - squashfs /dev/root ro
22 21 0:21 / /overlay rw,noatime - ubifs /dev/ubi0_1 rw,ubi=0,vol=1
23 21 0:22 / /etc rw,noatime - overlay overlayfs:/overlay rw,lowerdir=/etc,upperdir=/overlay/upper\040etc,workdir=/overlay/work
24 21 0:23 / /run rw - tmpfs tmpfs rw,size=10240k
25 21 0:24 / /var rw - overlay overlay rw,lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work
26 21 0:25 / /srv ro - overlay overlay ro,lowerdir=/a:/b
27 25 0:26 / /var/lib/kept rw - ext4 /dev/mmcblk0p4 rw
nonsense
`

func TestOverlays(t *testing.T) {
	mounts := readMounts(strings.NewReader(mountinfo))
	for path, want := range map[string]struct {
		upper  string
		memory bool
	}{
		"/etc/x":         {"/overlay/upper etc", false},
		"/var":           {"/run/var/upper", true},
		"/var/lib/x":     {"/run/var/upper", true},
		"/variable":      {"", false},
		"/srv/x":         {"", false},
		"/var/lib/kept/": {"", false},
	} {
		upper := upperDir(mounts, path)
		if upper != want.upper || upper != "" && memory(mounts, upper) != want.memory {
			t.Errorf("%s: upper layer %q, want %+v", path, upper, want)
		}
	}
}

func FuzzMounts(f *testing.F) {
	f.Add(mountinfo, "/var/lib/x")
	f.Fuzz(func(t *testing.T, text, path string) {
		mounts := readMounts(strings.NewReader(text))
		if memory(mounts, upperDir(mounts, path)) && len(mounts) == 0 {
			t.Error("a layer without mounts")
		}
	})
}
