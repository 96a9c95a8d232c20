package bench

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallmark-pki/hallmark/internal/simdevice"
	"github.com/hallmark-pki/hallmark/wire"
)

// wholeFleet is how many agents are told to renew within fleetWindow.
const (
	wholeFleet  = 10_000
	fleetWindow = 25 * time.Second
)

// What the agent does with Retry-After: a little it waits on the spot, beyond that it
// adds its backoff (device, device/agent).
const (
	agentPatience = 3 * time.Second
	agentBackoff  = 15 * time.Second
)

// fleetSize is how many agents renew; HALLMARK_BENCH_FLEET makes it less, and the window
// as much shorter.
func fleetSize(b *testing.B) int {
	text := os.Getenv("HALLMARK_BENCH_FLEET")
	if text == "" {
		return wholeFleet
	}
	n, err := strconv.Atoi(text)
	must(b, err)
	return n
}

// BenchmarkFleet: all agents of a fleet, told to renew within 25 s, do so against one
// server with the load on the same cores, each as the real one: a renewal on a connection
// of its own, and on another the first use of the new certificate. An agent that is asked to
// wait does so; any other answer than the one wanted is an error that a user would see.
func BenchmarkFleet(b *testing.B) {
	for range b.N {
		n := fleetSize(b)
		s := start(b, n, 0)
		fleet := s.fleet(b, n)
		for n, d := range fleet {
			// One host may not take all connections, and these are ten thousand hosts.
			d.From = &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}
		}
		s.enrol(b, fleet)
		each(b, fleet, func(d *simdevice.Device) error {
			if _, err := d.Renew(d.IDevID); err != nil {
				return err
			}
			if _, err := d.Poll(d.LDevID); err != nil {
				return err
			}
			return d.Prepare()
		})
		profile := s.profile(b)
		before, begun := cpu(b, s.cmd.Process.Pid), time.Now()
		var t tally
		load := self(func() {
			var all sync.WaitGroup
			for _, d := range fleet {
				moment := rand.N(fleetWindow * time.Duration(n) / wholeFleet) // a device picks its moment in the window uniformly (RFC 9773 §4.2)
				all.Go(func() {
					time.Sleep(time.Until(begun.Add(moment)))
					t.agent(b, d)
				})
			}
			all.Wait()
		})
		wall, used := time.Since(begun), cpu(b, s.cmd.Process.Pid)-before
		profile()
		b.ReportMetric(float64(t.renewed.Load()), "renewed")
		b.ReportMetric(float64(t.failed.Load()), "errors")
		b.ReportMetric(float64(t.asked.Load()), "asked-to-wait")
		b.ReportMetric(wall.Seconds(), "s-for-all")
		b.ReportMetric(float64(t.renewed.Load())/wall.Seconds(), "renewals/s")
		b.ReportMetric(milliseconds(t.percentile(50), 1), "answer-p50-ms")
		b.ReportMetric(milliseconds(t.percentile(99), 1), "answer-p99-ms")
		b.ReportMetric(milliseconds(used, n), "server-ms/agent")
		b.ReportMetric(milliseconds(load, n), "load-ms/agent")
		b.ReportMetric(0, "ns/op")
		if t.failed.Load() > 0 || int(t.renewed.Load()) != n {
			b.Errorf("%d of %d renewed, %d errors", t.renewed.Load(), n, t.failed.Load())
		}
	}
}

// tally is what the agents of a fleet have seen.
type tally struct {
	renewed, failed, asked atomic.Int64
	mu                     sync.Mutex
	answers                []time.Duration
}

// agent renews one device and tries the new certificate.
func (t *tally) agent(b *testing.B, d *simdevice.Device) {
	err := t.patiently(func() error { _, err := d.Renew(d.LDevID); return err })
	if err == nil {
		err = t.patiently(func() error { _, err := d.Poll(d.LDevID); return err })
	}
	if err == nil {
		t.renewed.Add(1)
	} else if t.failed.Add(1) <= 5 {
		b.Logf("an agent: %v", err)
	}
}

// patiently does a step, again if the server asks to wait, and notes how long its answers
// took: from the opening of the connection, handshake included.
func (t *tally) patiently(step func() error) error {
	for {
		begun := time.Now()
		err := step()
		took := time.Since(begun)
		t.mu.Lock()
		t.answers = append(t.answers, took)
		t.mu.Unlock()
		p, ok := errors.AsType[*wire.Problem](err)
		if !ok || p.RetryAfter == 0 {
			return err
		}
		t.asked.Add(1)
		wait := p.RetryAfter
		if wait > agentPatience {
			wait += rand.N(agentBackoff)
		}
		time.Sleep(wait)
	}
}

func (t *tally) percentile(p int) time.Duration {
	slices.Sort(t.answers)
	return t.answers[(len(t.answers)-1)*p/100]
}
