package job

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hallmark-pki/hallmark/admin/client"
	"github.com/hallmark-pki/hallmark/cmd/hallmark/internal/terminal"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire/jobs"
)

const (
	// lookEvery is how often a job is asked about.
	lookEvery = 200 * time.Millisecond
	// settle is how long relying parties have, after a job is done, before the command
	// goes on without them.
	settle = 5 * time.Second
)

// moving is a state that ends by itself.
func moving(state string) bool { return state == "running" || state == "publishing" }

// follow waits until a job does not move any more, and then a little for those who
// enforce it.
func follow(c *cobra.Command, cl *client.Client, id string) (jobs.Progress, error) {
	show := bar(c)
	var over time.Time
	for {
		p, err := cl.Job(c.Context(), id)
		if err != nil {
			show("\n")
			if c.Context().Err() != nil {
				err = terminal.Hinted(fmt.Errorf("not waiting any longer; job %s goes on", id), "hallmark job show "+id)
			} else if away := (*client.Unreachable)(nil); errors.As(err, &away) {
				away.Hint = "job " + id + " goes on as soon as the server does: hallmark job show " + id + " --wait"
			}
			return p, err
		}
		show(drawn(p))
		if !moving(p.State) {
			if over.IsZero() {
				over = time.Now()
			}
			if settled(p) || time.Since(over) > settle {
				show("\n")
				return p, nil
			}
		}
		select {
		case <-c.Context().Done():
		case <-time.After(lookEvery):
		}
	}
}

// settled: all who report enforce it, or nothing was changed.
func settled(p jobs.Progress) bool {
	for _, e := range p.Enforcement {
		if e.At.IsZero() {
			return false
		}
	}
	return true
}

// bar writes one line over the other, if a person looks on.
func bar(c *cobra.Command) func(line string) {
	out := c.ErrOrStderr()
	if !terminal.Interactive(out) {
		return func(string) {}
	}
	return func(line string) {
		if line == "\n" {
			fmt.Fprint(out, "\r\x1b[K")
			return
		}
		fmt.Fprint(out, "\r\x1b[K"+plain.Line(line))
	}
}

func drawn(p jobs.Progress) string {
	const width = 30
	done := p.Total - p.Outcomes[jobs.Pending]
	filled := width
	if p.Total > 0 { // whatever the server's numbers are
		filled = int(min(max(float64(done)/float64(p.Total), 0), 1) * width)
	}
	line := fmt.Sprintf("%s [%s%s] %d of %d devices, %s", p.ID, strings.Repeat("#", filled), strings.Repeat(".", width-filled), done, p.Total, p.State)
	if !moving(p.State) && len(p.Enforcement) > 0 {
		line += "; " + enforced(p)
	}
	return line
}
