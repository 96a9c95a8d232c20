// Package device enrols a device and renews its certificates: it proves what the TPM is, requests
// certificates and keeps them.
//
// Every step may be cut off at any moment and repeated. What works is replaced only once its
// successor has worked, and the identity needs nothing but the TPM: a device that lost its state
// folder gets it back.
package device

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	softkey "github.com/hallmark-pki/hallmark/attest/softkey/collect"
	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/device/keys"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/internal/program"
	"github.com/hallmark-pki/hallmark/wire"
)

// Options are common to all functions of this package.
type Options struct {
	// State is the state folder; empty means state.DefaultDir.
	State string
	// TPM is the TPM as for collect.Open; empty means the one enrolled with, or
	// collect.DefaultSpec.
	TPM string
	// Proxy is the HTTP proxy to reach the server through (client.Config.Proxy).
	Proxy string
	// Key says where the device's keys are (package keys); empty means where they were when it
	// was enrolled, or the TPM. Only a first enrolment may choose.
	Key string
	// Built is when the program was built, and so a lower bound of the time.
	Built time.Time
	// Now is the system clock, which may be wrong; nil means time.Now.
	Now func() time.Time
	// Report receives a line about each thing done or worked around; may be nil.
	Report func(line string)
	// files makes the changes to the state folder; nil means on disk.
	files state.Files
}

// dir is the state folder.
func (o Options) dir() *state.Dir {
	if o.files != nil {
		return state.On(o.State, o.files)
	}
	return state.At(o.State)
}

func (o Options) report(format string, args ...any) {
	if o.Report != nil {
		o.Report(fmt.Sprintf(format, args...))
	}
}

// ConflictError: the state folder belongs to another device or installation than the request.
type ConflictError struct {
	// Detail says what is wrong, Hint what to do about it.
	Detail, Hint string
}

func (e *ConflictError) Error() string { return e.Detail }

// Result is the result of an enrolment or a renewal.
type Result struct {
	// Device is the name in the certificates: MODEL:SERIAL.
	Device string `json:"device"`
	Model  string `json:"model"`
	Serial string `json:"serial"`
	// Already: there was nothing to do.
	Already bool `json:"already,omitempty"`
	// Shown is the certificate that authenticated a renewal: "ldevid" or "idevid".
	Shown string `json:"shown,omitempty"`
	// NotAfter is the end of the working certificate, RenewAfter when to renew it; zero
	// after an enrolment.
	NotAfter   time.Time `json:"not_after,omitzero"`
	RenewAfter time.Time `json:"renew_after,omitzero"`
	// Poll is after how long the device is to ask again when to renew; 0 means never.
	Poll time.Duration `json:"-"`
	// Time is the server's time if the system clock proved wrong, else zero.
	Time time.Time `json:"time,omitzero"`
	// TPMCommands, Sent and Received are the cost (bytes on the wire, TLS included).
	TPMCommands int   `json:"tpm_commands"`
	Sent        int64 `json:"bytes_sent"`
	Received    int64 `json:"bytes_received"`
}

// attempts is how often a step is tried whose answer may have been lost; the server repeats a
// lost answer.
const attempts = 3

// action is one enrolment, renewal or poll: a locked state folder, opened keys and a server.
type action struct {
	Options
	dir *state.Dir
	set state.Set
	// behind: the newest set could not be read, so set is an older one.
	behind bool
	keys   keys.Holder
	birth  keys.Key
	client *client.Client
}

// openKeys opens what holds the keys. create allows making them.
func (a *action) openKeys(create bool) (err error) {
	var p keys.Place
	if a.keys, p, err = open(a.Options, a.set, a.dir, create); err != nil {
		return err
	}
	a.set.Key, a.set.TPM = p.Key, p.TPM
	a.birth, err = a.keys.Birth()
	return err
}

// open opens what holds the keys, where requested or else as on file. It takes no command from a
// state folder that other users can write, who could then run programs as this one.
func open(o Options, set state.Set, dir *state.Dir, create bool) (keys.Holder, keys.Place, error) {
	p := keys.Place{Key: cmp.Or(o.Key, set.Key, keys.TPM), Folder: dir.Path()}
	if p.Key == keys.TPM {
		p.TPM = cmp.Or(o.TPM, set.TPM, collect.DefaultSpec)
	}
	if o.Key == "" && strings.HasPrefix(p.Key, "external:") {
		err := program.Safe(dir.Path())
		if err == nil {
			err = program.Safe(dir.SettingsFile())
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, p, &trouble.Error{Kind: softkey.ErrUnsafe, Detail: "the external signer that is on file: " + err.Error(),
				Hint: "run as the user that the folder belongs to, or name the command with --key"}
		}
	}
	h, err := keys.Open(p, create)
	return h, p, err
}

// close closes the connection and the keys.
func (a *action) close() {
	if a.client != nil {
		a.client.Close()
	}
	if a.keys != nil {
		a.keys.Close()
	}
}

// OtherBoardError: the state folder is from another board, or the chip was replaced. Enrol gets
// this board an identity of its own.
type OtherBoardError struct{ problem error }

func (e *OtherBoardError) Error() string { return e.problem.Error() }

// Unwrap returns the problem as what holds the keys reported it.
func (e *OtherBoardError) Unwrap() error { return e.problem }

// sameKeys makes sure that the IDevID certificate on file is for the opened key.
func (a *action) sameKeys() error {
	if len(a.set.IDevID) == 0 {
		return nil // it is lost, and will be fetched again
	}
	leaf, err := x509.ParseCertificate(a.set.IDevID[0])
	if err != nil {
		return fmt.Errorf("the IDevID certificate on file: %w", err)
	}
	if err := a.keys.Check(leaf.PublicKey, a.dir.Path(), a.set.Device); err != nil {
		return &OtherBoardError{err}
	}
	return nil
}

// connect makes the client from what is on file.
func (a *action) connect(servers []string, pins [][32]byte) (err error) {
	a.client, err = client.New(client.Config{
		Servers: servers, Pins: pins, Trust: a.set.Trust, Floor: a.floor(), Now: a.Now,
		Proxy: a.Proxy, Memory: a.set.Network,
	})
	return err
}

// learn copies what the client has learned into the set.
func (a *action) learn() {
	a.set.Trust, _ = a.client.Trust()
	a.set.Network = a.client.Memory()
}

func (a *action) save() error {
	a.learn()
	return a.dir.Save(a.set)
}

// floor is the latest time that has certainly passed, not counting the trust bundle's.
func (a *action) floor() time.Time {
	floor := a.Built
	for _, chain := range [][][]byte{a.set.IDevID, a.set.AK, a.set.LDevID} {
		if len(chain) == 0 {
			continue
		}
		if leaf, err := x509.ParseCertificate(chain[0]); err == nil && leaf.NotBefore.After(floor) {
			floor = leaf.NotBefore
		}
	}
	return floor
}

// pins parses the fingerprints on file.
func (a *action) pins() ([][32]byte, error) {
	var pins [][32]byte
	for _, text := range a.set.Pins {
		pin, err := client.ParsePin(text)
		if err != nil {
			return nil, fmt.Errorf("the state folder %s: %w", a.dir.Path(), err)
		}
		pins = append(pins, pin)
	}
	return pins, nil
}

// retry calls step until it succeeds, is refused, or has got no answer attempts times.
func (a *action) retry(ctx context.Context, step func() error) error {
	for n := 1; ; n++ {
		err := step()
		if err == nil || n == attempts || !retryable(err) {
			return err
		}
		wait := max(time.Duration(n)*time.Second, client.RetryAfter(err))
		if wait > attempts*time.Second {
			return err // too long to wait here; the caller knows better
		}
		a.report("%v; trying again", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// retryable reports whether a step failed in a way that a repetition may cure.
func retryable(err error) bool {
	if _, ok := errors.AsType[*client.NetworkError](err); ok {
		return true
	}
	p, ok := errors.AsType[*wire.Problem](err)
	return ok && (p.Code == wire.CodeSession || p.Code == wire.CodeUnavailable || p.Code == wire.CodeTurn)
}

// finish answers the challenge, if answer is one, and returns the identity.
func (a *action) finish(ctx context.Context, answer *wire.Answer, shown *tls.Certificate) (*wire.Identity, error) {
	if c := answer.Challenge; c != nil {
		secret, err := a.keys.Activate(attest.Challenge{Credential: c.Credential, Secret: c.Secret})
		if err != nil {
			return nil, err
		}
		if answer, err = a.client.Activate(ctx, wire.Activate{Session: c.Session, Secret: secret}, shown); err != nil {
			return nil, err
		}
	}
	if answer.Identity == nil {
		return nil, errors.New("the server answered with neither a challenge nor an identity")
	}
	return answer.Identity, nil
}

// prover returns the function that makes evidence for a key over the client's binding.
func (a *action) prover(key keys.Key) client.Prover {
	return func(binding [32]byte) ([]byte, []byte, error) { return a.keys.Prove(key, binding) }
}

// checkChain verifies that a chain is for key and ends in one of the roots, so that a server's
// mistake is found before it replaces what works.
func (a *action) checkChain(what string, chain [][]byte, key crypto.PublicKey, roots [][]byte) error {
	if len(chain) == 0 {
		return fmt.Errorf("the server sent no %s certificate", what)
	}
	var certificates []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("the server's %s certificate: %w", what, err)
		}
		certificates = append(certificates, c)
	}
	leaf := certificates[0]
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key) {
		return fmt.Errorf("the server's %s certificate is for another key", what)
	}
	anchors, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range roots {
		if root, err := x509.ParseCertificate(der); err == nil {
			anchors.AddCert(root)
		}
	}
	for _, c := range certificates[1:] {
		intermediates.AddCert(c)
	}
	at := a.client.Now()
	if leaf.NotBefore.After(at) {
		at = leaf.NotBefore // the server's clock may be slightly ahead
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: anchors, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("the server's %s certificate: %w", what, err)
	}
	return nil
}

// result sums up the action.
func (a *action) result() Result {
	r := Result{Device: a.set.Device, Model: a.set.Model, Serial: a.set.Serial, RenewAfter: a.set.RenewAfter, Poll: pollEvery(a.set.Steering)}
	if len(a.set.LDevID) > 0 {
		if leaf, err := x509.ParseCertificate(a.set.LDevID[0]); err == nil {
			r.NotAfter = leaf.NotAfter
		}
	}
	r.TPMCommands = a.keys.Commands()
	if a.client != nil {
		r.Sent, r.Received = a.client.Bytes()
		r.Time = a.client.Learned()
	}
	return r
}
