package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hallmark-pki/hallmark/record"
)

// VerbVoided is the audit verb of an intent that was revoked because it may have been signed.
const VerbVoided = "certificate.voided"

// VoidedError says that issuing failed after the intent had been recorded. The certificates may
// exist; on record they are revoked, on hold if their device was suspended meanwhile, or open
// intents that the next Recover revokes.
type VoidedError struct {
	// Shards are the CRL shards to publish.
	Shards []record.Shard
	// Err is why issuing failed, joined with any error in voiding.
	Err error
}

func (e *VoidedError) Error() string {
	return fmt.Sprintf("%v (nothing was handed out; what was begun is not valid)", e.Err)
}

func (e *VoidedError) Unwrap() error { return e.Err }

// Recover revokes every intent that a crash left open: it may have been signed, and is never
// signed again. It returns the CRL shards to publish. Call it before the first Issue, while no
// other process issues from the same record.
func (a *Authority) Recover(ctx context.Context) ([]record.Shard, error) {
	open, err := a.store.OpenIntents(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for unfinished certificates: %w", err)
	}
	e := record.Event{Actor: "server", Reason: "the server stopped while signing"}
	return a.voidAll(ctx, e, open)
}

// void revokes the intents of a failed Issue as Recover would.
func (a *Authority) void(ctx context.Context, e record.Event, jobs []*job, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish) // the time for signing may be used up
	defer cancel()
	shards, err := a.voidAll(ctx, record.Event{Actor: e.Actor, Reason: cause.Error()}, rows(jobs))
	return &VoidedError{Shards: shards, Err: errors.Join(cause, err)}
}

// voidAll revokes intents one by one, so that one failure leaves no others open, and returns
// their shards.
func (a *Authority) voidAll(ctx context.Context, e record.Event, intents []record.Certificate) ([]record.Shard, error) {
	var shards []record.Shard
	var failed error
	for _, c := range intents {
		e.Time, e.Verb, e.Object = a.now().UTC(), VerbVoided, c.Issuer+"/"+c.Serial
		err := a.store.Void(ctx, c.Issuer, c.Serial, e.Time, e)
		if err != nil && !errors.Is(err, record.ErrConflict) { // conflict: its device was revoked or suspended meanwhile
			failed = errors.Join(failed, fmt.Errorf("void certificate %s: %w", c.Serial, err))
			continue
		}
		if s := (record.Shard{Issuer: c.Issuer, Number: c.Shard}); !slices.Contains(shards, s) {
			shards = append(shards, s)
		}
	}
	return shards, failed
}
