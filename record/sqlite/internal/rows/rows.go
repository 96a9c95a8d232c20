// Package rows reads devices and certificates as the schema keeps them, for the
// packages beside it.
package rows

import (
	"context"
	"strconv"
	"strings"

	"github.com/hallmark-pki/hallmark/record"
	"github.com/hallmark-pki/hallmark/record/sqlite/internal/engine"
)

// DeviceColumns are those that ScanDevice reads, of devices as d.
const DeviceColumns = `d.seq, d.id, d.model, d.lot, d.serial, d.state, d.certified, d.registered, d.hardware,
	d.tpm_maker, d.tpm_model, d.tpm_firmware, d.enrolled, d.renewed, d.seen, d.ak_name, d.ak_public, d.idevid_key, d.expires, d.key_algorithm`

// Recorded is a device with its place in the order of enrolment.
type Recorded struct {
	Seq int64
	record.Device
}

// ScanDevice reads DeviceColumns; the endorsement keys are WithEKs's.
func ScanDevice(r engine.Row) Recorded {
	return Recorded{r.Int(0), record.Device{
		ID: r.Text(1), Model: r.Text(2), Lot: r.Text(3), Serial: r.Text(4), State: r.Text(5),
		Assurance: record.Assurance{Certified: r.Bool(6), Registered: r.Bool(7), Hardware: r.Bool(8)},
		TPMMaker:  r.Text(9), TPMModel: r.Text(10), TPMFirmware: r.Text(11),
		Enrolled: r.Time(12), Renewed: r.Time(13), Seen: r.Time(14),
		AKName: r.Blob(15), AKPublic: r.Blob(16), Key: r.Sum(17),
		Expires: r.Time(18), KeyAlgorithm: r.Text(19),
	}}
}

func scanEK(r engine.Row) record.EK {
	return record.EK{Fingerprint: r.Sum(0), Issuer: r.Text(1), Name: r.Blob(2), Public: r.Blob(3), Certificate: r.Blob(4)}
}

// Device finds at most one device; nil if there is none.
func Device(c *engine.Conn, where string, args ...any) (*record.Device, error) {
	d, err := engine.First(c, ScanDevice, "SELECT "+DeviceColumns+" FROM devices d WHERE "+where, args...)
	if err != nil || d == nil {
		return nil, err
	}
	return &d.Device, WithEKs(context.Background(), c, d)
}

// WithEKs adds the endorsement keys, the enrolling one first.
func WithEKs(ctx context.Context, c *engine.Conn, d *Recorded) (err error) {
	d.EKs, err = engine.Query(ctx, c, scanEK, "SELECT fingerprint, issuer, name, public, certificate FROM eks WHERE device = ? ORDER BY seq", d.Seq)
	return err
}

// WithLabels adds the labels.
func WithLabels(ctx context.Context, c *engine.Conn, d *Recorded) error {
	type label struct{ key, value string }
	all, err := engine.Query(ctx, c, func(r engine.Row) label { return label{r.Text(0), r.Text(1)} }, "SELECT key, value FROM labels WHERE device = ?", d.Seq)
	for _, l := range all {
		if d.Labels == nil {
			d.Labels = map[string]string{}
		}
		d.Labels[l.key] = l.value
	}
	return err
}

// ID is how people write the number of a row, "j12"; Number reads it, and is 0, which no
// row has, if it is none.
func ID(letter string, seq int64) string { return letter + strconv.FormatInt(seq, 10) }

// Number is the opposite of ID.
func Number(letter, id string) int64 {
	digits, ok := strings.CutPrefix(id, letter)
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || ID(letter, n) != id {
		return 0
	}
	return n
}

const (
	// SelectCertificate reads certificates as c, joined with devices as d, for ScanCertificate.
	SelectCertificate = "SELECT " + certificateColumns + ", c.der" + fromCertificates
	// ListCertificate reads NULL for the DER.
	ListCertificate    = "SELECT " + certificateColumns + ", NULL" + fromCertificates
	certificateColumns = `c.seq, c.issuer, c.serial, c.profile, d.id, c.operator, c.subject, c.shard, c.key, c.not_before, c.not_after,
		c.intended, c.issued, c.predecessor, c.used, c.revoked, c.reason, c.key_algorithm, c.tbs`
	fromCertificates = " FROM certificates c LEFT JOIN devices d ON d.seq = c.device"
)

// ScanCertificate reads what SelectCertificate and ListCertificate select.
func ScanCertificate(r engine.Row) record.Certificate {
	return record.Certificate{
		Issuer: r.Text(1), Serial: r.Text(2), Profile: r.Text(3), Device: r.Text(4), Principal: r.Text(5), Subject: r.Text(6),
		Shard: r.Int(7), Key: r.Sum(8), NotBefore: r.Time(9), NotAfter: r.Time(10),
		Intended: r.Time(11), Issued: r.Time(12), Predecessor: r.Text(13), Used: r.Time(14),
		Revoked: r.Time(15), Reason: int(r.Int(16)), KeyAlgorithm: r.Text(17), TBS: r.Blob(18), DER: r.Blob(19),
	}
}

// Certificate finds one; nil if there is none.
func Certificate(c *engine.Conn, issuer, serial string) (*record.Certificate, error) {
	return engine.First(c, ScanCertificate, SelectCertificate+" WHERE c.serial = ? AND c.issuer = ?", serial, issuer)
}
