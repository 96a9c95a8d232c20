package job

import (
	"math"
	"strings"
	"testing"

	"github.com/hallmark-pki/hallmark/wire/jobs"
)

// Numbers that make no sense are drawn as well, on one line.
func TestDrawn(t *testing.T) {
	for _, c := range []struct {
		total, pending int64
		filled         int
	}{{10, 5, 15}, {10, 0, 30}, {0, 0, 30}, {10, 20, 0}, {1, -1 << 40, 30}, {1, math.MinInt64, 30}, {math.MaxInt64, 1, 30}, {-3, 1, 30}, {1, math.MaxInt64, 0}} {
		p := jobs.Progress{Job: jobs.Job{ID: "j1", State: "running", Total: c.total, Outcomes: map[string]int64{jobs.Pending: c.pending}}}
		if got := drawn(p); strings.Count(got, "#") > 30 || c.pending != math.MinInt64 && strings.Count(got, "#") != c.filled {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
