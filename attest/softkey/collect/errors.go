package collect

import "errors"

// Kinds of problems with keys outside a TPM, for errors.Is.
var (
	// ErrMissing: there is no key where it was looked for.
	ErrMissing = errors.New("no key")
	// ErrUnsafe: others than its owner may read or replace the key's file.
	ErrUnsafe = errors.New("key file not safe")
	// ErrMalformed: the file is not a key that can be used here.
	ErrMalformed = errors.New("not a usable key")
	// ErrSigner: the external signer broke its protocol, failed or ended.
	ErrSigner = errors.New("external signer failed")
	// ErrTimeout: the external signer did not answer in time.
	ErrTimeout = errors.New("external signer does not answer")
	// ErrLie: the external signer signed something other than it was asked to, or its key has
	// changed.
	ErrLie = errors.New("external signer gave something else")
	// ErrOther: the key is another device's.
	ErrOther = errors.New("key of another device")
)
