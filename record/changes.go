package record

import (
	"context"
	"time"
)

// Change is a certificate whose status changed, as it stands now.
type Change struct {
	// Number orders changes, across issuers.
	Number int64
	Issuer string
	Serial string
	Shard  int64
	// Device is the name of the device it was made for; empty if it is no device's.
	Device string
	// Subject is the certificate's, as in Certificate.
	Subject string
	// Fingerprint is the SHA-256 of the certificate (DER); zero while only the intent is recorded.
	Fingerprint [32]byte
	// Successor is the serial number of the newest certificate of the same profile that
	// this one authenticated the request for; empty if there is none.
	Successor string
	NotAfter  time.Time
	// Revoked and Reason are as in Certificate; Revoked is zero if it is good.
	Revoked time.Time
	Reason  int
}

// Changes numbers what happens to the status of certificates, so that whoever knows
// everything up to a number can ask for the rest.
//
// A certificate gets a new number, in the transaction that does it, whenever it is
// revoked, held, made good again, or recorded while it is revoked or held. Numbers only
// ever grow, leave gaps, and are never given twice, nor after a restore (SkipChanges).
type Changes interface {
	// Changes lists at most limit (1 to 10,000) changes after the given number, in order.
	// A certificate that changed more than once has its last number alone.
	Changes(ctx context.Context, after int64, limit int) ([]Change, error)
	// LastChange is the greatest number that was given; 0 before the first.
	LastChange(ctx context.Context) (int64, error)
	// SkipChanges lets the next number be greater than past. It is for a restore that lost
	// changes, whose numbers others have seen.
	SkipChanges(ctx context.Context, past int64) error
	// Denied calls each for every revoked or held certificate of an issuer that has not
	// expired before the given time, in no order, and returns the number that this shows.
	Denied(ctx context.Context, issuer string, now time.Time, each func(Revoked)) (number int64, err error)
	// Standing calls each for every certificate of an issuer that was intended or issued
	// and has not expired before the given time, in no order, and returns the number that
	// this shows.
	Standing(ctx context.Context, issuer string, now time.Time, each func(serial string, denied bool)) (number int64, err error)
}
