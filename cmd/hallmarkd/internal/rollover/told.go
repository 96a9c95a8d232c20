package rollover

import (
	"context"
	"slices"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
)

// Teller writes into the audit log what was changed in files, and finds it there. A change that was cut
// off in between is done again: all that is left of it then is to tell it.
type Teller interface {
	Noter
	TrustEvents(ctx context.Context, limit int) ([]record.Event, error)
}

// mostTold bounds the events that are looked at: more than an installation ever has.
const mostTold = 10_000

// told finds the newest event of a verb that fits.
func told(ctx context.Context, by Teller, verb string, fits func(record.Event) bool) (e record.Event, found bool, err error) {
	events, err := by.TrustEvents(ctx, mostTold)
	at := slices.IndexFunc(events, func(e record.Event) bool { return e.Verb == verb && fits(e) })
	if err != nil || at < 0 {
		return e, false, err
	}
	return events[at], true, nil
}

// activeIsTold reports whether the audit says that an issuer in use is the one of its line. The first of
// a line needs no event.
func activeIsTold(ctx context.Context, by Teller, name string) (bool, error) {
	line := profile.LineOf(name)
	last, changed, err := told(ctx, by, record.VerbActivated, func(e record.Event) bool { return profile.LineOf(e.Object) == line })
	return changed && last.Object == name || !changed && name == line, err
}

// listedIsTold reports whether the audit says that a root's list names an issuer.
func listedIsTold(ctx context.Context, by Teller, name string) (bool, error) {
	_, found, err := told(ctx, by, record.VerbListed, func(e record.Event) bool { return e.Object == name })
	return found, err
}

// importIsTold reports whether the audit says that a root's list with a number was imported.
func importIsTold(ctx context.Context, by Teller, root, number string) (bool, error) {
	_, found, err := told(ctx, by, record.VerbImported, func(e record.Event) bool { return e.Object == root && e.Detail["number"] == number })
	return found, err
}
