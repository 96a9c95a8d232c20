package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/device"
	"github.com/hallmark-pki/hallmark/device/agent"
	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/device/page"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/plain"
	"github.com/hallmark-pki/hallmark/wire"
)

// Exit codes. A production line sends a device back for 3, 5 and 6, and takes it out
// of the line for 4.
const (
	exitError   = 1
	exitUsage   = 2
	exitRefused = 3
	exitFinal   = 4
	exitTPM     = 5
	exitNetwork = 6
	exitNotYet  = 7
)

const exitCodes = `Exit codes:
  0  done, or there was nothing to do
  1  another error
  2  the command line is wrong
  3  refused for now: correct what the message names, or ask later
  4  refused for good: the device is revoked or barred
  5  a problem with the TPM, or with what else holds the key
  6  the server was not reached, or what answered is not the server
  7  it is not time yet (needs-renewal)`

// usageError is a mistake on the command line.
type usageError struct {
	error
	command string
}

// advised is an error with a hint.
type advised struct {
	error
	hint string
}

func (a advised) Unwrap() error { return a.error }

// failure is an error of a command, as opposed to one of the command line.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

func exitCode(err error) int {
	if _, ok := errors.AsType[failure](err); !ok {
		return exitUsage
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if errors.Is(err, errNotYet) {
		return exitNotYet
	}
	if w, ok := errors.AsType[*agent.WaitError](err); ok {
		return map[agent.Class]int{agent.Refused: exitRefused, agent.Final: exitFinal, agent.TPM: exitTPM, agent.Network: exitNetwork, agent.Other: exitError}[w.Class()]
	}
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		if p.Final() {
			return exitFinal
		}
		return exitRefused
	}
	if _, ok := errors.AsType[*trouble.Error](err); ok {
		return exitTPM
	}
	if _, ok := errors.AsType[*client.NetworkError](err); ok {
		return exitNetwork
	}
	if _, ok := errors.AsType[*client.TrustError](err); ok {
		return exitNetwork
	}
	return exitError
}

// complain prints what is wrong and what to do next.
func complain(w io.Writer, err error) {
	fmt.Fprintln(w, "error:", plain.Text(err.Error()))
	if hint := hintFor(err); hint != "" {
		fmt.Fprintln(w, "hint:", plain.Text(hint))
	}
}

// hintFor says what to do next.
func hintFor(err error) string {
	if e, ok := errors.AsType[usageError](err); ok {
		return fmt.Sprintf("see: %s --help", e.command)
	}
	if _, ok := errors.AsType[failure](err); !ok {
		return "see: hallmark-device --help"
	}
	if e, ok := errors.AsType[advised](err); ok {
		return e.hint
	}
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		switch {
		case p.Hint != "":
			return p.Hint
		case p.Final():
			return "take this device out of the line: it does not come back"
		}
		return "the server's operator finds the refusal in the audit list, under code " + p.Code
	}
	if e, ok := errors.AsType[*trouble.Error](err); ok {
		return e.Hint
	}
	if e, ok := errors.AsType[*device.ConflictError](err); ok {
		return e.Hint
	}
	if e, ok := errors.AsType[*client.TrustError](err); ok {
		return e.Hint()
	}
	if e, ok := errors.AsType[*client.NetworkError](err); ok {
		return e.Hint()
	}
	if e, ok := errors.AsType[*state.HeldError](err); ok && e.Agent {
		return "it maintains this device already; stop it first to run another"
	}
	switch {
	case errors.As(err, new(*agent.WaitError)):
		return "to ask at once all the same: hallmark-device renew --force"
	case errors.As(err, new(*state.HeldError)):
		return "wait until it has finished"
	case errors.Is(err, state.ErrEmpty):
		return "run: hallmark-device enrol TICKET; or, if it is enrolled, name its state folder with --state"
	case errors.Is(err, device.ErrNoLDevID):
		return "run: hallmark-device renew"
	case errors.Is(err, page.ErrNone):
		return "an administrator names it: hallmark model set MODEL --serve-names '{serial}.local'; then run: hallmark-device renew"
	case errors.Is(err, syscall.EROFS):
		return "the state folder must be on a file system that can be written: name another with --state"
	case errors.Is(err, syscall.ENOSPC):
		return "make room on the file system of the state folder; the identity there is still whole"
	case errors.Is(err, os.ErrPermission):
		return "run as root, or name another folder with --state"
	}
	return "if this is not clear to you, send the line above to whoever runs the Hallmark server"
}

// message leaves out the hint of a server's refusal, which is printed separately.
func message(err error) error {
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return &refusal{p}
	}
	return err
}

type refusal struct{ problem *wire.Problem }

func (r *refusal) Error() string {
	return fmt.Sprintf("the server refused: %s [%s]", r.problem.Detail, r.problem.Code)
}
func (r *refusal) Unwrap() error { return r.problem }
