package credential

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"net/http"
	"time"

	"github.com/hallmark-pki/hallmark/admin/gate"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// Issuance is how those of one kind get their certificates: by an invitation the first, by that the
// others.
type Issuance struct {
	// Invited is the noun of who is invited, in events and commands; Actor that of who holds a
	// certificate, in events.
	Invited, Actor string
	// AcceptLabel and RenewLabel are the labels of the two requests' bindings, Kind that of invitations.
	AcceptLabel, RenewLabel, Kind string
	Permissions                   Permissions
	// Take binds an invitation to a key and gives the name that it is for
	// (record.Operators.AcceptInvitation).
	Take func(ctx context.Context, invitation string, key [32]byte, at time.Time, e record.Event) (name string, err error)
	// Issue gives the chain (DER, leaf first, without the root).
	Issue func(ctx context.Context, name string, key crypto.PublicKey, e record.Event) (chain [][]byte, err error)
}

// Accept makes the first certificate of who was invited. The invitation is bound to the key before
// anything is signed: while it lasts that key may ask again, since the answer may be lost, and gets the
// same certificate; no other key gets one.
func (i Issuance) Accept(ctx context.Context, c *gate.Call) (any, error) {
	message, key, err := open(c, i.AcceptLabel, i.Kind, i.Permissions)
	if err != nil {
		return nil, err
	}
	e := c.Event(i.Invited+".accepted", "") // the record knows whose it is
	e.Actor = "invitation:" + message.Invitation
	name, err := i.Take(ctx, message.Invitation, sha256.Sum256(message.Key), c.Now, e)
	if errors.Is(err, record.ErrNotFound) {
		return nil, gate.Refuse(http.StatusForbidden, wire.CodeInvitation, "ask for a new one: hallmark "+i.Invited+" invite NAME",
			"the invitation is unknown, used or expired")
	}
	if err != nil {
		return nil, err
	}
	return i.issue(ctx, c, name, key)
}

// Renew gives a recognised caller a certificate for a new key.
func (i Issuance) Renew(ctx context.Context, c *gate.Call) (any, error) {
	_, key, err := open(c, i.RenewLabel, "", nil)
	if err != nil {
		return nil, err
	}
	return i.issue(ctx, c, c.Caller.Name, key)
}

func (i Issuance) issue(ctx context.Context, c *gate.Call, name string, key crypto.PublicKey) (any, error) {
	e := c.Event("certificate.issued", name)
	e.Actor = i.Actor + ":" + name
	chain, err := i.Issue(ctx, name, key, e)
	return wire.OperatorChain{Operator: name, Chain: chain}, err
}
