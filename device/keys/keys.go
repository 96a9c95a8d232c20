// Package keys opens what holds a device's keys, a TPM, files or an external signer, behind one
// interface, so that the rest of the agent need not know which it is.
package keys

import (
	"crypto"
	"errors"
	"path/filepath"
	"strings"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// TPM is the default place of keys.
const TPM = "tpm"

// external is the prefix of the place of a key behind a command.
const external = "external"

// Place says where keys are.
type Place struct {
	// Key is "tpm", "file" (in Folder), "file:PATH" or "external:COMMAND"; empty means "tpm".
	Key string
	// TPM is the TPM as for collect.Open; only for "tpm".
	TPM string
	// Folder is the state folder.
	Folder string
}

// Key is one key of a holder.
type Key interface {
	crypto.Signer
	// Wire is the public key as messages carry it: TPMT_PUBLIC, or SubjectPublicKeyInfo without a
	// TPM.
	Wire() []byte
	// Stored is what LoadWorking needs to load the key again, to be kept in a file of mode 0600;
	// nil if it needs nothing.
	Stored() []byte
}

// Identity is what a holder claims before anything is proved.
type Identity struct {
	// Message has the fields of message one about the keys: kind, endorsement and attestation
	// key, IDevID key.
	Message wire.Enrol
	// AK is the attestation key, for which its certificate must be; nil if there is none.
	AK crypto.PublicKey
	// Warning is a sentence for the technician; empty if all is well.
	Warning string
}

// Holder is an opened holder of keys.
type Holder interface {
	// Kind is the kind of evidence that the holder makes, as wire.Enrol and wire.Renew
	// name it: empty for a TPM.
	Kind() string
	// Birth is the IDevID key.
	Birth() (Key, error)
	// Identify returns what message one of an enrolment says about the keys.
	Identify() (Identity, error)
	// NewWorking makes a fresh working key; a holder with a single key returns that one.
	NewWorking() (Key, error)
	// LoadWorking loads a working key from what Key.Stored returned.
	LoadWorking(stored []byte) (Key, error)
	// Prove makes the evidence for a key over a binding.
	Prove(k Key, binding [32]byte) (statement, signature []byte, err error)
	// Activate opens a credential challenge.
	Activate(c attest.Challenge) (secret []byte, err error)
	// Check returns nil if certified, the public key of a certificate on file, is this holder's
	// IDevID key, and otherwise says whose it is.
	Check(certified crypto.PublicKey, folder, device string) error
	// Commands is how many commands were sent to the hardware.
	Commands() int
	// Close frees the hardware; the keys cannot sign afterwards.
	Close() error
}

// Open opens the place. create allows making a key if there is none yet, as only an enrolment
// does.
func Open(p Place, create bool) (Holder, error) {
	if err := CheckSpec(p.Key); err != nil {
		return nil, err
	}
	kind, rest, _ := strings.Cut(p.Key, ":")
	switch {
	case kind == external:
		return openExternal(rest)
	case p.Key == "file":
		return openFile(filepath.Join(p.Folder, state.BirthKeyFile), create)
	case kind == "file":
		return openFile(rest, create)
	}
	return openTPM(p.TPM)
}

// CheckSpec returns an error unless the text is a valid Place.Key.
func CheckSpec(key string) error {
	kind, rest, _ := strings.Cut(key, ":")
	switch {
	case key == "", key == TPM, key == "file", kind == "file" && filepath.IsAbs(rest), kind == external && rest != "":
		return nil
	}
	// The error does not repeat the text: a command may hold a PIN.
	return errors.New("this does not say where the keys are: use tpm, file, file:PATH with a whole path, or external:COMMAND")
}

// Shown is where keys are, for people and logs: only the program of a command.
func Shown(key string) string {
	command, ok := strings.CutPrefix(key, external+":")
	if !ok {
		return key
	}
	program, _, more := strings.Cut(strings.TrimSpace(command), " ")
	switch {
	case strings.ContainsAny(program, "=\"'`$;&|<>()\t\n"): // a word of the shell, not a path
		return external + ":…"
	case more:
		return external + ":" + program + " …"
	}
	return external + ":" + program
}
