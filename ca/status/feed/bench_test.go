package feed

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/premises"
	"github.com/hallmark-pki/hallmark/wire"
)

// BenchmarkThousandFollowers is from the moment at which a device is suspended to the
// moment at which the last of a thousand followers has read it, its CRL being out by then.
func BenchmarkThousandFollowers(b *testing.B) {
	s := newSite(b)
	id, _ := s.device(1)
	const followers = 1000
	told := make(chan time.Time, followers)
	var ready sync.WaitGroup
	for range followers {
		c, err := net.Dial("tcp", s.server.Listener.Addr().String())
		s.must(err)
		b.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET %s?after=0 HTTP/1.1\r\nHost: x\r\n\r\n", wire.PathChanges)
		ready.Add(1)
		go follow(c, sync.OnceFunc(ready.Done), told)
	}
	ready.Wait()
	var worst []float64
	suspend := func(id string) error { _, err := s.Status.Suspend(b.Context(), id, premises.Happened("x")); return err }
	change := suspend
	for b.Loop() {
		begin, last := time.Now(), time.Time{}
		s.must(change(id))
		for range followers {
			if at := <-told; at.After(last) {
				last = at
			}
		}
		worst = append(worst, last.Sub(begin).Seconds()*1000)
		if change = s.restore; len(worst)%2 == 0 {
			change = suspend
		}
	}
	slices.Sort(worst)
	b.ReportMetric(worst[len(worst)/2], "ms-to-the-last")
	b.ReportMetric(worst[len(worst)-1], "ms-to-the-last-worst")
	b.ReportMetric(0, "ns/op")
}

// follow says when it is told that it has caught up, and then of each change.
func follow(c net.Conn, caughtUp func(), told chan<- time.Time) {
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err != nil:
			return
		case bytes.HasPrefix(line, []byte("event: "+wire.EventChange)):
			told <- time.Now()
		case strings.HasPrefix(string(line), "event: "+wire.EventCurrent):
			caughtUp()
		}
	}
}
