package admin

import (
	"encoding/hex"
	"encoding/pem"
	"time"

	"github.com/hallmark-pki/hallmark/admin/view"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

func showModel(m record.Model) wire.Model {
	return wire.Model{Name: m.Name, Assurance: m.Assurance, LDevIDLifetime: int64(m.LDevIDLifetime / time.Second),
		Poll: int64(m.Poll / time.Second), Grace: int64(m.Grace / time.Second), Subject: m.Subject, ServeNames: m.ServeNames, Created: m.Created}
}

func showLot(l record.Lot) wire.Lot {
	return wire.Lot{Name: l.Name, Model: l.Model, Quota: l.Quota, Used: l.Used, Listed: l.Listed, Created: l.Created, Closed: l.Closed}
}

func showCertificate(c record.Certificate, now time.Time) wire.Certificate {
	out := wire.Certificate{Issuer: c.Issuer, Serial: c.Serial, Profile: c.Profile, Device: c.Device, Operator: c.Principal,
		Subject: c.Subject, Status: record.StatusOf(c, now), Shard: c.Shard, Key: hex.EncodeToString(c.Key[:]),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Issued: c.Issued, Used: c.Used, Predecessor: c.Predecessor, Revoked: c.Revoked}
	if !c.Revoked.IsZero() {
		out.Reason = view.Reason(c.Reason)
	}
	return out
}

func showOperator(o record.Operator) wire.Operator {
	out := wire.Operator{Name: o.Name, State: view.Standing(o.Disabled, o.Invitation, o.Accepted), Created: o.Created, Disabled: o.Disabled}
	if out.State == view.Invited {
		out.InvitedUntil = o.InvitedUntil
	}
	if o.Accepted != [32]byte{} {
		out.Key = hex.EncodeToString(o.Accepted[:])
	}
	return out
}

// certificatePEM is empty for an intent that was never signed.
func certificatePEM(der []byte) string {
	if der == nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
