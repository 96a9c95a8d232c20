package proxy

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// A link that somebody put in the socket's place does not have its target handed over, nor
// does a file; the socket itself does.
func TestHandsOverNothingElse(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "socket") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path, secret := filepath.Join(dir, "s"), filepath.Join(dir, "secret")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := gate{unix: true, groups: []int{os.Getegid()}}
	mode := func(path string) os.FileMode {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if err := g.hand(path); err != nil || mode(path) != 0o660 {
		t.Errorf("the socket: %v, %o", err, mode(path))
	}
	for _, err := range []error{os.WriteFile(secret, nil, 0o600), os.Symlink(secret, path+"-link"), os.Symlink(path, path+"-other")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{secret, path + "-link", path + "-other", path + "-none"} {
		if err := g.hand(path); err == nil {
			t.Errorf("%s is handed over", path)
		}
	}
	if mode(secret) != 0o600 {
		t.Errorf("the secret is for %o now", mode(secret))
	}
}
