package admin

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"time"

	"github.com/hallmark-pki/hallmark/ca/profile"
	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// list shows rows; an empty list is [], not null.
func list[R, W any](rows []R, after string, show func(R) W) wire.List[W] {
	out := wire.List[W]{Items: make([]W, len(rows)), After: after}
	for i, row := range rows {
		out.Items[i] = show(row)
	}
	return out
}

func showModel(m record.Model) wire.Model {
	return wire.Model{Name: m.Name, Assurance: m.Assurance, LDevIDLifetime: int64(m.LDevIDLifetime / time.Second),
		Poll: int64(m.Poll / time.Second), Grace: int64(m.Grace / time.Second), Subject: m.Subject, Created: m.Created}
}

func showLot(l record.Lot) wire.Lot {
	return wire.Lot{Name: l.Name, Model: l.Model, Quota: l.Quota, Used: l.Used, Listed: l.Listed, Created: l.Created, Closed: l.Closed}
}

func showDevice(d record.Device) wire.Device {
	out := wire.Device{ID: d.ID, Name: d.Name(), Model: d.Model, Lot: d.Lot, Serial: d.Serial, State: d.State,
		Assurance: d.Assurance.String(), Enrolled: d.Enrolled, Renewed: d.Renewed, Seen: d.Seen,
		TPM: wire.TPM{Maker: d.TPMMaker, Model: d.TPMModel, Firmware: d.TPMFirmware, AKName: hex.EncodeToString(d.AKName), EKs: []wire.EK{}}}
	for _, ek := range d.EKs {
		out.TPM.EKs = append(out.TPM.EKs, wire.EK{Fingerprint: hex.EncodeToString(ek.Fingerprint[:]), Name: hex.EncodeToString(ek.Name), Issuer: ek.Issuer})
	}
	return out
}

func showCertificate(c record.Certificate, now time.Time) wire.Certificate {
	out := wire.Certificate{Issuer: c.Issuer, Serial: c.Serial, Profile: c.Profile, Device: c.Device, Operator: c.Operator,
		Subject: c.Subject, Status: record.StatusOf(c, now), Shard: c.Shard, Key: hex.EncodeToString(c.Key[:]),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Issued: c.Issued, Used: c.Used, Predecessor: c.Predecessor, Revoked: c.Revoked}
	if !c.Revoked.IsZero() {
		out.Reason = reasonWord(c.Reason)
	}
	return out
}

func reasonWord(reason int) string {
	for word, code := range crlReasons {
		if code == reason {
			return word
		}
	}
	return "hold" // the only other reason that the record holds
}

const (
	operatorActive   = "active"
	operatorInvited  = "invited"
	operatorDisabled = "disabled"
)

func operatorState(o record.Operator) string {
	switch {
	case !o.Disabled.IsZero():
		return operatorDisabled
	case o.Invitation != "" && o.Accepted == [32]byte{}:
		return operatorInvited
	}
	return operatorActive
}

func showOperator(o record.Operator) wire.Operator {
	out := wire.Operator{Name: o.Name, State: operatorState(o), Created: o.Created, Disabled: o.Disabled}
	if out.State == operatorInvited {
		out.InvitedUntil = o.InvitedUntil
	}
	return out
}

func showEvent(e record.Event) wire.Event {
	return wire.Event{Sequence: e.Sequence, Time: e.Time, Actor: e.Actor, Verb: e.Verb, Object: e.Object, Reason: e.Reason, Detail: e.Detail}
}

func certificateSerial(c *x509.Certificate) string { return profile.SerialText(c.SerialNumber) }

// certificatePEM is empty for an intent that was never signed.
func certificatePEM(der []byte) string {
	if der == nil {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
