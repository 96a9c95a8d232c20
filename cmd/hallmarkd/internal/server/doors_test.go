package server

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hallmark-pki/hallmark/cmd/hallmarkd/internal/installation"
)

// TestNotListening: whose port is taken looks who has it; whose port is root's need not.
func TestNotListening(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{syscall.EADDRINUSE: "ss -ltnp", syscall.EACCES: "CAP_NET_BIND_SERVICE"} {
		err := notListening(&net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", errno)}, "status", "/srv/hallmark.yaml")
		if next := installation.Next(err); !strings.Contains(next, want) || !strings.Contains(next, "listen.status in /srv/hallmark.yaml") || !strings.Contains(fmt.Sprint(err), "listener for status") {
			t.Errorf("%v: %s", err, next)
		}
	}
}
