package device

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/hallmark-pki/hallmark/device/keys"
	"github.com/hallmark-pki/hallmark/device/state"
)

// Conditions of a device, from worst to best.
const (
	NotEnrolled = "not-enrolled"
	NoLDevID    = "no-working-certificate"
	Expired     = "expired"
	RenewalDue  = "renewal-due"
	OK          = "ok"
)

// Status is the content of the state folder, read without TPM and network.
type Status struct {
	Condition string `json:"condition"`
	Device    string `json:"device,omitempty"`
	Model     string `json:"model,omitempty"`
	Serial    string `json:"serial,omitempty"`
	Server    string `json:"server,omitempty"`
	TPM       string `json:"tpm,omitempty"`
	// Key is where the keys are: "tpm", "file", "file:PATH" or "external:PROGRAM …".
	Key string `json:"key,omitempty"`
	// IDevID and LDevID are nil if there is none.
	IDevID *Certificate `json:"idevid,omitempty"`
	LDevID *Certificate `json:"ldevid,omitempty"`
	// Page is for the device's own web page; nil if its model has none.
	Page *Certificate `json:"page,omitempty"`
	// RenewAfter is when the next renewal is due; zero before the first.
	RenewAfter time.Time `json:"renew_after,omitzero"`
	// Window is when the server wants this device to renew; RenewAfter is in it.
	Window *Window `json:"window,omitempty"`
	// Poll is how often the device asks when to renew, in seconds; 0 means never.
	Poll int64 `json:"poll,omitempty"`
	// Trust is the number of the trust bundle on file.
	Trust int64 `json:"trust,omitempty"`
	// Damaged says why the newest state could not be read, if an older one was read instead.
	Damaged string `json:"damaged,omitempty"`
}

// Window is a span of time.
type Window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Certificate is what people want to know about a certificate.
type Certificate struct {
	SerialNumber string    `json:"serial_number"`
	Subject      string    `json:"subject"`
	Names        []string  `json:"names,omitempty"` // DNS names
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
	File         string    `json:"file"`
}

// ReadStatus reads the state folder (empty means state.DefaultDir) as of now.
func ReadStatus(folder string, now time.Time) (Status, error) {
	dir := state.At(folder)
	set, damaged, err := dir.Load()
	if errors.Is(err, state.ErrEmpty) {
		return Status{Condition: NotEnrolled}, nil
	}
	if err != nil {
		return Status{}, err
	}
	s := Status{Condition: NoLDevID, Device: set.Device, Model: set.Model, Serial: set.Serial, Server: set.Server,
		TPM: set.TPM, Key: keys.Shown(cmp.Or(set.Key, keys.TPM)), RenewAfter: set.RenewAfter}
	if damaged != nil {
		s.Damaged = damaged.Error()
	}
	if !set.Steering.Start.IsZero() {
		s.Window, s.Poll = &Window{set.Steering.Start, set.Steering.End}, int64(pollEvery(set.Steering)/time.Second)
	}
	if bundle, err := set.Bundle(); err == nil {
		s.Trust = bundle.Number
	}
	if s.IDevID, err = describe(set.IDevID, dir.Path()+"/idevid.pem"); err != nil {
		return s, err
	}
	if s.Page, err = describe(set.Page, dir.Path()+"/current/server.pem"); err != nil {
		return s, err
	}
	if s.LDevID, err = describe(set.LDevID, dir.Path()+"/ldevid.pem"); err != nil || s.LDevID == nil {
		return s, err
	}
	switch {
	case now.After(s.LDevID.NotAfter):
		s.Condition = Expired
	case now.After(s.RenewAfter):
		s.Condition = RenewalDue
	default:
		s.Condition = OK
	}
	return s, nil
}

func describe(chain [][]byte, file string) (*Certificate, error) {
	if len(chain) == 0 {
		return nil, nil
	}
	c, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &Certificate{fmt.Sprintf("%032x", c.SerialNumber), c.Subject.String(), c.DNSNames, c.NotBefore, c.NotAfter, file}, nil
}
