package device

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hallmark-pki/hallmark/device/keys"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// Enrolment is a request for the device's identity.
type Enrolment struct {
	Options
	// Ticket is the permission to enrol; nil for a device that the server already knows.
	Ticket *wire.Permission
	// Servers (https URLs, best first) and Roots (certificates, DER) are used instead of those in
	// a ticket.
	Servers []string
	Roots   [][]byte
	// Serial is the product's serial number; empty if the ticket or the record fixes it.
	Serial string
	// image is state of another board, or of this one without its IDevID, found in the folder: its
	// server and roots are used if none are given.
	image state.Set
}

// Enrol fetches and stores the IDevID and AK certificates and the trust bundle. On an enrolled
// device it changes nothing and says so; on one that lost its state it fetches the same identity
// again.
func Enrol(ctx context.Context, e Enrolment) (Result, error) {
	a := &action{Options: e.Options, dir: e.dir()}
	release, err := a.dir.Lock()
	if err != nil {
		return Result{}, err
	}
	defer release()
	defer a.close()
	set, damaged, err := a.dir.Load()
	switch {
	case errors.Is(err, state.ErrEmpty):
	case err != nil:
		a.report("%v; enrolling again", err)
	case len(set.IDevID) == 0:
		a.report("the IDevID certificate is lost; asking for it again")
		e.image, a.set.Settings = set, state.Settings{TPM: set.TPM, Key: set.Key}
	default:
		if damaged != nil {
			a.report("%v; using the state before it", damaged)
		}
		a.set = set
		r, err := a.already(e)
		if !errors.As(err, new(*OtherBoardError)) {
			return r, err
		}
		a.report("%v; enrolling this board as itself", err)
		e.image = a.set
		a.set = state.Set{Settings: state.Settings{TPM: a.set.TPM, Key: a.set.Key}}
	}
	servers, pins, err := e.trust()
	if err != nil {
		return Result{}, err
	}
	if a.keys == nil {
		if err := a.openKeys(true); err != nil {
			return Result{}, err
		}
	}
	if err := a.connect(servers, pins); err != nil {
		return Result{}, err
	}
	if err := a.retry(ctx, func() error { return a.enrol(ctx, e) }); err != nil {
		return Result{}, err
	}
	a.set.Server = a.client.Memory().Server
	for _, pin := range pins {
		a.set.Pins = append(a.set.Pins, hex.EncodeToString(pin[:]))
	}
	return a.result(), a.save()
}

// already checks what is on file against the keys and against the request.
func (a *action) already(e Enrolment) (Result, error) {
	if e.Key != "" && e.Key != cmp.Or(a.set.Key, keys.TPM) {
		return Result{}, &ConflictError{
			Detail: fmt.Sprintf("%s is enrolled with its key in %q, not %q", a.set.Device, keys.Shown(cmp.Or(a.set.Key, keys.TPM)), keys.Shown(e.Key)),
			Hint:   "a device keeps the kind of key that it was enrolled with; leave out --key"}
	}
	if err := a.openKeys(false); err != nil {
		return Result{}, err
	}
	if err := a.sameKeys(); err != nil {
		return Result{}, err
	}
	if e.Ticket != nil && !a.trusts(e.Ticket.Root) {
		return Result{}, &ConflictError{
			Detail: fmt.Sprintf("the state folder %s belongs to %s, enrolled at %s; the ticket is for another installation", a.dir.Path(), a.set.Device, a.set.Server),
			Hint:   "name another folder with --state, or remove this one"}
	}
	if e.Serial != "" && !strings.EqualFold(e.Serial, a.set.Serial) {
		return Result{}, &ConflictError{
			Detail: fmt.Sprintf("this device is enrolled as %s, not with the serial number %q", a.set.Device, e.Serial),
			Hint:   "compare label and board"}
	}
	r := a.result()
	r.Already = true
	return r, nil
}

// trusts reports whether a root is among those on file.
func (a *action) trusts(root [32]byte) bool {
	if bundle, err := a.set.Bundle(); err == nil {
		for _, der := range bundle.Infrastructure {
			if sha256.Sum256(der) == root {
				return true
			}
		}
	}
	return slices.Contains(a.set.Pins, hex.EncodeToString(root[:]))
}

// trust is the servers to contact and the roots to trust.
func (e Enrolment) trust() (servers []string, pins [][32]byte, err error) {
	if e.Ticket != nil {
		servers, pins = []string{e.Ticket.Server}, [][32]byte{e.Ticket.Root}
	}
	if len(e.Servers) > 0 {
		servers = e.Servers
	}
	if len(e.Roots) > 0 {
		pins = nil
	}
	for _, der := range e.Roots {
		pins = append(pins, sha256.Sum256(der))
	}
	if len(servers) == 0 && e.image.Server != "" {
		servers = []string{e.image.Server}
	}
	if bundle, err := e.image.Bundle(); err == nil && len(pins) == 0 {
		for _, der := range bundle.Infrastructure {
			pins = append(pins, sha256.Sum256(der))
		}
	}
	if len(servers) == 0 || len(pins) == 0 {
		return nil, nil, errors.New("a ticket is needed, or a server and its roots")
	}
	return servers, pins, nil
}

// enrol runs the protocol once, from message one to the certificates.
func (a *action) enrol(ctx context.Context, e Enrolment) error {
	id, err := a.keys.Identify()
	if err != nil {
		return err
	}
	if id.Warning != "" {
		a.report("%s", id.Warning)
	}
	id.Message.Serial = e.Serial
	answer, err := a.client.Enrol(ctx, id.Message, a.prover(a.birth), e.Ticket)
	if err != nil {
		return err
	}
	got, err := a.finish(ctx, answer, nil)
	if err != nil {
		return err
	}
	_, bundle := a.client.Trust()
	if err := a.checkChain("IDevID", got.IDevID, a.birth.Public(), bundle.Manufacturing); err != nil {
		return err
	}
	if err := checkName(got); err != nil {
		return err
	}
	if id.AK == nil {
		got.AK = nil
	} else if err := a.checkChain("attestation key", got.AK, id.AK, bundle.Manufacturing); err != nil {
		return err
	}
	a.set.Device, a.set.Model, a.set.Serial = got.Device, got.Model, got.Serial
	a.set.IDevID, a.set.AK, a.set.Next = got.IDevID, got.AK, got.Next
	return nil
}

// checkName makes sure that the names sent with an IDevID are those in it: hooks get them, and a
// state without a name is invalid.
func checkName(got *wire.Identity) error {
	leaf, err := x509.ParseCertificate(got.IDevID[0])
	if err != nil {
		return err
	}
	if in := leaf.Subject.SerialNumber; in == "" || got.Device != in || got.Model+":"+got.Serial != in {
		return fmt.Errorf("the server calls this device %.80q, its IDevID certificate %.80q", got.Device, in)
	}
	return nil
}
