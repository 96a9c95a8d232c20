package bench

import (
	"path/filepath"
	"testing"

	"github.com/hallmark-pki/hallmark/internal/simdevice"
)

// polled is how many devices ask in BenchmarkPoll.
const polled = 500

// BenchmarkPoll: server CPU for a device that asks on a new connection when to renew,
// without a renewal plan and in one: the first question in a plan is written down.
func BenchmarkPoll(b *testing.B) {
	for range b.N {
		s := start(b, polled, 0)
		fleet := s.fleet(b, polled)
		s.enrol(b, fleet)
		each(b, fleet, func(d *simdevice.Device) error {
			_, err := d.Renew(d.IDevID)
			return err
		})
		ask := func() float64 {
			return milliseconds(s.cpu(b, func() {
				each(b, fleet, func(d *simdevice.Device) error {
					_, err := d.Poll(d.LDevID)
					return err
				})
			}), polled)
		}
		ask() // from now on the certificates are in use
		without := ask()
		run(b, filepath.Join(programs(b), "hallmark"), "--config", filepath.Join(s.dir, "operator"), "renew", "plan", "", "--within", "6h")
		first, again := ask(), ask()
		b.ReportMetric(without, "server-ms/poll")
		b.ReportMetric(first/without, "x-first-in-a-plan")
		b.ReportMetric(again/without, "x-again-in-a-plan")
		b.ReportMetric(0, "ns/op")
	}
}
