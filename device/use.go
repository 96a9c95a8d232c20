package device

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/hallmark-pki/hallmark/attest/tpm2/collect"
	"github.com/hallmark-pki/hallmark/device/client"
	"github.com/hallmark-pki/hallmark/device/state"
	"github.com/hallmark-pki/hallmark/wire"
)

// Conditions of a device, worst first as far as its working certificate goes.
const (
	NotEnrolled = "not-enrolled"
	NoLDevID    = "no-working-certificate"
	Expired     = "expired"
	RenewalDue  = "renewal-due"
	OK          = "ok"
)

// Status is what the state folder says; neither TPM nor network are asked.
type Status struct {
	Condition string `json:"condition"`
	Device    string `json:"device,omitempty"`
	Model     string `json:"model,omitempty"`
	Serial    string `json:"serial,omitempty"`
	Server    string `json:"server,omitempty"`
	TPM       string `json:"tpm,omitempty"`
	// IDevID and LDevID are nil if there is none.
	IDevID *Certificate `json:"idevid,omitempty"`
	LDevID *Certificate `json:"ldevid,omitempty"`
	// RenewAfter is when the next renewal is due; zero before the first.
	RenewAfter time.Time `json:"renew_after,omitzero"`
	// Window is when the server wants this device to renew; RenewAfter lies in it.
	Window *Window `json:"window,omitempty"`
	// Poll is how often the device asks when to renew, in seconds; 0 means never.
	Poll int64 `json:"poll,omitempty"`
	// Trust is the number of the trust bundle on file.
	Trust int64 `json:"trust,omitempty"`
	// Damaged says why the newest state could not be read, if an older one was.
	Damaged string `json:"damaged,omitempty"`
}

// Window is a span of time.
type Window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Certificate is what people look for in one.
type Certificate struct {
	SerialNumber string    `json:"serial_number"`
	Subject      string    `json:"subject"`
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
	s := Status{Condition: NoLDevID, Device: set.Device, Model: set.Model, Serial: set.Serial, Server: set.Server, TPM: set.TPM, RenewAfter: set.RenewAfter}
	if damaged != nil {
		s.Damaged = damaged.Error()
	}
	if !set.Steering.Start.IsZero() {
		s.Window, s.Poll = &Window{set.Steering.Start, set.Steering.End}, int64(pollEvery(set.Steering)/time.Second)
	}
	var bundle wire.Bundle
	if json.Unmarshal(set.Trust.Bundle, &bundle) == nil { // it was verified before it was kept
		s.Trust = bundle.Number
	}
	if s.IDevID, err = describe(set.IDevID, dir.Path()+"/idevid.pem"); err != nil {
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
	return &Certificate{fmt.Sprintf("%032x", c.SerialNumber), c.Subject.String(), c.NotBefore, c.NotAfter, file}, nil
}

// ErrNoLDevID: the device is enrolled but has no working certificate yet.
var ErrNoLDevID = errors.New("the device has no working certificate yet")

// Credential is the working certificate with its key in the TPM, for any program that
// speaks TLS. The TPM is needed for handshakes only; Close frees it.
type Credential struct {
	// Certificate is ready for tls.Config.Certificates; its PrivateKey is a crypto.Signer.
	Certificate tls.Certificate
	// Trust is the device's trust bundle.
	Trust wire.Bundle
	tpm   *collect.Device
}

// OpenCredential loads the working certificate and its key. tpm is empty for the TPM
// enrolled with.
func OpenCredential(folder, tpm string) (*Credential, error) {
	set, _, err := state.At(folder).Load()
	if err != nil {
		return nil, err
	}
	if len(set.LDevID) == 0 {
		return nil, ErrNoLDevID
	}
	c := new(Credential)
	if err := json.Unmarshal(set.Trust.Bundle, &c.Trust); err != nil {
		return nil, fmt.Errorf("the trust bundle on file: %w", err)
	}
	if tpm == "" {
		tpm = set.TPM
	}
	if c.tpm, err = collect.Open(tpm); err != nil {
		return nil, err
	}
	key, err := c.tpm.LoadLDevID(set.LDevIDKey)
	if err != nil {
		c.tpm.Close()
		return nil, err
	}
	c.Certificate = tls.Certificate{Certificate: set.LDevID, PrivateKey: key}
	return c, nil
}

// Close closes the TPM; the key cannot sign afterwards.
func (c *Credential) Close() error { return c.tpm.Close() }

// Connection is a mutual-TLS connection to be made.
type Connection struct {
	Options
	// To is HOST:PORT.
	To string
	// Roots (certificates, DER) are those that the server's chain must end in; none
	// means the infrastructure roots of the trust bundle and the system's.
	Roots [][]byte
}

// Connect makes the connection with the working certificate and copies in to it and it
// to out until both ends have finished.
func Connect(ctx context.Context, c Connection, in io.Reader, out io.Writer) error {
	credential, err := OpenCredential(c.State, c.TPM)
	if err != nil {
		return err
	}
	defer credential.Close()
	host, _, err := net.SplitHostPort(c.To)
	if err != nil {
		return fmt.Errorf("where to connect: %w", err)
	}
	roots, err := c.roots(credential.Trust)
	if err != nil {
		return err
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: roots,
		Certificates: []tls.Certificate{credential.Certificate},
		// A clock that was never set must not keep a device from its broker.
		Time: func() time.Time {
			if t := now(); t.After(credential.Trust.Created) {
				return t
			}
			return credential.Trust.Created
		},
	}}
	raw, err := dialer.DialContext(ctx, "tcp", c.To)
	if err != nil {
		return &client.NetworkError{Server: c.To, Err: err}
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	credential.Close() // others may want the TPM while the connection lasts
	if err := pipe(raw.(*tls.Conn), in, out); err != nil {
		return &client.NetworkError{Server: c.To, Err: err}
	}
	return nil
}

func (c Connection) roots(trust wire.Bundle) (*x509.CertPool, error) {
	pool, list := x509.NewCertPool(), c.Roots
	if len(list) == 0 {
		list = trust.Infrastructure
		if system, err := x509.SystemCertPool(); err == nil {
			pool = system
		}
	}
	for _, der := range list {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		pool.AddCert(root)
	}
	return pool, nil
}

// pipe copies both ways. The end of in is passed on; the end of the connection ends all.
func pipe(conn *tls.Conn, in io.Reader, out io.Writer) error {
	go func() {
		if _, err := io.Copy(conn, in); err == nil {
			conn.CloseWrite()
		}
	}()
	_, err := io.Copy(out, conn)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
