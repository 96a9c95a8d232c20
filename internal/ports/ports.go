// Package ports finds ports of this machine for servers that are started to be tried.
package ports

import (
	"errors"
	"net"
	"strconv"
	"sync/atomic"
)

// given keeps what runs side by side in this process from getting the same ports.
var given atomic.Int64

// Free finds n (at most 10) neighbouring ports above from on which nobody listens.
// Programs that run at the same time name different beginnings, a thousand apart or more.
func Free(from, n int) (first int, err error) {
	for range 100 {
		first = from + 10*int(given.Add(1)-1)%1000
		if free(first, n) {
			return first, nil
		}
	}
	return 0, errors.New("no free ports on 127.0.0.1")
}

func free(first, n int) bool {
	for port := range n {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+port)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
