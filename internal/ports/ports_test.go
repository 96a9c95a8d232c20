package ports

import (
	"fmt"
	"net"
	"os/exec"
	"testing"
)

func TestFreePortsAreFreeAndGivenOnce(t *testing.T) {
	const from = 16000
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", from+3))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	seen := map[int]bool{}
	for range 150 { // more than there are blocks before the first again
		port, err := Free(from, 4)
		if err != nil {
			t.Fatal(err)
		}
		if port == from {
			t.Fatal("a port among them is taken")
		}
		if seen[port] && len(seen) < 90 {
			t.Fatalf("%d was given twice", port)
		}
		seen[port] = true
	}
}

func TestPortsOfOutgoingConnectionsAreNotGiven(t *testing.T) {
	if port, err := Free(ephemeral-999, 1); err == nil {
		t.Fatalf("%d may be taken at any time", port)
	}
}

// A program that is started while a port is tried does not keep it.
func TestFreePortsAreFreeBesidePrograms(t *testing.T) {
	ended := make(chan bool)
	defer func() { ended <- true }()
	go func() {
		for {
			select {
			case <-ended:
				return
			default:
				exec.Command("true").Run()
			}
		}
	}()
	for range 1000 {
		port, err := Free(16000, 1)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}
