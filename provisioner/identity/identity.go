// Package identity finds out which device claims belong to: CLAIMS + inventory → IDENTITY. It
// decides nothing: it says which device this is, or why that cannot be said.
package identity

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/hallmark-pki/hallmark/attest"
	"github.com/hallmark-pki/hallmark/record"
)

// Identity is which device this is.
type Identity struct {
	// Device is the device as it is to be recorded if admitted.
	Device record.Device
	// Known: the device is on record already, so it is not counted again.
	Known bool
	// NewEK: a further endorsement key of the known chip has activated its AK.
	NewEK bool
	// NewKey: a grant lets the key replace the recorded one, which is lost.
	NewKey bool
}

// Clash is a contradiction between the claims and the inventory.
type Clash struct {
	// Code is "serial-taken", "ek-taken", "ak-changed" or "key-changed".
	Code, Detail string
}

func (c *Clash) Error() string { return c.Detail }

// Query is the query that finds the device of these facts in the record.
func Query(f attest.Facts) record.Query {
	if f.TPM == nil {
		return record.Query{Key: sha256.Sum256(f.Birth)}
	}
	q := record.Query{EK: f.TPM.EKFingerprint, EKName: f.TPM.EKName, AK: f.TPM.AKName, Key: sha256.Sum256(f.Key)}
	if f.TPM.Certified { // otherwise make and model are only what the device claims
		q.Chip = &record.EKType{Maker: f.TPM.Maker, Model: f.TPM.Model}
	}
	return q
}

// Enrolling identifies a device that sent complete evidence, with the serial number that it or
// its ticket named ("" if neither did) and the ticket that it has shown to hold. newID is its ID
// in the record if it is new; v must have been looked up by Query and the serial number.
func Enrolling(f attest.Facts, ticket, serial, newID string, v record.View, now time.Time) (Identity, error) {
	// A further EK of a known chip has activated the recorded AK (decision 5).
	known := cmp.Or(v.ByEK, v.ByAK)
	if f.TPM == nil && v.ByKey != nil && !v.ByKey.Assurance.Hardware {
		known = v.ByKey
	}
	switch {
	case known != nil:
		return returning(f, serial, *known, now)
	case v.ByKey != nil:
		// ETSI EN 303 645 §5.1: no two devices share a key. A software TPM can certify a public key
		// that it does not hold.
		return Identity{}, &Clash{Code: "ek-taken", Detail: fmt.Sprintf("this IDevID key is that of %s", v.ByKey.Name())}
	}
	if g := v.Grant; g != nil && g.ID == ticket && g.NewKey && g.Redeemed.IsZero() && v.ByID != nil && !v.ByID.Assurance.Hardware && f.TPM == nil {
		d := *v.ByID
		d.Key, d.AKPublic, d.Seen = sha256.Sum256(f.Birth), f.Birth, now
		return Identity{Device: d, Known: true, NewKey: true}, nil
	}
	if v.BySerial != nil {
		return Identity{}, &Clash{Code: "serial-taken", Detail: fmt.Sprintf("another %s is enrolled as %s", noun(f), v.BySerial.Name())}
	}
	return Identity{Device: newDevice(f, serial, newID, v, now)}, nil
}

// noun names, for people, what identifies the device.
func noun(f attest.Facts) string {
	if f.TPM == nil {
		return "key"
	}
	return "TPM"
}

// returning checks the claims of a device that is in the inventory against its entry.
func returning(f attest.Facts, serial string, d record.Device, now time.Time) (Identity, error) {
	switch {
	case serial != "" && record.Fold(serial) != record.Fold(d.Serial):
		return Identity{}, &Clash{Code: "ek-taken", Detail: fmt.Sprintf("this %s is enrolled as %s", noun(f), d.Name())}
	case f.TPM == nil: // it was found by its key
		d.Seen = now
		return Identity{Device: d, Known: true}, nil
	case !bytes.Equal(f.TPM.AKName, d.AKName):
		return Identity{}, &Clash{Code: "ak-changed", Detail: fmt.Sprintf("%s is enrolled with another attestation key", d.Name())}
	case sha256.Sum256(f.Key) != d.Key:
		// Decision 1: an IDevID is issued again only to the same key.
		return Identity{}, &Clash{Code: "key-changed", Detail: fmt.Sprintf("%s is enrolled with another IDevID key", d.Name())}
	}
	who := Identity{Device: d, Known: true}
	who.NewEK = !slices.ContainsFunc(d.EKs, func(ek record.EK) bool { return ek.Fingerprint == f.TPM.EKFingerprint })
	if who.NewEK {
		who.Device.EKs = append(append([]record.EK{}, d.EKs...), ekOf(f))
	}
	who.Device.TPMFirmware = firmware(f.TPM.Firmware)
	who.Device.Seen = now
	return who, nil
}

// Renewing identifies a device that renews: the claims must be made by the recorded attestation
// key or, if there is none, by the recorded IDevID key.
func Renewing(f attest.Facts, v record.View, now time.Time) (Identity, error) {
	switch {
	case v.ByID == nil, (f.TPM != nil) != v.ByID.Assurance.Hardware, f.TPM != nil && !bytes.Equal(f.TPM.AKName, v.ByID.AKName):
		return Identity{}, &Clash{Code: "ak-changed", Detail: "the attestation key is not the recorded one"}
	case f.TPM == nil && sha256.Sum256(f.Birth) != v.ByID.Key:
		return Identity{}, &Clash{Code: "key-changed", Detail: "the IDevID key is not the recorded one"}
	}
	d := *v.ByID
	if f.TPM != nil {
		d.TPMFirmware = firmware(f.TPM.Firmware)
	}
	d.Seen, d.Renewed = now, now
	return Identity{Device: d, Known: true}, nil
}

func newDevice(f attest.Facts, serial, id string, v record.View, now time.Time) record.Device {
	d := record.Device{
		ID: id, Serial: serial, State: record.StateActive,
		Assurance: assuranceOf(f, v), Key: sha256.Sum256(f.Key), Enrolled: now, Seen: now,
	}
	if f.TPM == nil {
		d.AKPublic = f.Birth
	} else {
		d.EKs, d.AKName, d.AKPublic = []record.EK{ekOf(f)}, f.TPM.AKName, f.TPM.AKPublic
		d.TPMMaker, d.TPMModel, d.TPMFirmware = f.TPM.Maker, f.TPM.Model, firmware(f.TPM.Firmware)
	}
	if v.Lot != nil {
		d.Lot, d.Model = v.Lot.Name, v.Lot.Model
	}
	return d
}

// assuranceOf is what the claims and the inventory establish together (decision 5).
func assuranceOf(f attest.Facts, v record.View) record.Assurance {
	if f.TPM == nil {
		return record.Assurance{}
	}
	onTicket := v.Ticket != nil && v.Ticket.EKName != nil && bytes.Equal(v.Ticket.EKName, f.TPM.EKName)
	return record.Assurance{Certified: f.TPM.Certified, Registered: v.OnList || onTicket, Hardware: true}
}

func ekOf(f attest.Facts) record.EK {
	return record.EK{Fingerprint: f.TPM.EKFingerprint, Name: f.TPM.EKName, Public: f.TPM.EKPublic,
		Certificate: f.TPM.EKCertificate, Issuer: f.TPM.EKIssuer}
}

// firmware is TPMS_ATTEST.firmwareVersion as makers print it: four 16-bit numbers.
func firmware(v uint64) string {
	return fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xffff, v>>16&0xffff, v&0xffff)
}
