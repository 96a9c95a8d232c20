// Package trouble is the error type for problems with what holds a device's key, worded for the
// person in front of the device.
package trouble

// Error is a problem with a TPM, a key file or a signer.
type Error struct {
	// Kind is one of the Err variables of attest/KIND/collect.
	Kind error
	// Detail says what is wrong, Hint what to do about it; Hint and Cause may be empty.
	Detail, Hint string
	Cause        error
}

func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Detail
	}
	return e.Detail + ": " + e.Cause.Error()
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Cause} }
