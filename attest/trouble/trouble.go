// Package trouble words what is wrong with whatever holds a device's key, for the person in
// front of the device.
package trouble

// Error is a problem with a TPM, a key file or a signer.
type Error struct {
	// Kind is one of the errors that attest/KIND/collect lists.
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

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Cause} }
