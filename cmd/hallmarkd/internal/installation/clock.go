package installation

import (
	"context"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/record"
)

// A record in use has an event more often than every quiet, since the server renews its own
// certificate sooner. A clock that is off by more than drift does not merely drift.
const (
	quiet = 30 * 24 * time.Hour
	drift = 5 * time.Minute
)

// ClockDoubt says why this machine's clock may be wrong, by what was recorded last; empty if
// nothing speaks against it. Devices take the time from here, so a great leap is worth a word.
func ClockDoubt(ctx context.Context, store record.Audit, now time.Time) (string, error) {
	newest, err := store.LastEvents(ctx, 1)
	if err != nil || len(newest) == 0 {
		return "", err
	}
	last := newest[0].Time
	switch {
	case last.After(now.Add(drift)):
		return fmt.Sprintf("the last event was recorded at %s, and here it is %s: this clock was ahead, or is behind", last.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)), nil
	case now.Sub(last) > quiet:
		return fmt.Sprintf("nothing was recorded since %s, and here it is %s: was the server off for so long, or is this clock ahead?", last.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)), nil
	}
	return "", nil
}
