package collect

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/hallmark-pki/hallmark/attest/trouble"
)

// Kinds of TPM problems, for errors.Is.
var (
	// ErrMissing: there is no TPM 2.0 where it was looked for.
	ErrMissing = errors.New("no TPM")
	// ErrPermission: the process may not open the TPM.
	ErrPermission = errors.New("no permission to use the TPM")
	// ErrBusy: another program has exclusive use of the TPM.
	ErrBusy = errors.New("TPM in use")
	// ErrLockout: too many wrong passwords; the TPM refuses them for a while.
	ErrLockout = errors.New("TPM locked out")
	// ErrFailure: the TPM is in failure mode, or its responses make no sense.
	ErrFailure = errors.New("TPM failure")
	// ErrMemory: the TPM has no room for another object or session.
	ErrMemory = errors.New("TPM out of memory")
	// ErrPassword: somebody has set a password on a hierarchy that is needed.
	ErrPassword = errors.New("TPM hierarchy has a password")
	// ErrOtherTPM: a key or challenge was made for another TPM, or for this one before
	// it was cleared.
	ErrOtherTPM = errors.New("made for another TPM")
	// ErrCommand: the TPM refused a command for any other reason.
	ErrCommand = errors.New("TPM command refused")
)

const (
	restartHint  = "switch the device off and on again; if it stays like this the TPM is broken"
	otherTPMHint = "it was made for another TPM, or for this one before it was cleared"
)

// is reports whether err is one of these TPM response codes, whichever handle or parameter is at
// fault (go-tpm's Is masks its number).
func is(err error, codes ...gotpm.TPMRC) bool {
	for _, c := range codes {
		if errors.Is(err, c) {
			return true
		}
	}
	return false
}

// explain turns an error of a TPM command into a *trouble.Error.
func explain(doing string, err error) error {
	if e, ok := errors.AsType[*trouble.Error](err); ok {
		return e
	}
	e := &trouble.Error{Kind: ErrCommand, Detail: doing, Cause: err}
	var timeout net.Error
	switch {
	case is(err, gotpm.TPMRCLockout):
		e.Kind, e.Hint = ErrLockout, "leave the device switched on for a few hours, or run: tpm2_dictionarylockout --clear-lockout"
	case is(err, gotpm.TPMRCFailure, gotpm.TPMRCNeedsTest, gotpm.TPMRCReboot):
		e.Kind, e.Hint = ErrFailure, restartHint
	case is(err, gotpm.TPMRCUpgrade):
		e.Kind, e.Hint = ErrFailure, "a TPM firmware upgrade is unfinished: finish it with the maker's tool"
	case is(err, gotpm.TPMRCObjectMemory, gotpm.TPMRCSessionMemory, gotpm.TPMRCMemory, gotpm.TPMRCSessionHandles, gotpm.TPMRCObjectHandles):
		e.Kind, e.Hint = ErrMemory, "a program holds keys in the TPM without a resource manager, or has left them there: stop it, or restart the device"
	case is(err, gotpm.TPMRCBadAuth, gotpm.TPMRCAuthFail, gotpm.TPMRCHierarchy, gotpm.TPMRCAuthUnavailable):
		e.Kind, e.Hint = ErrPassword, "the owner or endorsement hierarchy has a password or is switched off: reset it in the firmware set-up"
	case is(err, gotpm.TPMRCIntegrity):
		e.Kind, e.Hint = ErrOtherTPM, otherTPMHint
	case is(err, gotpm.TPMRCRetry, gotpm.TPMRCYielded, gotpm.TPMRCTesting, gotpm.TPMRCNVRate):
		e.Kind, e.Hint = ErrBusy, "the TPM has been busy for minutes: "+restartHint
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Kind, e.Hint = ErrBusy, "another program may be using the TPM: stop it and try again"
	case errors.Is(err, syscall.EBUSY):
		e.Kind, e.Hint = ErrBusy, "another program is using the TPM: stop it, or use /dev/tpmrm0"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.EIO), errors.Is(err, syscall.ETIME):
		e.Kind, e.Hint = ErrFailure, "the TPM stopped answering: "+restartHint
	}
	return e
}

// explainOpen turns an error of opening a TPM into a *trouble.Error.
func explainOpen(spec string, err error) error {
	e := &trouble.Error{Kind: ErrMissing, Detail: "cannot open the TPM " + spec, Cause: err}
	device := strings.HasPrefix(spec, "/")
	switch {
	case errors.Is(err, os.ErrNotExist) && device, errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		e.Hint = "switch the TPM on in the firmware set-up, and check that the kernel has its driver (ls /dev/tpm*)"
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		e.Hint = "start the software TPM first"
	case errors.Is(err, os.ErrPermission):
		e.Kind, e.Hint = ErrPermission, permissionHint(spec)
	case taken(err):
		e.Kind, e.Hint = ErrBusy, "another program is using the TPM: stop it, or use /dev/tpmrm0"
	case errors.Is(err, errNotDevice):
		e.Hint = "for the socket of a software TPM write unix:" + spec
	}
	return e
}

// permissionHint names the group that may use the file.
func permissionHint(path string) string {
	hint := "run as root, or as a member of the group that owns the TPM"
	var st syscall.Stat_t
	if syscall.Stat(strings.TrimPrefix(path, "unix:"), &st) != nil {
		return hint
	}
	if st.Gid == 0 { // as Debian's udev leaves /dev/tpm0
		return "run as root, or let udev give the file to a group, such as tss"
	}
	group := strconv.FormatUint(uint64(st.Gid), 10)
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return fmt.Sprintf("run as root, or as a member of group %q", group)
}
