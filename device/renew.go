package device

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hallmark-pki/hallmark/attest"
	softkey "github.com/hallmark-pki/hallmark/attest/softkey/collect"
	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/attest/trouble"
	"github.com/hallmark-pki/hallmark/device/keys"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// Renew gets a working certificate for a new key. The device shows its LDevID if that is still
// usable, else its IDevID; certificate and key in use are replaced, together, only once the
// server has accepted the new ones.
func Renew(ctx context.Context, o Options) (Result, error) {
	var shown string
	r, err := o.withServer(func(a *action) (err error) {
		if err = a.repair(ctx); err != nil {
			return err
		}
		if shown, err = a.renew(ctx); err == nil {
			a.refreshIDevID(ctx)
		}
		return err
	})
	r.Shown = shown
	return r, err
}

// ErrUseless: the working certificate is missing, its key does not load, or the server no longer
// accepts it. Renew repairs that by showing the IDevID.
var ErrUseless = errors.New("the working certificate is of no use")

// Poll asks the server when to renew, which also proves to both that the identity works. It fails
// with ErrUseless if only a renewal helps.
func Poll(ctx context.Context, o Options) (Result, error) {
	return o.withServer(func(a *action) error {
		if err := a.repair(ctx); err != nil {
			return err
		}
		return a.poll(ctx)
	})
}

// withServer runs a step of an enrolled device with its keys and its server, and saves what the
// step changed.
func (o Options) withServer(step func(*action) error) (Result, error) {
	a := &action{Options: o, dir: o.dir()}
	release, err := a.dir.Lock()
	if err != nil {
		return Result{}, err
	}
	defer release()
	defer a.close()
	var damaged error
	if a.set, damaged, err = a.dir.Load(); err != nil {
		return Result{}, err
	}
	if damaged != nil {
		a.report("%v; using the state before it", damaged)
		a.behind = true
	}
	if err := a.openKeys(false); err != nil {
		return Result{}, err
	}
	if err := a.sameKeys(); err != nil {
		return Result{}, err
	}
	pins, err := a.pins()
	if err != nil {
		return Result{}, err
	}
	if err := a.connect([]string{a.set.Server}, pins); err != nil {
		return Result{}, err
	}
	before := a.set
	if err := step(a); err != nil {
		// What succeeded so far is kept: an adopted certificate, and the trust bundle. Even a
		// refused device follows its installation, since it may be let back in years later.
		if a.set.Trust, _ = a.client.Trust(); !same(before, a.set) {
			err = errors.Join(err, a.save())
		}
		return a.result(), err
	}
	a.learn()
	if damaged == nil && same(before, a.set) {
		return a.result(), nil // flash wears out
	}
	return a.result(), a.dir.Save(a.set)
}

// same reports whether two sets have the same content.
func same(a, b state.Set) bool {
	x, failed := json.Marshal(a)
	y, err := json.Marshal(b)
	return failed == nil && err == nil && bytes.Equal(x, y)
}

// poll asks once. It shows even an expired certificate: this clock may be wrong, and the server's
// is right.
func (a *action) poll(ctx context.Context) error {
	if len(a.set.LDevID) == 0 {
		return ErrUseless
	}
	key, err := a.keys.LoadWorking(a.set.LDevIDKey)
	if unusable(err) {
		return fmt.Errorf("%w: %w", ErrUseless, err)
	}
	if err != nil {
		return err
	}
	id := &tls.Certificate{Certificate: a.set.LDevID, PrivateKey: key}
	err = a.retry(ctx, func() error { return a.ask(ctx, id) })
	if outdated(err) {
		return fmt.Errorf("%w: %w", ErrUseless, err)
	}
	return err
}

// unusable reports whether a key failed to load because of the key itself, and not of what holds
// it: its file is damaged, or TPM2_Clear gave the chip another storage root.
func unusable(err error) bool {
	chip, ok := errors.AsType[*trouble.Error](err)
	return err != nil && (!ok || slices.Contains([]error{collect.ErrOtherTPM, collect.ErrCommand, softkey.ErrMalformed}, chip.Kind))
}

// ask polls the server and takes its window.
func (a *action) ask(ctx context.Context, id *tls.Certificate) error {
	steering, err := a.client.Poll(ctx, id)
	if err != nil {
		return err
	}
	a.steer(steering, id.Certificate[0])
	return nil
}

// renew runs the protocol and puts the result into the set, if it works.
func (a *action) renew(ctx context.Context) (shown string, err error) {
	key, err := a.keys.NewWorking()
	if err != nil {
		return "", err
	}
	m := wire.Renew{Kind: a.keys.Kind(), Key: key.Wire(), Activated: a.activated()}
	var got *wire.Identity
	ask := func(id *tls.Certificate) error {
		return a.retry(ctx, func() error {
			answer, err := a.client.Renew(ctx, m, a.prover(key), id)
			if err == nil {
				got, err = a.finish(ctx, answer, id)
			}
			if err != nil && !retryable(err) {
				a.set.Next = nil // whatever is wrong, the next attempt does without
			}
			return err
		})
	}
	shown, err = "ldevid", errors.New("no working certificate")
	if id := a.ldevid(); id != nil {
		if err = ask(id); outdated(err) {
			a.report("the server does not accept the working certificate any more (%v); showing the IDevID", err)
		} else if err != nil {
			return "", err
		}
	}
	if err != nil {
		shown = "idevid"
		birth := func() *tls.Certificate { return &tls.Certificate{Certificate: a.set.IDevID, PrivateKey: a.birth} }
		if err = ask(birth()); outdated(err) {
			a.report("the server does not accept the IDevID certificate any more (%v); asking for another", err)
			if err = a.reenrol(ctx); err == nil {
				err = ask(birth())
			}
		}
		if err != nil {
			return "", err
		}
	}
	return shown, a.swap(ctx, key, got)
}

// refreshIDevID requests another IDevID certificate if the root of the one on file is no longer
// trusted, so that it is good when needed. If the server has none, that is only reported: the
// renewal has succeeded without.
func (a *action) refreshIDevID(ctx context.Context) {
	_, bundle := a.client.Trust()
	if a.checkChain("IDevID", a.set.IDevID, a.birth.Public(), bundle.Manufacturing) == nil {
		return
	}
	a.report("the IDevID certificate is of a CA that is no longer trusted; asking for another")
	if err := a.reenrol(ctx); err != nil {
		a.report("%v", err)
	}
}

// reenrol requests another IDevID certificate for the same key.
func (a *action) reenrol(ctx context.Context) error {
	return a.retry(ctx, func() error { return a.enrol(ctx, Enrolment{}) })
}

// stage saves a fresh certificate before it is first shown. From then on the server no longer
// lets its predecessor renew and, if no chip holds the key, takes it for a copy: a power cut at
// that moment must not leave only the predecessor.
func (a *action) stage(key keys.Key, got *wire.Identity) error {
	if a.keys.Kind() == "" {
		return nil // the chip proves that this is no copy; flash wears out
	}
	a.set.Fresh, a.set.FreshPage, a.set.FreshKey = got.LDevID, got.Server, key.Stored()
	return a.save()
}

// repair repairs what an interruption left: a lost IDevID certificate, a working certificate that
// was not tested yet.
func (a *action) repair(ctx context.Context) error {
	if len(a.set.IDevID) == 0 {
		a.report("the IDevID certificate is lost; asking for it again")
		if err := a.reenrol(ctx); err != nil {
			return err
		}
	}
	return a.adopt(ctx)
}

// adopt makes the staged certificate, if there is one, the working one. If the server does not
// accept it, it is dropped.
func (a *action) adopt(ctx context.Context) error {
	if len(a.set.Fresh) == 0 {
		return nil
	}
	key, err := a.keys.LoadWorking(a.set.FreshKey)
	if err == nil {
		err = a.retry(ctx, func() error {
			return a.ask(ctx, &tls.Certificate{Certificate: a.set.Fresh, PrivateKey: key})
		})
		if err != nil && !outdated(err) {
			return err
		}
	}
	if err == nil {
		a.set.LDevID, a.set.Page, a.set.LDevIDKey = a.set.Fresh, a.set.FreshPage, a.set.FreshKey
	} else {
		a.report("a certificate that was never used is given up: %v", err)
	}
	a.set.Fresh, a.set.FreshPage, a.set.FreshKey = nil, nil, nil
	return nil
}

// swap replaces the working certificate if the new one is valid and works.
func (a *action) swap(ctx context.Context, key keys.Key, got *wire.Identity) error {
	check := func() error {
		_, bundle := a.client.Trust()
		return a.checkChain("LDevID", got.LDevID, key.Public(), bundle.Operational)
	}
	if err := check(); err != nil {
		// Its root may be newer than our bundle.
		if a.client.UpdateTrust(ctx) != nil || check() != nil {
			return err
		}
	}
	if len(got.Server) > 0 {
		_, bundle := a.client.Trust()
		if err := a.checkChain("web page's", got.Server, key.Public(), bundle.Operational); err != nil {
			a.report("%v; going on without it", err)
			got.Server = nil
		}
	}
	if err := a.stage(key, got); err != nil {
		return err
	}
	fresh := &tls.Certificate{Certificate: got.LDevID, PrivateKey: key}
	if err := a.retry(ctx, func() error { return a.ask(ctx, fresh) }); err != nil {
		return err
	}
	a.set.LDevID, a.set.Page, a.set.LDevIDKey, a.set.Next = got.LDevID, got.Server, key.Stored(), got.Next
	a.set.Fresh, a.set.FreshPage, a.set.FreshKey = nil, nil, nil
	return nil
}

// activated answers the challenge that came with the last answer. Without it the renewal only
// costs a second message.
func (a *action) activated() *wire.Activate {
	next := a.set.Next
	if next == nil || next.Expires.Before(a.client.Now()) {
		return nil
	}
	secret, err := a.keys.Activate(attest.Challenge{Credential: next.Credential, Secret: next.Secret})
	if err != nil {
		a.report("%v; asking for a new challenge", err)
		return nil
	}
	return &wire.Activate{Session: next.Session, Secret: secret}
}

// ldevid is the working certificate with its key, or nil if it is no longer usable.
func (a *action) ldevid() *tls.Certificate {
	if len(a.set.LDevID) == 0 {
		return nil
	}
	if a.behind && a.keys.Kind() != "" {
		a.report("the working certificate on file may be an older one; showing the IDevID")
		return nil // the server would take this device for a copy
	}
	leaf, err := x509.ParseCertificate(a.set.LDevID[0])
	if err != nil || a.client.Now().After(leaf.NotAfter) {
		a.report("the working certificate has ended; showing the IDevID")
		return nil
	}
	key, err := a.keys.LoadWorking(a.set.LDevIDKey)
	if err != nil {
		a.report("%v; showing the IDevID", err)
		return nil
	}
	return &tls.Certificate{Certificate: a.set.LDevID, PrivateKey: key, Leaf: leaf}
}

// outdated reports whether the server refused the certificate shown but may accept the IDevID: a
// newer LDevID is in use (this state was rolled back), or this one is unknown (the record was
// restored), itself revoked, or expired by the server's clock.
func outdated(err error) bool {
	p, ok := errors.AsType[*wire.Problem](err)
	return ok && slices.Contains([]string{wire.CodeSuperseded, wire.CodeCertificateExpired, wire.CodeCertificateUnknown,
		wire.CodeCertificateRevoked, wire.CodeUnauthorised}, p.Code)
}
