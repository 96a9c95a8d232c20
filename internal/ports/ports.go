// Package ports finds ports of this machine for servers that are started to be tried.
package ports

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
)

// given keeps what runs side by side in this process from getting the same ports.
var given atomic.Int64

// ephemeral is where the ports begin that Linux gives to outgoing connections. One of those may
// be taken at any time, by a client of what the port was found for as well.
const ephemeral = 32768

// Free finds n (at most 10) neighbouring ports among the thousand above from on which nobody
// listens. Programs that run at the same time name different beginnings, a thousand apart or more,
// below 31,769.
func Free(from, n int) (first int, err error) {
	if from+1000 > ephemeral {
		return 0, fmt.Errorf("outgoing connections take ports from %d on", ephemeral)
	}
	if err := triedToStart(); err != nil {
		return 0, err
	}
	for range 100 {
		first = from + 10*((os.Getpid()+int(given.Add(1)))%100) // two runs of a program begin elsewhere
		if free(first, n) {
			return first, nil
		}
	}
	return 0, errors.New("no free ports on 127.0.0.1")
}

// triedToStart returns once Go has made its trial child with CLONE_PIDFD, which it does once in a
// process, at the first os.StartProcess, and without syscall.ForkLock (os.checkPidfd). That child
// would keep a port that is tried at that moment.
func triedToStart() error {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	return self.Release()
}

func free(first, n int) bool {
	// Nothing is started meanwhile: it would listen as well until it runs its own program, and take
	// the port from whom it was found for.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for port := range n {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+port)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
