// Package keys opens what holds a device's keys, a TPM, files or an external signer,
// behind one interface: the rest of the agent does not know which it is.
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

// TPM is the place of keys that is meant where none is named.
const TPM = "tpm"

// external begins the place of a key behind a command.
const external = "external"

// Place says where keys are.
type Place struct {
	// Key is "tpm", "file" (in Folder), "file:PATH" or "external:COMMAND"; empty means "tpm".
	Key string
	// TPM is the TPM as collect.Open takes it; it belongs to "tpm" alone.
	TPM string
	// Folder is the state folder.
	Folder string
}

// Key is one key of a holder.
type Key interface {
	crypto.Signer
	// Wire is the public key as messages carry it: TPMT_PUBLIC, or without a TPM the
	// SubjectPublicKeyInfo.
	Wire() []byte
	// Stored is what LoadWorking needs to find the key again, to be kept as a file with
	// mode 0600; nil if it needs nothing.
	Stored() []byte
}

// Identity is what a holder says of itself before anything is proved.
type Identity struct {
	// Message has the parts of message one that speak of the keys: kind, endorsement and
	// attestation key, IDevID key.
	Message wire.Enrol
	// AK is the attestation key, which its certificate must be for; nil if there is none.
	AK crypto.PublicKey
	// Warning is a sentence for the technician; empty if all is well.
	Warning string
}

// Holder is an opened place of keys.
type Holder interface {
	// Kind is the kind of evidence that the holder makes, as wire.Enrol and wire.Renew
	// name it: empty for a TPM.
	Kind() string
	// Birth is the IDevID key.
	Birth() (Key, error)
	// Identify fills in what message one of an enrolment says of the keys.
	Identify() (Identity, error)
	// NewWorking makes a fresh working key; a holder of a single key gives that one.
	NewWorking() (Key, error)
	// LoadWorking opens a working key from what Key.Stored gave.
	LoadWorking(stored []byte) (Key, error)
	// Prove makes the evidence for a key over a binding.
	Prove(k Key, binding [32]byte) (statement, signature []byte, err error)
	// Activate opens a credential challenge.
	Activate(c attest.Challenge) (secret []byte, err error)
	// Check explains why a certificate on file, for the public key given, is not for this
	// holder's IDevID key; nil if it is.
	Check(certified crypto.PublicKey, folder, device string) error
	// Commands is how many commands the hardware was sent.
	Commands() int
	// Close frees the hardware; the keys cannot sign afterwards.
	Close() error
}

// Open opens the place. create allows a key to be made where there is none yet, which
// only an enrolment wants.
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

// CheckSpec says why a text does not say where keys are; nil if it does.
func CheckSpec(key string) error {
	kind, rest, _ := strings.Cut(key, ":")
	switch {
	case key == "", key == TPM, key == "file", kind == "file" && filepath.IsAbs(rest), kind == external && rest != "":
		return nil
	}
	// The text is not repeated: there may be a PIN in a command.
	return errors.New("this does not say where the keys are: use tpm, file, file:PATH with a whole path, or external:COMMAND")
}

// Shown is where keys are, for people and logs: of a command its program alone.
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
