// Package view words what the record holds as the operator protocol says it.
package view

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/wire"
)

// List shows rows; an empty list is [], not null.
func List[R, W any](rows []R, after string, show func(R) W) wire.List[W] {
	return wire.List[W]{Items: Each(rows, show), After: after}
}

// Each shows rows; none are [], not null.
func Each[R, W any](rows []R, show func(R) W) []W {
	out := make([]W, len(rows))
	for i, row := range rows {
		out[i] = show(row)
	}
	return out
}

// Device shows a device, without its certificates.
func Device(d record.Device) wire.Device {
	out := wire.Device{ID: d.ID, Name: d.Name(), Model: d.Model, Lot: d.Lot, Serial: d.Serial, State: d.State,
		Assurance: d.Assurance.String(), Labels: d.Labels, Enrolled: d.Enrolled, Renewed: d.Renewed, Expires: d.Expires, Seen: d.Seen, KeyAlgorithm: d.KeyAlgorithm,
		TPM: wire.TPM{Maker: d.TPMMaker, Model: d.TPMModel, Firmware: d.TPMFirmware, AKName: hex.EncodeToString(d.AKName), EKs: []wire.EK{}}}
	for _, ek := range d.EKs {
		out.TPM.EKs = append(out.TPM.EKs, wire.EK{Fingerprint: hex.EncodeToString(ek.Fingerprint[:]), Name: hex.EncodeToString(ek.Name), Issuer: ek.Issuer})
	}
	return out
}

// States of operators and relying parties.
const (
	Active   = "active"
	Invited  = "invited"
	Disabled = "disabled"
)

// Standing is the state of an operator or relying party with those fields.
func Standing(disabled time.Time, invitation string, accepted [32]byte) string {
	switch {
	case !disabled.IsZero():
		return Disabled
	case invitation != "" && accepted == [32]byte{}:
		return Invited
	}
	return Active
}

// Event shows a line of audit.
func Event(e record.Event) wire.Event {
	return wire.Event{Sequence: e.Sequence, Time: e.Time, Actor: e.Actor, Verb: e.Verb, Object: e.Object, Reason: e.Reason, Detail: e.Detail}
}

// Reasons are wire.RevocationReasons as CRLReason (RFC 5280 §5.3.1).
var Reasons = map[string]int{
	"unspecified": record.ReasonUnspecified, "key-compromise": record.ReasonKeyCompromise,
	"affiliation-changed": record.ReasonAffiliation, "superseded": record.ReasonSuperseded,
	"cessation": record.ReasonCessation, "privilege-withdrawn": record.ReasonPrivilege,
}

// Reason is the word for a CRLReason.
func Reason(code int) string {
	for word, reason := range Reasons {
		if reason == code {
			return word
		}
	}
	return "hold" // the only other reason that the record holds
}

// ReadReason reads the CRLReason of a job's kind and judges what is said beside it: only
// a revocation has a reason of its own.
func ReadReason(kind, reason, why string) (int, error) {
	code, known := Reasons[reason]
	switch {
	case kind == record.JobRevoke && !known:
		return 0, fmt.Errorf("reason %q: one of %s", reason, strings.Join(wire.RevocationReasons, ", "))
	case kind != record.JobRevoke && reason != "":
		return 0, errors.New("only a revocation has a reason; say why in words")
	case len(why) > MaxWhy:
		return 0, fmt.Errorf("why: at most %d bytes", MaxWhy)
	case kind == record.JobRetire:
		return record.ReasonCessation, nil
	}
	return code, nil
}

// MaxWhy is how long a reason in words may be, in bytes.
const MaxWhy = 1000

// Verbs are the events of devices by what is done to them.
var Verbs = map[string]string{
	record.JobSuspend: "device.suspended", record.JobRestore: "device.restored", record.JobRetire: "device.retired", record.JobRevoke: "device.revoked",
}
