package device

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// Renew gets a working certificate for a new key. The device shows its LDevID if that
// can still be used, else its IDevID; the certificate and key in use are replaced,
// together, only when the server has accepted the new ones.
func Renew(ctx context.Context, o Options) (Result, error) {
	a := &agent{Options: o, dir: state.At(o.State)}
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
	}
	if err := a.openTPM(); err != nil {
		return Result{}, err
	}
	if err := a.sameTPM(); err != nil {
		return Result{}, err
	}
	pins, err := a.pins()
	if err != nil {
		return Result{}, err
	}
	if err := a.connect([]string{a.set.Server}, pins); err != nil {
		return Result{}, err
	}
	shown, err := a.renew(ctx)
	if err != nil {
		return Result{}, err
	}
	r := a.result()
	r.Shown = shown
	return r, a.dir.Save(a.set)
}

// renew runs the protocol and puts what came of it into the set, if it works.
func (a *agent) renew(ctx context.Context) (shown string, err error) {
	m := wire.Renew{Activated: a.activated()}
	key, err := a.tpm.NewLDevID()
	if err != nil {
		return "", err
	}
	m.Key = key.TPMPublic()
	var got *wire.Identity
	ask := func(id *tls.Certificate) error {
		return a.again(ctx, func() error {
			answer, err := a.client.Renew(ctx, m, a.prover(key), id)
			if err == nil {
				got, err = a.finish(ctx, answer, id)
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
		if err := ask(&tls.Certificate{Certificate: a.set.IDevID, PrivateKey: a.idevid}); err != nil {
			return "", err
		}
	}
	return shown, a.swap(ctx, key, got)
}

// swap takes the new certificate if it is right and works.
func (a *agent) swap(ctx context.Context, key *collect.Key, got *wire.Identity) error {
	_, bundle := a.client.Trust()
	if err := a.checkChain("LDevID", got.LDevID, key.Public(), bundle.Operational); err != nil {
		return err
	}
	fresh := &tls.Certificate{Certificate: got.LDevID, PrivateKey: key}
	if err := a.again(ctx, func() error { return a.client.Probe(ctx, fresh) }); err != nil {
		return err
	}
	a.set.Trust, _ = a.client.Trust()
	a.set.LDevID, a.set.LDevIDKey, a.set.Next = got.LDevID, key.PEM(), got.Next
	if a.set.RenewAfter = got.RenewAfter; got.RenewAfter.IsZero() {
		a.set.RenewAfter = twoThirds(got.LDevID[0])
	}
	return nil
}

// activated answers the challenge that came with the last answer. Without it the
// renewal costs a second message and nothing else.
func (a *agent) activated() *wire.Activate {
	next := a.set.Next
	if next == nil || next.Expires.Before(a.client.Now()) {
		return nil
	}
	secret, err := a.tpm.Activate(attest.Challenge{Credential: next.Credential, Secret: next.Secret})
	if err != nil {
		a.report("%v; asking for a new challenge", err)
		return nil
	}
	return &wire.Activate{Session: next.Session, Secret: secret}
}

// ldevid is the working certificate with its key, or nil if it cannot be used any more.
func (a *agent) ldevid() *tls.Certificate {
	if len(a.set.LDevID) == 0 || len(a.set.LDevIDKey) == 0 {
		return nil
	}
	leaf, err := x509.ParseCertificate(a.set.LDevID[0])
	if err != nil || a.client.Now().After(leaf.NotAfter) {
		a.report("the working certificate has ended; showing the IDevID")
		return nil
	}
	key, err := a.tpm.LoadLDevID(a.set.LDevIDKey)
	if err != nil {
		a.report("%v; showing the IDevID", err)
		return nil
	}
	return &tls.Certificate{Certificate: a.set.LDevID, PrivateKey: key, Leaf: leaf}
}

// outdated reports whether the server refused the certificate shown but may accept the
// IDevID: a newer LDevID is in use (the state is a rolled-back copy), or this one is
// unknown (a restored record), revoked by itself, or expired by the server's clock.
func outdated(err error) bool {
	p, ok := errors.AsType[*wire.Problem](err)
	return ok && slices.Contains([]string{wire.CodeSuperseded, wire.CodeCertificateExpired, wire.CodeCertificateUnknown,
		wire.CodeCertificateRevoked, wire.CodeUnauthorised}, p.Code)
}

func twoThirds(der []byte) time.Time {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return time.Time{}
	}
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)
}
